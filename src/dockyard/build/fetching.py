"""Downloads Debian packages into a cache, several at once, each checked against its locked hash.

Apart from `debian` because the HTTP client is slow to import, and most builds find every package in the cache.
Called by `debian_base`, which imports it when something is missing.
"""

from __future__ import annotations

import hashlib
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import urllib3

from dockyard.build.debian import DebianPackage
from dockyard.build.files import scratch_folder
from dockyard.build.progress import Progress, Task
from dockyard.build.sources import Source
from dockyard.errors import LockError

_FETCHES_AT_ONCE = 6
_CHUNK = 1 << 18


def fetch(files: Mapping[DebianPackage, Path], sources: Sequence[Source], progress: Progress) -> None:
    """Bring each package to its file; LockError, naming what every archive said, for the first that cannot be had."""
    total = sum(package.size for package in files)
    folder = next(iter(files.values())).parent
    with (
        progress.task("Fetching Debian packages", total) as task,
        scratch_folder(folder) as work,
        ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool,
    ):
        client = _client()
        jobs = [_Job(package, file, work / file.name) for package, file in files.items()]
        for _ in pool.map(lambda job: _fetch(client, job, sources, task), jobs):
            pass


@dataclass(frozen=True)
class _Job:
    """A package, where it goes, and where it lies until it is whole and checked."""

    package: DebianPackage
    file: Path
    part: Path


def _fetch(client: urllib3.PoolManager, job: _Job, sources: Sequence[Source], task: Task) -> None:
    package = job.package
    # Security updates live in an archive of their own, whose paths say so: ask the likelier one first.
    security = package.path.startswith("pool/updates/")
    roots = sorted({source.uri for source in sources}, key=lambda root: ("security" not in root) == security)
    reasons = []
    for root in roots:
        url = f"{root}/{urllib.parse.quote(package.path)}"
        try:
            found = _download(client, url, job.part, package.size, task)
        except urllib3.exceptions.HTTPError as error:
            reasons.append(str(error))
            continue
        if found != package.sha256:
            reasons.append(f"{root} served other bytes (SHA-256 {found[:12]}..., locked {package.sha256[:12]}...)")
            continue
        job.part.replace(job.file)
        return
    raise LockError(
        f"{package.name} {package.version} could not be fetched",
        detail="\n".join(f"  {reason}" for reason in dict.fromkeys(reasons)),
        remedy="Check the network. If the archive has a newer version by now, `dockyard build --upgrade` locks it.",
    )


def _client() -> urllib3.PoolManager:
    """Connections that are kept, through the proxy that the environment names, if it does."""
    timeout, retries = urllib3.Timeout(connect=20, read=60), urllib3.Retry(3, backoff_factor=0.3)
    if proxy := urllib.request.getproxies().get("http"):
        return urllib3.ProxyManager(proxy, maxsize=_FETCHES_AT_ONCE, timeout=timeout, retries=retries)
    return urllib3.PoolManager(maxsize=_FETCHES_AT_ONCE, timeout=timeout, retries=retries)


def _download(client: urllib3.PoolManager, url: str, file: Path, size: int, task: Task) -> str:
    """Write what `url` answers to `file`; its SHA-256. Never more than the promised size."""
    digest, count = hashlib.sha256(), 0
    answer = client.request("GET", url, preload_content=False)
    try:
        if answer.status != HTTPStatus.OK:
            raise urllib3.exceptions.HTTPError(f"{url} answered {answer.status} {answer.reason}")
        with file.open("wb") as out:
            for chunk in answer.stream(_CHUNK):
                count += len(chunk)
                if count > size:
                    break
                digest.update(chunk)
                out.write(chunk)
                task.advance(len(chunk))
    finally:
        answer.release_conn()
    return digest.hexdigest()
