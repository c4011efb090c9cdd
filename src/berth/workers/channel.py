"""The server's end of the connection to one worker: messages out and in through the event loop, never blocking it.

Large buffers are copied into the arena by a helper thread, because the loop would stand still for as long. pool.py
makes one per worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from berth.workers.messages import Frame, Outgoing, ProtocolError, Reader, pack
from berth.workers.shared_memory import Arena, Inbox, Outbox, create

QUICK_COPY = 2 * 1024 * 1024  # bytes that are copied at once, in less than a millisecond
_AT_ONCE = 64  # buffers of one call of sendmsg; the system allows 1024


class Channel:
    """Sends values and hands over what comes.

    `on_lost` is called once when the worker's end is closed or talks nonsense, with the reason if it is not simply the
    end, and whether the worker had read all that it was sent; not after `close`.
    """

    def __init__(
        self, arena_bytes: int, on_frame: Callable[[Frame], None], on_lost: Callable[[str, bool], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, self._other = socket.socketpair()
        self._socket.setblocking(False)
        self._memory = create(arena_bytes)
        arena = Arena(self._memory, arena_bytes)
        self._outbox = Outbox(arena.requests)
        self._inbox = Inbox(arena.answers, writable=False)
        self._reader = Reader(self._socket)
        self._unsent: deque[memoryview] = deque()
        self._writing = False
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._open = True
        self._loop.add_reader(self._socket, self._receive)

    @property
    def worker_ends(self) -> tuple[int, int]:
        """The descriptors that the worker needs: its socket and the arena. Until `let_go`."""
        return self._other.fileno(), self._memory

    def let_go(self) -> None:
        """Close the worker's ends here, after they were passed on, so that the worker's end is the connection's."""
        self._other.close()
        os.close(self._memory)

    def send(self, kind: int, sequence: int, value: Any) -> None:
        """Send a value, which nobody may change until the answer; raises what pickling raises."""
        message = pack(kind, sequence, value, self._outbox)
        if message.copied_bytes <= QUICK_COPY:
            message.copy(self._outbox)
            self._send(message)
            return
        copying = self._loop.run_in_executor(None, message.copy, self._outbox)
        copying.add_done_callback(lambda _: self._send(message))

    def open(self, frame: Frame) -> Any:
        """The value of a frame; its arrays are views of the arena. Raises what unpickling raises."""
        return frame.value(self._inbox)

    def give_back(self) -> None:
        """Return the memory that large messages left behind. Only while the worker has nothing to do."""
        self._outbox.give_back()
        self._inbox.give_back()

    def look(self) -> None:
        """Receive now rather than at the end of this turn of the loop."""
        if self._open:
            self._receive()

    def finish(self) -> None:
        """The worker has ended: take what it still said, then lose it."""
        while self._open and self._receive():
            pass

    def close(self) -> None:
        """Close this end: the worker ends when it next looks for work. Arrays that came from it stay valid."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._unsent.clear()
        self._on_frame, self._on_lost = _nobody, _nobody  # no cycle keeps the arena until the collector comes

    def _send(self, message: Outgoing) -> None:
        if not self._open:
            return
        first, *others = message.frame(self._inbox.held())
        sent = 0
        if not self._unsent:
            with contextlib.suppress(OSError):  # which `_flush` will see too
                sent = self._socket.send(first)
        if others or sent < len(first):
            self._unsent.append(memoryview(first)[sent:])
            self._unsent.extend(map(memoryview, others))
            self._flush()

    def _flush(self) -> None:
        """Write what the socket takes now, and the rest when it takes more."""
        unsent = self._unsent
        try:
            while unsent:
                sent = self._socket.sendmsg([unsent[index] for index in range(min(len(unsent), _AT_ONCE))])
                while unsent and sent >= len(unsent[0]):
                    sent -= len(unsent.popleft())
                if sent:
                    unsent[0] = unsent[0][sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._lose("", read_all=False)
            return
        if self._writing != bool(unsent):
            self._writing = bool(unsent)
            if unsent:
                self._loop.add_writer(self._socket, self._flush)
            else:
                self._loop.remove_writer(self._socket)

    def _receive(self) -> bool:
        """Receive once; False when there was nothing."""
        try:
            frame = self._reader.read()
        except BlockingIOError:
            return False
        except EOFError:
            self._lose("", read_all=True)
        except OSError:  # the system says so when a socket is closed with something unread in it
            self._lose("", read_all=False)
        except ProtocolError as error:
            self._lose(f"sent nonsense ({error})", read_all=True)
        else:
            if frame is not None:
                self._outbox.keep_only(frame.held)
                self._on_frame(frame)
        return True

    def _lose(self, why: str, *, read_all: bool) -> None:
        on_lost = self._on_lost
        self.close()
        on_lost(why, read_all)


def _nobody(*_: Any) -> None:
    """Stands for a worker that is not to be called any more."""
