"""Credentials for registries, from where `docker login` puts them: Docker's config.json and credential helpers.

`transport.py` asks here when a registry wants to know who is there. Secrets stay in memory and are masked in `repr`.
Sources: Docker's config.json reference, docker-credential-helpers' protocol (`get`: host on stdin, JSON on stdout).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from dockyard.errors import RegistryError

_HELPER_TIMEOUT = 30.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_IDENTITY_USER = "<token>"


@dataclass(frozen=True)
class Credentials:
    """A user and password, or an identity token that is exchanged for access tokens."""

    username: str
    secret: str = field(repr=False)
    kind: Literal["password", "identity token"] = "password"

    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.secret}".encode()).decode()


class CredentialSource(Protocol):
    """Knows who we are at a registry."""

    def find(self, registry: str) -> Credentials | None:
        """The credentials for `host[:port]`, None when there are none; RegistryError when they cannot be read."""
        ...


class Anonymous:
    """Nobody, everywhere."""

    def find(self, registry: str) -> Credentials | None:
        """No credentials."""
        return None


class _AuthWire(msgspec.Struct, frozen=True):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _ConfigWire(msgspec.Struct, frozen=True, rename="camel"):
    auths: dict[str, _AuthWire] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


class _HelperWire(msgspec.Struct, frozen=True, rename="pascal"):
    username: str
    secret: str


class DockerConfig:
    """The credentials of `docker login`: those of a helper where one is configured, else those in the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> DockerConfig:
        """The file that Docker's own client would read: in $DOCKER_CONFIG, or ~/.docker."""
        folder = environment.get("DOCKER_CONFIG")
        return cls((Path(folder) if folder else Path.home() / ".docker") / "config.json")

    def find(self, registry: str) -> Credentials | None:
        """See `CredentialSource.find`."""
        config = self._read()
        helper = config.cred_helpers.get(registry) or config.creds_store
        if helper:
            found = _ask_helper(helper, registry)
            if found:
                return found
        for name, value in config.auths.items():
            if _host_of(name) == registry:
                return self._credentials(value, registry)
        return None

    def _read(self) -> _ConfigWire:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return _ConfigWire()
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error
        try:
            return msgspec.json.decode(data, type=_ConfigWire)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._unreadable(str(error)) from error

    def _credentials(self, value: _AuthWire, registry: str) -> Credentials | None:
        username, password = value.username, value.password
        if value.auth:
            try:
                username, _, password = base64.b64decode(value.auth, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError) as error:
                raise self._unreadable(f"the entry for {registry} is not base64") from error
        if value.identitytoken:
            return Credentials(username, value.identitytoken, "identity token")
        return Credentials(username, password.rstrip("\0")) if username else None

    def _unreadable(self, why: str) -> RegistryError:
        return RegistryError(
            f"{self._path} cannot be read: {why}", remedy="Mend or remove the file, then run `docker login` again."
        )


def _host_of(name: str) -> str:
    """The keys of `auths` are hosts, or addresses from older days such as `https://host/v1/`."""
    return re.sub(r"^https?://", "", name).partition("/")[0]


def _ask_helper(helper: str, registry: str) -> Credentials | None:
    program = f"docker-credential-{helper}"
    if not _HELPER_NAME.fullmatch(helper):
        raise _helper_failed(program, registry, "its name is no program name")
    try:
        answer = subprocess.run(
            [program, "get"], input=registry.encode(), capture_output=True, timeout=_HELPER_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _helper_failed(program, registry, str(error)) from error
    if answer.returncode != 0:
        told = (answer.stdout + answer.stderr).decode("utf-8", "replace").strip()
        if "not found" in told:
            return None
        raise _helper_failed(program, registry, told[:200])
    try:
        value = msgspec.json.decode(answer.stdout, type=_HelperWire)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _helper_failed(program, registry, "it did not answer in JSON") from error
    kind: Literal["password", "identity token"] = "identity token" if value.username == _IDENTITY_USER else "password"
    return Credentials(value.username, value.secret, kind)


def _helper_failed(program: str, registry: str, why: str) -> RegistryError:
    return RegistryError(
        f"{program} gave no credentials for {registry}: {why}",
        remedy="Install or mend the helper, or take it out of Docker's config.json.",
    )
