"""The program beside each runc container: mounts its root, starts it, keeps its log small, notes how it ended.

Without a daemon somebody must be the container's parent, or its exit code is lost. `runc.engine` starts this file as
`python -I -S monitor.py BUNDLE REPORT_FD`; it detaches and lives as long as the container. It is a script of its own
that imports little, because one runs for every container (about 10 MB). The overlay is mounted in a mount namespace of
its own: when container and monitor are gone, however they went, so is the mount.

In the folder BUNDLE it reads `plan.json` (see `Plan` in `records.py`) and `config.json`, and writes `state.json`, `log`
and `log.1`. On REPORT_FD it writes one line: `started`, `overlay REASON` (no overlay here) or `failed REASON`.
"""

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

LOG_CHECK = 1.0
PIECE = 1 << 20
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REC, MS_SLAVE = 1, 2, 4, 0x4000, 0x80000

libc = ctypes.CDLL(None, use_errno=True)


class NoOverlayError(Exception):
    """The kernel does not mount an overlay of these folders."""


def main() -> None:
    """Detach, start the container, report, and stay until it has ended."""
    bundle, report = sys.argv[1], int(sys.argv[2])
    os.set_inheritable(report, False)
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM})
    try:
        os.chdir(bundle)
        plan = read_json("plan.json")
        prepare(plan)
        life = start(plan)
    except NoOverlayError as error:
        os.write(report, f"overlay {error}\n".encode())
    except (OSError, ValueError, RuntimeError) as error:
        os.write(report, f"failed {error}\n".encode())
    else:
        os.write(report, b"started\n")
        os.close(report)
        watch(life, plan["log_bytes"])


def read_json(path: str) -> dict[str, Any]:
    """Read one of the bundle's documents."""
    with open(path, "rb") as file:  # noqa: PTH123 (pathlib would double the start)
        document: dict[str, Any] = json.load(file)
    return document


def prepare(plan: dict[str, Any]) -> None:
    """Become the reaper of orphans below us; mount the layers read-only where only our children see it."""
    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
    if not plan["lower"]:
        return
    check(libc.unshare(CLONE_NEWNS), "unshare")
    check(libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None), "making / private")
    root = os.path.abspath("rootfs").encode()  # noqa: PTH100
    bundle = os.getcwd()  # noqa: PTH109
    os.chdir(plan["layers"])
    options = "lowerdir=" + ":".join(plan["lower"])
    try:
        check(
            libc.mount(b"overlay", root, b"overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, options.encode()),
            "mounting an overlay",
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


def start(plan: dict[str, Any]) -> dict[str, Any]:
    """Run runc, which leaves the container to us; note it as running; what was noted."""
    arguments = ["--root", plan["state"], "--log", "runc.log", "--log-format", "json"]
    run = [plan["runc"], *arguments, "run", "--detach", "--bundle", ".", "--pid-file", "pid", plan["id"]]
    streams: list[tuple[Any, ...]] = []
    if plan["log_bytes"]:
        appending = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        streams = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "log", appending, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
    handled = {signal.SIGPIPE, signal.SIGXFSZ}
    child = os.posix_spawn(
        plan["runc"], run, os.environ, file_actions=streams, setsigmask=(), setsigdef=handled, setsid=False
    )
    nothing = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise RuntimeError(f"runc ended with {os.waitstatus_to_exitcode(status)}")
    with open("pid", encoding="ascii") as file:  # noqa: PTH123
        pid = int(file.read())
    life = {"state": "running", "pid": pid, "born": birth(pid), "boot": boot_id(), "started": time.time()}
    note(life)
    return life


def birth(pid: int) -> int:
    """When a process began, in ticks since the boot: with the boot's id, this tells it from a later one of its id."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        return int(file.read().rpartition(b")")[2].split()[19])


def boot_id() -> str:
    """The name that the kernel gave to this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
        return file.read().strip()


def note(state: dict[str, Any]) -> None:
    """Write `state.json` at once; nothing happens when the bundle was removed meanwhile."""
    try:
        with open("state.json.new", "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(state, file)
        os.rename("state.json.new", "state.json")  # noqa: PTH104
    except FileNotFoundError:
        return


def watch(life: dict[str, Any], log_bytes: int) -> None:
    """Reap until the container has ended, looking after its log; then note its exit code."""
    while (code := reap(life["pid"])) is None:
        if log_bytes:
            rotate(log_bytes)
            signal.sigtimedwait({signal.SIGCHLD}, LOG_CHECK)
        else:
            signal.sigwaitinfo({signal.SIGCHLD})
    note({**life, "state": "exited", "exit_code": code, "ended": time.time()})


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
    """When `log` has more than `limit` bytes, move the last `limit` of them to `log.1` and empty it.

    It is copied, not renamed, because the container holds it open; it appends, so it goes on at the new end.
    """
    try:
        size = os.stat("log").st_size  # noqa: PTH116
        if size <= limit:
            return
        with open("log", "rb+") as log, open("log.1.new", "wb") as old:  # noqa: PTH123
            log.seek(size - limit)
            while piece := log.read(PIECE):
                old.write(piece)
            log.truncate(0)
        os.rename("log.1.new", "log.1")  # noqa: PTH104
    except FileNotFoundError:
        return


if __name__ == "__main__":
    main()
