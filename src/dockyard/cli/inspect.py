"""`dockyard inspect`: all that is known of an image, for people, or as JSON for programs."""

from __future__ import annotations

import json
from typing import Any

import click

from dockyard.cli import places
from dockyard.errors import EvidenceError
from dockyard.oci.image import Descriptor, Image
from dockyard.oci.layout import Layout
from dockyard.oci.media import COSIGN_SIGNATURE
from dockyard.spec.labels import MODEL_NAME, MODEL_VERSION
from dockyard.spec.resources import format_bytes
from dockyard.supply.contents import contents_of
from dockyard.supply.evidence import evidence_of
from dockyard.supply.sign import BUNDLE, PREDICATE
from dockyard.supply.statement import KINDS, SIGNED

_NAMES = {predicate: kind for kind, predicate in KINDS.items()}


@click.command()
@click.argument("image", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--document", type=click.Choice(sorted(KINDS)), help="Print one attached document as it is.")
def command(image: str | None, as_json: bool, document: str | None) -> None:
    """Show IMAGE (default: that of the project here): model, layers, packages, what is attached and who signed."""
    name = places.image_name(image)
    layout = places.store()
    if document is not None:
        click.echo(json.dumps(_document(layout, layout.resolve(name), document), indent=2))
        return
    entry = layout.entry(name)
    told = {"name": name, "digest": entry.digest, "images": [_of_image(layout, one) for one in layout.members(entry)]}
    click.echo(json.dumps(told, indent=2) if as_json else _for_people(told))


def _document(layout: Layout, image: Image, kind: str) -> Any:
    for one in evidence_of(layout, image.digest, ""):
        if one.statement.predicate_type == KINDS[kind]:
            return one.statement.predicate
    raise EvidenceError(
        f"{image.digest} has no {kind}", remedy="`dockyard build` and `dockyard test` attach such documents."
    )


def _of_image(layout: Layout, image: Image) -> dict[str, Any]:
    config = image.config
    contents = contents_of(layout, image, places.home().cache / "contents")
    titles = [entry.comment for entry in config.history if not entry.empty_layer]
    return {
        "platform": str(config.platform),
        "digest": image.digest,
        "image_id": image.image_id,
        "created": config.created,
        "size": image.size,
        "user": config.user,
        "labels": dict(config.labels),
        "annotations": dict(image.annotations),
        "layers": [
            {"title": title, "digest": layer.digest, "size": layer.size}
            for title, layer in zip(titles or [""] * len(image.layers), image.layers, strict=False)
        ],
        "os": f"{contents.os.name} {contents.os.version}" if contents.os else "",
        "system": {one.name: one.version for one in contents.system},
        "python": {one.name: one.version for one in contents.python},
        "documents": [_kind(one.statement.predicate_type) for one in evidence_of(layout, image.digest, "")],
        "signed": _signed(layout, image.manifest),
    }


def _kind(predicate_type: str) -> str:
    return _NAMES.get(predicate_type, predicate_type)


def _signed(layout: Layout, subject: Descriptor) -> list[str]:
    """What is signed, by whomever; `verify` says whether it holds."""
    bundles = layout.referrers(subject.digest, BUNDLE)
    kinds = {one.annotations.get(PREDICATE, "") for one in bundles}
    named = {"image" if kind == SIGNED else _kind(kind) for kind in kinds}
    if layout.referrers(subject.digest, COSIGN_SIGNATURE):
        named.add("image")
    return sorted(named)


def _for_people(told: dict[str, Any]) -> str:
    lines = [f"{told['name']}  {told['digest']}"]
    for image in told["images"]:
        model = image["labels"].get(MODEL_NAME, "")
        version = image["labels"].get(MODEL_VERSION, "")
        lines += [
            "",
            f"{image['platform']}  {format_bytes(image['size'])}, created {image['created']}",
            f"  model      {f'{model} {version}' if model else 'none'}",
            f"  system     {image['os'] or 'unknown'}, {len(image['system'])} packages",
            f"  Python     {len(image['python'])} packages",
            f"  documents  {', '.join(image['documents']) or 'none'}",
            f"  signed     {', '.join(image['signed']) or 'nothing'} (`dockyard verify` says by whom)",
            "  layers",
            *(f"    {format_bytes(layer['size']):>9}  {layer['title']}" for layer in image["layers"]),
        ]
    return "\n".join(lines)
