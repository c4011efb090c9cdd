"""Whether a deployment is allowed: what is known of its image and its wishes, held against the policy.

`keys_of`, `wishes_of` and `facts_of` gather what is known; `judge`, which is pure, gives the verdict: each rule that
refuses, what was found, and what to do. The yard's service calls both before every deployment and rollback, raises
`refusal` and writes exceptions that were used to the audit log. What is not known counts as not fulfilled.
"""

from __future__ import annotations

import fnmatch
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from dockyard.errors import EvidenceError, ImageError, PolicyError, PolicyFileError, SigningKeyError, StoreError
from dockyard.oci.digest import Digest
from dockyard.oci.image import Image, Platform
from dockyard.oci.layout import Layout
from dockyard.oci.reference import repository_of
from dockyard.spec.deployment import Deployment
from dockyard.spec.policy import Policy, PolicyException, Rule
from dockyard.supply.keys import PublicKey
from dockyard.supply.provenance import recorded_inputs
from dockyard.supply.statement import PROVENANCE, TEST_RESULT, Statement
from dockyard.supply.verify import Verdict as Evidence
from dockyard.supply.verify import verify

ENGINE_SOCKETS = (
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
)


@dataclass(frozen=True)
class Wishes:
    """What a deployment asks of its container. `mounts`: the host's paths, as written and with links followed."""

    deployment: str
    image_name: str
    mounts: tuple[str, ...] = ()
    privileged: bool = False
    host_namespaces: tuple[str, ...] = ()
    engine_sockets: tuple[str, ...] = ENGINE_SOCKETS


@dataclass(frozen=True)
class Facts:
    """Everything that is judged. `user`: as the image says it. `base`: `debian`, a digest, or empty when unknown."""

    wishes: Wishes
    digest: Digest
    platform: Platform
    host: Platform
    user: str
    signed: bool
    others: int
    """Signatures by keys that are not trusted."""
    goldens: tuple[Statement, ...]
    base: str
    broken: str = ""
    """What does not hold of the evidence; then nothing of it counts."""


@dataclass(frozen=True)
class Refused:
    """One rule that refuses: what was found, and what to do."""

    rule: Rule
    found: str
    remedy: str


@dataclass(frozen=True)
class Excepted:
    """One rule that would refuse, and the exception that waives it."""

    refused: Refused
    exception: PolicyException


@dataclass(frozen=True)
class Verdict:
    """What the policy says; allowed when nothing is refused. `excepted` belongs in the audit log."""

    refused: tuple[Refused, ...]
    excepted: tuple[Excepted, ...]

    @property
    def allowed(self) -> bool:
        """Whether it may be deployed."""
        return not self.refused


def keys_of(policy: Policy, folder: Path, trusted: Sequence[PublicKey]) -> tuple[PublicKey, ...]:
    """The keys whose signatures count: those that the policy in `folder` names, or else all that are trusted here."""
    try:
        named = tuple(PublicKey.read(folder / name) for name in policy.signed.keys)
    except (SigningKeyError, StoreError) as error:
        raise PolicyFileError(
            f"a key of the policy cannot be used: {error.what}", remedy="Put the key there, or correct [signed] keys."
        ) from error
    return named or tuple(trusted)


def wishes_of(deployment: Deployment, image_name: str) -> Wishes:
    """What a deployment asks of its container. Links in the mounts are followed as they are on this host now."""
    sources = [mount.source for mount in deployment.mounts]
    mounts = dict.fromkeys([*sources, *map(os.path.realpath, sources)])
    return Wishes(deployment.name, image_name, tuple(mounts))


def facts_of(layout: Layout, image: Image, wishes: Wishes, keys: Sequence[PublicKey], host: Platform) -> Facts:
    """What is known of an image in a layout, its evidence checked with these keys; damaged evidence is a fact too."""
    evidence, broken = Evidence(image.digest, (), (), 0), ""
    try:
        if keys:
            evidence = verify(layout, image.digest, keys)
    except (EvidenceError, ImageError) as error:
        broken = error.what
    return Facts(
        wishes=wishes,
        digest=image.digest,
        platform=image.config.platform,
        host=host,
        user=image.config.user,
        signed=bool(evidence.signatures),
        others=evidence.untrusted,
        goldens=evidence.attested(TEST_RESULT),
        base=_base(evidence.attested(PROVENANCE)),
        broken=broken,
    )


def judge(facts: Facts, policy: Policy, today: date) -> Verdict:
    """Hold the facts against the policy; exceptions count through their last day."""
    refused = [one for check in _CHECKS for one in check(facts, policy)]
    waived = [(one, _exception(one, facts, policy, today)) for one in refused]
    return Verdict(
        refused=tuple(one for one, exception in waived if exception is None),
        excepted=tuple(Excepted(one, exception) for one, exception in waived if exception is not None),
    )


def refusal(verdict: Verdict, deployment: str) -> PolicyError:
    """The error for a verdict that does not allow: the first rule's, with the others below."""
    first, *others = verdict.refused
    return PolicyError(
        f"{deployment} may not be deployed: {first.found} (rule `{first.rule}`)",
        rule=",".join(one.rule for one in verdict.refused),
        remedy=first.remedy,
        detail="\n".join(f"Also: {one.found} (rule `{one.rule}`). {one.remedy}" for one in others),
    )


