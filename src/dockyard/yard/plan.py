"""What to do now: the yard's one decision, as a pure function of the world and the time.

`reconcile` calls `plan` whenever something has happened or `Plan.wake` has come, and `act` carries the plan out;
`service` calls it for `--dry-run` and shows what `describe` says of it. It may be called at any time, with whatever a
crash has left, and as often as one likes: it looks at what is there, never at what was planned before.
"""

from __future__ import annotations

from collections import Counter

from dockyard.yard import rollout
from dockyard.yard.capacity import Memory
from dockyard.yard.draft import Draft
from dockyard.yard.draining import dismiss, finish_leaving
from dockyard.yard.keeping import look_after
from dockyard.yard.routing import share
from dockyard.yard.scaling import hold_at
from dockyard.yard.state import (
    Advance,
    Create,
    DeploymentState,
    Forget,
    Freeze,
    Mark,
    Move,
    Plan,
    Restart,
    Start,
    Step,
    Stop,
    Thaw,
    World,
)


def plan(world: World, now: float) -> Plan:
    """The traffic and the steps for every deployment. `now`: seconds on the clock of the world's times."""
    memory = Memory(world)
    drafts = [_draft(deployment, now, memory) for deployment in world.deployments]
    return Plan(
        traffic={draft.deployment.name: draft.traffic for draft in drafts},
        steps=tuple(step for draft in drafts for step in draft.steps),
        wake=min((draft.wake for draft in drafts if draft.wake is not None), default=None),
        notes=tuple(note for draft in drafts for note in draft.notes),
    )


def _draft(deployment: DeploymentState, now: float, memory: Memory) -> Draft:
    draft = Draft(deployment, now, memory)
    with memory.turn_of(deployment.name):
        _fill(draft)
    return draft


def _fill(draft: Draft) -> None:
    deployment = draft.deployment
    if deployment.deleted:
        _delete(draft)
        return
    if draft.rollout is not None:
        rollout.go_on(draft, draft.rollout)
    elif deployment.active is not None:
        hold_at(draft, deployment.active, deployment.wanted)
        share(draft, [deployment.active])
    look_after(draft)
    finish_leaving(draft)


def _delete(draft: Draft) -> None:
    """Everything goes the way of every replica; when all are gone, so does the record."""
    for replica in draft.deployment.replicas:
        dismiss(draft, replica, "the deployment is deleted")
    share(draft, [])
    if not draft.deployment.replicas:
        draft.steps.append(Forget(draft.deployment.name))


def describe(plan: Plan) -> tuple[str, ...]:
    """The plan's steps for people, one sentence each; equal ones are counted."""
    return tuple(_sentence(step, count) for step, count in Counter(plan.steps).items())


def _sentence(step: Step, count: int) -> str:
    match step:
        case Start(revision=revision):
            text = f"start {_replicas(count)} of revision {revision}"
        case Create(revision=revision):
            text = f"make the socket of {_replicas(count)} of revision {revision}, and start later"
        case Restart(replica=replica):
            text = f"start {replica} again"
        case Move(replica=replica, phase=phase, why=why):
            text = f"{replica} is {phase}{_because(why)}"
        case Stop(replica=replica, why=why):
            text = f"stop {replica}{_because(why)}"
        case Freeze(replica=replica):
            text = f"freeze {replica}"
        case Thaw(replica=replica):
            text = f"thaw {replica}"
        case Advance(phase=phase, why=why):
            text = f"the rollout is {phase}{_because(why)}"
        case Mark(revision=revision, state=state, why=why):
            text = f"revision {revision} is {state}{_because(why)}"
        case Forget():
            text = "forget the deployment"
    return f"{step.deployment}: {text}"


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"


def _because(why: str) -> str:
    return f": {why}" if why else ""
