"""Limits and pauses: what may not go on waits, says for what, costs nothing, and goes on in its order."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from sovrun.core.errors import NotFound
from sovrun.core.ids import DagId, RunId, Tenant
from sovrun.core.lanes import Bound, Governed, Limits, LimitsChange
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import Retry
from sovrun.store.protocol import Store
from sovrun.stores.sqlite.store import SqliteStore
from support import dags
from support.acts import cancelled, change, govern, taken_up
from support.clock import START_US, SetClock
from support.folding import ways
from support.requests import (
    ACTOR,
    OTHER,
    TENANT,
    WORKER,
    broken,
    claim_one,
    commit,
    done,
    drained,
    registration,
    submission,
    submitted,
)
from support.stores import fresh_file

SINGLE = dags.shaped(dags.SINGLE)
SECOND = replace(SINGLE, id=DagId("second"))
APART = dags.shaped(dags.APART, retry=Retry(base_us=1_000, cap_us=1_000))
U = Tenant("u")


async def waits_for(store: Store, run: RunId, tenant: Tenant = TENANT) -> str | None:
    head = (await store.run(tenant, run)).head
    assert (head.state is State.RECEIVED) is (head.reason is not None)
    return head.reason


# --- pauses -------------------------------------------------------------------------------------------------------------


async def test_a_paused_dag_takes_no_new_run_and_says_so(store: Store) -> None:
    await store.register(registration(SINGLE))
    await govern(store, SINGLE.id, paused=True)
    runs = [(await store.submit(submission(SINGLE, str(number)))).run for number in range(3)]
    assert [await waits_for(store, run) for run in runs] == ["dag_paused"] * 3
    other = await submitted(store, SECOND)
    assert [lease.run for lease in await store.claim(WORKER, 9)] == [other]
    assert await ways(store, SINGLE, runs[0], TENANT) == {"a": "received"}
    await govern(store, SINGLE.id)
    assert [await waits_for(store, run) for run in runs] == [None] * 3
    assert [lease.run for lease in await store.claim(WORKER, 9)] == runs


async def test_a_paused_tenant_takes_nothing_and_others_go_on(store: Store) -> None:
    before = await submitted(store, SINGLE, "before")
    await govern(store, paused=True)
    held = await submitted(store, SINGLE, "held")
    other = await submitted(store, SINGLE, "1", tenant=U)
    assert await waits_for(store, held) == "tenant_paused"
    assert await waits_for(store, before) is None
    assert [lease.run for lease in await store.claim(WORKER, 9)] == [other], "no step is started either"
    await govern(store)
    assert [lease.run for lease in await store.claim(WORKER, 9)] == [before, held]


async def test_what_executes_when_a_pause_begins_may_end(store: Store) -> None:
    spec = dags.shaped(dags.CHAIN)
    run = await submitted(store, spec)
    lease = await claim_one(store)
    await govern(store, spec.id, paused=True)
    assert (await commit(store, done(lease), slots=9)) == (await commit(store, slots=0))
    assert await ways(store, spec, run, TENANT) == {"a": "completed", "b": "queued", "c": "received"}
    await govern(store, spec.id)
    await drained(store)
    assert (await store.run(TENANT, run)).head.state is State.COMPLETED


async def test_unpausing_serves_a_claim_that_waits(store: Store) -> None:
    run = await submitted(store, SINGLE)
    await govern(store, SINGLE.id, paused=True)
    claim = asyncio.create_task(store.claim(WORKER, 1, patience_us=30_000_000))
    await store.claim(OTHER, 1)
    assert not claim.done()
    await govern(store, SINGLE.id)
    assert [lease.run for lease in await claim] == [run]


async def test_an_unknown_dag_cannot_be_governed(store: Store) -> None:
    with pytest.raises(NotFound):
        await govern(store, DagId("unknown"), paused=True)
    await submitted(store, SINGLE)
    with pytest.raises(NotFound):
        await govern(store, SINGLE.id, tenant=U, paused=True)


async def test_limits_are_read_as_they_were_set(store: Store) -> None:
    await submitted(store, SINGLE)
    assert await store.tenant_limits(TENANT) == Limits()
    await govern(store, paused=False, runs_max=3, steps_max=5, weight=2)
    await govern(store, SINGLE.id, paused=True, steps_max=1)
    assert await store.tenant_limits(TENANT) == Limits(paused=False, runs_max=3, steps_max=5, weight=2)
    [depth] = await store.depths(TENANT)
    assert depth.limits == Limits(paused=True, steps_max=1)
    assert await store.tenant_limits(U) == Limits()


@pytest.mark.parametrize("dag", [SINGLE.id, None])
async def test_who_changes_one_thing_does_not_undo_another(store: Store, dag: DagId | None) -> None:
    """Both have looked before either writes, and neither has seen what the other is about to do."""
    await store.register(registration(SINGLE))
    await govern(store, dag, runs_max=7)
    looks = await asyncio.gather(allowed(store, dag), allowed(store, dag))
    assert looks == [Limits(runs_max=7)] * 2
    paused, limited = await asyncio.gather(
        change(store, LimitsChange(paused=True), dag), change(store, LimitsChange(steps_max=Bound(3)), dag)
    )
    assert (paused, limited) == (
        Governed(Limits(paused=True, runs_max=7), changed=True),
        Governed(Limits(paused=True, runs_max=7, steps_max=3), changed=True),
    )
    assert await allowed(store, dag) == limited.limits
    freed = await change(store, LimitsChange(runs_max=Bound(None)), dag)
    assert freed.limits == await allowed(store, dag) == Limits(paused=True, steps_max=3)


async def test_what_is_so_already_is_said_and_changes_nothing(store: Store) -> None:
    await store.register(registration(SINGLE))
    first = await change(store, LimitsChange(paused=True), SINGLE.id)
    again = await change(store, LimitsChange(paused=True), SINGLE.id)
    assert (first.changed, again.changed) == (True, False)
    assert first.limits == again.limits
    weighed = await change(store, LimitsChange(weight=2), SINGLE.id)
    assert weighed == (Limits(paused=True), False), "tenants take turns, DAGs do not"


async def test_an_act_says_what_was_changed_and_what_holds_since(tmp_path: Path) -> None:
    path = fresh_file(tmp_path)
    store = SqliteStore.open_owner(path, SetClock())
    await store.register(registration(SINGLE))
    await change(store, LimitsChange(steps_max=Bound(3)), SINGLE.id)
    await change(store, LimitsChange(runs_max=Bound(None), paused=True), SINGLE.id)
    await change(store, LimitsChange(paused=True), SINGLE.id)
    await change(store, LimitsChange(weight=2))
    found = store._connection.execute("SELECT type, actor, data FROM act ORDER BY key").fetchall()
    assert [(type_, actor) for type_, actor, _ in found] == [
        *[("dag.governed", ACTOR)] * 2,
        ("tenant.governed", ACTOR),
    ]
    bounds = {"note": "", "paused": False, "runsMax": None, "stepsMax": None, "weight": 1}
    assert [json.loads(data) for _, _, data in found] == [
        bounds | {"dagId": SINGLE.id, "change": {"stepsMax": 3}, "stepsMax": 3},
        bounds
        | {"dagId": SINGLE.id, "change": {"paused": True, "runsMax": None}, "paused": True, "stepsMax": 3},
        bounds | {"dagId": None, "change": {"weight": 2}, "weight": 2},
    ]
    await store.close()


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"weight": 1_001}])
def test_a_weight_that_gives_no_turn_is_none(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="from 1 to 1,000"):
        LimitsChange(**wrong)
    for most in (-1, 1_000_001):
        with pytest.raises(ValueError, match="from 0 to 1,000,000"):
            Bound(most)


async def allowed(store: Store, dag: DagId | None) -> Limits:
    """Return what an operator allows a DAG, or the tenant."""
    if dag is None:
        return await store.tenant_limits(TENANT)
    return next(depth.limits for depth in await store.depths(TENANT) if depth.dag == dag)


# --- runs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dag", [SINGLE.id, None])
async def test_no_more_runs_than_allowed_are_admitted_and_the_next_when_one_ends(
    store: Store, dag: DagId | None
) -> None:
    await store.register(registration(SINGLE))
    await govern(store, dag, runs_max=2)
    runs = [await submitted(store, SINGLE, str(number)) for number in range(5)]
    assert [await waits_for(store, run) for run in runs] == [None, None, *["run_limit"] * 3]
    first, second = await store.claim(WORKER, 9)
    committed = await commit(store, done(second), slots=9)
    assert [lease.run for lease in committed.leases] == [runs[2]], "in the very commit that makes room"
    await cancelled(store, runs[3])
    await commit(store, done(first))
    assert (await store.run(TENANT, runs[4])).head.state is State.QUEUED


async def test_a_run_says_what_it_waits_for_now(store: Store) -> None:
    """Not what it waited for when it came: who looks at it wants to know what to do."""
    await store.register(registration(SINGLE))
    await govern(store, paused=True)
    run = (await store.submit(submission(SINGLE, "1"))).run
    assert await waits_for(store, run) == "tenant_paused"
    await govern(store, SINGLE.id, paused=True)
    await govern(store, paused=False)
    assert await waits_for(store, run) == "dag_paused"
    assert [record.head.reason for record in await store.runs(TENANT, limit=9)] == ["dag_paused"]
    await govern(store, SINGLE.id, runs_max=0)
    assert await waits_for(store, run) == "run_limit"
    await govern(store, SINGLE.id)
    assert await waits_for(store, run) is None
    await govern(store, SINGLE.id, runs_max=1)
    second = (await store.submit(submission(SINGLE, "2"))).run
    assert await waits_for(store, second) == "run_limit"
    await cancelled(store, second)
    head = (await store.run(TENANT, second)).head
    assert (head.state, head.reason) == (State.CANCELLED, "run_cancelled")


async def test_waiting_runs_are_admitted_first_come_first_across_the_dags_of_a_tenant(store: Store) -> None:
    """Else the first DAG's runs would keep the second's in `received` for ever."""
    await store.register(registration(SINGLE))
    await store.register(registration(SECOND))
    await govern(store, runs_max=1)
    runs = [
        await submitted(store, spec, str(number))
        for number, spec in enumerate([SINGLE, SECOND, SINGLE, SECOND, SINGLE])
    ]
    assert [lease.run for lease in await drained(store)] == runs


async def test_a_lower_priority_number_is_admitted_first(store: Store) -> None:
    await store.register(registration(SINGLE))
    await govern(store, SINGLE.id, runs_max=0)
    runs = [
        await submitted(store, SINGLE, str(number), priority=priority)
        for number, priority in enumerate((50, 10, 20, 10))
    ]
    await govern(store, SINGLE.id, runs_max=1)
    assert [lease.run for lease in await drained(store)] == [runs[1], runs[3], runs[2], runs[0]]


async def test_a_newcomer_does_not_overtake_who_waits_for_admission(store: Store) -> None:
    """Not even one that comes together with what makes the room."""
    await store.register(registration(SINGLE))
    await govern(store, SINGLE.id, runs_max=1)
    await submitted(store, SINGLE, "0")
    waits = await submitted(store, SINGLE, "1")
    _, made = await asyncio.gather(
        govern(store, SINGLE.id, runs_max=2), store.submit(submission(SINGLE, "2"))
    )
    assert await waits_for(store, waits) is None
    assert await waits_for(store, made.run) == "run_limit"


async def test_a_waiting_run_counts_while_it_waits(store: Store) -> None:
    spec = dags.dag(dags.tool("ask"))
    await store.register(registration(spec))
    await govern(store, spec.id, runs_max=1)
    first, second = [await submitted(store, spec, str(number)) for number in range(2)]
    await taken_up(store)
    assert await waits_for(store, second) == "run_limit"
    await cancelled(store, first)
    assert await waits_for(store, second) is None
    assert [step.run for step in await store.pending(9)] == [second]


# --- steps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dag", [APART.id, None])
async def test_no_more_steps_than_allowed_are_held(store: Store, dag: DagId | None, clock: SetClock) -> None:
    await submitted(store, APART, "1")
    await submitted(store, APART, "2")
    await govern(store, dag, steps_max=2)
    first, second = await store.claim(WORKER, 9)
    assert await store.claim(OTHER, 9) == []
    committed = await commit(store, broken(first), slots=9)
    assert len(committed.leases) == 1, "a step that waits for its retry holds no slot"
    clock.advance(1_000)
    committed = await commit(store, done(second), slots=9)
    assert [lease.attempt for lease in committed.leases] == [2]
    await govern(store, dag)
    assert len(await store.claim(OTHER, 9)) == 3


async def test_a_tenant_at_its_limit_leaves_the_slots_to_others(store: Store) -> None:
    await submitted(store, APART)
    await submitted(store, APART, tenant=U)
    await govern(store, steps_max=1)
    assert [lease.tenant for lease in await store.claim(WORKER, 9)] == [TENANT, U, U, U]


async def test_the_limit_of_a_dag_and_of_its_tenant_both_hold(store: Store) -> None:
    await submitted(store, APART)
    await submitted(store, replace(APART, id=DagId("second")))
    await govern(store, steps_max=3)
    await govern(store, APART.id, steps_max=1)
    leases = await store.claim(WORKER, 9)
    assert len(leases) == 3
    assert [lease.position for lease in leases] == [0, 0, 1]


# --- order and turns ----------------------------------------------------------------------------------------------------


async def test_runs_of_priority_50_10_20_come_out_10_20_50(store: Store) -> None:
    runs = {
        priority: await submitted(store, SINGLE, str(priority), priority=priority)
        for priority in (50, 10, 20)
    }
    assert [lease.run for lease in await drained(store, slots=1)] == [runs[10], runs[20], runs[50]]


async def test_equal_priorities_come_out_in_order_of_arrival_across_dags(store: Store) -> None:
    runs = [
        await submitted(store, spec, str(number))
        for number, spec in enumerate([SECOND, SINGLE, SECOND, SINGLE])
    ]
    assert [lease.run for lease in await drained(store, slots=1)] == runs


async def test_a_tenant_takes_as_many_steps_in_its_turn_as_its_weight(store: Store) -> None:
    for number in range(3):
        await submitted(store, APART, str(number))
        await submitted(store, APART, str(number), tenant=U)
    await govern(store, weight=3)
    order = "".join(lease.tenant for lease in await store.claim(WORKER, 6))
    order += "".join([(await claim_one(store)).tenant for _ in range(6)])
    assert order == "tttutttutttu"


# --- depths -------------------------------------------------------------------------------------------------------------


async def test_depths_tell_what_is_queued_and_since_when(store: Store, clock: SetClock) -> None:
    await submitted(store, APART)
    await store.register(registration(SECOND))
    clock.advance(5)
    await submitted(store, APART, "urgent", priority=1)
    first, second = await store.depths(TENANT)
    assert (first.dag, first.queued, first.executing, first.oldest_us) == (APART.id, 6, 0, START_US)
    assert (second.dag, second.queued, second.oldest_us) == (SECOND.id, 0, None)
    assert (first.runs, second.runs) == (2, 0)
    await store.claim(WORKER, 4)
    first, _ = await store.depths(TENANT)
    assert (first.queued, first.executing) == (2, 4)
    assert list(await store.depths(U)) == []


async def test_the_step_that_waits_longest_may_stand_behind_a_newcomer(store: Store, clock: SetClock) -> None:
    """An older run's later step comes to the queue after, and stands before, what has waited there for an hour."""
    chain = dags.shaped(dags.CHAIN)
    await submitted(store, chain, "1")
    lease = await claim_one(store)
    await submitted(store, chain, "2")
    clock.advance(3_600_000_000)
    await commit(store, done(lease))
    [depth] = await store.depths(TENANT)
    assert (depth.queued, depth.oldest_us) == (2, START_US)
    lease = await claim_one(store)
    assert lease.position == 1, "the newcomer goes first"
    assert (await store.depths(TENANT))[0].oldest_us == START_US
    clock.advance(7)
    await claim_one(store)
    assert (await store.depths(TENANT))[0].oldest_us is None
    await commit(store, done(lease))
    assert (await store.depths(TENANT))[0].oldest_us == clock.now_us()


