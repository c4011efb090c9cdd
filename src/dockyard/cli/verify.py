"""`dockyard verify`: whether every byte of an image is whole, and who has signed it and what is said of it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dockyard.cli import keyring, places
from dockyard.errors import EvidenceError
from dockyard.oci.image import Descriptor
from dockyard.oci.integrity import check_entry, check_index
from dockyard.oci.layout import Layout
from dockyard.oci.media import INDEXES
from dockyard.supply.keys import PublicKey
from dockyard.supply.statement import KINDS, SIGNED
from dockyard.supply.verify import Verdict, Verified, require_signature, verify


@click.command()
@click.argument("image", required=False)
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A public key to trust; may be repeated. By default those in the keys' `trusted` folder, and this user's own.",
)
@click.option(
    "--require",
    "required",
    multiple=True,
    type=click.Choice(sorted(KINDS)),
    help="Fail unless a trusted key has signed this kind of document; may be repeated.",
)
@click.option(
    "--rebuild",
    "project",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Build it again from the recorded inputs and this project's folder, and say whether it is equal.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def command(
    image: str | None, keys: tuple[Path, ...], required: tuple[str, ...], project: Path | None, as_json: bool
) -> None:
    """Check IMAGE (default: that of the project here): its bytes, its signature, and each document about it.

    Fails unless a trusted key has signed the image itself; with --rebuild, unless building it again gives the same.
    """
    name = places.image_name(image)
    layout = places.store()
    entry = layout.entry(name)
    images = layout.members(entry)
    if project is not None:
        # Imported only now: who only verifies needs nothing of a builder.
        importlib.import_module("dockyard.cli.rebuild").rebuild(layout, images, project)
        return
    verdicts = verified(layout, entry, keyring.trusted_keys(keys))
    for verdict in verdicts:
        _require(verdict, required)
    if as_json:
        click.echo(json.dumps({"digest": entry.digest, "images": [_as_json(one) for one in verdicts]}, indent=2))
        return
    for found, verdict in zip(images, verdicts, strict=True):
        click.echo(f"{name} is whole: {found.config.platform}, {len(found.layers)} layers, {found.digest}")
        _show(verdict)


def verified(layout: Layout, entry: Descriptor, keys: Sequence[PublicKey]) -> tuple[Verdict, ...]:
    """Check every byte and every signature of an image, or of all images of an index; the verdict on each image.

    EvidenceError unless a trusted key has signed each of them, and the index too; ImageError when a blob is damaged.
    """
    check_index(layout)
    check_entry(layout, entry)
    verdicts = tuple(verify(layout, image.digest, keys) for image in layout.members(entry))
    whole = () if entry.media_type not in INDEXES else (verify(layout, entry.digest, keys),)
    for verdict in (*whole, *verdicts):
        require_signature(verdict)
    return verdicts


def _show(verdict: Verdict) -> None:
    for one in (*verdict.signatures, *verdict.attestations):
        click.echo(f"  {_kind(one):<12} {one.form.value:<17} by key {one.key.hint}")
    if verdict.untrusted:
        click.echo(f"  {verdict.untrusted} more by keys that are not trusted here")


def _require(verdict: Verdict, required: Sequence[str]) -> None:
    missing = [kind for kind in required if not verdict.attested(KINDS[kind])]
    results = verdict.attested(KINDS["tests"]) if "tests" in required else ()
    failed = [golden for result in results for golden in result.predicate.get("failedTests", ())]
    if failed:
        raise EvidenceError(
            f"{verdict.subject} does not answer as its goldens say: {', '.join(map(str, failed[:5]))}",
            remedy="Mend the model or the goldens, build and `dockyard test` again.",
        )
    if missing:
        raise EvidenceError(
            f"{verdict.subject} has no {' and no '.join(missing)} signed by a trusted key",
            remedy="`dockyard build` and `dockyard test` make them, `dockyard sign` signs them.",
        )


def _kind(one: Verified) -> str:
    if one.statement is None or one.statement.predicate_type == SIGNED:
        return "signature"
    names = {predicate: kind for kind, predicate in KINDS.items()}
    return names.get(one.statement.predicate_type, one.statement.predicate_type)


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "digest": verdict.subject,
        "signatures": [{"form": one.form.value, "key": one.key.hint} for one in verdict.signatures],
        "attestations": [
            {"predicate_type": one.statement.predicate_type, "key": one.key.hint}
            for one in verdict.attestations
            if one.statement
        ],
        "untrusted": verdict.untrusted,
    }
