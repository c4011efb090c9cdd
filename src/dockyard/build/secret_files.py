"""Finds files and variables that look like secrets, before they are sealed into an image.

An image is copied, kept and shared: a key in one is a key given away. Only strict patterns count, so that what is found
nearly always is one; samples from vendors' documentation are passed over. Called by `builder` (which refuses) and
`plan`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
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
_PATTERNS = {
    "a private key": rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----\s*(?:\\n)?"
    rb"(?:[A-Za-z-]+: [^\n]*\s+)*[A-Za-z0-9+/=]{40}",
    "an AWS access key": rb"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",
    "an AWS secret key": rb"(?i:aws_secret_access_key|aws_session_token)[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+]{40}",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})\b",
    "a GitLab token": rb"\bglpat-[A-Za-z0-9_-]{20}",
    "a Slack token": rb"\bxox[abprs]-\d{10,}-[A-Za-z0-9-]{20,}",
    "a Google API key": rb"\bAIza[0-9A-Za-z_-]{35}\b",
    "a Stripe key": rb"\b[rs]k_live_[0-9a-zA-Z]{24}",
    "a Hugging Face token": rb"\bhf_[A-Za-z]{34}\b",
    "a PyPI token": rb"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50}",
    "an npm token": rb"\bnpm_[A-Za-z0-9]{36}\b",
    "an OpenAI key": rb"\bsk-(?:proj-|svcacct-)?[A-Za-z0-9_-]{20,}T3BlbkFJ[A-Za-z0-9_-]{20,}",
    "an Anthropic key": rb"\bsk-ant-[a-z0-9]+-[A-Za-z0-9_-]{80}",
}
_ANY = re.compile(b"|".join(b"(%s)" % pattern for pattern in _PATTERNS.values()))
_KINDS = tuple(_PATTERNS)


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
    """What the first secret in `content` is, and its line."""
    for match in _ANY.finditer(content):
        if b"EXAMPLE" not in match[0] and match.lastindex:
            return _KINDS[match.lastindex - 1], content.count(b"\n", 0, match.start()) + 1
    return None
