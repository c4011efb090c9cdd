"""The verbs that speak to a yard, through the real API: what they print for people and for programs, and exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from dockyard.cli import commands, rollouts
from dockyard.errors import (
    DockyardError,
    ImageNotFoundError,
    PolicyError,
    UnknownInYardError,
    YardConflictError,
    YardGoneError,
    YardNotFoundError,
)
from dockyard.oci.layout import Layout
from dockyard.spec.deployment import StrategyKind
from dockyard.spec.home import Home
from dockyard.spec.status import Difference, DriftItem, Event
from tests.conftest import TinyImage
from tests.support.memory_yard import NOW, MemoryYard, on_unix, problem, receipt, running, status, update
from tests.support.projects import CommandLine
from tests.support.tiny_image import make_image

PINNED = f"iris:2@sha256:{'cd' * 32}"


@dataclass
class Line:
    """The command line in this process, with a yard and a home of its own."""

    yard: MemoryYard
    home: Home

    def __call__(self, *words: str, fails: bool = False) -> Result:
        result = CliRunner(env=self.variables()).invoke(commands, words, standalone_mode=False)
        if result.exception is not None and not isinstance(result.exception, SystemExit) and not fails:
            raise result.exception
        return result

    def error(self, *words: str) -> DockyardError:
        found = self(*words, fails=True).exception
        assert isinstance(found, DockyardError), found
        return found

    def variables(self) -> dict[str, str]:
        return {"DOCKYARD_HOME": str(self.home.root), "COLUMNS": "160", "DOCKYARD_YARD": "", "DOCKYARD_TOKEN": ""}


@pytest.fixture
def yard() -> MemoryYard:
    done = update("done", 1.0, receipt=receipt())
    return MemoryYard(names={"iris": status()}, updates=[update("starting"), update("switching"), done])


@pytest.fixture
def line(yard: MemoryYard, short_path: Path) -> Iterator[Line]:
    home = Home(short_path)
    with running(yard, on_unix(home.yard_socket)):
        yield Line(yard, home)


def code(result: Result) -> int:
    """What the process would have ended with."""
    return result.exception.code if isinstance(result.exception, SystemExit) else result.exit_code  # type: ignore[return-value]


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(each) for each in text.splitlines()]


def test_deploying_an_image_shows_the_plan_and_ends_with_a_receipt(line: Line) -> None:
    result = line("deploy", PINNED, "--name", "iris", "--why", "new weights")
    assert code(result) == 0
    assert "iris: changes  revision 1 -> 2" in result.stderr
    assert "~ image: iris:1@abababababab -> iris:2@cdcdcdcdcdcd" in result.stderr
    assert "1. start 1 replica of the new revision" in result.stderr
    assert "note: nobody signed it" in result.stderr
    assert "now starting" in result.stderr
    assert "✓ iris runs revision 2 after 2.5 s" in result.stdout
    assert "1,200 on revision 1, 34 on revision 2, 0 dropped, 2 in flight at the switch" in result.stdout
    assert "p50 1.0 -> 1.1 ms, p99 4.0 -> 3.5 ms" in result.stdout
    (_, (deployment, cause, _)), *_ = line.yard.asked
    assert (deployment.image, cause.why, cause.actor.name) == (PINNED, "new weights", f"uid {os.getuid()}")


def test_deploying_for_programs_prints_an_object_a_line(line: Line) -> None:
    result = line("deploy", PINNED, "--name", "iris", "--json")
    told = json_lines(result.stdout)
    assert [next(iter(each)) for each in told] == ["proposal", "update", "update", "update", "receipt"]
    assert told[-1]["receipt"]["dropped"] == 0  # type: ignore[index]
    assert result.stderr == ""


def test_what_is_not_said_stays_as_it_is_deployed_unless_a_fresh_one_is_asked_for(line: Line) -> None:
    line("deploy", PINNED, "-e", "MORE=1", "--replicas", "3", "-d")
    assert line.yard.asked[-1][1][0].environment == {"KEPT": "yes", "MORE": "1"}
    assert line.yard.asked[-1][1][0].replicas == 3
    line("deploy", PINNED, "--fresh", "-d")
    assert line.yard.asked[-1][1][0].environment == {}


def test_every_option_becomes_a_key_of_the_deployment(line: Line) -> None:
    words = (
        *("--name", "other", "--replicas", "2", "--strategy", "blue-green", "--preview", "--memory", "1GiB"),
        *("--cpus", "0.5", "--gpus", "0,1", "--host", "a.example", "--host", "b.example", "--engine", "runc"),
        *("--secret", "key=/run/k", "--port", "8000", "--preset", "triton", "-e", "A=b=c", "--new", "-d"),
    )
    line("deploy", PINNED, *words)
    asked = line.yard.asked[-1][1][0]
    assert (asked.name, asked.replicas, asked.engine, asked.environment) == ("other", 2, "runc", {"A": "b=c"})
    assert (asked.strategy.kind, asked.strategy.preview) == (StrategyKind.BLUE_GREEN, True)
    assert (asked.resources.memory, asked.resources.cpus, asked.resources.gpus) == ("1GiB", 0.5, ("0", "1"))
    assert (asked.routing.hosts, asked.secrets) == (("a.example", "b.example"), {"key": "/run/k"})
    assert (asked.server.port, asked.server.preset) == (8000, "triton")


def test_a_dry_run_and_a_diff_change_nothing(line: Line) -> None:
    result = line("deploy", PINNED, "--dry-run")
    assert "start 1 replica" in result.stdout
    assert "Nothing was changed" in result.stderr
    assert json.loads(line("deploy", PINNED, "--dry-run", "--json").stdout)["steps"]
    shown = line("deploy", PINNED, "--diff").stdout
    assert "~ image" in shown
    assert "start 1 replica" not in shown
    assert json.loads(line("deploy", PINNED, "--diff", "--json").stdout)[0]["key"] == "image"
    assert [asked[1][2] for asked in line.yard.asked] == [True] * 4


def test_the_plan_of_a_new_deployment_leaves_out_the_defaults_and_what_is_empty(line: Line) -> None:
    line.yard.differences = (
        Difference(key="replicas", after=0),
        Difference(key="strategy.max_surge", after=1),
        Difference(key="probes.goldens", after=False),
        Difference(key="environment", before={}),
    )
    line.yard.names.clear()
    shown = line("deploy", PINNED, "--diff").stdout
    assert [each.strip() for each in shown.splitlines()[2:]] == ["+ replicas: 0", "+ probes.goldens: false"]
    assert len(json.loads(line("deploy", PINNED, "--diff", "--json").stdout)) == 5


def test_a_failed_rollout_is_exit_code_1_with_the_reason_and_the_last_log_lines(line: Line) -> None:
    failed = receipt("failed", why="no replica became ready within 120 s", requests_new=0)
    line.yard.updates = [update("failed", receipt=failed, problem=problem())]
    result = line("deploy", PINNED)
    assert code(result) == 1
    assert "✗ iris: revision 2 failed after 2.5 s: no replica became ready within 120 s" in result.stdout
    assert "revision 1 has the traffic" in result.stdout
    assert "it ended with exit code 3 [iris-2]" in result.stdout
    assert "no such file" in result.stdout
    assert code(line("deploy", PINNED, "--json")) == 1


def test_a_preview_is_told_with_how_to_go_on(line: Line) -> None:
    line.yard.updates, line.yard.endless = [update("preview")], True
    result = line("deploy", PINNED, "--strategy", "blue-green", "--preview")
    assert code(result) == 0
    assert "dockyard promote iris" in result.stdout


def test_a_name_that_is_taken_is_refused_when_a_new_one_is_meant(line: Line) -> None:
    assert isinstance(line.error("deploy", PINNED, "--new"), YardConflictError)


@pytest.mark.parametrize(
    "error",
    [
        YardConflictError("rollout 3 to revision 5 is under way", remedy="Wait, or abort it."),
        PolicyError("iris is not signed", rule="signed", remedy="Sign it."),
    ],
)
def test_refusals_are_told_as_the_yard_says_them(line: Line, error: DockyardError) -> None:
    line.yard.failing = error
    found = line.error("deploy", PINNED, "--fresh")
    assert (type(found), found.what, found.remedy) == (type(error), error.what, error.remedy)


def test_a_deployment_file_says_everything_but_the_number_of_replicas_that_was_scaled(
    line: Line, tmp_path: Path
) -> None:
    file = tmp_path / "iris.toml"
    file.write_text(f'name = "iris"\nimage = "{PINNED}"\n[environment]\nA = "1"\n')
    line("scale", "iris", "4")
    line.yard.names["iris"] = status(asked=status().asked.__class__(name="iris", image=PINNED, replicas=4))
    line("deploy", str(file), "-e", "B=2", "-d")
    asked = line.yard.asked[-1][1][0]
    assert (asked.environment, asked.replicas, asked.image) == ({"A": "1", "B": "2"}, 4, PINNED)
    file.write_text(f'name = "iris"\nimage = "{PINNED}"\nreplicas = 1\n')
    line("deploy", str(file), "-d")
    assert line.yard.asked[-1][1][0].replicas == 1


def test_a_mistake_in_a_deployment_file_is_told_with_its_path(line: Line, tmp_path: Path) -> None:
    file = tmp_path / "iris.toml"
    file.write_text(f'name = "iris"\nimage = "{PINNED}"\n[probes]\nlive_evry_s = 1\n')
    found = line.error("deploy", str(file))
    assert f"{file}: unknown key `probes.live_evry_s`" in found.what
    assert found.remedy == "Did you mean `live_every_s`?"
    assert line.yard.asked == []


def test_an_image_is_deployed_by_the_digest_that_the_store_has(line: Line, tiny_image: TinyImage) -> None:
    store = Layout.create(line.home.images)
    store.blobs.borrow(tiny_image.layout.blobs)
    image = make_image(store, tiny_image.base, "tiny:1")
    line("deploy", "tiny:1", "-d")
    asked = line.yard.asked[-1][1][0]
    assert (asked.name, asked.image) == ("tiny", f"tiny:1@{image.digest}")
    assert isinstance(line.error("deploy", "tyni:1"), ImageNotFoundError)


def test_a_detached_deploy_returns_at_once(line: Line) -> None:
    line.yard.updates, line.yard.endless = [update("starting")], True
    result = line("deploy", PINNED, "-d")
    assert (code(result), result.stdout) == (0, "")


@pytest.mark.parametrize("verb", ["rollback", "restart", "promote"])
def test_verbs_that_begin_a_rollout_follow_it(line: Line, verb: str) -> None:
    result = line(verb, "iris", "--why", "because")
    assert code(result) == 0
    assert "✓ iris runs revision 2" in result.stdout
    assert (line.yard.asked[-1][0], line.yard.asked[-1][1][1].why) == (verb, "because")
    assert [next(iter(each)) for each in json_lines(line(verb, "iris", "--json").stdout)][-1] == "receipt"


def test_a_rollback_to_a_revision_that_is_not_there_is_told(line: Line) -> None:
    assert isinstance(line.error("rollback", "iris", "9"), UnknownInYardError)
    assert json.loads(line("rollback", "iris", "1", "--dry-run", "--json").stdout)["dry_run"] is True


def test_an_abort_that_succeeds_is_exit_code_0_and_one_that_comes_too_late_is_1(line: Line) -> None:
    assert code(line("abort", "iris")) == 1
    line.yard.updates = [update("failed", receipt=receipt("aborted", why="aborted by uid 0"))]
    assert code(line("abort", "iris")) == 0


def test_scaling_waits_until_so_many_are_ready(line: Line) -> None:
    assert "iris has 3 of 3 replicas ready" in line("scale", "iris", "3").stdout
    assert json.loads(line("scale", "iris", "2", "--json").stdout)["ready"] == 2


def test_scaling_gives_up_with_the_reason(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stuck(name: str, replicas: int, cause: object) -> object:
        line.yard.names[name] = status(wanted=replicas, problem=problem())
        return (await MemoryYard.restart(line.yard, name, cause)).__class__(deployment=name, kind="scale")  # type: ignore[arg-type]

    monkeypatch.setattr(line.yard, "scale", stuck)
    result = line("scale", "iris", "5", "--timeout", "0.3", fails=True)
    assert "1 of 5 replicas ready after 0.3 s" in str(result.exception)
    assert "exit code 3" in result.stderr


def test_status_of_all_and_of_one(line: Line) -> None:
    line.yard.names["rose"] = status("rose", state="failed", ready=0, problem=problem(), traffic=())
    shown = line("status").stdout
    assert "iris" in shown
    assert "rose" in shown
    assert "no such file" in shown
    assert [one["name"] for one in json.loads(line("status", "--json").stdout)] == ["iris", "rose"]
    one = line("status", "iris").stdout
    for told in (
        "iris  healthy  1/1 ready",
        "http://127.0.0.1:8080/v2/models/iris",
        "100 % to revision 1",
        "c0ffeec0ffee",
    ):
        assert told in one
    assert json.loads(line("status", "iris", "--json").stdout)["replicas"][0]["in_flight"] == 3
    assert isinstance(line.error("status", "lily"), UnknownInYardError)


def test_status_of_nothing_says_what_to_do(line: Line) -> None:
    line.yard.names.clear()
    assert "dockyard deploy" in line("status").stdout


def test_status_follows_a_rollout(line: Line) -> None:
    result = line("status", "iris", "--follow")
    assert (code(result), "✓ iris runs revision 2" in result.stdout) == (0, True)


def test_history(line: Line) -> None:
    shown = line("history", "iris").stdout
    for told in ("revision", "iris:1@abababababab", "uid 0", "first"):
        assert told in shown
    assert json.loads(line("history", "iris", "--json").stdout)[0]["why"] == "first"


def test_history_says_how_many_older_ones_it_does_not_show(line: Line) -> None:
    one = line.yard.names["iris"].revisions[0]
    many = tuple(msgspec.structs.replace(one, number=number) for number in range(23, 0, -1))
    line.yard.names["iris"] = status(revisions=many)
    assert "3 older not shown: `dockyard history iris --limit 23`" in line("history", "iris").stdout
    assert "not shown" not in line("history", "iris", "--limit", "23").stdout
    assert [each["number"] for each in json.loads(line("history", "iris", "-n", "2", "--json").stdout)] == [23, 22]


def test_events_with_their_details(line: Line) -> None:
    line.yard.event_list = [
        Event(number=1, at=NOW, kind="replica.ready", what="ready after 0.4 s", deployment="iris", replica="iris-1"),
        Event(number=2, at=NOW, kind="replica.crashed", what="killed", level="error", detail="line 1\nline 2"),
    ]
    shown = line("events").stdout
    assert "iris [iris-1] ready after 0.4 s" in shown
    assert "    line 2" in shown
    assert [each["number"] for each in json_lines(line("events", "--since", "1", "--json").stdout)] == [2]


def test_what_others_wrote_cannot_move_the_cursor(line: Line) -> None:
    line.yard.event_list = [Event(number=1, at=NOW, kind="k", what="\x1b[2Jgone [red]not red[/red] \u202e\r\n")]
    shown = line("events").stdout
    assert "\x1b" not in shown
    assert "\\x1b[2Jgone [red]not red[/red] \\u202e\\r\\n" in shown


def test_drift_is_exit_code_1(line: Line) -> None:
    assert (code(line("drift")), "as it was asked for" in line("drift").stdout) == (0, True)
    line.yard.drifting = (DriftItem(deployment="iris", what="limits", asked="1 GB", found="2 GB", mend="restart"),)
    result = line("drift", "iris")
    assert (code(result), "2 GB" in result.stdout) == (1, True)
    assert json.loads(line("drift", "--json").stdout)[0]["asked"] == "1 GB"


def test_top_once(line: Line) -> None:
    shown = line("top", "--once").stdout
    for told in ("iris-1", "12.5", "4.2 ms", "1.0 MB", "last 10 s"):
        assert told in shown
    assert json.loads(line("top", "--once", "--json").stdout)["deployments"][0]["p99_ms"] == 4.25
    assert json.loads(line("top", "rose", "--once", "--json").stdout)["deployments"] == []


def test_the_last_requests_to_a_deployment(line: Line) -> None:
    shown = line("logs", "iris", "--access").stdout
    assert shown.splitlines()[2].split()[:4] == ["2027-01-15T08:00:02.000Z", "503", "1.5", "2"]
    assert "POST /x\\x1b[31m" in shown
    told = json_lines(line("logs", "iris", "--access", "--status", "5xx", "-n", "5", "--json").stdout)
    assert [each["status"] for each in told] == [503]
    followed = line("logs", "iris", "--access", "-f").stdout.splitlines()
    assert [("revision 1" in followed[0], "503" in followed[1], "\x1b[31m" in followed[1])] == [(True, True, False)]
    assert json_lines(line("logs", "iris", "--access", "-f", "--json").stdout)[1]["status"] == 503
    assert "No such requests" in line("logs", "iris", "--access", "--status", "404").stdout
    assert "tail" not in str(line.error("logs", "iris", "--access", "--status", "abc"))
    assert isinstance(line.error("logs", "rose", "--access"), UnknownInYardError)


def test_logs_of_a_deployment(line: Line) -> None:
    assert "iris-1  hello from iris-1" in line("logs", "iris").stdout
    assert json_lines(line("logs", "iris", "--json").stdout)[0]["replica"] == "iris-1"
    assert isinstance(line.error("logs", "rose", "--json"), UnknownInYardError)


def test_deleting_asks_first_and_waits(line: Line) -> None:
    assert line("delete", "iris", fails=True).exception is not None
    assert line("delete", "iris", "--json", fails=True).exception is not None
    assert "iris" in line.yard.names
    assert "iris deleted" in line("delete", "iris", "--yes").stdout
    assert line.yard.names == {}


def test_tokens(line: Line) -> None:
    made = line("token", "create", "ci", "--scope", "operator", "--expires", "12h", "--why", "for the CI")
    assert made.stdout == "dyt_secret\n"
    request, cause = line.yard.asked[-1][1]
    assert (request.expires_s, cause.why) == (12 * 3600, "for the CI")
    assert json.loads(line("token", "create", "ci", "--expires", "never", "--json").stdout)["secret"] == "dyt_secret"
    assert line.yard.asked[-1][1][0].expires_s is None
    shown = line("token", "list").stdout
    assert "operator" in shown
    assert "dyt_" not in shown
    assert json.loads(line("token", "list", "--json").stdout)[0]["name"] == "ci"
    assert "token ci revoked" in line("token", "revoke", "ci").stdout
    assert json.loads(line("token", "revoke", "ci", "--json").stdout)["revoked"] == NOW
    assert isinstance(line.error("token", "revoke", "nobody"), UnknownInYardError)


def test_the_audit_log_is_listed_and_exported(line: Line, tmp_path: Path) -> None:
    assert "deploy" in line("audit", "list").stdout
    assert json.loads(line("audit", "list", "-n", "5", "--json").stdout)[0]["why"] == "-5 5"
    assert json.loads(line("audit", "list", "--since", "9", "--json").stdout)[0]["why"] == "9 30"
    line("audit", "export", str(tmp_path / "log"))
    assert (tmp_path / "log").read_bytes() == b'{"number":0}\n\nthe end\n'
    assert line("audit", "export", "-").stdout == '{"number":0}\n\nthe end\n'


def test_a_backup_that_breaks_off_leaves_no_file(line: Line, tmp_path: Path) -> None:
    file = tmp_path / "yard.backup"
    assert json.loads(line("backup", str(file), "--no-images", "--json").stdout)["size"] == file.stat().st_size
    assert file.stat().st_mode & 0o077 == 0
    file.unlink()
    line.yard.breaking = YardConflictError("x")
    assert isinstance(line.error("backup", str(file)), YardGoneError)
    assert list(tmp_path.iterdir()) == []


VERBS = (
    *(("deploy", PINNED), ("status",), ("history", "iris"), ("rollback", "iris"), ("scale", "iris", "1")),
    *(("restart", "iris"), ("promote", "iris"), ("abort", "iris"), ("delete", "iris", "-y"), ("events",)),
    *(("drift",), ("top",), ("audit", "list"), ("token", "list"), ("token", "create", "a"), ("backup", "f")),
)


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_without_a_yard_every_verb_says_how_to_start_one(
    words: tuple[str, ...], short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(short_path)
    found = Line(MemoryYard(), Home(short_path)).error(*words)
    assert isinstance(found, YardNotFoundError)
    assert "dockyard up" in found.remedy


def started(line: Line, *words: str) -> subprocess.Popen[str]:
    command = CommandLine(line.home, line.variables())
    return subprocess.Popen(
        [sys.executable, "-m", "dockyard.cli", *words],
        env=command.variables() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_leaves_the_rollout_running_and_says_how_to_get_back(line: Line) -> None:
    line.yard.updates, line.yard.endless = [update("starting")], True
    process = started(line, "deploy", PINNED)
    assert process.stderr is not None
    while "now starting" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "goes on without us" in told
    assert "dockyard status iris --follow" in told
    assert "dockyard abort iris" in told
    assert [kind for kind, _ in line.yard.asked] == ["deploy"]


def test_a_yard_that_goes_in_the_middle_of_a_deploy_is_told_with_exit_code_1(
    yard: MemoryYard, short_path: Path
) -> None:
    yard.updates, yard.endless = [update("starting")], True
    line = Line(yard, Home(short_path))
    with running(yard, on_unix(line.home.yard_socket)):
        process = started(line, "deploy", PINNED)
        assert process.stderr is not None
        while "now starting" not in process.stderr.readline():
            assert process.poll() is None
    begun = time.monotonic()
    _, told = process.communicate(timeout=20)
    assert time.monotonic() - begun < 15
    assert process.returncode == 1
    assert "the yard" in told
    assert "dockyard status" in told


def test_a_rollout_is_drawn_on_a_terminal_with_its_replicas_and_traffic() -> None:
    screen = Console(force_terminal=True, width=100, file=io.StringIO(), color_system=None)
    screen.print(rollouts.drawn(update("starting", problem=problem())))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    for told in (
        "starting",
        "0/1 ready",
        "now starting",
        "iris-2",
        "revision 1 ████████████████████ 100 %",
        "no such file",
    ):
        assert told in shown
