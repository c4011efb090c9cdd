"""`dockyard up`: the yard of this host, in the foreground, as a daemon, or as a unit for systemd.

It decides which concrete engines and gateway the yard works with; everything else is in `dockyard.yard`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from dockyard.cli import daemon, places
from dockyard.cli.keyring import trusted_keys
from dockyard.engines.base import Engine
from dockyard.engines.detect import ENGINES, detect, open_engine, silent_docker
from dockyard.errors import EngineError, EngineNotFoundError
from dockyard.gateway.base import GatewaySettings
from dockyard.gateway.envoy import EnvoyGateway
from dockyard.spec.home import Home
from dockyard.spec.resources import format_bytes, parse_bytes
from dockyard.yard.api_listen import Listener, UnixListener, tcp_listener
from dockyard.yard.host import Host, usable_memory
from dockyard.yard.judging import PolicyPlace
from dockyard.yard.priority import give_way
from dockyard.yard.pruning import Retention
from dockyard.yard.run import Yard, opened
from dockyard.yard.store import FILE_NAME, known_engines


@dataclass(frozen=True)
class Options:
    """What was said on the command line."""

    engine: str
    host: str
    port: int
    memory: str
    labels: tuple[str, ...]
    policy: Path | None
    listen: str
    tls_cert: Path | None
    tls_key: Path | None
    unsafe_plain_http: bool
    keep_revisions: int

    def words(self) -> list[str]:
        """The same options as whole words, in any folder."""
        said = {
            "--engine": self.engine,
            "--host": self.host,
            "--port": str(self.port),
            "--memory": self.memory,
            "--policy": _whole(self.policy),
            "--listen": self.listen,
            "--tls-cert": _whole(self.tls_cert),
            "--tls-key": _whole(self.tls_key),
            "--keep-revisions": str(self.keep_revisions),
        }
        words = [word for name, value in said.items() if value for word in (name, value)]
        words += [word for label in self.labels for word in ("--label", label)]
        return words + (["--unsafe-plain-http"] if self.unsafe_plain_http else [])


def _whole(path: Path | None) -> str:
    return str(path.absolute()) if path else ""


@click.command()
@click.option("--engine", type=click.Choice(("auto", *ENGINES)), default="auto", envvar="DOCKYARD_ENGINE",
              show_envvar=True, help="Which engine deployments use that name none.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="The address that the gateway listens on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="The gateway's port.")
@click.option("--memory", default="", help="What all replicas may use together, such as 12GiB.  [default: 90 %]")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="What `placement` may ask for.")
@click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Another policy.toml than the one in the folder `yard` of Dockyard's home.",
)
@click.option("--listen", default="", metavar="HOST:PORT", help="Offer the API over TLS, too.")
@click.option("--tls-cert", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Its certificate.")
@click.option("--tls-key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The certificate's key.")
@click.option("--unsafe-plain-http", is_flag=True, help="Offer it without TLS; on loopback only.")
@click.option("--keep-revisions", type=click.IntRange(2, 10_000), default=50, show_default=True,
              help="How many revisions of a deployment are kept, beside those in use.")  # fmt: skip
@click.option("-d", "--detach", is_flag=True, help="Go on in the background, once it is ready.")
@click.option("--print-unit", is_flag=True, help="Print a unit for systemd that runs this, and do nothing else.")
def command(
    engine: str,
    host: str,
    port: int,
    memory: str,
    labels: tuple[str, ...],
    policy: Path | None,
    listen: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    unsafe_plain_http: bool,
    keep_revisions: int,
    detach: bool,
    print_unit: bool,
) -> None:
    """Run the yard: what `dockyard deploy` hands models to.

    Its replicas and its gateway go on when it ends; the next `dockyard up` adopts them. `dockyard down` stops them.
    """
    options = Options(
        engine, host, port, memory, labels, policy, listen, tls_cert, tls_key, unsafe_plain_http, keep_revisions
    )
    home = places.home()
    if print_unit:
        click.echo(daemon.unit([sys.argv[0], "up", *options.words()], home.root, os.environ), nl=False)
        return
    if detach:
        daemon.detach(home.yard / "yard.log", lambda: _serve(home, options, quiet=True), home.yard_socket)
        return
    _serve(home, options, quiet=False)


def _serve(home: Home, options: Options, *, quiet: bool) -> None:
    give_way()
    asyncio.run(_run(home, options, quiet=quiet))


async def _run(home: Home, options: Options, *, quiet: bool) -> None:
    begun = time.monotonic()
    manager = daemon.Manager()
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    async with _yard(home, options, manager) as (yard, silent):
        _tell(yard, silent, time.monotonic() - begun)
        _tell_policy(_policy_place(home, options))
        manager.tell("READY=1")
        alive = asyncio.ensure_future(manager.keep_telling())
        warning = asyncio.gather(*(_warn(engine) for engine in yard.parts.host.engines.values()))
        ended = asyncio.ensure_future(yard.ended())
        stopping = asyncio.ensure_future(asked.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        manager.tell("STOPPING=1")
        stopping.cancel()
        alive.cancel()
        warning.cancel()
        if ended.done():
            ended.result()
        ended.cancel()
        count = yard.running
    if not quiet:
        click.echo(
            f"the yard has stopped; its gateway and {count} replicas go on (`dockyard down` stops them too)", err=True
        )


def _tell_policy(policy: PolicyPlace) -> None:
    """By what the yard judges what is deployed."""
    if policy.file.exists():
        click.echo(f"  policy    {policy.file}", err=True)
    elif policy.required:
        click.echo(f"  note      {policy.file} is not there; nothing can be deployed until it is", err=True)


async def _warn(engine: Engine) -> None:
    """Say what of the engine's settings will cost requests one day."""
    with suppress(EngineError):
        for warning in await engine.warnings():
            click.echo(f"  note      {warning}", err=True)


