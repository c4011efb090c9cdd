"""Which Debian mirrors a build asks: those this machine is configured with, or the one the project names.

Reads apt's one-line and deb822 source files, and keeps only the distribution's own suites: repositories of others that
happen to be configured must not find their way into images. Called by `debian`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dockyard.errors import LockError

_POCKETS = ("", "-updates", "-security")
_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)$")


@dataclass(frozen=True)
class Source:
    """One archive: where, which suite, and the keyring that must have signed it (empty: apt's own)."""

    uri: str
    suite: str
    signed_by: str = ""

    def line(self) -> str:
        """This source as apt's sources.list has it."""
        options = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {options}{self.uri} {self.suite} main\n"


def host_suite(os_release: Path = Path("/etc/os-release")) -> str:
    """The codename of this machine's release; LockError where there is none."""
    try:
        text = os_release.read_text(encoding="utf-8")
    except OSError:
        text = ""
    if match := re.search(r"^VERSION_CODENAME=\"?([a-z]+)\"?$", text, re.MULTILINE):
        return match[1]
    raise LockError(
        "this machine is not a Debian release, so the base cannot be taken from its packages",
        remedy='Name a base image: [build] base = "oci:FOLDER", "archive:FILE" or "REGISTRY/NAME@sha256:...".',
    )


def find_sources(mirror: str, suite: str, apt: Path = Path("/etc/apt")) -> tuple[Source, ...]:
    """The archives for `suite`: the project's mirror, else those of this machine's apt configuration."""
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    if mirror:
        return (Source(mirror.rstrip("/"), suite, keyring if Path(keyring).exists() else ""),)
    wanted = {suite + pocket for pocket in _POCKETS}
    found = [source for file in _files(apt) for source in _read(file) if source.suite in wanted]
    if not found:
        raise LockError(
            f"no Debian archive for {suite!r} is configured in {apt}",
            remedy='Name one in dockyard.toml: [build] mirror = "http://MIRROR/debian" and suite = "bookworm".',
        )
    return tuple(dict.fromkeys(found))


def _files(apt: Path) -> list[Path]:
    parts = sorted(file for file in (apt / "sources.list.d").glob("*") if file.suffix in {".list", ".sources"})
    return [file for file in (apt / "sources.list", *parts) if file.is_file()]


def _read(file: Path) -> Iterator[Source]:
    text = file.read_text(encoding="utf-8", errors="replace")
    return _deb822(text) if file.suffix == ".sources" else _one_line(text)


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.split("#")[0].strip())
        if match and "main" in match["components"].split():
            signed = re.search(r"signed-by=(\S+)", match["options"] or "")
            yield Source(match["uri"].rstrip("/"), match["suite"], signed[1] if signed else "")


def _deb822(text: str) -> Iterator[Source]:
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", "\n".join(lines), re.MULTILINE))
        if "deb" not in fields.get("Types", "").split() or "main" not in fields.get("Components", "").split():
            continue
        if fields.get("Enabled", "yes").strip().lower() == "no":
            continue
        signed = fields.get("Signed-By", "").strip()
        for uri in fields.get("URIs", "").split():
            for suite in fields.get("Suites", "").split():
                yield Source(uri.rstrip("/"), suite, signed if signed.startswith("/") else "")
