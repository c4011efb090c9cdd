"""What `dockyard build` attaches to an image: its bill of materials, how it was made, and the model's card.

Turns what the builder knows into what `supply` writes; `build` and `supply` do not know each other. The same image gets
the same documents on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dockyard.build.builder import Built
from dockyard.build.content import APP
from dockyard.build.lock import lock_document
from dockyard.build.workshop import Workshop
from dockyard.errors import ProjectError
from dockyard.oci.digest import Digest, hex_of
from dockyard.oci.reference import repository_of
from dockyard.spec.load import FILE_NAME, ProjectFolder
from dockyard.supply.contents import Contents, contents_of, is_telling
from dockyard.supply.evidence import add_evidence
from dockyard.supply.provenance import Material, Recipe, provenance
from dockyard.supply.sbom import ModelFacts, ModelFile, Pins, Subject, cyclonedx
from dockyard.supply.statement import MODEL_CARD, PROVENANCE, SBOM

_CARD_LIMIT = 1 << 20


def attach_evidence(workshop: Workshop, built: Built) -> None:
    """Attach all three."""
    image, layout, folder = built.image, workshop.layout, workshop.project
    name = repository_of(built.name)
    with workshop.progress.task("Writing down what is inside"):
        contents = contents_of(layout, image, workshop.cache / "contents", _known(built))
    model = _model(built, folder)
    subject = Subject(name, image.digest, str(image.config.platform), built.lock.created)
    documents = {
        SBOM: cyclonedx(subject, model, contents, _pins(built)),
        PROVENANCE: provenance(_recipe(built, folder), _materials(built)),
        MODEL_CARD: _card(model, folder),
    }
    add_evidence(layout, image.manifest, name, documents)


def _known(built: Built) -> Mapping[Digest, Contents]:
    """What need not be read: the layer of the code, just made of these files, unless a package is among them."""
    if any(is_telling(f"{APP}/{name}") for name in built.code):
        return {}
    return {built.layers[-1].blob.diff_id: Contents()}


def _model(built: Built, folder: ProjectFolder) -> ModelFacts:
    model = folder.project.model
    files = tuple(
        ModelFile(name, hex_of(digest), (folder.path / name).stat().st_size) for name, digest in built.weights.items()
    )
    return ModelFacts(model.name, model.version, model.description, model.format or "python", model.license, files)


def _pins(built: Built) -> Pins:
    packages = (*built.lock.base, *built.lock.system)
    return Pins(
        debian={package.name: package.sha256 for package in packages},
        python={wheel.name: wheel.hashes for wheel in built.lock.wheels},
    )


def _recipe(built: Built, folder: ProjectFolder) -> Recipe:
    model = folder.project.model
    return Recipe(
        name=model.name,
        version=model.version,
        platform=str(built.image.config.platform),
        files={**built.weights, **built.code},
        settings=(folder.path / FILE_NAME).read_text(encoding="utf-8"),
        lock=lock_document(built.lock),
        created=built.lock.created,
    )


def _materials(built: Built) -> list[Material]:
    lock = built.lock
    packages = [
        Material(f"pkg:deb/debian/{package.name}@{package.version}?arch={package.architecture}", (package.sha256,))
        for package in (*lock.base, *lock.system)
    ]
    base = [Material(f"oci:{lock.base_image}", (lock.base_image.removeprefix("sha256:"),))] if lock.base_image else []
    wheels = [Material(f"pkg:pypi/{wheel.name}@{wheel.version}", wheel.hashes) for wheel in lock.wheels]
    return [*base, *packages, *wheels]


def _card(model: ModelFacts, folder: ProjectFolder) -> dict[str, Any]:
    card: dict[str, Any] = {
        "name": model.name,
        "version": model.version,
        "description": model.description,
        "license": model.license,
        "format": model.format,
        "files": [{"path": file.path, "sha256": file.sha256, "bytes": file.size} for file in model.files],
    }
    file = folder.path / folder.project.model.card
    if file.is_file():
        if file.stat().st_size > _CARD_LIMIT:
            raise ProjectError(
                f"the model card {file} is larger than {_CARD_LIMIT >> 10} KiB",
                remedy="Keep it to what people read; name it in [model] card.",
            )
        card["text"] = file.read_text(encoding="utf-8", errors="replace")
    return {key: value for key, value in card.items() if value}
