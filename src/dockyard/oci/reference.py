"""Names of images: `registry/repository:tag@digest`, and plain names in a layout or an engine.

The command line parses what the user writes, `registry.py` goes where it points, `archive.py` writes the tags that an
engine will show. There is no default registry: a name without one is an error, not a guess. Grammar: OCI distribution
specification 1.1 (repository and tag), as Docker reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dockyard.errors import ImageError
from dockyard.oci.digest import Digest, parse_digest

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?", re.ASCII)
_LENGTH_LIMIT = 255
DEFAULT_TAG = "latest"


@dataclass(frozen=True)
class Reference:
    """An image in a registry. Without a tag and a digest the tag is `latest`; with a digest the digest decides."""

    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `registry/repository[:tag][@digest]`; ImageError, with an example, when it is something else."""
        named, _, digest = text.partition("@")
        registry, slash, rest = named.partition("/")
        if not slash or not ("." in registry or ":" in registry or registry == "localhost"):
            raise _wrong(text, "names no registry")
        repository, colon, tag = rest.partition(":")
        if not _REGISTRY.fullmatch(registry):
            raise _wrong(text, f"has a registry, {registry[:80]!r}, that is no host name")
        if not _REPOSITORY.fullmatch(repository) or len(repository) > _LENGTH_LIMIT:
            raise _wrong(text, f"has a repository, {repository[:80]!r}, that is not in lower-case letters and digits")
        if colon and not _TAG.fullmatch(tag):
            raise _wrong(text, f"has a tag, {tag[:80]!r}, that no registry accepts")
        if "@" in text:
            return cls(registry, repository, tag, parse_digest(digest))
        return cls(registry, repository, tag or DEFAULT_TAG)

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest when there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"


def tagged(name: str) -> str:
    """A name as engines show it, `iris` -> `iris:latest`, without a digest; ImageError when none accepts it."""
    named = name.partition("@")[0]
    path, colon, tag = named.rpartition(":")
    if not colon or "/" in tag:
        path, tag = named, DEFAULT_TAG
    host, _, rest = path.partition("/")
    has_host = bool(rest) and ("." in host or ":" in host or host == "localhost") and _REGISTRY.fullmatch(host)
    repository = rest if has_host else path
    if not _REPOSITORY.fullmatch(repository) or len(path) > _LENGTH_LIMIT or not _TAG.fullmatch(tag):
        raise ImageError(
            f"{name[:200]!r} cannot be the name of an image",
            remedy="Use lower-case letters, digits and '-', '_' or '.' between them, like iris:1.2.",
        )
    return f"{path}:{tag}"


def repository_of(name: str) -> str:
    """A name without its tag and digest."""
    path = name.partition("@")[0]
    head, colon, tag = path.rpartition(":")
    return head if colon and "/" not in tag else path


def _wrong(text: str, why: str) -> ImageError:
    return ImageError(f"{text[:200]!r} {why}", remedy="Write it like localhost:5000/models/iris:1.2.")
