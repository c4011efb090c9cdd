"""The policy at work: read anew for every deployment and rollback, and held against it.

`admission` calls it. A policy that was there once and cannot be read any more refuses everything: fail closed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from dockyard.oci.image import Image, Platform
from dockyard.spec.deployment import Deployment
from dockyard.spec.load import load_policy
from dockyard.spec.policy import Policy
from dockyard.supply.keys import PublicKey
from dockyard.supply.policy import Excepted, facts_of, judge, keys_of, refusal, wishes_of
from dockyard.yard.host import Host
from dockyard.yard.store import Store

_SEEN = "policy"


@dataclass(frozen=True)
class PolicyPlace:
    """Where the policy is. `required`: somebody named this file, so nothing is allowed while it is not there."""

    file: Path
    required: bool = False


class Judge:
    """Judges images and deployments by a policy. `trusted`: the keys where the policy names none."""

    def __init__(
        self, host: Host, store: Store, policy: PolicyPlace, trusted: Callable[[], Sequence[PublicKey]]
    ) -> None:
        self._host = host
        self._store = store
        self._place = policy
        self._trusted = trusted

    def __call__(self, image: Image, asked: Deployment) -> tuple[Excepted, ...]:
        """PolicyError, naming the rule, or the exceptions used; PolicyFileError when the policy cannot be read."""
        policy = self._policy()
        wishes = wishes_of(asked, asked.image.partition("@")[0])
        keys = keys_of(policy, self._place.file.parent, self._trusted())
        verdict = judge(facts_of(self._host.images, image, wishes, keys, Platform.host()), policy, _today())
        if not verdict.allowed:
            raise refusal(verdict, asked.name)
        return verdict.excepted

    def _policy(self) -> Policy:
        file = self._place.file
        policy = load_policy(file, required=self._place.required or bool(self._store.note(_SEEN)))
        if file.exists() and not self._store.note(_SEEN):
            self._store.set_note(_SEEN, str(file))
        return policy


def _today() -> date:
    return datetime.now(UTC).date()
