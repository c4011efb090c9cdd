"""`dockyard test`: run an image's goldens inside the image, on a real engine, and write down the result.

The result is attached to the image as any other evidence is, passed or failed.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from dockyard.cli import compose, keyring, places
from dockyard.cli.goldens import record_goldens, run_goldens, table
from dockyard.oci.image import Image
from dockyard.oci.reference import repository_of
from dockyard.supply.evidence import evidence_of
from dockyard.supply.keys import PrivateKey
from dockyard.supply.sign import attest
from dockyard.supply.statement import TEST_RESULT


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
    found = places.runnable(name)
    secret = keyring.signing_key(key) if sign else None
    tested = run_goldens(found, name, timeout, engine)
    finished, verdicts = tested.finished, tested.verdicts
    click.echo(finished.stderr.decode("utf-8", "replace"), nl=False, err=True)
    if verdicts is None:
        click.echo(finished.stdout.decode("utf-8", "replace"), nl=False)
        raise SystemExit(finished.exit_code or 1)
    record_goldens(found, name, verdicts, tested.engine)
    if secret is not None:
        _sign_result(found, name, secret)
    click.echo(json.dumps(msgspec.to_builtins(verdicts), indent=2) if as_json else table(verdicts))
    raise SystemExit(finished.exit_code)


def _sign_result(image: Image, name: str, key: PrivateKey) -> None:
    layout = places.store()
    for evidence in evidence_of(layout, image.digest, repository_of(name)):
        if evidence.statement.predicate_type == TEST_RESULT:
            attest(layout, image.manifest, evidence.statement, key)
