"""The policy: what may be deployed on a yard, as one frozen, validated value.

Field names are the keys of `policy.toml`; `spec.load.load_policy` reads it, `supply.policy` judges by it. Without a
file the defaults here hold: nothing must be signed or tested and any registry will do, but an image for another
architecture, as root, with the host's namespaces or with the engine's socket is refused all the same.
"""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, field

from dockyard.spec.project import Table

Glob = Annotated[str, Meta(min_length=1, max_length=300)]


class Rule(StrEnum):
    """What can refuse a deployment."""

    EVIDENCE = "evidence"
    """What is attached to the image is whole."""
    SIGNED = "signed"
    GOLDENS = "goldens"
    REGISTRY = "registry"
    BASE = "base"
    ROOT = "root"
    PRIVILEGED = "privileged"
    HOST_NAMESPACES = "host-namespaces"
    ENGINE_SOCKET = "engine-socket"
    ARCHITECTURE = "architecture"


class Signed(Table, frozen=True, kw_only=True):
    """Who must have signed the image itself."""

    required: bool = False
    keys: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Files of public keys, relative to the policy; without any, the keys that are trusted on the yard's host."""


class Goldens(Table, frozen=True, kw_only=True):
    """Whether one of those keys must have signed that the goldens held."""

    required: bool = False


class Images(Table, frozen=True, kw_only=True):
    """Where images come from."""

    registries: tuple[Glob, ...] = ()
    """Globs of `registry/repository`, such as `registry.example.org/models/*`; without any, all and local ones too."""
    bases: tuple[Annotated[str, Meta(pattern=r"^(debian|sha256:[0-9a-f]{64})\Z")], ...] = ()
    """`debian`, or digests of base images, as a signed provenance tells them; without any, all."""


class Containers(Table, frozen=True, kw_only=True):
    """What no container may have, unless somebody says so here."""

    allow_root: bool = False
    unsafe_allow_privileged: bool = False
    unsafe_allow_host_namespaces: bool = False
    unsafe_allow_engine_socket: bool = False


class PolicyException(Table, frozen=True, kw_only=True):
    """One rule, waived for one deployment or one image until a day; who uses it is in the audit log with the reason."""

    rule: Rule
    reason: Annotated[str, Meta(min_length=10, max_length=500)]
    until: datetime.date
    deployment: str = ""
    image: Annotated[str, Meta(pattern=r"^(sha256:[0-9a-f]{64})?\Z")] = ""


class Policy(Table, frozen=True, kw_only=True):
    """The whole of policy.toml."""

    signed: Signed = field(default_factory=Signed)
    goldens: Goldens = field(default_factory=Goldens)
    images: Images = field(default_factory=Images)
    containers: Containers = field(default_factory=Containers)
    exceptions: tuple[PolicyException, ...] = ()