def _exception(refused: Refused, facts: Facts, policy: Policy, today: date) -> PolicyException | None:
    """The exception that waives this. Broken evidence is never waived: it is a sign of an attack."""
    if refused.rule is Rule.EVIDENCE:
        return None
    return next(
        (
            one
            for one in policy.exceptions
            if one.rule is refused.rule
            and today <= one.until
            and (one.image == facts.digest or (one.deployment and one.deployment == facts.wishes.deployment))
        ),
        None,
    )


def _evidence(facts: Facts, _: Policy) -> Iterator[Refused]:
    if facts.broken:
        yield Refused(Rule.EVIDENCE, facts.broken, "Do not run this image. Fetch it again from where you trust it.")


def _signed(facts: Facts, policy: Policy) -> Iterator[Refused]:
    if policy.signed.required and not facts.signed:
        told = f"only by {facts.others} keys that are not trusted" if facts.others else "by nobody"
        yield Refused(
            Rule.SIGNED,
            f"{facts.digest} must be signed, and is signed {told}",
            "Sign it with `dockyard sign`, or name the key that signed it under [signed] keys.",
        )


def _goldens(facts: Facts, policy: Policy) -> Iterator[Refused]:
    if not policy.goldens.required:
        return
    remedy = "Run `dockyard test`, then `dockyard sign`, and push again."
    if not facts.goldens:
        yield Refused(Rule.GOLDENS, f"no trusted key says that the goldens of {facts.digest} were tested", remedy)
    for statement in facts.goldens:
        failed = [str(name) for name in statement.predicate.get("failedTests", ())]
        if failed or statement.predicate.get("result") != "PASSED":
            told = ", ".join(failed[:5]) or "no result"
            yield Refused(Rule.GOLDENS, f"the goldens of {facts.digest} do not hold: {told}", remedy)


def _registry(facts: Facts, policy: Policy) -> Iterator[Refused]:
    name = repository_of(facts.wishes.image_name)
    allowed = policy.images.registries
    if allowed and not any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed):
        yield Refused(
            Rule.REGISTRY,
            f"{name!r} is from none of the allowed places: {', '.join(allowed)}",
            "Push it to an allowed registry and deploy it from there.",
        )


def _from_base(facts: Facts, policy: Policy) -> Iterator[Refused]:
    if policy.images.bases and facts.base not in policy.images.bases:
        found = f"is made from the base {facts.base}" if facts.base else "has no signed provenance that names its base"
        yield Refused(
            Rule.BASE,
            f"{facts.digest} {found}, and allowed are: {', '.join(policy.images.bases)}",
            "Build it from an allowed base, and sign it.",
        )


def _root(facts: Facts, policy: Policy) -> Iterator[Refused]:
    user, _, group = facts.user.partition(":")
    if not policy.containers.allow_root and ("root" in {user, group} or _is_zero(user)):
        yield Refused(
            Rule.ROOT,
            f"the image says that it runs as {facts.user!r}, which is root",
            "Give the image another user, such as USER 65532.",
        )


def _privileged(facts: Facts, policy: Policy) -> Iterator[Refused]:
    if facts.wishes.privileged and not policy.containers.unsafe_allow_privileged:
        yield Refused(Rule.PRIVILEGED, "it asks for a privileged container", "Leave that out; models need none of it.")


def _namespaces(facts: Facts, policy: Policy) -> Iterator[Refused]:
    if facts.wishes.host_namespaces and not policy.containers.unsafe_allow_host_namespaces:
        yield Refused(
            Rule.HOST_NAMESPACES,
            f"it asks for the host's {' and '.join(facts.wishes.host_namespaces)} namespace",
            "Leave that out; use [network] egress for what it has to reach.",
        )


def _engine_socket(facts: Facts, policy: Policy) -> Iterator[Refused]:
    if policy.containers.unsafe_allow_engine_socket:
        return
    for mount in facts.wishes.mounts:
        exposed = [socket for socket in facts.wishes.engine_sockets if _holds(mount, socket)]
        if exposed or posixpath.basename(posixpath.normpath(mount)) == "docker.sock":
            yield Refused(
                Rule.ENGINE_SOCKET,
                f"the mount of {mount} would hand over the engine's socket, and with it the host",
                "Mount only the folder that the model reads.",
            )


def _architecture(facts: Facts, _: Policy) -> Iterator[Refused]:
    if not facts.host.accepts(facts.platform):
        yield Refused(
            Rule.ARCHITECTURE,
            f"the image is for {facts.platform}, and this host is {facts.host}",
            f"Build it with `--platform {facts.host}`.",
        )


_CHECKS: tuple[Callable[[Facts, Policy], Iterator[Refused]], ...] = (
    _evidence,
    _signed,
    _goldens,
    _registry,
    _from_base,
    _root,
    _privileged,
    _namespaces,
    _engine_socket,
    _architecture,
)


def _base(provenances: Sequence[Statement]) -> str:
    """The base that a provenance of ours names; several that disagree name none."""
    told = set()
    for statement in provenances:
        try:
            told.add(str(recorded_inputs(statement.predicate).lock.get("base_image") or "debian"))
        except EvidenceError:
            told.add("")
    return told.pop() if len(told) == 1 else ""


def _is_zero(user: str) -> bool:
    return user.isascii() and user.isdigit() and int(user) == 0


def _holds(mount: str, socket: str) -> bool:
    """Whether a mounted path is the socket, or a folder that has it inside."""
    path = posixpath.normpath("/" + mount.lstrip("/"))
    return path in {"/", socket} or socket.startswith(f"{path}/")
