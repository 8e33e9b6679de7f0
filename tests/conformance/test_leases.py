"""Leases: who is silent loses them, nobody else does, and what they report afterwards counts for nothing."""

from __future__ import annotations

import asyncio

import pytest

from sovrun.core.ids import RunId, WorkerId
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import Retry
from sovrun.store.protocol import Store
from support import dags
from support.clock import SetClock
from support.folding import ways
from support.requests import OTHER, TENANT, WORKER, broken, claim_one, commit, done, drained, submitted

SILENT_US = 15_000_000
HOUR_US = 3_600_000_000
SPEC = dags.shaped(dags.SINGLE, retry=Retry(max_attempts=3, max_failures=3, base_us=0, cap_us=0))
APART = dags.shaped(dags.APART, retry=Retry())
TWINS = [WorkerId("same/1"), WorkerId("same/2")]


async def state_of(store: Store, run: RunId) -> tuple[State, int, int]:
    step = (await store.steps(TENANT, run))[0]
    return step.state, step.attempts, step.failures


async def test_a_worker_that_is_heard_of_keeps_its_leases(store: Store, clock: SetClock) -> None:
    run = await submitted(store, SPEC)
    lease = await claim_one(store)
    for _ in range(10):
        clock.advance(SILENT_US - 1)
        assert list(await store.renew(WORKER, [lease])) == []
        assert await store.take_back(SILENT_US) == 0
    assert await state_of(store, run) == (State.EXECUTING, 1, 0)


@pytest.mark.parametrize("sign", ["claim", "commit", "renew"])
async def test_a_worker_is_heard_of_when_it_claims_commits_or_renews(
    store: Store, clock: SetClock, sign: str
) -> None:
    await submitted(store, APART)
    first = await claim_one(store)
    clock.advance(SILENT_US - 1)
    signs = {
        "claim": lambda: store.claim(WORKER, 0),
        "commit": lambda: commit(store),
        "renew": lambda: store.renew(WORKER, [first]),
    }
    await signs[sign]()
    clock.advance(SILENT_US - 1)
    assert await store.take_back(SILENT_US) == 0
    clock.advance(1)
    assert await store.take_back(SILENT_US) == 1
    assert (await commit(store, done(first))).lost == (first,)


async def test_only_silent_workers_lose_their_leases(store: Store, clock: SetClock) -> None:
    run = await submitted(store, APART)
    await store.claim(WORKER, 2)
    clock.advance(SILENT_US)
    kept = await claim_one(store, OTHER)
    assert await store.take_back(SILENT_US) == 2
    assert await store.take_back(SILENT_US) == 0
    assert await ways(store, APART, run, TENANT) == {
        "a": "lease_expired",
        "b": "lease_expired",
        "c": "executing",
    }
    assert (await store.commit([done(kept)], worker=OTHER)).lost == ()


async def test_it_is_told_from_which_silent_workers_how_many_leases_were_taken_back(
    store: Store, clock: SetClock
) -> None:
    for number in range(3):
        await submitted(store, SPEC, str(number))
    await store.claim(WORKER, 2)
    await claim_one(store, OTHER)
    clock.advance(SILENT_US)
    told: list[tuple[WorkerId, int]] = []
    assert await store.take_back(SILENT_US, told=lambda *silent: told.append(silent)) == 3
    assert told == sorted([(WORKER, 2), (OTHER, 1)])
    assert await store.take_back(SILENT_US, told=lambda *silent: told.append(silent)) == 0
    assert len(told) == 2, "who holds nothing is not silent"


async def test_a_worker_paused_for_an_hour_completes_nothing_twice(store: Store, clock: SetClock) -> None:
    run = await submitted(store, SPEC)
    paused = await claim_one(store)
    clock.advance(HOUR_US)
    assert await store.take_back(SILENT_US) == 1
    successor = await claim_one(store, OTHER)
    assert (successor.attempt, successor.fence) == (2, paused.fence + 1)
    assert (await commit(store, done(paused, "old"))).lost == (paused,)
    assert (await store.commit([done(successor, "new")], worker=OTHER)).ended == (run,)
    assert (await commit(store, done(paused, "old"))).lost == (paused,)
    assert await store.late_reports(TENANT) == 2
    completed = [event for event in await store.events(TENANT, run) if event.type == "step.completed"]
    assert [event.actor for event in completed] == [f"worker:{OTHER}"]
    assert (await store.run(TENANT, run)).head.reproducible is True


