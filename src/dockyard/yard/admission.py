"""What must hold before a deployment changes anything: image, host, engine, files, memory, host names, the policy.

`changing` asks it for every new revision, and for every old one that is to serve again. All that can be known
beforehand is told here, with what to do about it, so that a rollout fails only for what nobody could know.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.engines.servers import foreign_server
from dockyard.errors import DeploymentError, DockyardError
from dockyard.oci.digest import Digest
from dockyard.oci.image import Image, Platform
from dockyard.spec.deployment import Deployment
from dockyard.spec.resources import format_bytes
from dockyard.supply.policy import Excepted
from dockyard.yard.containers import container_of, is_ours, limits_of
from dockyard.yard.host import Host
from dockyard.yard.store import Store

Judge = Callable[[Image, Deployment], tuple[Excepted, ...]]
"""Asks the policy: raises PolicyError, naming the rule, or returns the exceptions that it took to allow it."""


@dataclass(frozen=True)
class Admitted:
    """A deployment that can be: its settings with the image pinned, the image, and what its user should know."""

    settings: Deployment
    image: Image
    image_name: str
    memory: int
    notes: tuple[str, ...]
    excepted: tuple[Excepted, ...]

    @property
    def digest(self) -> Digest:
        """Of the image's manifest."""
        return self.image.digest


class Admission:
    """Judges deployments for one host."""

    def __init__(self, host: Host, store: Store, judge: Judge) -> None:
        self._host = host
        self._store = store
        self._judge = judge

    async def admit(self, asked: Deployment) -> Admitted:
        """The deployment, pinned; DeploymentError, ImageError, EngineError or PolicyError for what cannot be."""
        name, _, digest = asked.image.partition("@")
        image = self._host.images.resolve(digest or name, Platform.host())
        pinned = _with_server(msgspec.structs.replace(asked, image=f"{name}@{image.digest}"), image)
        _check_server(pinned, image, name)
        self._check_place(pinned)
        _check_files(pinned)
        await self._check_container(pinned, image, name)
        memory = limits_of(pinned, image).memory
        excepted = self.allow(image, pinned)
        notes = (*self._memory_notes(pinned, memory), *(_waived(one) for one in excepted))
        return Admitted(pinned, image, name, memory, notes, excepted)

    def allow(self, image: Image, asked: Deployment) -> tuple[Excepted, ...]:
        """What may be otherwise now for a revision that was admitted once: who has its host names, and the policy.

        DeploymentError, PolicyError.
        """
        self._check_hosts(asked)
        return self._judge(image, asked)

    def _check_hosts(self, asked: Deployment) -> None:
        """One host name is one deployment's, for as long as any of its requests may still be answered."""
        for each in self._store.snapshot():
            serving = {each.deployment.active, *((each.rollout.source, each.rollout.target) if each.rollout else ())}
            for number in serving & each.revisions.keys() if each.deployment.name != asked.name else ():
                for host in each.revisions[number].settings.routing.hosts:
                    if host in asked.routing.hosts:
                        other = each.deployment.name
                        raise DeploymentError(
                            f"routing.hosts: {host!r} is served by deployment {other} (revision {number})",
                            remedy=f"Choose another host, or take it from {other} first.",
                        )

    def _check_place(self, asked: Deployment) -> None:
        self._host.engine(asked.engine)
        for key, value in asked.placement.items():
            found = self._host.labels.get(key)
            if found != value:
                raise DeploymentError(
                    f"placement.{key} asks for {value!r}, and this host says {found!r}",
                    remedy="Deploy it on a host that has the label, or start this yard with `--label`.",
                )

    async def _check_container(self, asked: Deployment, image: Image, name: str) -> None:
        """Make the container's description as `fleet` will, for its rules and its engine's."""
        try:
            spec = container_of(asked, image, name, asked.name, {})
            await self._host.engine(asked.engine).check(spec)
        except DockyardError as error:
            raise DeploymentError(f"{asked.name}: {error.what}", remedy=error.remedy, detail=error.detail) from error

    def _memory_notes(self, asked: Deployment, memory: int) -> tuple[str, ...]:
        """DeploymentError when the replicas never fit; a note when they fit, but not the old beside the new."""
        have, want = self._host.memory, memory * asked.replicas
        if want > have:
            raise DeploymentError(
                f"{asked.replicas} replicas may use {format_bytes(want)} of memory together, and this host has "
                f"{format_bytes(have)} for replicas",
                remedy="Ask for fewer replicas, or for less memory (`resources.memory`).",
            )
        if 2 * want > have:
            return ("Two revisions do not fit into memory together, so an update stops the old one first.",)
        return ()


def _with_server(asked: Deployment, image: Image) -> Deployment:
    """The same with what a preset says written out."""
    variables = dict(entry.partition("=")[::2] for entry in image.config.environment) | asked.environment
    found = foreign_server(asked.server, asked.probes, variables)
    if found is None:
        return asked
    return msgspec.structs.replace(
        asked,
        server=msgspec.structs.replace(asked.server, port=found.port, command=found.command),
        probes=msgspec.structs.replace(asked.probes, ready_path=found.ready_path, live_path=found.live_path),
    )


def _check_server(asked: Deployment, image: Image, name: str) -> None:
    if is_ours(image) and asked.server.port:
        raise DeploymentError(
            f"server.port is {asked.server.port}, and {name} takes its socket from the yard",
            remedy="Leave [server] out for images that `dockyard build` made.",
        )
    if not is_ours(image) and not asked.server.port:
        raise DeploymentError(
            f"{name} was not built by Dockyard, so nobody knows where its server listens",
            remedy="Say server.port and probes.ready_path, or server.preset (triton, tfserving, torchserve).",
        )


def _check_files(asked: Deployment) -> None:
    for name, source in asked.secrets.items():
        if not (path := Path(source)).is_absolute() or not path.is_file() or not os.access(path, os.R_OK):
            raise DeploymentError(
                f"secrets.{name}: {source} is not a file that the yard can read",
                remedy="Give the absolute path of a file on the yard's host.",
            )
    for number, mount in enumerate(asked.mounts):
        if not Path(mount.source).exists():
            raise DeploymentError(
                f"mounts[{number}].source: {mount.source} does not exist on the yard's host",
                remedy="Make it first; the yard creates nothing outside its own folder.",
            )


def _waived(one: Excepted) -> str:
    return f"rule `{one.refused.rule}` is waived until {one.exception.until}: {one.exception.reason}"
