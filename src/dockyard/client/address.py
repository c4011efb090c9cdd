"""Where a yard is, and how to be let in: read from the environment, checked before anything is sent.

Called by `connection` and by whoever makes a `Client`.
"""

from __future__ import annotations

import ipaddress
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dockyard.errors import YardError
from dockyard.spec.home import Home


@dataclass(frozen=True)
class YardAddress:
    """Where a yard is and how to be let in: `unix:///path` or `https://host:port`, a token, a private CA's file."""

    url: str
    token: str = field(default="", repr=False)
    ca: Path | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> YardAddress:
        """DOCKYARD_YARD, else the yard of this home; DOCKYARD_TOKEN or DOCKYARD_TOKEN_FILE; DOCKYARD_CA."""
        url = environment.get("DOCKYARD_YARD") or f"unix://{Home.of(environment).yard_socket}"
        token = environment.get("DOCKYARD_TOKEN", "").strip()
        if not token and (file := environment.get("DOCKYARD_TOKEN_FILE")):
            token = _token_in(Path(file))
        ca = environment.get("DOCKYARD_CA")
        return cls(url, token, Path(ca) if ca else None)

    @property
    def socket(self) -> str:
        """The path of a unix socket; empty for TCP."""
        return self.url.removeprefix("unix://") if self.url.startswith("unix://") else ""

    @property
    def base(self) -> str:
        """What request paths are appended to; YardError for an address that would send a token in the clear."""
        if self.socket:
            return "http://yard"
        parts = urlsplit(self.url)
        if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))):
            return self.url.rstrip("/")
        raise YardError(
            f"{self.url!r} is no address of a yard",
            remedy="Write unix:///PATH or https://HOST:PORT; http:// is for loopback only.",
        )

    def tls(self) -> ssl.SSLContext:
        """How a yard on TCP proves itself: by the system's CAs, and the private one."""
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca is not None:
            try:
                context.load_verify_locations(cafile=self.ca)
            except (OSError, ssl.SSLError) as error:
                raise YardError(
                    f"{self.ca} is no certificate that can be read: {error}", remedy="DOCKYARD_CA names a PEM file."
                ) from error
        return context


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token_in(file: Path) -> str:
    """The token in a file that only its owner can read."""
    try:
        mode = file.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise YardError(f"{file} can be read by others (mode {stat.S_IMODE(mode):04o})", remedy=f"chmod 600 {file}")
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise YardError(f"the token in {file} cannot be read: {error}", remedy="Check DOCKYARD_TOKEN_FILE.") from error