@asynccontextmanager
async def _yard(home: Home, options: Options, manager: daemon.Manager) -> AsyncIterator[tuple[Yard, frozenset[str]]]:
    """The yard with this host's engines and Envoy; and those of its engines that do not answer now."""
    async with AsyncExitStack() as stack:
        here = await engines_here(home, options.engine)
        for engine in here.engines.values():
            stack.push_async_callback(engine.close)
        host = Host(
            engines=here.engines,
            default_engine=here.default,
            images=places.store(),
            sockets=home.containers,
            memory=parse_bytes(options.memory) if options.memory else usable_memory(),
            labels=_labels(options.labels),
        )
        settings = gateway_settings(home, options)
        yard = await stack.enter_async_context(
            opened(
                host,
                home,
                gateway=lambda: EnvoyGateway.start(settings),
                listeners=_listeners(home, options),
                policy=_policy_place(home, options),
                trusted=lambda: trusted_keys(()),
                retention=Retention(revisions=options.keep_revisions),
                host_stops=manager.host_stops,
            )
        )
        yield yard, here.silent


def gateway_settings(home: Home, options: Options | None) -> GatewaySettings:
    """Where the gateway is, and where it listens, if that is known."""
    folder = home.gateway
    return GatewaySettings(folder) if options is None else GatewaySettings(folder, options.host, options.port)


def _policy_place(home: Home, options: Options) -> PolicyPlace:
    return PolicyPlace(options.policy.absolute(), required=True) if options.policy else PolicyPlace(home.policy)


@dataclass(frozen=True)
class Here:
    """This host's engines by name, which of them is for deployments that name none, and which do not answer now."""

    engines: Mapping[str, Engine]
    default: str
    silent: frozenset[str]


async def engines_here(home: Home, asked: str) -> Here:
    """Every engine that answers here.

    Docker is among them, too, when it does not answer now but this yard's replicas are on it: it is being restarted,
    or starts later than the yard, which adopts them then. And the default stays what it was.
    """
    known = known_engines(home.yard / FILE_NAME)
    found: dict[str, Engine] = {}
    refused: list[str] = []
    silent: set[str] = set()
    for name in ENGINES:
        try:
            found[name] = (await detect(home.runc, prefer=name)).engine
        except EngineNotFoundError as error:
            refused.append(error.what)
            if name == "docker" and name in known.used:
                found[name] = open_engine(silent_docker(os.environ), home.runc)
                silent.add(name)
    if not found or asked not in {"auto", *found}:
        raise EngineNotFoundError(
            f"no engine answers here{'' if asked == 'auto' else f' that is {asked}'}",
            remedy="Start Docker, or be root and install runc (Debian: apt-get install runc).",
            detail="\n".join(refused),
        )
    default = known.default if known.default in found else next(iter(found))
    return Here(found, default if asked == "auto" else asked, frozenset(silent))


def _listeners(home: Home, options: Options) -> tuple[Listener, ...]:
    unix = UnixListener(home.yard_socket)
    if not options.listen:
        return (unix,)
    secured = tcp_listener(options.listen, options.tls_cert, options.tls_key, unsafe_plain=options.unsafe_plain_http)
    return (unix, secured)


def _labels(given: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for entry in given:
        key, equals, value = entry.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{entry!r} is not KEY=VALUE", param_hint="--label")
        labels[key] = value
    return labels


def _tell(yard: Yard, silent: frozenset[str], seconds: float) -> None:
    """Say where everything is."""
    host = yard.parts.host
    engines = [f"{name} (default)" if name == host.default_engine else name for name in host.engines]
    click.secho(f"the yard is up after {seconds:.2f} s", bold=True, err=True)
    rows = (
        (
            "gateway",
            f"{yard.parts.gateway.address}   (models answer at /models/NAME/predict and /v2/models/NAME/infer)",
        ),
        ("API", "   ".join(yard.addresses)),
        ("engines", ", ".join(engines)),
        ("memory", f"{format_bytes(host.memory)} for all replicas"),
        ("state", str(yard.folder)),
        ("process", str(os.getpid())),
        ("deploy", "dockyard deploy IMAGE   (in another terminal)"),
    )
    for name, value in rows:
        click.echo(f"  {name:<9} {value}", err=True)
    for name in sorted(silent):
        click.echo(f"  note      {name} does not answer now; its replicas are adopted as soon as it does", err=True)
