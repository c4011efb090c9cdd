"""HTTP to one repository of one registry: who we are, where we are sent, how long we wait.

`registry.py` says what to transfer; this file knows the wire: HTTPS except on loopback, basic and token
authentication, redirects that lose the Authorization on another host, proxies of the environment, deadlines, and
retries with back-off of whole operations. urllib3 is caged here.
Sources: OCI distribution specification 1.1; the distribution project's token authentication; RFC 9110.
"""

from __future__ import annotations

import ipaddress
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import BinaryIO, TypeVar
from urllib.parse import unquote, urlencode, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from dockyard import __version__
from dockyard.errors import RegistryError
from dockyard.oci.auth import Credentials, CredentialSource
from dockyard.oci.digest import CHUNK
from dockyard.oci.media import DOCUMENT_LIMIT
from dockyard.oci.trust import tls_context

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REDIRECTS_LIMIT = 5
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_ERROR_BODY_LIMIT = 1 << 16
_LONGEST_PAUSE = 30.0
_PAGES_LIMIT = 1000
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?')
_PARAMETER = re.compile(r'([A-Za-z_]+)="([^"]*)"')
_T = TypeVar("_T")
Response = urllib3.BaseHTTPResponse


@dataclass(frozen=True)
class Patience:
    """How long to wait: attempts of one operation, the first pause between them, silence on the wire, one transfer.

    Times are in seconds; the pause doubles each time.
    """

    attempts: int = 5
    pause: float = 0.25
    silence: float = 60.0
    deadline: float = 3600.0


class TransientError(RegistryError):
    """Something that may go better the next time. `pause` is how long the registry asks to wait, in s."""

    pause = 0.0


