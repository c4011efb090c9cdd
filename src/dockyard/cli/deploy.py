"""`dockyard deploy`: a project, an image or a deployment file runs behind the gateway, without dropping a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import msgspec

from dockyard.cli import proposals, sending
from dockyard.cli.deployable import Deployable
from dockyard.cli.launching import environment_of
from dockyard.cli.yards import ask, lines_option, print_json, why_option
from dockyard.client import Client
from dockyard.errors import UnknownInYardError
from dockyard.spec.deployment import Deployment, StrategyKind
from dockyard.spec.status import Proposal


@click.command()
@click.argument("what", metavar="[PROJECT|IMAGE|FILE]", required=False)
@click.option("--name", help="Name of the deployment. By default the image's.")
@click.option("--replicas", type=click.IntRange(0, 1000), help="How many containers serve it.")
@click.option(
    "--strategy", type=click.Choice([str(kind) for kind in StrategyKind]), help="How a new revision takes over."
)
@click.option("--preview", is_flag=True, help="Blue-green: wait for `dockyard promote` before the switch.")
@click.option("-e", "--env", "variables", multiple=True, metavar="NAME=VALUE", help="A variable for the model.")
@click.option(
    "--secret", "secrets", multiple=True, metavar="NAME=FILE", help="A file that appears as /run/secrets/NAME."
)
@click.option("--memory", help="Limit of each replica, such as 512MiB.")
@click.option("--cpus", type=click.FloatRange(0.01, 1024), help="Limit of each replica; may be a fraction.")
@click.option("--gpus", help="GPUs of each replica: numbers or UUIDs with commas between, or all.")
@click.option("--host", "hosts", multiple=True, help="A host name under which the gateway serves it.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where the server in an image of others listens.")
@click.option("--preset", type=click.Choice(["triton", "tfserving", "torchserve"]), help="Which server that is.")
@click.option("--engine", type=click.Choice(["docker", "runc"]), help="What starts the containers.")
@why_option
@click.option("--new", is_flag=True, help="Fail if there is a deployment of that name.")
@click.option("--fresh", is_flag=True, help="Begin with the defaults, not with what is deployed now.")
@click.option("--build/--no-build", default=True, help="Build a project that changed (on by default).")
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@click.option("--diff", is_flag=True, help="Show only what differs from what is deployed, and change nothing.")
@click.option("-d", "--detach", is_flag=True, help="Return when the rollout has begun.")
@lines_option
def command(
    what: str | None,
    why: str,
    new: bool,
    fresh: bool,
    build: bool,
    dry_run: bool,
    diff: bool,
    detach: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Deploy a project, an image or a deployment file (default: what is here), and follow it to its receipt.

    A project is built first if it changed; a deployment.toml beside its dockyard.toml says the rest. What neither the
    file nor an option says stays as it is deployed now. A yard elsewhere is sent what it lacks of the image. The exit
    code is 0 when the new revision has the traffic, and 1 when it was rolled back. Ctrl-C leaves the rollout running.
    """
    asked = Deployable.of(what, given_by(options))
    wanted = asked.wanted(build=build)
    name = asked.name(wanted)

    async def change(yard: Client) -> Proposal:
        now = None if fresh else await _deployed(yard, name)
        deployment = asked.deployment(wanted, now, await sending.platform_of(yard))
        await sending.send(yard, deployment.image, why)
        return await yard.deploy(deployment, why=why, dry_run=dry_run or diff, only_new=new)

    if diff:
        _tell_difference(ask(change), as_json=as_json)
        return
    raise SystemExit(proposals.carry_out(change, as_json=as_json, detach=detach, dry_run=dry_run))


async def _deployed(yard: Client, name: str) -> Deployment | None:
    try:
        return (await yard.status(name)).asked
    except UnknownInYardError:
        return None


def _tell_difference(proposal: Proposal, *, as_json: bool) -> None:
    if as_json:
        print_json(proposal.differences)
    else:
        proposals.show(msgspec.structs.replace(proposal, dry_run=False, notes=()), steps=False)


def given_by(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, as keys of a deployment."""
    secrets = dict(_pair(entry, "--secret") for entry in options["secrets"])
    gpus = options["gpus"]
    found: dict[str, Any] = {
        "name": options["name"],
        "replicas": options["replicas"],
        "engine": options["engine"],
        "environment": environment_of(options["variables"]),
        "secrets": secrets,
        "resources": _given(memory=options["memory"], cpus=options["cpus"], gpus=gpus.split(",") if gpus else None),
        "strategy": _given(kind=options["strategy"], preview=options["preview"] or None),
        "routing": _given(hosts=list(options["hosts"]) or None),
        "server": _given(port=options["port"], preset=options["preset"]),
    }
    return {key: value for key, value in found.items() if value is not None and value != {}}


def _given(**keys: Any) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value is not None}


def _pair(entry: str, option: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{entry!r} is not NAME=FILE", param_hint=option)
    return name, value
