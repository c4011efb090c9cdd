"""`dockyard scan`: the known problems of an image's packages, by the advisories that were imported here."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click
import msgspec

from dockyard.cli import places
from dockyard.cli.advisories import age
from dockyard.cli.problems import packages_of_image, problem_as_json, show_problem, show_unchecked
from dockyard.oci.image import Image
from dockyard.supply.advisories.database import opened
from dockyard.supply.advisories.records import Source
from dockyard.supply.advisories.scan import Problem, Report, scan
from dockyard.supply.advisories.severity import SCALE

_LEVELS = SCALE[1:]


@click.command()
@click.argument("image", required=False)
@click.option(
    "--fail-on",
    type=click.Choice(["any", "fixable", *_LEVELS]),
    help="End with 1 when there is any problem, one that a newer version does not have, or one at least as severe; or "
    "when packages could not be checked. A problem without a rating counts as the most severe.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(image: str | None, fail_on: str | None, as_json: bool) -> None:
    """List the known problems of IMAGE (default: that of the project here), without any network.

    Its bill of materials is compared with the advisories that `dockyard advisories import` has brought here.
    """
    name = places.image_name(image)
    layout = places.store()
    entry = layout.entry(name)
    with opened(places.home().advisories) as advisories:
        found = [(one, scan(packages_of_image(layout, one), advisories)) for one in layout.members(entry)]
    if as_json:
        told = {
            "name": name,
            "digest": entry.digest,
            "advisories": msgspec.to_builtins(advisories.sources),
            "images": [_as_json(one, report) for one, report in found],
        }
        click.echo(json.dumps(told, indent=2))
    else:
        for one, report in found:
            _show(name, one, report, advisories.sources)
    if fail_on and any(_fails(report, fail_on) for _, report in found):
        raise SystemExit(1)


def _fails(report: Report, level: str) -> bool:
    return bool(report.unchecked) or any(_counts(problem, level) for problem in report.problems)


def _counts(problem: Problem, level: str) -> bool:
    if level == "any":
        return True
    if level == "fixable":
        return bool(problem.fixed)
    return not problem.severity or SCALE.index(problem.severity) >= SCALE.index(level)


def _show(name: str, image: Image, report: Report, sources: Sequence[Source]) -> None:
    count = len(report.problems)
    told = "no known problem" if not count else f"{count} known problem{'s' if count > 1 else ''}"
    click.secho(f"{name} for {image.config.platform}: {told} in {report.packages} packages", bold=True)
    for problem in report.problems:
        show_problem(problem)
    show_unchecked(report.unchecked)
    for source in sources:
        click.echo(f"  by {source.title}, imported {age(source)}")


def _as_json(image: Image, report: Report) -> dict[str, object]:
    return {
        "platform": str(image.config.platform),
        "digest": image.digest,
        "packages": report.packages,
        "unchecked": dict(report.unchecked),
        "problems": list(map(problem_as_json, report.problems)),
    }