async def test_two_workers_with_one_name_are_two_workers(store: Store, clock: SetClock) -> None:
    run = await submitted(store, SPEC)
    first = await claim_one(store, TWINS[0])
    clock.advance(SILENT_US)
    await store.renew(TWINS[1], [])
    assert await store.take_back(SILENT_US) == 1, "the other's sign of life is not its own"
    second = await claim_one(store, TWINS[1])
    assert (await store.commit([done(first)], worker=TWINS[0])).lost == (first,)
    assert (await store.commit([done(second)], worker=TWINS[1])).ended == (run,)


async def test_two_workers_that_even_share_their_incarnation_never_complete_a_step_twice(
    store: Store,
) -> None:
    run = await submitted(store, SPEC)
    lease = await claim_one(store)
    assert await store.claim(WORKER, 1) == []
    first, second = await asyncio.gather(commit(store, done(lease, "a")), commit(store, done(lease, "b")))
    assert (first.lost, second.lost) == ((), (lease,))
    assert [event.type for event in await store.events(TENANT, run)].count("step.completed") == 1


@pytest.mark.parametrize("jump_us", [-HOUR_US, HOUR_US, 10_000 * HOUR_US])
async def test_a_wall_clock_that_jumps_makes_nobody_silent(
    store: Store, clock: SetClock, jump_us: int
) -> None:
    """A healthy run declared dead."""
    run = await submitted(store, SPEC)
    lease = await claim_one(store)
    clock.jump(jump_us)
    assert await store.take_back(SILENT_US) == 0
    clock.advance(SILENT_US - 1)
    assert await store.take_back(SILENT_US) == 0
    assert await state_of(store, run) == (State.EXECUTING, 1, 0)
    assert (await commit(store, done(lease))).ended == (run,)


@pytest.mark.parametrize("jump_us", [-HOUR_US, HOUR_US])
async def test_a_silent_worker_is_found_silent_whatever_the_wall_clock_says(
    store: Store, clock: SetClock, jump_us: int
) -> None:
    await submitted(store, SPEC)
    await claim_one(store)
    clock.advance(SILENT_US)
    clock.jump(jump_us)
    assert await store.take_back(SILENT_US) == 1
    if jump_us > 0:
        assert (await claim_one(store, OTHER)).attempt == 2


async def test_a_lost_lease_uses_an_attempt_and_no_failure(store: Store, clock: SetClock) -> None:
    run = await submitted(store, SPEC)
    for attempt in (1, 2):
        await claim_one(store)
        clock.advance(SILENT_US)
        assert await store.take_back(SILENT_US) == 1
        assert await state_of(store, run) == (State.AWAITING_TOOL, attempt, 0)
    await claim_one(store)
    clock.advance(SILENT_US)
    assert await store.take_back(SILENT_US) == 1
    assert await ways(store, SPEC, run, TENANT) == {"a": "attempt_budget_exhausted"}
    assert (await store.run(TENANT, run)).head.reproducible is False


async def test_a_lease_that_is_taken_back_keeps_its_place_in_the_order(store: Store, clock: SetClock) -> None:
    runs = [await submitted(store, SPEC, str(number)) for number in range(3)]
    await claim_one(store)
    clock.advance(SILENT_US)
    await store.take_back(SILENT_US)
    assert [lease.run for lease in await store.claim(OTHER, 9)] == runs


async def test_a_heartbeat_after_completion_changes_nothing(store: Store, clock: SetClock) -> None:
    """A heartbeat arriving after completion."""
    run = await submitted(store, SPEC)
    await commit(store, done(await claim_one(store)))
    before = await store.events(TENANT, run)
    assert list(await store.renew(WORKER, [])) == []
    clock.advance(HOUR_US)
    assert await store.take_back(SILENT_US) == 0
    assert list(await store.renew(WORKER, [])) == []
    assert await store.events(TENANT, run) == before


async def test_a_heartbeat_after_the_lease_was_lost_does_not_bring_it_back(
    store: Store, clock: SetClock
) -> None:
    await submitted(store, SPEC)
    lease = await claim_one(store)
    clock.advance(SILENT_US)
    await store.take_back(SILENT_US)
    assert list(await store.renew(WORKER, [lease])) == [lease], "its process is to stop"
    assert (await claim_one(store, OTHER)).attempt == 2
    assert list(await store.renew(WORKER, [lease])) == [lease]
    assert (await commit(store, done(lease))).lost == (lease,)


