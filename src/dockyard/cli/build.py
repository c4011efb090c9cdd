"""`dockyard build`: the project in a folder becomes an image in the store, and a file or an engine's image if asked."""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from dockyard.build.builder import Attach, Built, Options, build, build_index
from dockyard.build.memory import Memory
from dockyard.build.target import ARCHITECTURES, host_architecture
from dockyard.build.workshop import Workshop
from dockyard.cli import places
from dockyard.cli.columns import columns
from dockyard.cli.evidence import attach_evidence
from dockyard.cli.progress import shown
from dockyard.errors import ProjectError
from dockyard.oci.image import Platform
from dockyard.oci.layout import Layout
from dockyard.oci.reference import tagged
from dockyard.spec.load import ProjectFolder, load_project
from dockyard.spec.resources import format_bytes

platforms_option = click.option(
    "--platform",
    "platforms",
    help="What to build for, such as linux/amd64,linux/arm64. By default this machine's own.",
    callback=lambda _, __, value: _platforms(value),
)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("-t", "--name", help="Name of the image, NAME[:TAG]. By default the model's name and version.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Also write FILE.tar (for `docker load`) or an OCI layout."
)
@click.option("--load", is_flag=True, help="Also load the image into the Docker Engine that answers here.")
@platforms_option
@click.option("--locked", is_flag=True, help="Fail if dockyard.lock would change (for CI).")
@click.option("--upgrade", is_flag=True, help="Lock the newest versions anew.")
@click.option(
    "--fix/--no-fix",
    default=True,
    help="Add the Debian packages that have missing libraries (on by default), or fail and name them.",
)
@click.option(
    "--evidence/--no-evidence", default=True, help="Attach what is inside and how it was made (on by default)."
)
@click.option("--watch", is_flag=True, help="Stay, and build again whenever a file of the project changes.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON; with --watch each result, one on a line."
)
def command(
    folder: Path,
    name: str | None,
    output: Path | None,
    load: bool,
    platforms: tuple[str, ...],
    locked: bool,
    upgrade: bool,
    fix: bool,
    evidence: bool,
    watch: bool,
    as_json: bool,
) -> None:
    """Build the image of the project in FOLDER (default: here)."""
    if output is not None:
        _check_output(output)
    attach: Attach = attach_evidence if evidence else lambda *_: None
    order = Order(folder, Options(name or "", locked=locked, upgrade=upgrade, fix=fix), platforms, attach, output, load)
    if watch:
        # Imported only now: other builds need nothing of it.
        importlib.import_module("dockyard.cli.watching").watch(order, as_json=as_json)
        return
    built = order.build()
    if as_json:
        told = [described(one) for one in built]
        click.echo(json.dumps(told[0] if len(told) == 1 else told, indent=2))
    else:
        for one in built:
            summary(one)
    order.deliver(built[0].name)
    if not as_json:
        _say(f"\nNext: {click.style(f'dockyard run {built[0].name}', bold=True)}")


@dataclass(frozen=True)
class Order:
    """What was asked for: the project in a folder, how to build it (without a name: the project's), and where it goes.

    `output` is a file or folder to write, `load` asks for the engine to have it too.
    """

    folder: Path
    options: Options
    platforms: tuple[str, ...]
    attach: Attach
    output: Path | None = None
    load: bool = False

    def build(self, bench: Bench | None = None) -> tuple[Built, ...]:
        """Build the project as it is now."""
        project = load_project(self.folder)
        model = project.project.model
        tagged(self.options.name or model.name)  # a name that no engine accepts is told before the work
        options = replace(self.options, name=self.options.name or f"{model.name}:{model.version}")
        return build_project(project, options, self.platforms, self.attach, bench)

    def deliver(self, name: str) -> None:
        """Write and load the image that was built."""
        if self.output is not None:
            _write_output(name, places.store(), self.output)
        if self.load:
            _load(name)


@dataclass(frozen=True)
class Bench:
    """What the builds of one process share: the store, the caches' folder, and what is remembered for each
    architecture.
    """

    store: Layout
    cache: Path
    memories: defaultdict[str, Memory] = field(default_factory=lambda: defaultdict(lambda: Memory(lasting=True)))


def build_project(
    project: ProjectFolder,
    options: Options,
    platforms: Sequence[str],
    attach: Attach = attach_evidence,
    bench: Bench | None = None,
) -> tuple[Built, ...]:
    """The project's image for each of the architectures, in the store; `deploy` builds with it too."""
    at = bench or Bench(places.store(), places.home().cache, defaultdict(Memory))
    with shown(lasting=bench is not None) as progress:
        workshops = [Workshop(project, at.store, at.cache, progress, one, at.memories[one]) for one in platforms]
        if len(workshops) > 1:
            return tuple(build_index(workshops, options, attach))
        return (build(workshops[0], options, attach),)


