"""Cancellation: whatever a run is doing it ends at once, late reports are refused, and no slot is lost."""

from __future__ import annotations

import asyncio
import json

import pytest

from sovrun.core.actions import CancelRun
from sovrun.core.errors import IllegalTransition, NotFound
from sovrun.core.ids import RunId, Tenant
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import Retry
from sovrun.store.protocol import Store
from support import dags
from support.acts import ALICE, BOB, WHY, answer, cancel, cancelled, govern, taken_up
from support.clock import SetClock
from support.folding import ways
from support.requests import OTHER, TENANT, WORKER, broken, claim_one, commit, done, drained, submitted

TRIES = Retry(base_us=1_000, cap_us=1_000)
CHAIN = dags.shaped(dags.CHAIN, retry=TRIES)
APART = dags.shaped(dags.APART, retry=TRIES)
TOOL = dags.dag(dags.tool("ask"), dags.step("after", "ask"))


async def slots_held(store: Store) -> int:
    return sum(depth.executing for depth in await store.depths(TENANT))


async def received(store: Store) -> RunId:
    await submitted(store, CHAIN, "first")
    await govern(store, CHAIN.id, runs_max=1)
    return await submitted(store, CHAIN)


async def queued(store: Store) -> RunId:
    return await submitted(store, CHAIN)


async def executing(store: Store) -> RunId:
    run = await submitted(store, CHAIN)
    await claim_one(store)
    return run


async def retrying(store: Store) -> RunId:
    run = await submitted(store, CHAIN)
    await commit(store, broken(await claim_one(store)))
    return run


async def waiting(store: Store) -> RunId:
    run = await submitted(store, TOOL)
    await taken_up(store)
    return run


async def pending(store: Store) -> RunId:
    return await submitted(store, TOOL)


@pytest.mark.owner_only("the socket signs what it is sent with the caller's own name")
@pytest.mark.parametrize("reach", [received, queued, executing, retrying, waiting, pending])
async def test_a_run_is_cancelled_whatever_it_does(store: Store, clock: SetClock, reach) -> None:  # type: ignore[no-untyped-def]
    run = await reach(store)
    acted = await store.act(cancel(run, note=WHY.digest), payloads=[WHY])
    assert acted == (True, State.CANCELLED)
    spec = TOOL if reach in (waiting, pending) else CHAIN
    assert set((await ways(store, spec, run, TENANT)).values()) == {"run_cancelled"}
    record = await store.run(TENANT, run)
    assert (record.head.reason, record.head.reproducible) == ("run_cancelled", False)
    assert record.ended_us == clock.now_us()
    [steps, end] = [event for event in await store.events(TENANT, run) if event.type.endswith(".cancelled")]
    assert (steps.actor, json.loads(end.data)["noteHash"]) == (ALICE, WHY.digest)
    clock.advance(3_600_000_000)
    await govern(store, spec.id)
    assert await store.pending(9) == []
    assert run not in [lease.run for lease in await drained(store)], "it is skipped by every later claim"
    assert (await store.depths(TENANT))[-1].queued == 0


@pytest.mark.owner_only("the socket signs what it is sent with the caller's own name")
@pytest.mark.parametrize("reach", [queued, executing, waiting])
async def test_cancelling_twice_is_harmless_and_another_request_is_refused(store: Store, reach) -> None:  # type: ignore[no-untyped-def]
    run = await reach(store)
    await cancelled(store, run)
    before = await store.events(TENANT, run)
    assert await cancelled(store, run) == (False, State.CANCELLED)
    for other in (cancel(run, actor=BOB), cancel(run, note=WHY.digest)):
        with pytest.raises(IllegalTransition, match="cancelled"):
            await store.act(other)
    assert await store.events(TENANT, run) == before


async def test_a_terminal_run_refuses_to_be_cancelled(store: Store) -> None:
    run = await submitted(store, CHAIN)
    await drained(store)
    before = await store.events(TENANT, run)
    with pytest.raises(IllegalTransition) as refusal:
        await cancelled(store, run)
    assert refusal.value.facts == {"state": "completed"}
    assert await store.events(TENANT, run) == before
    with pytest.raises(NotFound):
        await store.act(CancelRun(Tenant("u"), run, ALICE, None))


@pytest.mark.owner_only("the socket signs what it is sent with the caller's own name")
async def test_of_two_cancellations_at_once_the_first_counts(store: Store) -> None:
    run = await submitted(store, CHAIN)
    told = await asyncio.gather(
        store.act(cancel(run)),
        store.act(cancel(run)),
        store.act(cancel(run, actor=BOB)),
        return_exceptions=True,
    )
    assert [getattr(each, "changed", type(each)) for each in told] == [True, False, IllegalTransition]
    assert set((await ways(store, CHAIN, run, TENANT)).values()) == {"run_cancelled"}


async def test_a_cancellation_beside_the_last_report_finds_the_run_completed(store: Store) -> None:
    spec = dags.shaped(dags.SINGLE)
    run = await submitted(store, spec)
    lease = await claim_one(store)
    committed, refused = await asyncio.gather(
        commit(store, done(lease)), store.act(cancel(run)), return_exceptions=True
    )
    assert isinstance(refused, IllegalTransition)
    assert (await store.run(TENANT, run)).head.state is State.COMPLETED
    assert getattr(committed, "ended", None) == (run,)


