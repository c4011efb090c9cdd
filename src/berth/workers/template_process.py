"""What runs in the template's process: forks workers, kills them on request, buries them, reports.

It holds no sockets but its own, so a listener that the server closes is closed. SIGTERM and SIGINT, which terminals and
supervisors send to whole groups, do nothing here nor in the workers: the server drains first and then ends them.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import os
import select
import signal
import socket
import stat
import sys
import traceback
from typing import Any, NoReturn

from berth.workers.orders import LIMIT, End, Exited, Fork, Forked, decode_order, encode
from berth.workers.process import run_worker
from berth.workers.shared_memory import Arena

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_LIBRARY = ctypes.CDLL(None, use_errno=True)
_STANDARD = 3  # input, output, error


def run_template(control: socket.socket, server: int) -> NoReturn:
    """Obey the server until it closes the connection, then end every worker and the process."""
    _die_with(server)
    _LIBRARY.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what workers leave behind is buried here
    _name("berth-template")
    signal.set_wakeup_fd(-1)  # it was the server's
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, _go_on)
    _let_go_of_sockets(control.fileno())
    control.setblocking(True)
    _Template(control).run()


def _go_on(*_: object) -> None:
    """Handle a signal by doing nothing; unlike SIG_IGN this is not inherited by programs that a model starts."""


class _Template:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._workers: dict[int, int] = {}  # process -> number
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> NoReturn:
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        self._bury()
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._woken:
                    os.read(self._woken, LIMIT)
                    self._bury()
                else:
                    self._obey()

    def _obey(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, LIMIT, 2)
        except ConnectionError:
            data, descriptors = b"", []
        if not data:
            self._stop()
        order = decode_order(data)
        if isinstance(order, Fork):
            self._fork(order.number, descriptors)
        elif isinstance(order, End):
            self._end(order.number)

    def _fork(self, number: int, descriptors: list[int]) -> None:
        template = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._report(Exited(number, None, f"could not be forked: {error}"))
            return
        finally:
            if os.getpid() == template:
                for descriptor in descriptors:
                    os.close(descriptor)
        if pid == 0:
            self._become_worker(number, template, descriptors)
        self._workers[pid] = number
        self._report(Forked(number, pid))

    def _become_worker(self, number: int, template: int, descriptors: list[int]) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()  # a group of its own, which ends together
            _die_with(template)
            _name(f"berth-worker-{number}")
            for descriptor in (self._woken, self._wake):
                os.close(descriptor)
            self._control.close()
            _reseed()
            _print_by_line()
            if not faulthandler.is_enabled():
                faulthandler.enable()  # a crash in native code shows where in Python it happened
            connection, arena = _open(*descriptors)
            run_worker(connection, arena)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _end(self, number: int) -> None:
        for pid, worker in self._workers.items():
            if worker == number:
                _kill(pid)

    def _bury(self) -> None:
        """Take note of every child that has ended, and end what it has started."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            number = self._workers.pop(found.si_pid, None)
            if number is not None:
                _kill_group(found.si_pid)  # before its number is free for others
            os.waitpid(found.si_pid, 0)
            if number is not None:
                status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
                self._report(Exited(number, status))

    def _report(self, news: Forked | Exited) -> None:
        try:
            self._control.send(encode(news))
        except ConnectionError:
            self._stop()

    def _stop(self) -> NoReturn:
        for pid in self._workers:
            _kill(pid)
        for pid in self._workers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        os._exit(0)


def _open(connection: int, memory: int) -> tuple[socket.socket, Arena]:
    arena = Arena(memory, os.fstat(memory).st_size // 2)
    os.close(memory)  # the mapping keeps it
    return socket.socket(fileno=connection), arena


def _kill(pid: int) -> None:
    _kill_group(pid)
    os.kill(pid, signal.SIGKILL)  # not buried yet, so the number is still its own


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _die_with(parent: int) -> None:
    """Be killed when the parent ends, also when it already has."""
    _LIBRARY.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _name(text: str) -> None:
    _LIBRARY.prctl(_PR_SET_NAME, text.encode()[:15], 0, 0, 0)


def _reseed() -> None:
    """Python's own generator seeds itself anew after a fork; numpy's global one would repeat itself in every worker."""
    random: Any = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def _print_by_line() -> None:
    """What a model prints is seen at once, and not lost with its process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def _let_go_of_sockets(own: int) -> None:
    """Replace every other socket, and standard input, by nothing; the numbers stay taken, for the objects over them."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        descriptor = int(name)
        with contextlib.suppress(OSError):  # the listing's own
            if descriptor >= _STANDARD and descriptor != own and stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
