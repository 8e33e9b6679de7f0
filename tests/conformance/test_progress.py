"""What reports do to a run: dependents, retries, lost workers, late reports; and that the history tells all of it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from sovrun.core.ids import RunId, Tenant
from sovrun.core.lifecycle import Cause, Reason, State
from sovrun.core.spec.model import Retry
from sovrun.core.step import QUEUED
from sovrun.store.protocol import Committed, Store
from support import dags
from support.clock import START_US, SetClock
from support.folding import require_told_by_history, ways
from support.requests import (
    OTHER,
    TENANT,
    WORKER,
    broken,
    claim_one,
    commit,
    done,
    drained,
    step_of,
    submitted,
)

CHAIN = dags.shaped(dags.CHAIN)
TWICE = Retry(max_attempts=2, max_failures=2, base_us=1_000, cap_us=1_000)


async def types(store: Store, run: RunId) -> list[str]:
    return [event.type for event in await store.events(TENANT, run)]


# --- going on -----------------------------------------------------------------------------------------------------------


@pytest.mark.owner_only("the socket signs what it is sent with the caller's own name")
async def test_a_chain_is_recorded_event_by_event(store: Store) -> None:
    run = await submitted(store, dags.shaped({"a": "", "b": "a"}))
    await drained(store)
    told = [(event.type, event.step, event.actor) for event in await store.events(TENANT, run)]
    assert told == [
        ("run.received", None, "local:tester"),
        ("step.queued", "a", "engine"),
        ("run.queued", None, "engine"),
        ("step.executing", "a", "worker:worker/1"),
        ("run.executing", None, "engine"),
        ("step.completed", "a", "worker:worker/1"),
        ("step.queued", "b", "engine"),
        ("step.executing", "b", "worker:worker/1"),
        ("step.completed", "b", "worker:worker/1"),
        ("run.completed", None, "engine"),
    ]


async def test_a_commit_readies_dependents_and_claims_them_for_its_worker(store: Store) -> None:
    run = await submitted(store, CHAIN)
    committed = await commit(store, done(await claim_one(store)), slots=1)
    assert (committed.lost, committed.ended) == ((), ())
    assert [(step_of(CHAIN, lease), lease.worker) for lease in committed.leases] == [("b", WORKER)]
    assert await ways(store, CHAIN, run, TENANT) == {"a": "completed", "b": "executing", "c": "received"}


async def test_a_commit_without_slots_leaves_dependents_in_the_queue(store: Store) -> None:
    run = await submitted(store, CHAIN)
    assert (await commit(store, done(await claim_one(store)))).leases == ()
    assert (await ways(store, CHAIN, run, TENANT))["b"] == "queued"
    assert (await store.steps(TENANT, run))[1] == QUEUED


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_a_join_waits_for_all_of_its_needs(store: Store, order: Sequence[int]) -> None:
    spec = dags.shaped(dags.FAN_IN)
    run = await submitted(store, spec)
    leases = await store.claim(WORKER, 3)
    for number, position in enumerate(order, start=1):
        committed = await commit(store, done(leases[position]), slots=1)
        assert [step_of(spec, lease) for lease in committed.leases] == (["d"] if number == 3 else [])
    assert (await ways(store, spec, run, TENANT))["d"] == "executing"


async def test_a_join_is_readied_once_by_needs_that_end_in_one_commit(store: Store) -> None:
    spec = dags.shaped(dags.FAN_IN)
    run = await submitted(store, spec)
    committed = await commit(store, *map(done, await store.claim(WORKER, 3)), slots=5)
    assert [step_of(spec, lease) for lease in committed.leases] == ["d"]
    assert (await types(store, run)).count("step.queued") == 2


async def test_steps_readied_together_are_one_event(store: Store) -> None:
    spec = dags.shaped(dags.FAN_OUT)
    run = await submitted(store, spec)
    await commit(store, done(await claim_one(store)), slots=3)
    last = (await store.events(TENANT, run))[-2:]
    assert [(event.type, event.step, json.loads(event.data)["steps"]) for event in last] == [
        ("step.queued", None, ["b", "c", "d"]),
        ("step.executing", None, ["b", "c", "d"]),
    ]


async def test_a_wide_fan_out_is_one_event_however_long_its_text(store: Store) -> None:
    wide = dags.shaped(
        {"root": "", **{f"leaf-{number:03}": "root" for number in range(200)}, "sink": "leaf-000"}
    )
    run = await submitted(store, wide)
    await commit(store, done(await claim_one(store)))
    last = (await store.events(TENANT, run))[-1]
    assert len(json.loads(last.data)["steps"]) == 200
    assert len(await drained(store, slots=50)) == 201
    assert (await store.run(TENANT, run)).head.state is State.COMPLETED
    await require_told_by_history(store, wide, run, TENANT)


async def test_one_commit_may_report_on_runs_of_several_tenants(store: Store) -> None:
    runs = [await submitted(store, CHAIN, tenant=tenant) for tenant in (TENANT, Tenant("u"))]
    leases = await store.claim(WORKER, 2)
    committed = await commit(store, *map(done, leases), slots=2)
    assert sorted(lease.run for lease in committed.leases) == sorted(runs)


# --- failures and retries -----------------------------------------------------------------------------------------------


async def test_a_failure_is_tried_again_at_its_due_time_and_not_before(store: Store, clock: SetClock) -> None:
    spec = dags.shaped(dags.SINGLE, retry=TWICE)
    run = await submitted(store, spec)
    await commit(store, broken(await claim_one(store)), slots=1)
    step = (await store.steps(TENANT, run))[0]
    assert (step.state, step.reason, step.until_us) == (
        State.AWAITING_TOOL,
        Reason.RETRY_DUE,
        START_US + 1_000,
    )
    assert (await store.run(TENANT, run)).head.state is State.AWAITING_TOOL
    clock.advance(999)
    assert await store.claim(WORKER, 1) == []
    clock.advance(1)
    again = await claim_one(store)
    assert (again.attempt, again.fence) == (2, 2)
    assert (await commit(store, done(again))).ended == (run,)
    assert await ways(store, spec, run, TENANT) == {"a": "completed"}


async def test_a_wait_that_is_over_may_be_claimed_in_the_commit_of_another_step(
    store: Store, clock: SetClock
) -> None:
    spec = dags.shaped(dags.APART, retry=TWICE)
    await submitted(store, spec)
    first, second, third = await store.claim(WORKER, 3)
    await commit(store, broken(first))
    clock.advance(1_000)
    committed = await commit(store, done(second), slots=2)
    assert [(lease.position, lease.attempt) for lease in committed.leases] == [(0, 2)]
    await commit(store, done(committed.leases[0]), done(third))


@pytest.mark.parametrize(
    ("retry", "reason", "attempts"),
    [
        (Retry(3, 3, 1_000, 1_000), "attempt_budget_exhausted", 3),
        (Retry(5, 2, 1_000, 1_000), "failure_budget_exhausted", 2),
    ],
)
async def test_a_step_that_always_fails_spends_its_budget_and_fails_the_run(
    store: Store, clock: SetClock, retry: Retry, reason: str, attempts: int
) -> None:
    spec = dags.shaped({"a": "", "b": "a", "c": ""}, retry=retry)
    run = await submitted(store, spec)
    for _ in range(attempts):
        lease = await claim_one(store)
        assert lease.position == 0
        await commit(store, broken(lease))
        clock.advance(1_000)
    assert await ways(store, spec, run, TENANT) == {"a": reason, "b": "upstream_failed", "c": "queued"}
    await drained(store)
    record = await store.run(TENANT, run)
    assert (record.head.state, record.head.reason) == (State.FAILED, Reason.STEP_FAILED)
    assert record.head.reproducible is True
    assert (await store.steps(TENANT, run))[0].cause is Cause.WORK


async def test_what_failed_is_kept_with_the_step(store: Store) -> None:
    spec = dags.shaped(dags.SINGLE)
    run = await submitted(store, spec)
    report = broken(await claim_one(store), "wall_time_exceeded", circumstance=True, retryable=False)
    assert (await commit(store, report)).ended == (run,)
    step = (await store.steps(TENANT, run))[0]
    assert (step.reason, step.failure, step.cause) == (
        "wall_time_exceeded",
        "wall_time_exceeded",
        Cause.CIRCUMSTANCE,
    )
    assert step.error == report.payloads[0].digest
    assert await store.payload(TENANT, report.payloads[0].digest) == report.payloads[0].body
    assert (await store.run(TENANT, run)).head.reproducible is False


# --- lost workers -------------------------------------------------------------------------------------------------------


async def test_recovery_takes_back_every_lease_and_uses_one_attempt(store: Store) -> None:
    spec = dags.shaped(dags.APART, retry=TWICE)
    runs = [await submitted(store, spec, str(number)) for number in range(2)]
    first = await store.claim(WORKER, 4)
    assert await store.recover() == 4
    assert await store.recover() == 0
    for run in runs:
        await require_told_by_history(store, spec, run, TENANT)
    again = await store.claim(OTHER, 6)
    assert [(lease.run, lease.position) for lease in again[:4]] == [
        (lease.run, lease.position) for lease in first
    ]
    assert [(lease.attempt, lease.fence) for lease in again] == [(2, 2)] * 4 + [(1, 1)] * 2


async def test_a_worker_lost_at_the_last_attempt_fails_its_step_for_circumstance(store: Store) -> None:
    run = await submitted(store, CHAIN)
    await claim_one(store)
    assert await store.recover() == 1
    assert await ways(store, CHAIN, run, TENANT) == {
        "a": "attempt_budget_exhausted",
        "b": "upstream_failed",
        "c": "upstream_failed",
    }
    head = (await store.run(TENANT, run)).head
    assert (head.state, head.reproducible) == (State.FAILED, False)


async def test_recovery_of_a_store_where_nothing_runs_writes_nothing(store: Store) -> None:
    run = await submitted(store, CHAIN)
    before = await store.events(TENANT, run)
    assert await store.recover() == 0
    assert await store.events(TENANT, run) == before


async def test_a_late_report_writes_nothing_and_comes_back(store: Store) -> None:
    run = await submitted(store, dags.shaped(dags.SINGLE, retry=Retry()))
    late = await claim_one(store)
    await store.recover()
    taken_up = await claim_one(store, OTHER)
    before = await store.events(TENANT, run)
    report = done(late, "late")
    committed = await commit(store, report, slots=1)
    assert committed == Committed(lost=(late,))
    assert await store.events(TENANT, run) == before
    assert await store.payload(TENANT, report.payloads[0].digest) is None
    assert (await commit(store, done(taken_up))).ended == (run,)


async def test_a_late_report_does_not_harm_the_others_of_its_commit(store: Store) -> None:
    spec = dags.shaped(dags.APART, retry=Retry())
    run = await submitted(store, spec)
    late = await claim_one(store)
    await store.recover()
    leases = await store.claim(WORKER, 3)
    committed = await commit(store, done(leases[1]), done(late), done(leases[2]))
    assert committed.lost == (late,)
    assert await ways(store, spec, run, TENANT) == {"a": "executing", "b": "completed", "c": "completed"}


async def test_a_report_sent_again_is_acknowledged_and_writes_nothing(store: Store) -> None:
    run = await submitted(store, CHAIN)
    report = done(await claim_one(store))
    await commit(store, report)
    before = await store.events(TENANT, run)
    assert await commit(store, report) == Committed()
    assert await commit(store, report, report) == Committed()
    assert await store.events(TENANT, run) == before


async def test_a_failure_reported_again_is_acknowledged_and_counted_once(store: Store) -> None:
    run = await submitted(store, dags.shaped(dags.SINGLE, retry=TWICE))
    report = broken(await claim_one(store))
    await commit(store, report)
    assert await commit(store, report) == Committed()
    assert (await store.steps(TENANT, run))[0].failures == 1


async def test_the_same_report_twice_in_one_commit_counts_once(store: Store) -> None:
    run = await submitted(store, CHAIN)
    report = done(await claim_one(store))
    assert (await commit(store, report, report)).lost == ()
    assert (await types(store, run)).count("step.completed") == 1


async def test_another_result_of_a_lease_that_was_reported_is_lost(store: Store) -> None:
    await submitted(store, CHAIN)
    lease = await claim_one(store)
    await commit(store, done(lease, "one"))
    assert (await commit(store, done(lease, "other"))).lost == (lease,)


async def test_a_report_on_a_run_that_ended_does_not_end_it_again(store: Store) -> None:
    spec = dags.shaped(dags.SINGLE)
    run = await submitted(store, spec)
    report = done(await claim_one(store))
    assert (await commit(store, report)).ended == (run,)
    before = await store.events(TENANT, run)
    assert (await commit(store, report)).ended == ()
    assert (await commit(store, done(report.lease, "other"))).ended == ()
    assert await store.events(TENANT, run) == before


async def test_a_step_whose_time_is_over_is_not_tried_again_even_when_its_retry_is_due(
    store: Store, clock: SetClock
) -> None:
    spec = dags.dag(dags.step("a", retry=TWICE, timeout_us=5_000), dags.step("b"))
    run = await submitted(store, spec)
    first, second = await store.claim(WORKER, 2)
    await commit(store, broken(first))
    clock.advance(5_000)
    assert list(await store.claim(WORKER, 2)) == []
    assert (await store.steps(TENANT, run))[0].state is State.FAILED
    assert (await commit(store, done(second), slots=1)).leases == ()
    await require_told_by_history(store, spec, run, TENANT)
    assert (await store.run(TENANT, run)).head.state is State.FAILED
