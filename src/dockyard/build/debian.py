"""Resolves and fetches Debian packages with apt, in a world of its own.

apt runs with its own lists, cache and package status, so the answer depends on the archive alone and not on what this
machine has installed; no root is needed and nothing is installed. Packages that only maintainer scripts would need
(nothing is ever executed) are declared as present, which keeps them and all they pull in out of the image.
Called by `debian_base` and `foreign`; `fetching` downloads what is resolved.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dockyard.build.commands import run
from dockyard.build.sources import Source
from dockyard.errors import LockError
from dockyard.oci.files import as_store_error

APT_REMEDY = 'Install apt (any Debian or Ubuntu has it), or name a base image with [build] base = "oci:FOLDER".'
_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$", re.MULTILINE)
_UNREACHED = re.compile(r"^(?:W|E): Failed to fetch (?P<mirror>\S+?)(?:/dists/\S*)?\s", re.MULTILINE)
_ROOM = 128 << 20  # bytes that the lists of an archive may need
_UNUSED = ("debconf", "dpkg", "mawk", "openssl", "perl-base", "tar", "libc-bin", "login", "passwd")


@dataclass(frozen=True)
class DebianPackage:
    """One binary package, pinned: `path` is relative to the archive's root, so that any mirror serves it."""

    name: str
    version: str
    architecture: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Apt:
    """apt over `sources` for one architecture, with its state in `folder`."""

    folder: Path
    architecture: str
    sources: tuple[Source, ...]

    @classmethod
    def of(cls, cache: Path, architecture: str, sources: tuple[Source, ...]) -> Apt:
        """apt with its state in a build's cache, apart for each architecture."""
        return cls(cache / f"apt-{architecture}", architecture, sources)

    def resolve(self, names: Sequence[str], *, refresh: bool) -> tuple[DebianPackage, ...]:
        """The packages that `names` need, newest versions, sorted by name; `refresh` fetches the archives' lists."""
        _check_room(self.folder)
        with self._prepared(names) as configuration:
            environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"}
            if refresh or not any((self.folder / "lists").glob("*_Packages*")):
                _update(environment)
            command = ["apt-get", "install", "--print-uris", "-qq", "-y", *names]
            answer = run(command, environment=environment, deadline=60, missing=APT_REMEDY)
            if answer.code:
                raise LockError(
                    f"Debian packages cannot be resolved for {self.architecture}",
                    detail=_errors(answer.stderr),
                    remedy="Correct [build] packages in dockyard.toml; `apt-cache search WORD` finds names.",
                )
        return tuple(sorted(self._parse(answer.stdout), key=lambda package: package.name))

    @contextmanager
    def _prepared(self, names: Sequence[str]) -> Iterator[Path]:
        """apt's configuration file, with the state folders that it names; one resolution at a time in a folder."""
        # An empty archive cache, always: apt leaves out of its answer what it finds there.
        for part in ("lists/partial", "cache", "archives/partial", "parts"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (self.folder / "sources.list").write_text("".join(source.line() for source in self.sources))
            (self.folder / "status").write_text(self._status(names))
            configuration = self.folder / "apt.conf"
            configuration.write_text(self._configuration() + _host_proxies())
            yield configuration

    def _configuration(self) -> str:
        settings = {
            "Dir::State": self.folder,
            "Dir::State::Lists": self.folder / "lists",
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder / "cache",
            "Dir::Cache::archives": self.folder / "archives",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": self.folder / "parts",
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": self.folder / "parts",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": self.folder / "parts",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::ForceHash": "sha256",
            "Acquire::Retries": "3",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
            "Debug::NoLocking": "true",
        }
        return "".join(f'{key} "{value}";\n' for key, value in settings.items())

    def _status(self, names: Sequence[str]) -> str:
        """A dpkg status in which the packages of no use here are installed already."""
        stanza = (
            "Package: {name}\nStatus: install ok installed\nPriority: optional\nSection: misc\n"
            "Maintainer: none\nArchitecture: {architecture}\nVersion: 99:0\n{provides}Description: unused here\n\n"
        )
        provides = {"mawk": "Provides: awk\n", "debconf": "Provides: debconf-2.0\n"}
        unused = [name for name in _UNUSED if name not in names]
        return "".join(
            stanza.format(name=name, architecture=self.architecture, provides=provides.get(name, "")) for name in unused
        )

    def _parse(self, text: str) -> Iterator[DebianPackage]:
        roots = sorted({source.uri for source in self.sources}, key=len, reverse=True)
        for match in _URI.finditer(text):
            uri = match["uri"]
            root = next((root for root in roots if uri.startswith(root + "/")), None)
            if root is None:
                raise LockError(f"apt named a package outside the configured archives: {uri}")
            path = urllib.parse.unquote(uri[len(root) + 1 :])
            name, version, rest = urllib.parse.unquote(match["file"]).rsplit(".", 1)[0].split("_", 2)
            yield DebianPackage(name, version, rest, path, int(match["size"]), match["sha256"])


def _check_room(folder: Path) -> None:
    """StoreError when the disk is full: apt itself would try again and again for minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < _ROOM:
        raise as_store_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), folder)


def _update(environment: Mapping[str, str]) -> None:
    done = run(["apt-get", "update"], environment=environment, deadline=180, missing=APT_REMEDY)
    # apt takes an archive that it cannot reach for a small matter, and goes on without its packages.
    if found := _UNREACHED.search(done.stderr):
        raise LockError(
            f"cannot reach the Debian mirror {found['mirror']}",
            detail=_errors(done.stderr),
            remedy="Check the network, the proxy and apt's sources, or name another [build] mirror.",
        )
    if done.code or "\nE:" in f"\n{done.stderr}":
        raise LockError(
            "the Debian archives could not be read",
            detail=_errors(done.stderr),
            remedy="Check the network and apt's sources, or name another [build] mirror.",
        )


def _host_proxies() -> str:
    """This machine's proxies for apt: the one part of its configuration that is about the network alone."""
    if shutil.which("apt-config") is None:
        return ""
    dump = run(["apt-config", "dump", "Acquire"], environment=os.environ, deadline=20).stdout
    proxies = re.findall(r"^Acquire::https?::(?:\S+::)?Proxy .*$", dump, re.MULTILINE | re.IGNORECASE)
    return "".join(f"{line}\n" for line in proxies)


def _errors(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith(("E:", "W:", "Err"))]
    return "\n".join(f"  {line}" for line in (lines or stderr.splitlines())[:8])
