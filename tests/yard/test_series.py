"""The time series answers for a day, stays in its bounds, and never fails its caller, whatever the disk does."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.yard import series as module
from dockyard.yard.points import Metric, Row, Subject, of_requests
from dockyard.yard.readings import Reading
from dockyard.yard.series import Series, Tick
from dockyard.yard.series_file import DAMAGED, SeriesFile

START = 1_800_000_000 - 1_800_000_000 % 3600
IRIS, OTHER = Subject("iris"), Subject("other")


def row(requests: float, seconds: float = 2.0) -> Row:
    """So many requests a second."""
    count = requests * seconds
    return of_requests(Reading(), Reading(count, buckets={0.01: count, math.inf: count}), seconds)


class Yard:
    """A series with a clock that the test moves."""

    def __init__(self, path: Path, max_bytes: int = 64 << 20) -> None:
        self.events: list[tuple[str, str]] = []
        self.file = SeriesFile(path, lambda kind, text: self.events.append((kind, text)), max_bytes)
        self.series = Series(self.file)
        self.now = float(START)

    def tick(self, requests: float = 1.0, *subjects: Subject, seconds: float = 2.0) -> None:
        self.now += seconds
        rows = {subject: row(requests, seconds) for subject in subjects or (IRIS,)}
        self.series.record(Tick(self.now, self.now, seconds, rows))

    def minutes(self, count: int, requests: float = 1.0, *subjects: Subject) -> None:
        for _ in range(count * 30):
            self.tick(requests, *subjects)

    def values(self, since: float, step: float = 0, metric: Metric = Metric.REQUESTS) -> list[float | None]:
        return list(self.series.query(IRIS, [metric], since, self.now, step).values[metric])


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    found = Yard(tmp_path / "yard" / "series.db")
    yield found
    found.series.close()


def test_every_tick_of_the_last_hour_is_there(yard: Yard) -> None:
    for number in range(200):
        yard.tick(number)
    assert yard.values(START, 2) == pytest.approx(list(range(200)))
    assert yard.values(yard.now - 10, 2) == pytest.approx([195, 196, 197, 198, 199])
    assert yard.values(yard.now - 10, 5) == pytest.approx([195.5, 198])


def test_longer_steps_are_averages_and_gaps_are_unknown(yard: Yard) -> None:
    yard.minutes(2, 3.0)
    yard.now += 120
    yard.minutes(1, 5.0)
    assert yard.values(START, 60) == [pytest.approx(3), pytest.approx(3), None, None, pytest.approx(5)]


def test_a_partial_step_divides_by_what_was_seen(yard: Yard) -> None:
    yard.tick(8.0)
    assert yard.values(START, 60)[0] == pytest.approx(8)


def test_minutes_are_kept_for_a_day_and_ticks_for_an_hour(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    yard.minutes(90, 2.0)
    answer = yard.series.query(IRIS, [Metric.REQUESTS], START, yard.now, 2)
    assert answer.step == 60  # that long ago there is nothing finer
    assert answer.values[Metric.REQUESTS] == pytest.approx([2.0] * 90)
    with sqlite3.connect(yard.file._path) as connection:
        spans = dict(connection.execute("SELECT span, count(*) FROM chunk GROUP BY span").fetchall())
    connection.close()
    assert spans == {2: 61, 60: 90}
    yard.now += 25 * 3600
    yard.minutes(2)
    with sqlite3.connect(yard.file._path) as connection:
        assert connection.execute("SELECT count(*) FROM chunk").fetchone()[0] <= 4
    connection.close()


def test_percentiles_come_from_the_counts(yard: Yard) -> None:
    yard.minutes(2)
    assert yard.values(START, 60, Metric.P99)[0] == pytest.approx(0.0099)
    assert yard.values(START, 2, Metric.CPU)[0] is None


def test_a_minute_that_is_written_is_there_after_a_restart(yard: Yard) -> None:
    yard.minutes(2, 4.0)
    yard.series.close()
    again = Yard(yard.file._path)
    again.now = yard.now
    assert again.values(START, 2)[:29] == pytest.approx([4.0] * 29)
    again.series.close()


def test_subjects_are_told_apart(yard: Yard) -> None:
    revision, replica = Subject("iris", 1), Subject("iris", 1, "iris-1-a")
    for _ in range(31):
        yard.now += 2
        rows = {IRIS: row(1), revision: row(2), replica: row(3), OTHER: row(4)}
        yard.series.record(Tick(yard.now, yard.now, 2.0, rows))
    for subject, expected in ((IRIS, 1), (revision, 2), (replica, 3), (OTHER, 4), (Subject("nobody"), None)):
        answer = yard.series.query(subject, [Metric.REQUESTS], START, yard.now, 62)
        assert answer.values[Metric.REQUESTS] == (expected if expected is None else pytest.approx(expected),)


def test_the_latest_values_are_those_of_the_last_tick(yard: Yard) -> None:
    assert yard.series.latest() == {}
    yard.tick(1.0, IRIS, OTHER)
    yard.tick(7.0, IRIS)
    latest = yard.series.latest()
    assert list(latest) == [IRIS]
    assert latest[IRIS][Metric.REQUESTS] == pytest.approx(7)
    assert latest[IRIS][Metric.READY] is None


def test_the_autoscaler_averages_whole_seconds_and_divides_by_what_was_seen(yard: Yard) -> None:
    def average(window: int) -> float | None:
        return yard.series.average(IRIS, Metric.REQUESTS, yard.now, window)

    assert average(60) is None
    yard.tick(2.0)
    assert average(60) == pytest.approx(2)
    yard.tick(8.0)
    yard.tick(8.0)
    yard.tick(8.0)
    assert average(6) == pytest.approx(8)
    assert average(60) == pytest.approx(6.5)
    yard.now += 5
    assert average(6) == pytest.approx(8)  # one second of it is known
    yard.now += 60
    assert average(60) is None


def test_the_rings_forget_what_is_not_there_any_more(yard: Yard) -> None:
    yard.tick(2.0, IRIS)
    yard.tick(2.0, OTHER)
    assert yard.series.average(IRIS, Metric.REQUESTS, yard.now, 60) is None


def test_a_clock_that_jumps_back_breaks_nothing(yard: Yard) -> None:
    yard.minutes(3, 1.0)
    yard.now -= 3600
    yard.minutes(3, 2.0)
    assert yard.values(yard.now - 120, 60) == [pytest.approx(2), pytest.approx(2)]


def test_minutes_from_a_future_that_did_not_come_are_removed(yard: Yard) -> None:
    yard.now += 30 * 86_400
    yard.minutes(2, 1.0)
    yard.now = START
    yard.minutes(2, 2.0)
    with sqlite3.connect(yard.file._path) as connection:
        assert connection.execute("SELECT max(at) FROM chunk").fetchone()[0] <= yard.now
    connection.close()


def test_more_subjects_than_the_bound_are_dropped_replicas_first(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SUBJECTS", 2)
    yard.tick(1.0, Subject("iris", 1, "a"), Subject("iris", 1, "b"), IRIS, Subject("iris", 1))
    assert set(yard.series.latest()) == {IRIS, Subject("iris", 1)}
    assert yard.series.lost == 2


def test_a_damaged_file_is_moved_aside_and_told(yard: Yard) -> None:
    yard.minutes(2)
    yard.series.close()
    path = yard.file._path
    content = path.read_bytes()
    path.write_bytes(b"this is not a database, " * (len(content) // 24))
    again = Yard(path)
    again.minutes(3, 2.0)
    assert again.values(START, 60)[0] == pytest.approx(2)
    ((kind, text),) = again.events
    assert kind == DAMAGED
    assert str(path) in text
    assert path.with_name("series.db.damaged").read_bytes().startswith(b"this is not a database")
    assert again.series.lost == 0
    again.series.close()


def test_damage_within_the_file_is_found_while_it_is_used(yard: Yard) -> None:
    yard.minutes(60, 1.0, *(Subject(f"deployment-{number}") for number in range(20)))
    yard.series.close()
    path = yard.file._path
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    again = Yard(path)
    again.now = yard.now
    again.minutes(2)
    assert [kind for kind, _ in again.events] == [DAMAGED]
    again.series.close()


def test_another_program_s_database_is_left_aside(yard: Yard) -> None:
    path = yard.file._path
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE somebody_else_s (x)")
    connection.commit()
    connection.close()
    yard.minutes(2)
    assert [kind for kind, _ in yard.events] == [DAMAGED]
    assert yard.series.lost == 0


def test_a_place_that_cannot_be_used_costs_the_history_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "series.db").mkdir()
    yard = Yard(tmp_path / "series.db")
    yard.minutes(3, 2.0)
    assert yard.series.lost > 0
    assert yard.values(yard.now - 2, 2) == [pytest.approx(2)]
    assert yard.series.latest()[IRIS][Metric.REQUESTS] == pytest.approx(2)


def test_a_file_that_another_process_has_locked_costs_that_minute(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dockyard.yard.series_file.PATIENCE", 0.05)
    yard.minutes(2)
    other = sqlite3.connect(yard.file._path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yard.minutes(1)
    other.execute("ROLLBACK")
    other.close()
    assert yard.series.lost == 2
    yard.minutes(1)
    assert yard.series.lost == 2


def test_the_file_keeps_its_bound_and_the_oldest_goes(tmp_path: Path) -> None:
    yard = Yard(tmp_path / "series.db", max_bytes=256 << 10)
    yard.minutes(40, 1.0, IRIS, *(Subject(f"deployment-{number}") for number in range(40)))
    assert (tmp_path / "series.db").stat().st_size <= 256 << 10
    assert yard.series.lost == 0
    values = yard.values(START, 60)
    assert values[0] is None
    assert values[-1] == pytest.approx(1)
    yard.series.close()


def test_on_a_full_disk_points_are_dropped_and_counted_and_come_again_with_room(small_disk: Path) -> None:
    yard = Yard(small_disk / "series.db")
    subjects = [Subject(f"deployment-{number}") for number in range(40)]
    yard.minutes(3, 1.0, IRIS, *subjects)
    assert yard.series.lost == 0
    fill(small_disk / "ballast")
    yard.minutes(5, 1.0, IRIS, *subjects)
    lost = yard.series.lost
    assert lost > 0
    assert yard.events == []
    (small_disk / "ballast").unlink()
    yard.minutes(3, 2.0, IRIS, *subjects)
    assert yard.series.lost == lost
    assert yard.values(yard.now - 120, 60)[0] == pytest.approx(2)
    yard.series.close()


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_readers_in_other_threads_see_whole_answers(yard: Yard) -> None:
    wrong: list[object] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            known = [each for each in yard.values(START, 2) if each is not None]
            wrong.extend(each for each in known if each != pytest.approx(1))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    yard.minutes(10, 1.0, IRIS, OTHER)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
