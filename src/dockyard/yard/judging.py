"""The policy at work: read anew for every deployment, held against it, and exceptions noted in the audit log.

`admission` calls it. A policy that was there once and cannot be read any more refuses everything: fail closed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dockyard.oci.image import Image, Platform
from dockyard.spec.deployment import Deployment
from dockyard.spec.load import load_policy
from dockyard.spec.policy import Policy
from dockyard.supply.keys import PublicKey
from dockyard.supply.policy import Excepted, Wishes, facts_of, judge, refusal
from dockyard.yard.audit import AuditLog, Entry
from dockyard.yard.host import Host
from dockyard.yard.store import Store

_SEEN = "policy"


class Judge:
    """Judges images and deployments by the policy in `file`. `trusted`: the keys where the policy names none."""

    def __init__(
        self, host: Host, store: Store, audit: AuditLog, file: Path, trusted: Callable[[], Sequence[PublicKey]]
    ) -> None:
        self._host = host
        self._store = store
        self._audit = audit
        self._file = file
        self._trusted = trusted

    def __call__(self, image: Image, asked: Deployment) -> tuple[str, ...]:
        """PolicyError, naming the rule, or notes for people; PolicyFileError when the policy cannot be read."""
        policy = self._policy()
        mounts = tuple(path for one in asked.mounts for path in {one.source, str(Path(one.source).resolve())})
        wishes = Wishes(asked.name, asked.image.partition("@")[0], mounts)
        facts = facts_of(self._host.images, image, wishes, self._keys(policy), Platform.host())
        verdict = judge(facts, policy, datetime.now(UTC).date())
        if not verdict.allowed:
            raise refusal(verdict, asked.name)
        return tuple(self._used(asked.name, one) for one in verdict.excepted)

    def _policy(self) -> Policy:
        policy = load_policy(self._file, required=bool(self._store.note(_SEEN)))
        if self._file.exists() and not self._store.note(_SEEN):
            self._store.set_note(_SEEN, str(self._file))
        return policy

    def _keys(self, policy: Policy) -> Sequence[PublicKey]:
        if policy.signed.keys:
            return tuple(PublicKey.read(self._file.parent / name) for name in policy.signed.keys)
        return self._trusted()

    def _used(self, deployment: str, excepted: Excepted) -> str:
        rule, exception = excepted.refused.rule, excepted.exception
        self._audit.append(Entry("policy", "exception", deployment, why=exception.reason, rule=rule))
        return f"rule `{rule}` is waived until {exception.until}: {exception.reason}"
