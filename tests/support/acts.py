"""What the engine, tools and people do to runs, sent to a store as the engine sends it."""

from __future__ import annotations

from collections.abc import Sequence

from sovrun.core.actions import Answer, CancelRun, Decide, EnterWait, Release
from sovrun.core.ids import Actor, DagId, Digest, RunId, Tenant
from sovrun.core.lanes import Governed, Limits, LimitsChange
from sovrun.store.protocol import Acted, Governance, Pending, Store
from support.requests import ACTOR, TENANT, payload

ALICE = Actor("local:alice")
BOB = Actor("local:bob")
SHOWN = payload({"image": "a"})
OUTPUT = payload({"answer": 42})
WHY = payload("why")


async def taken_up(store: Store) -> list[Pending]:
    """Take up every pending step as the engine does, until none is left: waits begin, others go to the workers."""
    seen: list[Pending] = []
    while pending := list(await store.pending(100)):
        for step in pending:
            spec = await store.act(enter(step), payloads=[SHOWN])
            assert spec.changed
        seen += pending
    return seen


def enter(step: Pending) -> EnterWait:
    return EnterWait(step.tenant, step.run, step.position, SHOWN.digest, SHOWN.digest)


def release(step: Pending) -> Release:
    return Release(step.tenant, step.run, step.position)


def answer(
    run: RunId,
    position: int = 0,
    *,
    output: Digest | None = OUTPUT.digest,
    actor: Actor = ALICE,
    chosen: Sequence[int] | None = None,
) -> Answer:
    """Return a tool's answer; without an output, that it could not."""
    error = WHY.digest if output is None else None
    return Answer(TENANT, run, position, actor, output, error, None if chosen is None else tuple(chosen))


def decision(
    run: RunId,
    position: int = 0,
    *,
    approve: bool = True,
    shown: Digest = SHOWN.digest,
    actor: Actor = ALICE,
    rationale: Digest | None = None,
) -> Decide:
    return Decide(TENANT, run, position, actor, approve, shown, OUTPUT.digest, rationale)


def cancel(run: RunId, *, actor: Actor = ALICE, note: Digest | None = None) -> CancelRun:
    return CancelRun(TENANT, run, actor, note)


async def cancelled(store: Store, run: RunId) -> Acted:
    return await store.act(cancel(run))


async def govern(
    store: Store, dag: DagId | None = None, *, tenant: Tenant = TENANT, **limits: int | bool | None
) -> None:
    """Set all the limits of a DAG or tenant anew."""
    wanted = LimitsChange.to(Limits(**limits))  # type: ignore[arg-type] # by name
    await store.govern(Governance(tenant, dag, wanted, ACTOR))


async def change(
    store: Store, wanted: LimitsChange, dag: DagId | None = None, *, tenant: Tenant = TENANT
) -> Governed:
    """Change some of the limits of a DAG or tenant."""
    return await store.govern(Governance(tenant, dag, wanted, ACTOR))
