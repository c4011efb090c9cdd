"""`dockyard test`: run an image's goldens inside the image, on a real engine, and write down the result.

The result is attached to the image as any other evidence is, passed or failed.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from dockyard.cli import compose, keyring, places
from dockyard.cli.launching import Wish, limits
from dockyard.engines.once import Finished, run_once
from dockyard.oci.image import Image
from dockyard.supply.evidence import add_evidence, evidence_of
from dockyard.supply.keys import PrivateKey
from dockyard.supply.sign import attest
from dockyard.supply.statement import TEST_RESULT


class _Verdict(msgspec.Struct, frozen=True):
    golden: str
    problem: str


@click.command()
@click.argument("image", required=False)
@click.option("--timeout", type=click.FloatRange(1), default=300.0, help="Seconds that all goldens may take.")
@click.option("--sign", is_flag=True, help="Sign the result with --key.")
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), help="The private key. By default this user's own."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@compose.engine_option("What starts the container.")
def command(image: str | None, timeout: float, sign: bool, key: Path | None, as_json: bool, engine: str) -> None:
    """Run the goldens of IMAGE (default: the image of the project here); fails if one of them does.

    The result is attached to the image; `dockyard verify --require tests` asks for it.
    """
    name = places.image_name(image)
    found = places.store().resolve(name)
    secret = keyring.signing_key(key) if sign else None
    finished, used = asyncio.run(_test(found, name, timeout, engine))
    click.echo(finished.stderr.decode("utf-8", "replace"), nl=False, err=True)
    try:  # before its last line the predictor may have printed something
        verdicts = msgspec.json.decode(finished.stdout.rstrip().rpartition(b"\n")[2], type=list[_Verdict])
    except msgspec.MsgspecError:
        click.echo(finished.stdout.decode("utf-8", "replace"), nl=False)
        raise SystemExit(finished.exit_code or 1) from None
    _attach(found, name, verdicts, used)
    if secret is not None:
        _sign_result(found, name, secret)
    click.echo(json.dumps(msgspec.to_builtins(verdicts), indent=2) if as_json else _table(verdicts))
    raise SystemExit(finished.exit_code)


async def _test(image: Image, name: str, deadline: float, engine_name: str) -> tuple[Finished, str]:
    """How the goldens ended, and on which engine."""
    wish = Wish(image, name, f"test-{secrets.token_hex(4)}", {}, limits(image))
    async with compose.chosen_engine(engine_name) as engine:
        await engine.load(image, places.store(), name)
        return await run_once(engine, wish.spec(("selftest", "--json")), None, deadline), engine.name


def _attach(image: Image, name: str, verdicts: Sequence[_Verdict], engine: str) -> None:
    failed = [verdict.golden for verdict in verdicts if verdict.problem]
    predicate = {
        "result": "FAILED" if failed else "PASSED",
        "configuration": [{"name": "goldens", "annotations": {"engine": engine}}],
        "passedTests": [verdict.golden for verdict in verdicts if not verdict.problem],
        "failedTests": failed,
    }
    add_evidence(places.store(), image.manifest, places.repository_of(name), TEST_RESULT, predicate)


def _sign_result(image: Image, name: str, key: PrivateKey) -> None:
    layout = places.store()
    for evidence in evidence_of(layout, image.digest, places.repository_of(name)):
        if evidence.statement.predicate_type == TEST_RESULT:
            attest(layout, image.manifest, evidence.statement, key)


def _table(verdicts: Sequence[_Verdict]) -> str:
    width = max(len("golden"), *(len(verdict.golden) for verdict in verdicts))
    lines = [f"{one.golden:<{width}}  {f'differs: {one.problem}' if one.problem else 'same'}" for one in verdicts]
    passed = sum(not verdict.problem for verdict in verdicts)
    return "\n".join([f"{'golden':<{width}}  result", *lines, "", f"{passed} of {len(verdicts)} goldens hold"])