async def test_what_a_worker_does_not_know_of_is_taken_back_when_it_shows_that_it_is_alive(
    store: Store,
) -> None:
    """A lease whose answer was lost, renewed for ever by a worker that does not know of it."""
    run = await submitted(store, APART)
    known, lost = await store.claim(WORKER, 2)
    [others] = await store.claim(OTHER, 1)
    assert list(await store.renew(WORKER, [known])) == []
    assert await ways(store, APART, run, TENANT) == {"a": "executing", "b": "lease_expired", "c": "executing"}
    again = await claim_one(store, OTHER)
    assert (again.position, again.attempt, again.fence) == (lost.position, 2, lost.fence + 1)
    assert list(await store.renew(WORKER, [known])) == []
    assert (await commit(store, done(known), done(lost))).lost == (lost,)
    assert (await store.commit([done(others), done(again)], worker=OTHER)).ended == (run,)
    assert [depth.executing for depth in await store.depths(TENANT)] == [0]


async def test_a_lease_of_another_is_none_that_a_worker_holds(store: Store) -> None:
    run = await submitted(store, APART)
    lease = await claim_one(store)
    assert list(await store.renew(OTHER, [lease._replace(worker=OTHER)])) == [lease._replace(worker=OTHER)]
    assert list(await store.renew(WORKER, [lease._replace(fence=lease.fence + 1)])) == [
        lease._replace(fence=lease.fence + 1)
    ]
    assert (await ways(store, APART, run, TENANT))["a"] == "lease_expired", (
        "and so it did not know of its own"
    )


@pytest.mark.parametrize("turns", range(8))
async def test_a_claim_that_is_given_up_in_the_moment_of_its_answer_leaves_no_lease_behind(
    store: Store, turns: int
) -> None:
    """A concurrency slot leaked by a worker that was told to stop."""
    claim = asyncio.ensure_future(store.claim(WORKER, 9, patience_us=HOUR_US))
    await asyncio.sleep(0)
    await submitted(store, APART)
    for _ in range(turns):
        await asyncio.sleep(0)
    claim.cancel()
    [answer] = await asyncio.gather(claim, return_exceptions=True)
    leases = [] if isinstance(answer, BaseException) else list(answer)
    assert list(await store.renew(WORKER, leases)) == []
    assert [depth.executing for depth in await store.depths(TENANT)] == [len(leases)]


async def test_taking_back_beside_a_report_takes_back_what_is_not_reported(
    store: Store, clock: SetClock
) -> None:
    run = await submitted(store, APART)
    first, second = await store.claim(WORKER, 2)
    clock.advance(SILENT_US)
    taken, committed = await asyncio.gather(
        store.take_back(SILENT_US), store.commit([done(first)], worker=OTHER)
    )
    assert (taken, committed.lost) == (2, (first,)), "who asked first is heard first"
    assert (await ways(store, APART, run, TENANT))["b"] == "lease_expired"
    assert second.position == 1


async def test_acting_on_a_stale_read_changes_nothing(store: Store) -> None:
    """Acting on a stale read: what was right when it was looked up is refused when it no longer is."""
    run = await submitted(store, SPEC)
    stale = await claim_one(store)
    await store.recover()
    fresh = await claim_one(store, OTHER)
    for report in (done(stale), broken(stale), broken(stale, retryable=False)):
        assert (await commit(store, report)).lost == (stale,)
    assert await state_of(store, run) == (State.EXECUTING, 2, 0)
    assert (await store.commit([done(fresh)], worker=OTHER)).lost == ()


async def test_a_draining_worker_that_reports_is_given_nothing_more(store: Store) -> None:
    """A draining worker that claims again."""
    await submitted(store, APART)
    lease = await claim_one(store)
    assert (await commit(store, done(lease), slots=0)).leases == ()
    assert [lease.position for lease in await store.claim(OTHER, 9)] == [1, 2]


async def test_no_run_is_left_in_the_queue_for_ever(store: Store, clock: SetClock) -> None:
    """Runs stuck in queued for ever: every slot is lost again and again, and yet everything ends."""
    spec = dags.shaped(dags.CROSSED, retry=Retry(max_attempts=9, max_failures=9, base_us=1, cap_us=1))
    runs = [await submitted(store, spec, str(number)) for number in range(4)]
    for _ in range(6):
        await store.claim(WORKER, 3)
        clock.advance(SILENT_US)
        await store.take_back(SILENT_US)
    await drained(store)
    assert {(await store.run(TENANT, run)).head.state for run in runs} == {State.COMPLETED}
    assert sum(depth.executing + depth.queued for depth in await store.depths(TENANT)) == 0