async def test_a_late_report_is_refused_counted_and_leaves_the_history_alone(store: Store) -> None:
    run = await submitted(store, CHAIN)
    lease = await claim_one(store)
    await cancelled(store, run)
    before = await store.events(TENANT, run)
    assert await store.late_reports(TENANT) == 0
    assert (await commit(store, done(lease))).lost == (lease,)
    assert await store.events(TENANT, run) == before
    assert await store.late_reports(TENANT) == 1


async def test_a_repeated_report_is_no_late_one(store: Store) -> None:
    await submitted(store, CHAIN)
    report = done(await claim_one(store))
    await commit(store, report)
    assert (await commit(store, report)).lost == ()
    assert await store.late_reports(TENANT) == 0


# --- slots --------------------------------------------------------------------------------------------------------------


async def one_at_a_time(store: Store) -> RunId:
    """Return a run whose cancelled step still has a process, in a DAG that may have one."""
    await submitted(store, APART, "next")
    await govern(store, APART.id, steps_max=1)
    return await submitted(store, APART, priority=1)


async def test_a_slot_stays_taken_until_the_process_of_the_cancelled_step_is_known_dead(store: Store) -> None:
    run = await one_at_a_time(store)
    lease = await claim_one(store)
    await cancelled(store, run)
    assert await slots_held(store) == 1
    assert await store.claim(OTHER, 1) == []
    assert list(await store.renew(WORKER, [lease])) == [lease]
    assert list(await store.renew(OTHER, [])) == []
    assert await slots_held(store) == 1, "it is held until it says that it is not"
    committed = await commit(store, broken(lease, "abandoned", circumstance=True), slots=1)
    assert committed.lost == (lease,)
    assert len(committed.leases) == 1, "the slot is free in the very commit that tells of the end"
    assert list(await store.renew(WORKER, committed.leases)) == []
    assert await slots_held(store) == 1


@pytest.mark.owner_only("calls through a socket need not be in one commit")
async def test_a_worker_is_told_of_a_cancellation_in_the_very_commit(store: Store) -> None:
    run = await queued(store)
    lease = await claim_one(store)
    _, over = await asyncio.gather(cancelled(store, run), store.renew(WORKER, [lease]))
    assert list(over) == [lease]
    assert await slots_held(store) == 1, "its process is not gone yet"


async def test_a_slot_is_free_when_the_worker_of_the_cancelled_step_does_not_hold_it(store: Store) -> None:
    run = await one_at_a_time(store)
    await claim_one(store)
    _, over = await asyncio.gather(cancelled(store, run), store.renew(WORKER, []))
    assert list(over) == []
    await store.renew(WORKER, [])
    assert await slots_held(store) == 0
    assert len(await store.claim(OTHER, 9)) == 1


async def test_a_slot_is_free_when_the_worker_of_the_cancelled_step_is_silent(
    store: Store, clock: SetClock
) -> None:
    run = await one_at_a_time(store)
    await claim_one(store)
    await cancelled(store, run)
    clock.advance(15_000_000)
    assert await store.take_back(15_000_000) == 0, "no lease is left, only a process that may run"
    assert await slots_held(store) == 0
    assert len(await store.claim(OTHER, 9)) == 1


async def test_a_concurrency_slot_is_not_leaked_by_cancel(store: Store) -> None:
    """The report of the last attempt arrives together with the cancellation, in either order, or twice."""
    await govern(store, tenant=TENANT, steps_max=3)
    for number, order in enumerate(["cr", "rc", "crr", "rcr"]):
        run = await submitted(store, CHAIN, str(number))
        lease = await claim_one(store)
        calls = {
            "c": lambda run=run: store.act(cancel(run)),
            "r": lambda lease=lease: commit(store, done(lease)),
        }
        await asyncio.gather(*(calls[call]() for call in order))
        assert (await store.run(TENANT, run)).head.state is State.CANCELLED
        assert await slots_held(store) == 0, order
        assert list(await store.renew(WORKER, [])) == []
    await submitted(store, APART, "after")
    assert len(await store.claim(WORKER, 9)) == 3


async def test_recovery_frees_the_slots_of_cancelled_steps(store: Store) -> None:
    run = await one_at_a_time(store)
    await claim_one(store)
    await cancelled(store, run)
    assert await store.recover() == 0
    assert await slots_held(store) == 0
    assert list(await store.renew(WORKER, [])) == []
    assert len(await store.claim(OTHER, 9)) == 1


async def test_an_answer_for_a_cancelled_wait_is_refused(store: Store) -> None:
    run = await waiting(store)
    await cancelled(store, run)
    with pytest.raises(IllegalTransition):
        await store.act(answer(run))


async def test_a_cancelled_queued_run_is_skipped_and_the_order_of_the_others_stays(store: Store) -> None:
    runs = [await submitted(store, CHAIN, str(number)) for number in range(3)]
    await cancelled(store, runs[1])
    order = [lease.run for lease in await drained(store, slots=1)]
    assert order == [runs[0]] * 3 + [runs[2]] * 3
