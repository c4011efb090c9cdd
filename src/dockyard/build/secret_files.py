"""Finds files and variables that look like secrets, before they are sealed into an image.

An image is copied, kept and shared: a key in one is a key given away. Only strict patterns count, so that what is found
nearly always is one; samples from vendors' documentation are passed over. Called by `builder` (which refuses) and
`plan`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from dockyard.build.problem import Problem
from dockyard.spec.load import FILE_NAME, ProjectFolder

# Larger files are data, and are judged by their names alone.
_SEARCHED = 256 << 10
# Files that are secrets by what they are for.
_NAMES = (
    "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "credentials.json",
    "client_secret*.json", "_netrc", "*.tfstate", "kubeconfig",
)  # fmt: skip


@dataclass(frozen=True)
class _Pattern:
    """What a secret of a kind looks like. `words` are quick to look for: without one of them, none is there."""

    kind: str
    words: tuple[bytes, ...]
    expression: bytes


_PATTERNS = (
    _Pattern(
        "a private key",
        (b"PRIVATE KEY",),
        rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----\s{0,2}(?:\\n)?"
        rb"(?:[A-Za-z-]{1,40}: [^\n]{0,200}\n){0,8}\s{0,4}[A-Za-z0-9+/=]{40}",
    ),
    _Pattern("an AWS access key", (b"AKIA", b"ASIA"), rb"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    _Pattern(
        "an AWS secret key",
        (b"aws_se", b"AWS_SE"),
        rb"(?i:aws_secret_access_key|aws_session_token)[\"']?\s{0,4}[=:]\s{0,4}[\"']?[A-Za-z0-9/+]{40}",
    ),
    _Pattern(
        "a GitHub token",
        (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_"),
        rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})\b",
    ),
    _Pattern("a GitLab token", (b"glpat-",), rb"\bglpat-[A-Za-z0-9_-]{20}"),
    _Pattern("a Slack token", (b"xox",), rb"\bxox[abprs]-\d{10,14}-[A-Za-z0-9-]{20}"),
    _Pattern("a Google API key", (b"AIza",), rb"\bAIza[0-9A-Za-z_-]{35}\b"),
    _Pattern("a Stripe key", (b"k_live_",), rb"\b[rs]k_live_[0-9a-zA-Z]{24}"),
    _Pattern("a Hugging Face token", (b"hf_",), rb"\bhf_[A-Za-z]{34}\b"),
    _Pattern("a PyPI token", (b"pypi-",), rb"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50}"),
    _Pattern("an npm token", (b"npm_",), rb"\bnpm_[A-Za-z0-9]{36}\b"),
    _Pattern(
        "an OpenAI key",
        (b"T3BlbkFJ",),
        rb"\bsk-(?:proj-|svcacct-)?[A-Za-z0-9_-]{20,200}T3BlbkFJ[A-Za-z0-9_-]{20,200}",
    ),
    _Pattern("an Anthropic key", (b"sk-ant-",), rb"\bsk-ant-[a-z0-9]{1,12}-[A-Za-z0-9_-]{80}"),
)


def find_secrets(folder: ProjectFolder, names: Sequence[str]) -> Iterator[Problem]:
    """An error for each of the project's files, and each variable of its [environment], that looks like a secret."""
    allowed = folder.project.build.allow_secrets
    for name in names:
        if any(fnmatch.fnmatch(name, pattern) for pattern in allowed):
            continue
        if found := _of_file(folder, name):
            yield _problem(f"{name}{found}", f'keep the file out: [build] exclude = ["{name}"]', name)
    for variable, value in folder.project.environment.items():
        place = f"environment.{variable}"
        if place not in allowed and (kind := _kind(value.encode())):
            yield _problem(f"{FILE_NAME}: {place} looks like {kind[0]}", "give it to the container when it runs", place)


def _problem(what: str, instead: str, place: str) -> Problem:
    remedy = (
        f"Whoever has the image has the secret: {instead}. If it is none, allow it by name: "
        f'[build] allow_secrets = ["{place}"].'
    )
    return Problem("error", "secret", what, remedy)


def _of_file(folder: ProjectFolder, name: str) -> str:
    """Why a file looks like a secret; empty if it does not."""
    base = PurePosixPath(name).name
    if any(fnmatch.fnmatch(base, pattern) for pattern in _NAMES):
        return " is a file for secrets, by its name"
    path = folder.path / name
    if path.stat().st_size > _SEARCHED:
        return ""
    kind = _kind(path.read_bytes())
    return f", line {kind[1]}: looks like {kind[0]}" if kind else ""


def _kind(content: bytes) -> tuple[str, int] | None:
    """What the first secret of a kind in `content` is, and its line."""
    for pattern in _PATTERNS:
        if any(word in content for word in pattern.words):
            for match in re.finditer(pattern.expression, content):
                if b"EXAMPLE" not in match[0]:
                    return pattern.kind, content.count(b"\n", 0, match.start()) + 1
    return None
