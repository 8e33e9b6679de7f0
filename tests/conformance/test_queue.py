"""Who gets which step: order within a tenant, turns among tenants, one lease a step, and claims that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sovrun.core.errors import IdempotencyKeyConflict, NotFound
from sovrun.core.ids import RunId, Tenant
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import Retry
from sovrun.store.protocol import Lease, Store
from support import dags
from support.clock import SetClock
from support.folding import require_told_by_history, ways
from support.requests import (
    OTHER,
    TENANT,
    WORKER,
    broken,
    claim_one,
    done,
    drained,
    registration,
    submission,
    submitted,
)

SINGLE = dags.shaped(dags.SINGLE)
APART = dags.shaped(dags.APART)
CHAIN = dags.shaped(dags.CHAIN)
PATIENCE_US = 30_000_000
"""Longer than any test takes: a claim that waits for so long was forgotten."""


def places(leases: Sequence[Lease], runs: Sequence[RunId]) -> list[tuple[int, int]]:
    return [(runs.index(lease.run), lease.position) for lease in leases]


# --- order --------------------------------------------------------------------------------------------------------------


async def test_steps_are_claimed_by_priority_then_run_then_plan(store: Store) -> None:
    runs = [
        await submitted(store, APART, str(number), priority=priority)
        for number, priority in enumerate([100, 100, 5, 200])
    ]
    leases = await drained(store, slots=1)
    assert places(leases, runs) == [(run, position) for run in (2, 0, 1, 3) for position in range(3)]


async def test_a_run_goes_on_before_a_later_one_begins(store: Store) -> None:
    runs = [await submitted(store, CHAIN, str(number)) for number in range(2)]
    assert places(await drained(store, slots=1), runs) == [(run, p) for run in range(2) for p in range(3)]


async def test_a_claim_takes_as_many_as_it_has_slots_and_no_step_twice(store: Store) -> None:
    await submitted(store, APART)
    first = await store.claim(WORKER, 2)
    second = await store.claim(OTHER, 2)
    assert [lease.position for lease in (*first, *second)] == [0, 1, 2]
    assert await store.claim(WORKER, 5) == []
    assert await store.claim(WORKER, 0) == []


async def test_a_lease_says_what_its_worker_needs_to_know(store: Store) -> None:
    await store.register(registration(SINGLE))
    request = submission(SINGLE, "1", inputs={"x": 1})
    await store.submit(request)
    lease = await claim_one(store)
    assert (lease.tenant, lease.run, lease.version) == (TENANT, request.id, request.version)
    assert (lease.inputs, lease.worker) == (request.inputs.digest, WORKER)
    assert (lease.position, lease.attempt, lease.fence) == (0, 1, 1)


async def test_a_retry_keeps_its_place_before_everything_that_came_later(
    store: Store, clock: SetClock
) -> None:
    retry = Retry(max_attempts=2, max_failures=2, base_us=1_000, cap_us=1_000)
    runs = [await submitted(store, dags.shaped(dags.APART, retry=retry), str(number)) for number in range(2)]
    lease = await claim_one(store)
    await store.commit([broken(lease)], worker=WORKER)
    assert places(await store.claim(WORKER, 1), runs) == [(0, 1)], "it is not due yet"
    clock.advance(1_000)
    assert places(await store.claim(WORKER, 6), runs) == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]


# --- turns --------------------------------------------------------------------------------------------------------------

A, B, C = map(Tenant, "abc")


async def test_tenants_take_turns_whatever_their_backlog(store: Store) -> None:
    for number in range(5):
        await submitted(store, APART, str(number), tenant=A)
    await submitted(store, APART, tenant=B)
    await submitted(store, SINGLE, tenant=C)
    taken = [lease.tenant for lease in await store.claim(WORKER, 6)]
    taken += [(await claim_one(store)).tenant for _ in range(4)]
    assert "".join(taken) == "abcab" + "abaaa"


async def test_a_newcomer_is_served_next_after_those_whose_turn_it_is(store: Store) -> None:
    for number in range(3):
        await submitted(store, APART, str(number), tenant=B)
    assert {lease.tenant for lease in await store.claim(WORKER, 3)} == {B}
    await submitted(store, SINGLE, tenant=A)
    await submitted(store, SINGLE, tenant=C)
    assert "".join(lease.tenant for lease in await store.claim(WORKER, 4)) == "cabb"


async def test_turns_hold_for_what_a_commit_claims(store: Store) -> None:
    await submitted(store, CHAIN, tenant=A)
    await submitted(store, CHAIN, tenant=B)
    order = "".join(lease.tenant for lease in await drained(store, slots=1))
    assert order == "ababab"


# --- claims that wait ---------------------------------------------------------------------------------------------------


async def waiting(store: Store, slots: int = 1) -> asyncio.Task[Sequence[Lease]]:
    """Return a claim that has found nothing and waits."""
    claim = asyncio.create_task(store.claim(OTHER, slots, patience_us=PATIENCE_US))
    assert await store.claim(WORKER, 1) == []
    for _ in range(5):
        await asyncio.sleep(0)
    assert not claim.done()
    return claim


async def test_a_claim_without_patience_answers_at_once(store: Store) -> None:
    assert await store.claim(WORKER, 1) == []


async def test_a_claim_gives_up_when_its_patience_ends(store: Store) -> None:
    assert list(await store.claim(WORKER, 1, patience_us=1_000)) == []
    await submitted(store, SINGLE)
    assert len(await store.claim(WORKER, 1)) == 1, "a claim that gave up holds nothing"


async def test_a_waiting_claim_is_served_by_a_submission(store: Store) -> None:
    claim = await waiting(store)
    run = await submitted(store, SINGLE)
    assert [lease.run for lease in await claim] == [run]


async def test_a_waiting_claim_is_served_by_a_commit(store: Store) -> None:
    await submitted(store, dags.shaped(dags.FAN_OUT))
    root = await claim_one(store)
    claim = await waiting(store, slots=2)
    committed = await store.commit([done(root)], worker=WORKER, slots=1)
    assert [lease.position for lease in committed.leases] == [1], "who reports is served before who waits"
    assert [(lease.position, lease.worker) for lease in await claim] == [(2, OTHER), (3, OTHER)]


async def test_a_waiting_claim_is_served_when_a_wait_is_over(store: Store, clock: SetClock) -> None:
    retry = Retry(max_attempts=2, max_failures=2, base_us=2_000, cap_us=2_000)
    await submitted(store, dags.shaped(dags.SINGLE, retry=retry))
    await store.commit([broken(await claim_one(store))], worker=WORKER)
    claim = await waiting(store)
    clock.advance(2_000)
    assert [lease.attempt for lease in await claim] == [2]


async def test_a_claim_that_waits_already_is_served_when_a_later_wait_is_over(
    store: Store, clock: SetClock
) -> None:
    retry = Retry(max_attempts=2, max_failures=2, base_us=2_000, cap_us=2_000)
    await submitted(store, dags.shaped(dags.SINGLE, retry=retry))
    lease = await claim_one(store)
    claim = await waiting(store)
    await store.commit([broken(lease)], worker=WORKER)
    clock.advance(2_000)
    assert [lease.attempt for lease in await claim] == [2]


async def test_a_waiting_claim_is_served_by_recovery(store: Store) -> None:
    await submitted(store, dags.shaped(dags.SINGLE, retry=Retry()))
    await claim_one(store)
    claim = await waiting(store)
    assert await store.recover() == 1
    assert [lease.attempt for lease in await claim] == [2]


async def test_waiting_claims_are_served_in_their_order(store: Store) -> None:
    claims = [await waiting(store) for _ in range(3)]
    await submitted(store, APART)
    assert [(await claim)[0].position for claim in claims] == [0, 1, 2]


async def test_a_claim_whose_caller_went_away_takes_nothing(store: Store) -> None:
    claim = await waiting(store)
    claim.cancel()
    await asyncio.gather(claim, return_exceptions=True)
    abandoned = asyncio.create_task(store.claim(OTHER, 1))
    await asyncio.sleep(0)
    abandoned.cancel()
    await asyncio.gather(abandoned, return_exceptions=True)
    run = await submitted(store, SINGLE)
    taken = await store.claim(WORKER, 1)
    held = [step for step in await store.steps(TENANT, run) if step.state is State.EXECUTING]
    assert [lease.run for lease in taken] == [run]
    assert [step.worker for step in held] == [WORKER]


async def test_closing_answers_the_claims_that_wait(store: Store) -> None:
    claims = [await waiting(store) for _ in range(2)]
    await store.close()
    assert [list(await claim) for claim in claims] == [[], []]


# --- many at once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 7])
async def test_many_claims_and_commits_at_once_never_share_a_step(store: Store, workers: int) -> None:
    spec = dags.shaped(dags.CROSSED)
    runs = [await submitted(store, spec, str(number)) for number in range(6)]
    taken: list[Lease] = []
    held = [
        list(leases) for leases in await asyncio.gather(*(store.claim(WORKER, 2) for _ in range(workers)))
    ]
    while any(held):
        taken += [lease for leases in held for lease in leases]
        answers = await asyncio.gather(
            *(store.commit([done(lease) for lease in leases], worker=WORKER, slots=2) for leases in held)
        )
        assert all(not answer.lost for answer in answers)
        held = [list(answer.leases) for answer in answers]
    assert sorted(places(taken, runs)) == [(run, position) for run in range(6) for position in range(5)]
    assert list(await store.unfinished()) == []


async def test_each_ended_run_is_told_once(store: Store) -> None:
    runs = [await submitted(store, SINGLE, str(number)) for number in range(5)]
    leases = await store.claim(WORKER, 5)
    answers = await asyncio.gather(*(store.commit([done(lease)], worker=WORKER) for lease in leases))
    assert sorted(run for answer in answers for run in answer.ended) == sorted(runs)


@pytest.mark.owner_only("recovery does not travel, so it is not in one commit with a report that does")
async def test_recovery_beside_a_report_takes_back_only_what_still_runs(store: Store) -> None:
    spec = dags.shaped(dags.APART, retry=Retry())
    run = await submitted(store, spec)
    leases = await store.claim(WORKER, 2)
    committed, taken = await asyncio.gather(store.commit([done(leases[0])], worker=WORKER), store.recover())
    assert (committed.lost, taken) == ((), 1)
    assert await ways(store, spec, run, TENANT) == {"a": "completed", "b": "lease_expired", "c": "queued"}
    taken, committed = await asyncio.gather(store.recover(), store.commit([done(leases[1])], worker=WORKER))
    assert (committed.lost, taken) == ((leases[1],), 0)


async def test_a_submission_and_a_claim_at_once_meet(store: Store) -> None:
    await store.register(registration(APART))
    requests = [submission(APART, str(number)) for number in range(3)]
    *answers, leases, more = await asyncio.gather(
        *map(store.submit, requests), store.claim(WORKER, 4), store.claim(OTHER, 9)
    )
    assert [answer.run for answer in answers] == [request.id for request in requests]
    assert [(lease.run, lease.position) for lease in (*leases, *more)] == [
        (request.id, position) for request in requests for position in range(3)
    ]
    for request in requests:
        await require_told_by_history(store, APART, request.id, TENANT)


async def test_the_same_submission_at_once_makes_one_run(store: Store) -> None:
    await store.register(registration(SINGLE))
    for request in (
        submission(SINGLE, "1", caller_key="k"),
        replace(submission(SINGLE, "2"), key='{"n":1,"rerun":"0"}'),
    ):
        answers = await asyncio.gather(*(store.submit(request) for _ in range(3)))
        assert [answer.created for answer in answers] == [True, False, False]
        assert {answer.run for answer in answers} == {request.id}
    conflicting = [submission(SINGLE, str(n), caller_key="other", inputs={"n": n}) for n in (1, 2)]
    first, second = await asyncio.gather(*map(store.submit, conflicting), return_exceptions=True)
    assert first == (conflicting[0].id, True)
    assert isinstance(second, IdempotencyKeyConflict)
    assert len(await store.runs(TENANT, limit=10)) == 3


async def test_what_is_refused_harms_nothing_that_came_with_it(store: Store) -> None:
    await store.register(registration(SINGLE))
    unknown = submission(APART, "1")
    refused, made, leases = await asyncio.gather(
        store.submit(unknown),
        store.submit(submission(SINGLE, "1")),
        store.claim(WORKER, 9),
        return_exceptions=True,
    )
    assert isinstance(refused, NotFound)
    assert not isinstance(made, BaseException)
    assert not isinstance(leases, BaseException)
    assert [lease.run for lease in leases] == [made.run]