def summary(built: Built) -> None:
    """The layers with their sizes, what was reused, digest and seconds; then what there is to know."""
    rows = [
        (
            layer.title,
            format_bytes(layer.blob.descriptor.size),
            format_bytes(layer.blob.unpacked),
            "reused" if layer.reused else "new",
        )
        for layer in built.layers
    ]
    fresh = sum(layer.blob.descriptor.size for layer in built.layers if not layer.reused)
    size = f"{format_bytes(built.image.size)}, {format_bytes(fresh)} of it new"
    _say(f"\n{columns(('layer', 'size', 'unpacked', ''), rows, right=('size', 'unpacked'))}")
    name = click.style(built.name, bold=True)
    _say(f"\n{name}  {built.image.config.platform}  {size}, in {built.seconds:.1f} s")
    _say(click.style(built.image.digest, dim=True))
    if built.lock_changed:
        _say("dockyard.lock has changed: commit it, and this very image can be built again.")
    if built.lock.found_packages:
        _say(f"Added Debian packages that the Python modules load: {', '.join(built.lock.found_packages)}")
    for problem in built.notes:
        _say(f"{click.style(f'{problem.level}:', fg='yellow')} {problem.what}")
    for missing in built.findings.optional[:4]:
        note = click.style("note:", fg="yellow")
        _say(f"{note} {missing.needed_by} would need {missing.soname}; no import loads it")


def _say(text: str) -> None:
    click.echo(text, err=True)


def described(built: Built) -> dict[str, object]:
    """The same for programs."""
    return {
        "name": built.name,
        "platform": str(built.image.config.platform),
        "digest": built.image.digest,
        "image_id": built.image.image_id,
        "size": built.image.size,
        "seconds": round(built.seconds, 3),
        "lock_changed": built.lock_changed,
        "added_packages": list(built.lock.found_packages),
        "notes": [{"level": one.level, "kind": one.kind, "what": one.what} for one in built.notes],
        "layers": [
            {
                "title": layer.title,
                "digest": layer.blob.descriptor.digest,
                "size": layer.blob.descriptor.size,
                "unpacked": layer.blob.unpacked,
                "reused": layer.reused,
            }
            for layer in built.layers
        ],
    }


def _platforms(text: str | None) -> tuple[str, ...]:
    """The architectures of a list of platforms; click tells the user what is wrong with it."""
    if text is None:
        return (host_architecture(),)
    wanted = [Platform.parse(one.strip()) for one in text.split(",")]
    for one in wanted:
        if one.os != "linux" or one.architecture not in ARCHITECTURES or one.variant not in ("", "v8"):
            known = ", ".join(f"linux/{name}" for name in ARCHITECTURES)
            raise click.BadParameter(f"{one} is not a platform that Dockyard builds for: {known}")
    return tuple(dict.fromkeys(one.architecture for one in wanted))


def _check_output(output: Path) -> None:
    if output.suffix not in {"", ".tar"} and not output.is_dir():
        raise ProjectError(
            f"--output {output} is neither a .tar file nor a folder",
            remedy="Write --output model.tar for an archive, or --output model/ for an OCI layout.",
        )
    if output.suffix == ".tar" and output.is_dir():
        raise ProjectError(f"--output {output} is a folder", remedy="Name a file, or a folder without that ending.")
    if output.suffix != ".tar" and output.exists() and not _can_be_layout(output):
        raise ProjectError(
            f"--output {output} exists and is no OCI layout", remedy="Name a new folder, an empty one or a layout."
        )


def _can_be_layout(output: Path) -> bool:
    return output.is_dir() and ((output / "oci-layout").exists() or not any(output.iterdir()))


def _write_output(name: str, layout: Layout, output: Path) -> None:
    """The image with all that is attached to it as a layout, or, for engines, the image alone as an archive."""
    # Imported only now: most builds write nothing else.
    if output.suffix == ".tar":
        importlib.import_module("dockyard.oci.archive").write_archive(layout.resolve(name), layout, name, output)
    else:
        importlib.import_module("dockyard.oci.copying").copy_entry(
            layout.entry(name), layout, Layout.create(output), name.rpartition(":")[2]
        )
    _say(f"Written to {output}")


def _load(name: str) -> None:
    """Run `dockyard load`, which is imported only now: engines' clients are slow to import, and builds are frequent."""
    context = click.get_current_context()
    verbs = context.find_root().command
    assert isinstance(verbs, click.Group)
    verb = verbs.get_command(context, "load")
    assert verb is not None
    context.invoke(verb, image=name, engine="docker")