async def test_a_run_that_is_not_admitted_is_in_no_queue(store: Store) -> None:
    await store.register(registration(APART))
    await govern(store, APART.id, paused=True)
    await submitted(store, APART)
    [depth] = await store.depths(TENANT)
    assert (depth.queued, depth.oldest_us) == (0, None)


async def test_depths_tell_how_many_runs_wait_to_be_admitted_since_when_and_why(
    store: Store, clock: SetClock
) -> None:
    await store.register(registration(SINGLE))
    await store.register(registration(SECOND))
    await govern(store, SINGLE.id, runs_max=1)
    first = await submitted(store, SINGLE, "1")
    clock.advance(10)
    second = await submitted(store, SINGLE, "2")
    clock.advance(10)
    urgent = await submitted(store, SINGLE, "3", priority=1)
    depth, other = await store.depths(TENANT)
    assert (depth.runs, depth.waiting, depth.waiting_us) == (1, 2, START_US + 10)
    assert depth.waits_for == "run_limit"
    assert (other.runs, other.waiting, other.waiting_us, other.waits_for) == (0, 0, None, None)
    await govern(store, SINGLE.id, runs_max=1, paused=True)
    assert (await waiting_for(store)) == {SINGLE.id: "dag_paused"}
    await govern(store, paused=True)
    assert (await waiting_for(store)) == {SINGLE.id: "tenant_paused"}
    await cancelled(store, second)
    [depth] = [depth for depth in await store.depths(TENANT) if depth.waiting]
    assert (depth.waiting, depth.waiting_us) == (1, START_US + 20)
    await govern(store)
    await govern(store, runs_max=1)
    await govern(store, SINGLE.id)
    assert (await waiting_for(store)) == {SINGLE.id: "run_limit"}, "the tenant's"
    await cancelled(store, first)
    assert (await waiting_for(store)) == {}
    await cancelled(store, urgent)
    assert {(depth.runs, depth.waiting) for depth in await store.depths(TENANT)} == {(0, 0)}


