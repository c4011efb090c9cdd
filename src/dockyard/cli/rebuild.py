"""`dockyard verify --rebuild`: build an image again, from nothing but what its provenance recorded and the project.

The recorded lock pins every package; the project's files must be those that were recorded. Everything is fetched and
made anew, in a store and caches of its own that are removed afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from dockyard.build.builder import Options, build
from dockyard.build.content import find_files
from dockyard.build.lock import lock_of_document
from dockyard.build.workshop import Workshop
from dockyard.cli import places
from dockyard.cli.diff import show
from dockyard.cli.progress import shown
from dockyard.errors import EvidenceError
from dockyard.oci.digest import digest_of_file, hex_of
from dockyard.oci.image import Image
from dockyard.oci.layout import Layout
from dockyard.spec.load import FILE_NAME, ProjectFolder, load_project
from dockyard.supply.compare import compare
from dockyard.supply.contents import contents_of
from dockyard.supply.evidence import evidence_of
from dockyard.supply.provenance import Recorded, recorded_inputs
from dockyard.supply.statement import PROVENANCE


def rebuild(layout: Layout, images: Sequence[Image], folder: Path) -> None:
    """Rebuild each image and compare; EvidenceError when one of them comes out otherwise, after saying where."""
    project = load_project(folder)
    for image in images:
        recorded = _recorded(layout, image)
        _check_project(project, recorded)
        with tempfile.TemporaryDirectory(dir=places.home().root, prefix="rebuild-") as name:
            _rebuild(layout, image, project, recorded, Path(name))


def _rebuild(layout: Layout, image: Image, project: ProjectFolder, recorded: Recorded, scratch: Path) -> None:
    platform = image.config.platform
    options = Options(f"rebuild-{project.project.model.name}:1", listed=False, lock=lock_of_document(recorded.lock))
    with shown() as progress:
        fresh = Layout.create(scratch / "images")
        built = build(Workshop(project, fresh, scratch / "cache", progress, platform.architecture), options)
    if built.image.digest == image.digest:
        click.echo(f"equal: {platform} built again is {image.digest}")
        return
    inside = tuple(
        contents_of(place, one, scratch / "contents") for place, one in ((layout, image), (fresh, built.image))
    )
    show(compare(image, built.image, (inside[0], inside[1]), (layout, fresh)))
    raise EvidenceError(
        f"{platform} built again is {built.image.digest}, not {image.digest}",
        remedy="Above is what differs. Another version of Dockyard builds another image: take the one that built it.",
    )


def _recorded(layout: Layout, image: Image) -> Recorded:
    for evidence in evidence_of(layout, image.digest, ""):
        if evidence.statement.predicate_type == PROVENANCE:
            return recorded_inputs(evidence.statement.predicate)
    raise EvidenceError(
        f"{image.digest} has no provenance, so nobody knows what it was built from",
        remedy="Build it with `dockyard build`, or pull it together with what is attached to it.",
    )


def _check_project(project: ProjectFolder, recorded: Recorded) -> None:
    """EvidenceError, naming files, unless the project is the one that was recorded."""
    files = find_files(project)
    here = {name: hex_of(digest_of_file(project.path / name)) for name in (*files.code, *files.weights)}
    differing = sorted(name for name in {*here, *recorded.files} if here.get(name) != recorded.files.get(name))
    if (project.path / FILE_NAME).read_text(encoding="utf-8") != recorded.settings:
        differing.insert(0, FILE_NAME)
    if differing:
        raise EvidenceError(
            f"the project in {project.path} is not the one that the image was built from",
            detail="\n".join(f"  {name} differs" for name in differing[:20]),
            remedy="Check out the version that it was built from.",
        )
