"""The program beside each runc container: mounts its root, starts it, keeps its log small, notes how it ended.

Without a daemon somebody must be the container's parent, or its exit code is lost. `runc.programs` starts `main` in a
process of its own, which detaches and lives as long as the container. It imports little: one runs for every container
(about 10 MB), and each start is paid by the containers that answer. So it is imported there, not run as a script, which
Python would compile each time; and does without `signal`, whose enums take half as long as Python itself. The overlay
is mounted in a mount namespace of its own: when container and monitor are gone, however they went, so is the mount.

In the folder BUNDLE it reads `plan` (see `Plan` in `records.py`), runc reads `config.json`; it writes `state.json`,
`log` and `log.1`. On REPORT_FD it writes one line: `started`, `overlay REASON` (no overlay here) or `failed REASON`.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing and json would add half to the start of every container, and a megabyte
    from typing import Any, BinaryIO

LOG_CHECK_MS = 1000
PIECE = 1 << 20
ROTATE_ATTEMPTS = 5
PR_SET_CHILD_SUBREAPER = 36
# The numbers of x86, Arm, POWER, RISC-V and s390.
SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM, SIGXFSZ, SIG_IGN = 1, 2, 9, 13, 15, 25, 1
IGNORED = (SIGHUP, SIGINT, SIGTERM)
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REC, MS_SLAVE = 1, 2, 4, 0x4000, 0x80000

libc = ctypes.CDLL(None, use_errno=True)


class NoOverlayError(Exception):
    """The kernel does not mount an overlay of these folders."""


class Plan:
    """What to do: `plan` in the bundle, a line for each of the fields of `Plan` in `records.py`."""

    def __init__(self, text: str) -> None:
        self.runc, self.state, self.id, self.layers, self.lower, log_bytes = text.split("\n")
        self.log_bytes = int(log_bytes)


def main() -> None:
    """Detach, start the container, report, and stay until it has ended."""
    bundle, report = sys.argv[-2], int(sys.argv[-1])
    os.set_inheritable(report, False)
    if os.fork():
        os._exit(0)
    os.setsid()
    give_way()
    for number in IGNORED:
        libc.signal(number, SIG_IGN)
    try:
        os.chdir(bundle)
        plan = Plan(read("plan"))
        prepare(plan)
        life = start(plan)
    except NoOverlayError as error:
        os.write(report, f"overlay {error}\n".encode())
    except (OSError, ValueError, RuntimeError) as error:
        os.write(report, f"failed {error}\n".encode())
    else:
        accompany(plan, life, report)


def give_way() -> None:
    """Let our new session be as nice as we are: kernels that schedule by session compare no others (sched(7))."""
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    if niceness > 0:
        try:
            with open("/proc/self/autogroup", "w", encoding="ascii") as file:  # noqa: PTH123
                file.write(str(niceness))
        except OSError:
            return


def accompany(plan: Plan, life: dict[str, Any], report: int) -> None:
    """Report, and stay until the container has ended. If nobody waits for the report any more, end it."""
    try:
        os.write(report, b"started\n")
        os.close(report)
    except BrokenPipeError:
        os.kill(life["pid"], SIGKILL)
        watch(life, plan.log_bytes)
        os.execv(plan.runc, [plan.runc, "--root", plan.state, "delete", "--force", plan.id])  # noqa: S606
    watch(life, plan.log_bytes)


def read(path: str) -> str:
    """The text of a small file."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 (pathlib would double the start)
        return file.read()


