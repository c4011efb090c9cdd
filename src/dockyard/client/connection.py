"""One connection to a yard: requests over HTTP, answers that go on, and every failure as an error of the tree.

Called by the client's verbs alone; aiohttp is not known anywhere else outside the yard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import msgspec

from dockyard import __version__
from dockyard.client.address import YardAddress
from dockyard.errors import (
    DockyardError,
    UnauthenticatedError,
    YardBusyError,
    YardError,
    YardGoneError,
    YardNotFoundError,
    YardVersionError,
)
from dockyard.spec.failures import Failure, FailureBody, error_of
from dockyard.spec.requests import API_VERSION, PRODUCT_HEADER, VERSION_HEADER

_Answer = TypeVar("_Answer")
_LINE_LIMIT = 16 << 20
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Patience:
    """Seconds to wait: for a connection, for the answer to a question, to a change, for the next line of a follow
    (several of the yard's heartbeats), and for the first byte of a file that is prepared, such as a backup of many
    gigabytes."""

    connect: float = 5.0
    read: float = 35.0
    change: float = 130.0
    silence: float = 20.0
    preparing: float = 4 * 3600.0


class Connection:
    """A session with one yard. Use it as an async context manager."""

    def __init__(self, address: YardAddress, patience: Patience | None = None) -> None:
        self.address = address
        self._patience = patience or Patience()
        self._base = address.base
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Connection:
        headers = {VERSION_HEADER: str(API_VERSION), PRODUCT_HEADER: __version__}
        if self.address.token:
            headers["Authorization"] = f"Bearer {self.address.token}"
        connector = aiohttp.UnixConnector(self.address.socket) if self.address.socket else self._tcp()
        self._session = aiohttp.ClientSession(
            connector=connector, headers=headers, read_bufsize=_CHUNK, trust_env=False, auto_decompress=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        method: str,
        path: str,
        kind: type[_Answer],
        seconds: float,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | None = None,
    ) -> _Answer:
        """One question and its whole answer; `seconds` may pass until it is here."""
        return decoded(await self.read(method, path, seconds, query=query, body=body), kind)

    async def read(
        self,
        method: str,
        path: str,
        seconds: float,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | None = None,
    ) -> bytes:
        """As `ask`, the answer as it came."""
        async with self._call(method, path, seconds, query=query, body=body) as answer:
            return await answer.read()

    async def lines(self, path: str, kind: type[_Answer], query: Mapping[str, Any]) -> AsyncGenerator[_Answer, None]:
        """The items of an answer that goes on; YardGoneError when it breaks, or falls silent."""
        async with self._call("GET", path, None, query=query) as answer:
            async for line in self._each_line(answer):
                told = decoded(line, _Line)
                if told.error is not None:
                    raise error_of(500, told.error)
                if told.end is not None:
                    return
                if item := bytes(told.item):
                    yield decoded(item, kind)
        raise _gone("the yard ended the answer in the middle")

    async def _each_line(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        rest = bytearray()
        async for part in answer.content.iter_chunked(_CHUNK):
            rest += part
            *whole, last = rest.split(b"\n")
            rest = bytearray(last)
            for line in whole:
                yield bytes(line)
            if len(rest) > _LINE_LIMIT:
                raise YardError("the yard sent a line that is longer than any it should send")

    async def file(
        self, method: str, path: str, query: Mapping[str, Any], *, prepared: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """An answer that is a file, as it comes; YardGoneError when it is not whole, or falls silent.

        `prepared`: the yard answers only once it has made it, which may take long.
        """
        silence = self._patience.preparing if prepared else self._patience.silence
        async with self._call(method, path, None, query=query, silence=silence) as answer:
            while True:
                async with _heard(self._patience.silence):
                    part = await answer.content.read(_CHUNK)
                if not part:
                    return
                yield part

    async def send(
        self, path: str, kind: type[_Answer], parts: AsyncIterable[bytes], query: Mapping[str, Any]
    ) -> _Answer:
        """Send a file as its bytes come, and wait for the answer once the last is sent."""
        async with self._call("PUT", path, None, query=query, body=parts) as answer:
            return decoded(await answer.read(), kind)

    @asynccontextmanager
    async def _call(
        self,
        method: str,
        path: str,
        seconds: float | None,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | AsyncIterable[bytes] | None = None,
        silence: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; whatever goes wrong is an error of the tree, that of the yard as it was raised there.

        Without `seconds` for all of it, nothing may come for `silence` seconds, or as long as `patience` says.
        """
        assert self._session is not None, "use it as an async context manager"
        sending = body is not None and not isinstance(body, bytes)
        silence = silence or (self._patience.change if sending else self._patience.silence)
        patience = aiohttp.ClientTimeout(
            total=seconds, sock_connect=self._patience.connect, sock_read=None if seconds else silence
        )
        headers = {"Content-Type": f"application/{'octet-stream' if sending else 'json'}"} if body is not None else {}
        asked = self._session.request(
            method, self._base + path, params=_query(query), data=body, headers=headers, timeout=patience,
            allow_redirects=False,
        )  # fmt: skip
        try:
            async with asked as answer:
                _check_version(answer, self.address)
                if answer.status != 200:
                    raise await _error(answer)
                yield answer
        except aiohttp.ClientConnectorCertificateError as error:
            raise UnauthenticatedError(
                f"{self.address.url} shows a certificate that is not trusted here: {error.certificate_error}",
                remedy="For a private CA, name its certificate: DOCKYARD_CA=FILE.",
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError, OSError) as error:
            raise self._unreached(error, silence) from error
        except aiohttp.ClientError as error:
            raise _gone(f"the yard broke off: {error or type(error).__name__}") from error

    def _tcp(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(ssl=self.address.tls() if self.address.base.startswith("https") else True)

    def _unreached(self, error: Exception, silence: float) -> YardError:
        if isinstance(error, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectorError):
            return YardNotFoundError(
                f"no yard answers at {self.address.url}",
                remedy="Start one with `dockyard up`, or say where it is: DOCKYARD_YARD=unix:///PATH or https://HOST:PORT.",
                detail=_reason(error),
            )
        if isinstance(error, aiohttp.ServerTimeoutError):
            return _silent(silence)
        if isinstance(error, TimeoutError):
            return YardBusyError("the yard did not answer in time", remedy="`dockyard status` shows what it is doing.")
        return _gone(f"the connection to the yard broke: {error}")


class _Line(msgspec.Struct, frozen=True):
    """A line of an answer that goes on; see `yard.api_streams`."""

    item: msgspec.Raw = msgspec.Raw()
    beat: float | None = None
    error: Failure | None = None
    end: dict[str, Any] | None = None


@asynccontextmanager
async def _heard(seconds: float) -> AsyncIterator[None]:
    """YardGoneError when the body takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise _silent(seconds) from error


def _silent(seconds: float) -> YardGoneError:
    return _gone(f"nothing came from the yard for {seconds:g} s")


def _gone(what: str) -> YardGoneError:
    return YardGoneError(what, remedy="What it had begun goes on without us: `dockyard status` tells how far it is.")


def _reason(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return str(getattr(cause, "strerror", None) or cause)


def _query(query: Mapping[str, Any] | None) -> dict[str, str]:
    """As text, without what was left out."""
    given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}


def decoded(data: bytes, kind: type[_Answer]) -> _Answer:
    """JSON of the yard as a noun; YardVersionError when it is not what this client understands."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise YardVersionError(
            f"the yard's answer is not what this client understands: {error}",
            remedy="Use the same version of Dockyard here and on the yard's host.",
        ) from error


async def _error(answer: aiohttp.ClientResponse) -> DockyardError:
    body = await answer.content.read(_LINE_LIMIT)
    try:
        return error_of(answer.status, msgspec.json.decode(body, type=FailureBody).error)
    except msgspec.DecodeError:
        return YardError(f"{answer.url} answered {answer.status}", remedy="Is that a yard? DOCKYARD_YARD says where.")


def _check_version(answer: aiohttp.ClientResponse, address: YardAddress) -> None:
    said = answer.headers.get(VERSION_HEADER)
    if said == str(API_VERSION):
        return
    if said is None:
        raise YardNotFoundError(
            f"what answers at {address.url} is no yard", remedy="Check DOCKYARD_YARD.", detail=f"status {answer.status}"
        )
    newer = said.isdigit() and int(said) > API_VERSION
    product = answer.headers.get(PRODUCT_HEADER, "?")
    raise YardVersionError(
        f"the yard (Dockyard {product}) speaks version {said} of the API, and this client (Dockyard {__version__}) "
        f"version {API_VERSION}",
        remedy="Upgrade Dockyard here." if newer else "Upgrade Dockyard on the yard's host.",
    )