class _TokenWire(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


class _ProblemWire(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _ProblemsWire(msgspec.Struct, frozen=True):
    errors: list[_ProblemWire] = []


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address is this machine itself, going by its spelling alone."""
    if host == "localhost":
        return True
    try:
        return host is not None and ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Transport:
    """Requests to one repository, for one transfer. Safe to share among threads."""

    def __init__(
        self, registry: str, repository: str, actions: str, credentials: CredentialSource, patience: Patience
    ) -> None:
        scheme = "http" if is_loopback(urlsplit(f"//{registry}").hostname) else "https"
        self.registry = registry
        self.repository = repository
        self._base = f"{scheme}://{registry}/v2/{repository}/"
        self._scope = f"repository:{repository}:{actions}"
        self._credentials = credentials
        self._patience = patience
        self._ends = time.monotonic() + patience.deadline
        self._authorization = ""
        self._pools: dict[tuple[str, str], urllib3.PoolManager] = {}
        self._lock = Lock()

    def close(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            pool.clear()

    def patiently(self, operation: Callable[[], _T]) -> _T:
        """Run an operation that may be run again from its beginning, until it succeeds or patience ends."""
        for attempt in range(1, self._patience.attempts + 1):
            try:
                return operation()
            except TransientError as error:
                pause = self._patience.pause * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)  # noqa: S311
                pause = min(max(pause, error.pause), _LONGEST_PAUSE)
                if attempt == self._patience.attempts or time.monotonic() + pause > self._ends:
                    raise
                time.sleep(pause)
        raise AssertionError("attempts is at least 1")

    def get(self, path: str, accept: tuple[str, ...] = ()) -> Response:
        """GET below the repository, redirects followed; the caller reads and closes it."""
        headers = {"Accept": ", ".join(accept)} if accept else {}
        return self._expect(self._follow("GET", urljoin(self._base, path), headers), frozenset({200}), path)

    def get_from(self, path: str, start: int) -> Response:
        """GET what follows the first `start` bytes; status 200 instead of 206 when the registry sends them again."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = self._follow("GET", urljoin(self._base, path), headers)
        self._expect(response, frozenset({200, 206} if start else {200}), path)
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            response.close()
            raise self.refused(f"answered with another range of {path} than it was asked for")
        return response

    def find(self, path: str, accept: tuple[str, ...] = ()) -> Response | None:
        """GET below the repository; None when there is no such thing."""
        headers = {"Accept": ", ".join(accept)} if accept else {}
        response = self._follow("GET", urljoin(self._base, path), headers)
        if response.status == 404:
            response.drain_conn()
            return None
        return self._expect(response, frozenset({200}), path)

    def pages(self, path: str) -> Iterator[bytes]:
        """The documents of a list that may come in several answers (RFC 8288 links); none when there is no list."""
        for _ in range(_PAGES_LIMIT):
            response = self.find(path)
            if response is None:
                return
            link = _NEXT.search(response.headers.get("Link", ""))
            yield self.document(response)
            if link is None:
                return
            path = urljoin(urljoin(self._base, path), link[1])
            self._check_url(path)
            if _origin(path) != _origin(self._base):
                raise self.refused("continues a list on another host")
        raise self.refused(f"has a list of more than {_PAGES_LIMIT} pages")

    def exists(self, path: str) -> bool:
        """HEAD below the repository."""
        response = self._follow("HEAD", self._base + path, {})
        if response.status == 404:
            response.release_conn()
            return False
        self._expect(response, frozenset({200}), path).release_conn()
        return True

    def send(
        self, method: str, path: str, body: BinaryIO | bytes | None, headers: Mapping[str, str], statuses: Sequence[int]
    ) -> Response:
        """A request of an upload, without redirects, to a path below the repository or a URL that the registry gave."""
        response = self._authorized(method, urljoin(self._base, path), dict(headers), body)
        self._expect(response, frozenset(statuses), path).drain_conn()
        return response

    def location(self, response: Response) -> str:
        """Where an upload continues; RegistryError unless it is as safe as the registry itself."""
        return self._resolved(self._base, response)

    def body(self, response: Response) -> Iterator[bytes]:
        """The body as it came, in pieces of at most 1 MiB, within the deadline of the transfer."""
        try:
            for chunk in response.stream(CHUNK, decode_content=False):
                self._check_time()
                yield chunk
        except (HTTPError, OSError) as error:
            raise self._broken(error) from error
        finally:
            response.close()

    def document(self, response: Response) -> bytes:
        """A body of at most 8 MiB."""
        data = bytearray()
        for chunk in self.body(response):
            data += chunk
            if len(data) > DOCUMENT_LIMIT:
                raise self.refused("sent a document of more than 8 MiB")
        return bytes(data)

    def refused(self, what: str) -> RegistryError:
        """An answer that the protocol does not allow."""
        return RegistryError(
            f"registry {self.registry} {what}", remedy="Check the address; if it is right, report it to its operator."
        )

    def _follow(self, method: str, url: str, headers: dict[str, str]) -> Response:
        for _ in range(_REDIRECTS_LIMIT):
            response = self._authorized(method, url, headers, None)
            if response.status not in _REDIRECTS:
                return response
            response.drain_conn()
            url = self._resolved(url, response)
        raise self.refused("redirects in a circle")

    def _authorized(self, method: str, url: str, headers: dict[str, str], body: BinaryIO | bytes | None) -> Response:
        """One request. What it is asked for (401) it gives once, and only to the registry itself."""
        at_home = _origin(url) == _origin(self._base)
        sent = self._authorization
        response = self._request(method, url, headers | _authorization(sent if at_home else ""), body)
        if response.status != 401 or not at_home:
            return response
        challenge = response.headers.get("WWW-Authenticate", "")
        response.drain_conn()
        if self._authorization == sent:
            self._authorization = self._answer(challenge)
        if body is not None and not isinstance(body, bytes):
            raise TransientError(f"registry {self.registry} asks again who is there", remedy="Run it again.")
        return self._request(method, url, headers | _authorization(self._authorization), body)

    def _answer(self, challenge: str) -> str:
        """The Authorization that a challenge asks for."""
        credentials = self._credentials.find(self.registry)
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and credentials:
            return credentials.basic()
        if kind.lower() == "bearer":
            return f"Bearer {self._token(dict(_PARAMETER.findall(rest)), credentials)}"
        return ""

    def _token(self, asked: dict[str, str], credentials: Credentials | None) -> str:
        realm = asked.get("realm", "")
        self._check_url(realm)
        fields = {"service": asked.get("service", ""), "scope": self._scope}
        if credentials and credentials.kind == "identity token":
            form = fields | {
                "grant_type": "refresh_token",
                "refresh_token": credentials.secret,
                "client_id": "dockyard",
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            response = self._request("POST", realm, headers, urlencode(form).encode())
        else:
            url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(fields)}"
            response = self._request("GET", url, _authorization(credentials.basic() if credentials else ""), None)
        data = self.document(self._expect(response, frozenset({200}), "its token service"))
        try:
            value = msgspec.json.decode(data, type=_TokenWire)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self.refused("has a token service that gives no token") from error
        token = value.token or value.access_token
        if not token.isascii() or not token.isprintable():
            raise self.refused("has a token service that gives a token with control characters")
        return token

    def _request(self, method: str, url: str, headers: dict[str, str], body: BinaryIO | bytes | None) -> Response:
        self._check_time()
        try:
            return self._pool(url).request(
                method,
                url,
                headers={"User-Agent": f"dockyard/{__version__}", "Accept-Encoding": "identity"} | headers,
                body=body,
                redirect=False,
                retries=False,
                preload_content=False,
            )
        except (HTTPError, OSError) as error:
            raise self._broken(error) from error

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The connections to where a URL leads: one host's certificates and proxy are not another's."""
        with self._lock:
            origin = _origin(url)
            if origin not in self._pools:
                self._pools[origin] = _pool_for(url, self._patience)
            return self._pools[origin]

    def _expect(self, response: Response, statuses: frozenset[int], path: str) -> Response:
        if response.status in statuses:
            return response
        raise self._failure(response, path)

    def _failure(self, response: Response, path: str) -> RegistryError:
        status = response.status
        what = f"registry {self.registry} answered {status} for {path.partition('?')[0]}"
        told = _problems(response)
        if status in _TRANSIENT:
            error = TransientError(what, remedy="Wait a little, then try again.", detail=told)
            pause = response.headers.get("Retry-After", "")
            error.pause = float(pause) if pause.isascii() and pause.isdigit() else 0.0
            return error
        remedies = {
            401: f"Log in with `docker login {self.registry}`; the credentials are missing or wrong.",
            403: f"Ask for access, or log in as somebody else with `docker login {self.registry}`.",
            404: "Check the name and the tag; a private repository also answers so when you are not logged in.",
        }
        return RegistryError(what, remedy=remedies.get(status, "Check the name, or ask its operator."), detail=told)

    def _resolved(self, base: str, response: Response) -> str:
        try:
            url = urljoin(base, response.headers.get("Location", ""))
        except ValueError as error:
            raise self.refused("sends us to an address that is none") from error
        self._check_url(url)
        return url

    def _check_url(self, url: str) -> None:
        """Where the registry sends us must be HTTPS, or loopback when the registry itself is."""
        with suppress(ValueError):
            parts = urlsplit(url)
            if parts.scheme == "https" and parts.hostname:
                return
            if parts.scheme == "http" and is_loopback(parts.hostname) and self._base.startswith("http:"):
                return
        raise self.refused(f"sends us to {url[:200]!r}, which is not HTTPS")

    def _check_time(self) -> None:
        if time.monotonic() > self._ends:
            raise RegistryError(
                f"the transfer with registry {self.registry} took more than {self._patience.deadline:g} s",
                remedy="Run it again: what is there already is not transferred twice.",
            )

    def _broken(self, error: Exception) -> TransientError:
        return TransientError(
            f"registry {self.registry} cannot be reached, or the connection broke",
            remedy="Check the address, the network and the proxy, then try again.",
            detail=str(error)[:300],
        )


def _pool_for(url: str, patience: Patience) -> urllib3.PoolManager:
    timeout = urllib3.Timeout(connect=min(15.0, patience.silence), read=patience.silence)
    parts = urlsplit(url)
    trust = tls_context(parts.netloc, os.environ) if parts.scheme == "https" else None
    proxy = None if proxy_bypass(parts.netloc) or is_loopback(parts.hostname) else getproxies().get(parts.scheme)
    if not proxy:
        return urllib3.PoolManager(timeout=timeout, maxsize=8, blocksize=CHUNK, ssl_context=trust)
    there = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    user = f"{unquote(there.username)}:{unquote(there.password or '')}" if there.username else None
    headers = urllib3.make_headers(proxy_basic_auth=user)
    address = there._replace(netloc=there.netloc.rpartition("@")[2]).geturl()
    return urllib3.ProxyManager(
        address, timeout=timeout, maxsize=8, blocksize=CHUNK, ssl_context=trust, proxy_headers=headers
    )


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _authorization(value: str) -> dict[str, str]:
    return {"Authorization": value} if value else {}


def _problems(response: Response) -> str:
    """What the registry says of an error, on one line and without control characters."""
    try:
        data = response.read(_ERROR_BODY_LIMIT, decode_content=False)
        response.close()
        told = msgspec.json.decode(data, type=_ProblemsWire).errors
    except (HTTPError, OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    text = "; ".join(f"{problem.code}: {problem.message}" for problem in told)[:300]
    return "".join(letter if letter.isprintable() else " " for letter in text)
