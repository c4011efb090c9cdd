"""`dockyard plan`: what a build would do, before it does it. Writes nothing to the project."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dockyard.build.builder import Options
from dockyard.build.changes import Cause, Previous, causes
from dockyard.build.lock import lock_of_document
from dockyard.build.planner import Plan, PlannedLayer, make_plan
from dockyard.build.workshop import Workshop
from dockyard.cli import places
from dockyard.cli.build import platforms_option
from dockyard.cli.progress import shown
from dockyard.errors import ImageError
from dockyard.oci.digest import Digest
from dockyard.oci.image import Image, Platform
from dockyard.oci.layout import Layout
from dockyard.oci.reference import Reference, tagged
from dockyard.oci.registry import Registry
from dockyard.spec.load import FILE_NAME, ProjectFolder, load_project
from dockyard.spec.resources import format_bytes
from dockyard.supply.evidence import evidence_of
from dockyard.supply.provenance import recorded_inputs
from dockyard.supply.statement import PROVENANCE

_SHOWN = 20
_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}
_STATES = {
    "locked": "as dockyard.lock says",
    "missing": "now, since there is no dockyard.lock for it",
    "out of date": "now, since dockyard.lock does not answer what the project asks for",
    "to be upgraded": "now, as asked",
}


@dataclass(frozen=True)
class _Told:
    """A plan, why it differs from the last image (None when there is none), and what a push would send."""

    plan: Plan
    previous: Previous | None
    causes: Sequence[Cause]
    sent: Sequence[PlannedLayer]
    against: str


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("-t", "--name", help="Name of the image, NAME[:TAG]. By default the model's name and version.")
@platforms_option
@click.option("--upgrade", is_flag=True, help="Plan with the newest versions, as `build --upgrade` would lock them.")
@click.option(
    "--against",
    metavar="REFERENCE",
    help="Ask this repository of a registry which layers it lacks. By default the last image of that name is it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    folder: Path, name: str | None, platforms: tuple[str, ...], upgrade: bool, against: str | None, as_json: bool
) -> None:
    """Show what `dockyard build` would do with the project in FOLDER (default: here).

    Nothing is written to the project, and nothing fetched but metadata. Exits with 1 when the build would be refused.
    """
    project = load_project(folder)
    model = project.project.model
    tagged(name or model.name)
    options = Options(name or f"{model.name}:{model.version}", upgrade=upgrade)
    layout, cache = places.store(), places.home().cache
    with shown() as progress:
        workshops = [Workshop(project, layout, cache, progress, one) for one in platforms]
        told = [_tell(workshop, options, against) for workshop in workshops]
    if as_json:
        documents = [_as_json(one) for one in told]
        click.echo(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))
    else:
        for one in told:
            _show(Console(highlight=False, soft_wrap=True), one)
    raise SystemExit(1 if any(one.plan.fails for one in told) else 0)


def _tell(workshop: Workshop, options: Options, against: str | None) -> _Told:
    plan = make_plan(workshop, options)
    previous = _previous(workshop, options.name)
    found: tuple[Cause, ...] = ()
    if previous is not None:
        settings = (workshop.project.path / FILE_NAME).read_text(encoding="utf-8")
        found = causes(plan, previous, settings, workshop.project.project.model.weight_patterns)
    if against:
        known = [layer.digest for layer in plan.layers if layer.digest]
        there = set(known) - Registry().lacking(Reference.parse(against), known)
        place = against
    else:
        there = set(previous.layers.values()) if previous else set()
        place = "the last image" if previous else "nothing"
    sent = [layer for layer in plan.layers if layer.digest not in there]
    return _Told(plan, previous, found, sent, place)


def _previous(workshop: Workshop, name: str) -> Previous | None:
    """The last image of the name, for the platform of the workshop."""
    layout = workshop.layout
    try:
        image = layout.resolve(name, Platform("linux", workshop.architecture))
    except ImageError:  # there is none, or none for this platform
        return None
    return _with_record(layout, image, Previous(image.digest, _titled(image)), workshop.project)


def _titled(image: Image) -> dict[str, Digest]:
    """The layers of an image by their titles; those of a foreign base have none, and are called by their numbers."""
    titles = [entry.comment for entry in image.config.history if not entry.empty_layer]
    if len(titles) != len(image.layers):
        titles = [""] * len(image.layers)
    layers: dict[str, Digest] = {}
    for number, (title, layer) in enumerate(zip(titles, image.layers, strict=True)):
        layers[title if title and title not in layers else f"layer {number}"] = layer.digest
    return layers


def _with_record(layout: Layout, image: Image, previous: Previous, project: ProjectFolder) -> Previous:
    """What the image's provenance says on top, if it has one."""
    for evidence in evidence_of(layout, image.digest, project.project.model.name):
        if evidence.statement.predicate_type == PROVENANCE:
            recorded = recorded_inputs(evidence.statement.predicate)
            lock = lock_of_document(recorded.lock)
            return Previous(previous.digest, previous.layers, recorded.files, recorded.settings, lock)
    return previous