def prepare(plan: Plan) -> None:
    """Become the reaper of orphans below us; mount the layers read-only where only our children see it."""
    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
    if not plan.lower:
        return
    check(libc.unshare(CLONE_NEWNS), "unshare")
    check(libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None), "making / private")
    root, bundle = os.path.abspath("rootfs").encode(), os.getcwd()  # noqa: PTH100, PTH109
    os.chdir(plan.layers)
    options = f"lowerdir={plan.lower}".encode()
    try:
        check(
            libc.mount(b"overlay", root, b"overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, options), "mounting an overlay"
        )
    except OSError as error:
        raise NoOverlayError(error) from None
    finally:
        os.chdir(bundle)


def check(result: int, what: str) -> None:
    """Raise what the C library answered."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def start(plan: Plan) -> dict[str, Any]:
    """Run runc, which leaves the container to us; note it as running; what was noted."""
    run_runc(plan)
    pid = int(read("pid"))
    be_usual(pid)
    life = {
        "state": "running",
        "pid": pid,
        "born": birth(pid),
        "boot": read("/proc/sys/kernel/random/boot_id").strip(),
        "started": time.time(),
        "monitor": os.getpid(),
        "monitor_born": birth(os.getpid()),
    }
    note(life)
    return life


def be_usual(pid: int) -> None:
    """The container does not give way as its starter does; nothing happens when it has ended."""
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
                os.setpriority(os.PRIO_PROCESS, int(thread), 0)
        except OSError:
            return


def run_runc(plan: Plan) -> None:
    """`runc run --detach`, its streams being the log, or ours, which we then let go of."""
    streams: list[tuple[Any, ...]] = []
    if plan.log_bytes:
        streams = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
    words = ["--root", plan.state, "--log", "runc.log", "--log-format", "json"]
    run = [plan.runc, *words, "run", "--detach", "--bundle", ".", "--pid-file", "pid", plan.id]
    ignored = {*IGNORED, SIGPIPE, SIGXFSZ}  # the last two by Python
    child = os.posix_spawn(plan.runc, run, os.environ, file_actions=streams, setsigmask=(), setsigdef=ignored)
    if os.sched_getscheduler(0) == os.SCHED_IDLE:  # as `runc.programs` has us start; only the container goes on so
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    nothing = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise RuntimeError(f"runc ended with {os.waitstatus_to_exitcode(status)}")


def birth(pid: int) -> int:
    """When a process began, in ticks since the boot: with the boot's id, this tells it from a later one of its id."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        return int(file.read().rpartition(b")")[2].split()[19])


def note(life: dict[str, Any]) -> None:
    """Write `state.json` at once; nothing happens when the bundle was removed meanwhile."""
    fields = ", ".join(f'"{name}": {as_json(value)}' for name, value in life.items())
    try:
        with open("state.json.new", "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write("{" + fields + "}")
        os.rename("state.json.new", "state.json")  # noqa: PTH104
    except FileNotFoundError:
        return


def as_json(value: object) -> str:
    """A text without quotes in it, a number or a truth, as JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def watch(life: dict[str, Any], log_bytes: int) -> None:
    """Reap until the container has ended, looking after its log; then note its exit code, and if memory was why."""
    counter, end = memory_events(life["pid"]), select.poll()
    end.register(os.pidfd_open(life["pid"]), select.POLLIN)
    while (code := reap(life["pid"])) is None:
        if log_bytes:
            rotate(log_bytes)
        end.poll(LOG_CHECK_MS if log_bytes else None)
    note({**life, "state": "exited", "exit_code": code, "oom_killed": killed_for_memory(counter), "ended": time.time()})


def memory_events(pid: int) -> str:
    """The file in which the kernel counts the processes of a container that it kills for memory; empty if none.

    The cgroup stays until runc deletes the container, so the file can be read after the end.
    """
    try:
        lines = read(f"/proc/{pid}/cgroup").splitlines()
    except OSError:
        return ""
    paths = dict(line.split(":", 2)[1:] for line in lines)
    if "memory" in paths:
        return f"/sys/fs/cgroup/memory{paths['memory']}/memory.oom_control"
    return f"/sys/fs/cgroup{paths.get('', '')}/memory.events"


def killed_for_memory(counter: str) -> bool:
    """Whether the count is above zero. Source: Linux, cgroup-v1/memory.rst and cgroup-v2.rst, "oom_kill"."""
    try:
        found = [line.split() for line in read(counter).splitlines()]
    except OSError:
        return False
    return any(words[0] == "oom_kill" and words[1] != "0" for words in found)


def reap(pid: int) -> int | None:
    """Reap whoever has ended; the exit code if the container is among them (128 + n for signal n)."""
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return -1
        if ended == 0:
            return None
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def rotate(limit: int) -> None:
    """When `log` has more than `limit` bytes, keep the last `limit` of them in `log.1` and empty it.

    It is copied, not renamed, because the container holds it open; it appends, so it goes on at the new end.
    """
    try:
        if os.stat("log").st_size <= limit:  # noqa: PTH116
            return
        with open("log", "rb+") as log:  # noqa: PTH123
            for _ in range(ROTATE_ATTEMPTS):
                if copy_end(log, limit) < PIECE:
                    break
            log.truncate(0)
        os.rename("log.1.new", "log.1")  # noqa: PTH104
    except FileNotFoundError:
        return


def copy_end(log: BinaryIO, limit: int) -> int:
    """Copy the last `limit` bytes, and a little that came meanwhile; how many bytes came meanwhile."""
    size = os.fstat(log.fileno()).st_size
    log.seek(size - limit)
    with open("log.1.new", "wb") as old:  # noqa: PTH123
        left = limit
        while left and (piece := log.read(min(PIECE, left))):
            old.write(piece)
            left -= len(piece)
        grown = os.fstat(log.fileno()).st_size - size
        if grown < PIECE:
            old.write(log.read(grown))
    return grown
