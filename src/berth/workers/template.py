"""The template, as the server sees it: a process that forks the workers and tells how each of them ended.

It is forked from the server while that has neither event loop nor threads, because forking a process with threads is a
gamble. What the server has imported by then is shared with every worker, page by page, until somebody writes to it; so
a worker starts in milliseconds plus its `load()`. When the server dies, however suddenly, the system ends the template
and with it the workers. What runs inside is in template_process.py; crew.py is the caller.
"""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable

from berth.workers.orders import LIMIT, End, Exited, Fork, Forked, decode_news, encode
from berth.workers.template_process import run_template

News = Forked | Exited
_CLOSE_S = 5.0
_POLL_S = 0.005
_BEHIND_S = 5.0  # a template forks a hundred workers in less
_LOST = "ended with the process that forks the workers"


class Template:
    """Forks on creation: make it in the main thread, before threads and event loops, after the model's imports."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: dict[int, Callable[[News], None]] = {}
        self._number = 0
        self.alive = True
        self.pid = _fork_template(theirs)
        theirs.close()

    def fork(self, descriptors: tuple[int, int], watch: Callable[[News], None]) -> int:
        """Start a worker with its socket and arena, which may be closed afterwards; its number.

        `watch` is called on the running loop: with Forked, then with Exited, exactly once.
        """
        self._attach()
        self._number += 1
        number = self._number
        self._watchers[number] = watch
        self._order(Fork(number), descriptors)
        return number

    def end(self, number: int) -> None:
        """Kill a worker; its Exited follows. Nothing happens when it has ended already."""
        self._order(End(number))

    def close(self) -> None:
        """End it, and every worker that is left; waits for its end."""
        if not self.alive:
            return
        self.alive = False
        self._detach()
        self._control.close()
        deadline = time.monotonic() + _CLOSE_S
        while not os.waitpid(self.pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return
            time.sleep(_POLL_S)

    def _order(self, order: Fork | End, descriptors: tuple[int, ...] = ()) -> None:
        if not self.alive:
            self._tell_lost()
            return
        try:
            while True:
                try:
                    socket.send_fds(self._control, [encode(order)], descriptors)
                    return
                except BlockingIOError:  # hundreds of workers were asked for at once
                    if not select.select([], [self._control], [], _BEHIND_S)[1]:
                        raise
        except OSError:  # it is gone, or hangs
            self._lose()

    def _attach(self) -> None:
        loop = asyncio.get_running_loop()
        if self.alive and self._loop is not loop:
            self._loop = loop
            loop.add_reader(self._control, self._hear)

    def _detach(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._control)
        self._loop = None

    def _hear(self) -> None:
        while self.alive:
            try:
                data = self._control.recv(LIMIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lose()
                return
            self._tell(decode_news(data))

    def _tell(self, news: News) -> None:
        watch = self._watchers.get(news.number)
        if isinstance(news, Exited):
            self._watchers.pop(news.number, None)
        if watch is not None:
            watch(news)

    def _lose(self) -> None:
        self.alive = False
        self._detach()
        self._control.close()
        os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        os.waitpid(self.pid, 0)
        self._tell_lost()

    def _tell_lost(self) -> None:
        loop = asyncio.get_running_loop()
        for number in list(self._watchers):
            loop.call_soon(self._tell, Exited(number, None, _LOST))


def _fork_template(theirs: socket.socket) -> int:
    server = os.getpid()
    gc.collect()
    gc.freeze()  # or the first collection in a child would write to, and so copy, nearly every page
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns of native threads; those that numpy's libraries start by themselves survive a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    try:
        run_template(theirs, server)
    finally:
        os._exit(1)