def _show(console: Console, told: _Told) -> None:
    plan = told.plan
    lock = plan.lock
    console.print(f"[bold]{escape(plan.name)}[/] for {plan.platform}")
    base = f"base {lock.base_image[:19]}" if lock.base_image else f"{len(lock.base)} Debian packages"
    more = f", {len(lock.system)} more on top" if lock.system else ""
    console.print(
        f"resolved {_STATES[plan.lock_state]}: {base}{more}, Python {lock.python}, {len(lock.wheels)} wheels\n"
        f"left out of wheels: {escape(', '.join(plan.left_out) or 'nothing')}\n"
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("layer", "size", ""):
        table.add_column(title, justify="right" if title == "size" else "left")
    for layer in plan.layers:
        table.add_row(escape(layer.title), _size(layer), "exists" if layer.digest else "estimated")
    console.print(table)
    _show_causes(console, told)
    _show_push(console, told)
    for problem in plan.problems:
        console.print(f"\n[{_COLOURS[problem.level]}]{problem.level}:[/] {escape(problem.what)}")
        if problem.remedy:
            console.print(f"  {escape(problem.remedy)}")
    if plan.fails:
        console.print("\n[red]The build would be refused.[/]")


def _show_causes(console: Console, told: _Told) -> None:
    if told.previous is None:
        console.print(f"\nThere is no image {escape(told.plan.name)} in the store yet.")
        return
    if not told.causes:
        console.print("\nNothing has changed since the last image.")
        return
    console.print("\nChanged since the last image:")
    for cause in told.causes[:_SHOWN]:
        values = " -> ".join(value or "none" for value in (cause.before, cause.after)) if _has_values(cause) else ""
        console.print(f"  {cause.kind}: {escape(cause.what)}{f'  {escape(values)}' if values else ''}")
    if len(told.causes) > _SHOWN:
        console.print(f"  and {len(told.causes) - _SHOWN} more")
    if told.previous.files is None:
        console.print("  (the last image has no provenance, so its files are not known)")


def _has_values(cause: Cause) -> bool:
    return bool(cause.before or cause.after)


def _show_push(console: Console, told: _Told) -> None:
    if not told.sent:
        console.print(f"A push would send no layer: {escape(told.against)} has all of them.")
        return
    about = "" if all(layer.digest for layer in told.sent) else "about "
    unknown = ", and what is not known yet" if any(layer.size is None for layer in told.sent) else ""
    size = format_bytes(sum(layer.size or 0 for layer in told.sent))
    names = ", ".join(layer.title for layer in told.sent)
    console.print(
        f"A push to where {escape(told.against)} is would send {about}{size}{unknown}, "
        f"{len(told.sent)} of {len(told.plan.layers)} layers: {escape(names)}"
    )


def _size(layer: PlannedLayer) -> str:
    if layer.size is None:
        return "not known"
    return f"{'' if layer.digest else 'about '}{format_bytes(layer.size)}"


def _as_json(told: _Told) -> dict[str, Any]:
    plan = told.plan
    return {
        "name": plan.name,
        "platform": plan.platform,
        "lock": plan.lock_state,
        "python": plan.lock.python,
        "base_image": plan.lock.base_image,
        "packages": {one.name: one.version for one in (*plan.lock.base, *plan.lock.system)},
        "wheels": {one.name: one.version for one in plan.lock.wheels},
        "left_out": list(plan.left_out),
        "layers": [_layer_as_json(layer) for layer in plan.layers],
        "last_image": told.previous.digest if told.previous else None,
        "changes": [
            {"kind": one.kind, "what": one.what, "before": one.before, "after": one.after} for one in told.causes
        ],
        "push": {
            "against": told.against,
            "layers": [layer.title for layer in told.sent],
            "bytes": sum(layer.size or 0 for layer in told.sent),
            "estimated": not all(layer.digest for layer in told.sent),
        },
        "problems": [
            {"level": one.level, "kind": one.kind, "what": one.what, "remedy": one.remedy} for one in plan.problems
        ],
    }


def _layer_as_json(layer: PlannedLayer) -> dict[str, Any]:
    return {"title": layer.title, "bytes": layer.size, "estimated": layer.digest is None, "digest": layer.digest}