async def waiting_for(store: Store) -> dict[str, str | None]:
    """Return why runs wait to be admitted, by DAG."""
    return {depth.dag: depth.waits_for for depth in await store.depths(TENANT) if depth.waiting}


# --- what blocked work costs --------------------------------------------------------------------------------------------


class Counted:
    """Counts the statements of a connection, and how far SQLite walks for them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.statements = self.ticks = 0
        self._connection = connection

    def __enter__(self) -> Self:
        self._connection.set_trace_callback(self._stated)
        self._connection.set_progress_handler(self._ticked, 10)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.set_trace_callback(None)
        self._connection.set_progress_handler(None, 0)

    def _stated(self, _: str) -> None:
        self.statements += 1

    def _ticked(self) -> int:
        self.ticks += 1
        return 0


@pytest.mark.parametrize("closed", ["paused", "full"])
async def test_ten_thousand_blocked_steps_cost_a_claim_nothing(tmp_path: Path, closed: str) -> None:
    wide = replace(dags.dag(*(dags.step(f"s{number}") for number in range(2_000))), id=DagId("wide"))
    store = SqliteStore.open_owner(fresh_file(tmp_path), SetClock())
    await submitted(store, SINGLE, "first")
    await drained(store)  # the first claim of a store writes down whose turn it is
    costs = []
    for blocked in (0, 5):
        for number in range(blocked):
            await submitted(store, wide, f"blocked{number}", priority=1)
        if blocked:
            await govern(store, wide.id, **({"paused": True} if closed == "paused" else {"steps_max": 0}))
        await submitted(store, SINGLE, f"free{blocked}")
        with Counted(store._writing) as counted:
            lease = await claim_one(store)
        costs.append((counted.statements, counted.ticks))
        await commit(store, done(lease))
    assert sum(depth.queued for depth in await store.depths(TENANT)) == 10_000
    (statements, ticks), (statements_blocked, ticks_blocked) = costs
    assert statements_blocked == statements
    assert ticks_blocked <= ticks + 5, "the walk through the tables is no longer either"
    await store.close()


async def test_depths_cost_the_same_however_much_waits(tmp_path: Path) -> None:
    wide = replace(dags.dag(*(dags.step(f"s{number}") for number in range(2_000))), id=DagId("wide"))
    store = SqliteStore.open_owner(fresh_file(tmp_path), SetClock())
    reading = store._connection
    await store.register(registration(SINGLE))
    await govern(store, SINGLE.id, runs_max=0)
    costs = []
    for queued in (1, 4):
        for number in range(queued):
            await submitted(store, wide, f"queued{queued}.{number}", priority=number)
        for number in range(100 * queued):
            await submitted(store, SINGLE, f"waits{queued}.{number}")
            if number % 2:
                await cancelled(store, submission(SINGLE, f"waits{queued}.{number}").id)
        with Counted(reading) as counted:
            depths = await store.depths(TENANT)
        costs.append(counted.ticks)
    assert sum(depth.queued for depth in depths) == 10_000
    assert sum(depth.waiting for depth in depths) == 250
    assert costs[1] <= costs[0] + 1
    await store.close()
