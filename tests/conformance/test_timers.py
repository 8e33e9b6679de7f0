"""Time that runs out: of waits, of steps over all attempts, of runs; and budgets that are spent."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sovrun.core.canonical import decode
from sovrun.core.errors import IllegalTransition
from sovrun.core.ids import RunId
from sovrun.core.lifecycle import Cause, State
from sovrun.core.spec.model import DagSpec, Retry
from sovrun.store.protocol import Store
from support import dags
from support.acts import answer, cancelled, decision, govern, taken_up
from support.clock import START_US, SetClock
from support.folding import ways
from support.requests import (
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

MINUTE_US = 60_000_000
TRIES = Retry(max_attempts=5, max_failures=5, base_us=1_000, cap_us=1_000)


async def head_of(store: Store, run: RunId) -> tuple[State, bool | None]:
    head = (await store.run(TENANT, run)).head
    return head.state, head.reproducible


# --- waits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (dags.tool("ask", deadline_us=MINUTE_US), "tool_expired"),
        (dags.confirm("ask", expires_us=MINUTE_US), "confirmation_expired"),
        (dags.confirm("ask", expires_us=MINUTE_US, on_expiry="reject"), "rejected"),
    ],
    ids=["tool", "fail", "reject"],
)
async def test_a_wait_ends_at_its_time_as_declared(store: Store, clock: SetClock, step, reason: str) -> None:  # type: ignore[no-untyped-def]
    spec = dags.dag(step, dags.step("after", "ask"))
    run = await submitted(store, spec)
    clock.advance(7)
    await taken_up(store)
    assert (await store.steps(TENANT, run))[0].until_us == START_US + 7 + MINUTE_US, (
        "from when it begins to wait"
    )
    clock.advance(MINUTE_US - 1)
    await store.claim(WORKER, 1)
    assert (await ways(store, spec, run, TENANT))["after"] == "received"
    clock.advance(1)
    await store.claim(WORKER, 1)
    assert await ways(store, spec, run, TENANT) == {"ask": reason, "after": "upstream_failed"}
    assert (await store.steps(TENANT, run))[0].cause is Cause.CIRCUMSTANCE
    assert await head_of(store, run) == (State.FAILED, False)
    for late in (answer(run), decision(run)):
        with pytest.raises(IllegalTransition):
            await store.act(late)


async def test_an_answered_wait_has_no_time_left_to_run_out(store: Store, clock: SetClock) -> None:
    spec = dags.dag(dags.tool("ask", deadline_us=MINUTE_US), dags.step("after", "ask"))
    run = await submitted(store, spec)
    await taken_up(store)
    await store.act(answer(run))
    clock.advance(MINUTE_US)
    await drained(store)
    assert await head_of(store, run) == (State.COMPLETED, True)


async def test_a_wait_without_a_deadline_waits_for_weeks(store: Store, clock: SetClock) -> None:
    run = await submitted(store, dags.dag(dags.tool("ask")))
    await taken_up(store)
    clock.advance(10_000 * MINUTE_US)
    await store.claim(WORKER, 1)
    assert (await store.act(answer(run))) == (True, State.COMPLETED)


async def test_a_claim_that_waits_is_woken_when_a_deadline_makes_room(store: Store, clock: SetClock) -> None:
    spec = dags.dag(dags.tool("ask", deadline_us=2_000), dags.step("beside"))
    await store.register(registration(spec))
    await govern(store, spec.id, runs_max=1)
    await submitted(store, spec, "1")
    await commit(store, done(await claim_one(store)))
    waits = await submitted(store, spec, "2")
    claim = asyncio.create_task(store.claim(WORKER, 1, patience_us=30_000_000))
    await taken_up(store)
    clock.advance(2_000)
    assert [lease.run for lease in await claim] == [waits]


# --- steps --------------------------------------------------------------------------------------------------------------


def timed(**more: object) -> DagSpec:
    return dags.dag(
        dags.step("a", retry=TRIES, timeout_us=MINUTE_US, **more), dags.step("b", "a"), dags.step("beside")
    )


async def test_the_time_of_a_step_runs_over_all_its_attempts(store: Store, clock: SetClock) -> None:
    spec = timed()
    run = await submitted(store, spec)
    for _ in range(3):
        await commit(store, broken(await claim_one(store)))
        clock.advance(MINUTE_US // 4)
    held = await claim_one(store)
    clock.advance(MINUTE_US // 4)
    before = await store.depths(TENANT)
    assert (await commit(store, done(held))).lost == (held,)
    assert before[0].executing == 1
    assert await ways(store, spec, run, TENANT) == {
        "a": "step_timeout",
        "b": "upstream_failed",
        "beside": "queued",
    }
    await drained(store)
    assert await head_of(store, run) == (State.FAILED, False)


async def test_the_process_of_a_step_out_of_time_holds_its_slot_until_it_is_dead(
    store: Store, clock: SetClock
) -> None:
    await submitted(store, timed())
    held = await claim_one(store)
    clock.advance(MINUTE_US)
    assert list(await store.renew(WORKER, [held])) == [held]
    assert (await store.depths(TENANT))[0].executing == 1
    await commit(store, broken(held, "abandoned"))
    assert (await store.depths(TENANT))[0].executing == 0


async def test_a_step_out_of_time_in_the_queue_leaves_it(store: Store, clock: SetClock) -> None:
    """Else the next claim would take a step that has failed, for ever."""
    spec = timed()
    run = await submitted(store, spec)
    clock.advance(MINUTE_US)
    assert [spec.steps[lease.position].id for lease in await store.claim(WORKER, 9)] == ["beside"]
    assert (await store.depths(TENANT))[0].queued == 0
    assert (await ways(store, spec, run, TENANT))["a"] == "step_timeout"


async def test_a_retry_out_of_time_is_not_taken_up(store: Store, clock: SetClock) -> None:
    spec = timed()
    await submitted(store, spec)
    await commit(store, broken(await claim_one(store)))
    clock.advance(1_000)
    await govern(store, spec.id, paused=True)
    await store.claim(WORKER, 9)
    assert (await store.depths(TENANT))[0].queued == 2, "the retry is due and in the queue"
    clock.advance(MINUTE_US)
    await govern(store, spec.id)
    assert [spec.steps[lease.position].id for lease in await store.claim(WORKER, 9)] == ["beside"]


async def test_a_pending_step_out_of_time_is_taken_from_the_engine(store: Store, clock: SetClock) -> None:
    """Else the engine would be given it again and again, and never rest."""
    spec = dags.dag(dags.tool("ask", timeout_us=MINUTE_US))
    run = await submitted(store, spec)
    clock.advance(MINUTE_US)
    await store.claim(WORKER, 1)
    assert list(await store.pending(9, patience_us=1)) == []
    assert await ways(store, spec, run, TENANT) == {"ask": "step_timeout"}


# --- runs ---------------------------------------------------------------------------------------------------------------


async def test_the_time_of_a_run_ends_all_that_is_not_over(store: Store, clock: SetClock) -> None:
    spec = replace(
        dags.dag(
            dags.step("done"), dags.step("held"), dags.step("retry", retry=TRIES), dags.step("queued"), dags.step("received", "held"),
            dags.tool("waits"), dags.confirm("asks"),
        ),
        timeout_us=MINUTE_US,
    )  # fmt: skip
    run = await submitted(store, spec)
    await taken_up(store)
    index = {step.id: position for position, step in enumerate(spec.steps)}
    leases = {lease.position: lease for lease in await store.claim(WORKER, 4)}
    await commit(store, done(leases[index["done"]]), broken(leases[index["retry"]]))
    clock.advance(MINUTE_US)
    await store.claim(WORKER, 9)
    told = await ways(store, spec, run, TENANT)
    assert told.pop("done") == "completed"
    assert set(told.values()) == {"run_timeout"}
    steps = await store.steps(TENANT, run)
    assert {step.cause for step in steps if step.state is State.FAILED} == {Cause.CIRCUMSTANCE}
    assert await head_of(store, run) == (State.FAILED, False)
    assert (await store.depths(TENANT))[0].queued == 0
    assert (await store.depths(TENANT))[0].executing == 2, "their processes may still run"
    assert await store.pending(9) == []


async def test_the_time_of_a_run_runs_while_it_waits_to_be_admitted(store: Store, clock: SetClock) -> None:
    spec = replace(dags.shaped(dags.CHAIN), timeout_us=MINUTE_US)
    await store.register(registration(spec))
    await govern(store, spec.id, paused=True)
    run = await submitted(store, spec)
    clock.advance(MINUTE_US)
    await store.claim(WORKER, 1)
    assert await head_of(store, run) == (State.FAILED, False)
    await govern(store, spec.id, runs_max=1)
    again = await submitted(store, spec, "2")
    assert [lease.run for lease in await drained(store)] == [again] * 3, "it left its place to the next"


async def test_a_run_that_is_over_in_time_is_left_alone(store: Store, clock: SetClock) -> None:
    spec = replace(dags.shaped(dags.SINGLE), timeout_us=MINUTE_US)
    run = await submitted(store, spec)
    await drained(store)
    before = await store.events(TENANT, run)
    clock.advance(MINUTE_US)
    await store.claim(WORKER, 1)
    assert await store.events(TENANT, run) == before


async def test_who_comes_when_the_time_is_over_finds_what_became_of_the_run(
    store: Store, clock: SetClock
) -> None:
    spec = replace(dags.shaped(dags.CHAIN), timeout_us=MINUTE_US)
    run = await submitted(store, spec)
    lease = await claim_one(store)
    clock.advance(MINUTE_US)
    committed, refused = await asyncio.gather(
        commit(store, done(lease)), cancelled(store, run), return_exceptions=True
    )
    assert getattr(committed, "lost", None) == (lease,)
    assert isinstance(refused, IllegalTransition)
    assert refused.facts == {"state": "failed"}


async def test_runs_that_end_by_their_time_are_told(store: Store, clock: SetClock) -> None:
    told: asyncio.Queue[RunId] = asyncio.Queue()
    store.subscribe(told.put_nowait)
    run = await submitted(store, replace(dags.shaped(dags.SINGLE), timeout_us=1_000))
    clock.advance(1_000)
    assert await told.get() == run


# --- budgets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "delays", "reason"),
    [
        (Retry(3, 3, 2_000_000, 30_000_000), [2, 4], "attempt_budget_exhausted"),
        (Retry(5, 2, 2_000_000, 30_000_000), [2], "failure_budget_exhausted"),
    ],
)
async def test_a_step_is_tried_again_until_a_budget_is_spent(
    store: Store, clock: SetClock, retry: Retry, delays: list[int], reason: str
) -> None:
    spec = dags.shaped(dags.SINGLE, retry=retry)
    run = await submitted(store, spec)
    for delay in delays:
        await commit(store, broken(await claim_one(store)))
        assert (await store.steps(TENANT, run))[0].until_us == clock.now_us() + delay * 1_000_000
        clock.advance(delay * 1_000_000 - 1)
        assert await store.claim(WORKER, 1) == []
        clock.advance(1)
    await commit(store, broken(await claim_one(store)))
    assert await ways(store, spec, run, TENANT) == {"a": reason}


async def test_the_failures_of_a_run_are_counted_over_all_its_steps(store: Store, clock: SetClock) -> None:
    spec = replace(dags.shaped({"a": "", "b": "", "c": "", "d": "c"}, retry=TRIES), failure_budget=2)
    run = await submitted(store, spec)
    first, second, third = await store.claim(WORKER, 3)
    await commit(store, broken(first))
    assert await ways(store, spec, run, TENANT) == {
        "a": "retry_due",
        "b": "executing",
        "c": "executing",
        "d": "received",
    }
    await commit(store, broken(second))
    told = await ways(store, spec, run, TENANT)
    assert (told["a"], told["b"], told["c"], told["d"]) == (
        *["run_budget_exhausted"] * 2,
        "executing",
        "run_budget_exhausted",
    )
    clock.advance(MINUTE_US)
    assert await store.claim(WORKER, 9) == []
    assert (await commit(store, done(third))).ended == (run,)
    assert await head_of(store, run) == (State.FAILED, False)
    decided = [
        decode(event.data.encode()) for event in await store.events(TENANT, run) if "failures" in event.data
    ]
    assert [(data["runFailures"], data["runFailuresLeft"]) for data in decided] == [(1, 1), (2, 0)]


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "reported"])
async def test_nothing_is_tried_again_when_the_budget_of_the_run_is_spent(store: Store, lost: bool) -> None:  # noqa: FBT001 -- a case
    spec = replace(dags.shaped({"a": "", "b": ""}, retry=TRIES), failure_budget=1)
    run = await submitted(store, spec)
    first, second = await store.claim(WORKER, 2)
    await commit(store, broken(first))
    if lost:
        await store.recover()
    else:
        await commit(store, broken(second))
    told = await ways(store, spec, run, TENANT)
    assert told == {"a": "run_budget_exhausted", "b": "run_budget_exhausted"}, (
        "and not for failFast, which it has not"
    )
    assert await head_of(store, run) == (State.FAILED, False)


async def test_a_lost_lease_is_no_failure_of_the_run(store: Store) -> None:
    spec = replace(dags.shaped(dags.SINGLE, retry=TRIES), failure_budget=1)
    run = await submitted(store, spec)
    await store.submit(submission(spec, "2"))
    await claim_one(store)
    await store.recover()
    lost = next(event for event in await store.events(TENANT, run) if event.type == "step.awaiting_tool")
    data = decode(lost.data.encode())
    assert (data["runFailures"], data["runFailuresLeft"]) == (0, 1)
    await drained(store)
    assert await head_of(store, run) == (State.COMPLETED, True)
