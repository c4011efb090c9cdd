"""Running an image's goldens inside the image, and writing the result down: what `test` and `update` share."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.cli import compose, places
from dockyard.cli.launching import Wish, limits
from dockyard.engines.base import Engine, State
from dockyard.engines.once import Finished, run_once
from dockyard.engines.removal import remove_surely
from dockyard.oci.image import Image
from dockyard.oci.reference import repository_of
from dockyard.supply.evidence import add_evidence
from dockyard.supply.statement import TEST_RESULT

_OWNED = re.compile(r"test-(\d+)-[0-9a-f]{8}")


class Verdict(msgspec.Struct, frozen=True):
    """A golden, and what differs from it; empty when nothing does."""

    golden: str
    problem: str


@dataclass(frozen=True)
class Tested:
    """How the goldens ended, on which engine; no verdicts when the container said something else."""

    verdicts: Sequence[Verdict] | None
    finished: Finished
    engine: str


def run_goldens(image: Image, name: str, deadline: float, engine: str) -> Tested:
    """Run them; `name` is what the engine will call the image."""
    finished, used = asyncio.run(_run(image, name, deadline, engine))
    try:  # before its last line the predictor may have printed something
        verdicts = msgspec.json.decode(finished.stdout.rstrip().rpartition(b"\n")[2], type=list[Verdict])
    except msgspec.MsgspecError:
        return Tested(None, finished, used)
    return Tested(verdicts, finished, used)


async def _run(image: Image, name: str, deadline: float, engine_name: str) -> tuple[Finished, str]:
    wish = Wish(image, name, f"test-{os.getpid()}-{secrets.token_hex(4)}", {}, limits(image))
    async with compose.chosen_engine(engine_name) as engine:
        await _sweep(engine)
        await engine.load(image, places.store(), name)
        return await run_once(engine, wish.spec(("selftest", "--json")), None, deadline), engine.name


async def _sweep(engine: Engine) -> None:
    """Remove the containers of goldens, ended or never started, whose command was killed before it could."""
    for container in await engine.list():
        match = _OWNED.fullmatch(container.name)
        if match and container.state in {State.CREATED, State.EXITED} and not _lives(match[1]):
            await remove_surely(engine, container.id)


def _lives(process: str) -> bool:
    return Path("/proc", process).exists()


def record_goldens(image: Image, name: str, verdicts: Sequence[Verdict], engine: str) -> None:
    """Attach the result to the image, passed or failed."""
    failed = [verdict.golden for verdict in verdicts if verdict.problem]
    predicate = {
        "result": "FAILED" if failed else "PASSED",
        "configuration": [{"name": "goldens", "annotations": {"engine": engine}}],
        "passedTests": [verdict.golden for verdict in verdicts if not verdict.problem],
        "failedTests": failed,
    }
    add_evidence(places.store(), image.manifest, repository_of(name), {TEST_RESULT: predicate})


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts for people."""
    width = max(len("golden"), *(len(verdict.golden) for verdict in verdicts))
    lines = [f"{one.golden:<{width}}  {f'differs: {one.problem}' if one.problem else 'same'}" for one in verdicts]
    passed = sum(not verdict.problem for verdict in verdicts)
    return "\n".join([f"{'golden':<{width}}  result", *lines, "", f"{passed} of {len(verdicts)} goldens hold"])
