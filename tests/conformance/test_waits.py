"""Waits: begun by the engine, ended once by an answer, a decision or their time; and what is told of them."""

from __future__ import annotations

import asyncio
import json

import pytest

from sovrun.core.actions import Action, Refuse, Reuse
from sovrun.core.errors import ConfirmationChanged, IllegalTransition, NotFound
from sovrun.core.ids import RunId, Tenant
from sovrun.core.lifecycle import Cause, State
from sovrun.core.spec.model import Retry
from sovrun.store.protocol import Store
from support import dags
from support.acts import ALICE, BOB, OUTPUT, SHOWN, WHY, answer, cancelled, decision, enter, release, taken_up
from support.clock import START_US, SetClock
from support.folding import require_told_by_history, ways
from support.requests import (
    ENVIRONMENT,
    OTHER,
    TENANT,
    WORKER,
    broken,
    done,
    drained,
    registration,
    submission,
    submitted,
)

HOUR_US = 3_600_000_000
TOOL = dags.dag(dags.tool("ask"), dags.step("after", "ask"))
CONFIRM = dags.dag(dags.confirm("ask"), dags.step("after", "ask"))
SPECS = {"tool": TOOL, "confirm": CONFIRM}


async def waiting(store: Store, kind: str) -> RunId:
    run = await submitted(store, SPECS[kind])
    await taken_up(store)
    return run


def word(kind: str, run: RunId) -> Action:
    return answer(run) if kind == "tool" else decision(run)


def others(kind: str, run: RunId) -> list[Action]:
    """Return words that differ from `word` in one thing each."""
    if kind == "tool":
        return [answer(run, actor=BOB), answer(run, output=SHOWN.digest), answer(run, output=None)]
    return [decision(run, actor=BOB), decision(run, approve=False), decision(run, rationale=WHY.digest)]


kinds = pytest.mark.parametrize("kind", list(SPECS))


# --- pending ------------------------------------------------------------------------------------------------------------


@kinds
async def test_a_wait_is_for_the_engine_and_no_worker_gets_it(store: Store, kind: str) -> None:
    run = await submitted(store, SPECS[kind])
    assert await store.claim(WORKER, 9) == []
    [pending] = await store.pending(9)
    assert (pending.tenant, pending.run, pending.position, pending.parent) == (TENANT, run, 0, None)
    await store.act(enter(pending), payloads=[SHOWN])
    assert await store.pending(9) == []
    assert await store.claim(WORKER, 9) == []
    head = (await store.run(TENANT, run)).head
    assert head.state is (State.AWAITING_TOOL if kind == "tool" else State.AWAITING_USER_CONFIRMATION)


async def test_pending_steps_are_told_in_their_order_up_to_the_limit(store: Store) -> None:
    runs = [await submitted(store, TOOL, str(number)) for number in range(3)]
    assert [step.run for step in await store.pending(2)] == runs[:2]
    assert [step.run for step in await store.pending(9)] == runs


async def test_who_waits_for_pending_steps_is_woken_by_the_first(store: Store) -> None:
    asked = asyncio.create_task(store.pending(9, patience_us=30_000_000))
    await asyncio.sleep(0)
    run = await submitted(store, TOOL)
    assert [step.run for step in await asked] == [run]


async def test_patience_for_pending_steps_ends_and_closing_ends_it(store: Store) -> None:
    assert list(await store.pending(9, patience_us=1_000)) == []
    asked = asyncio.create_task(store.pending(9, patience_us=30_000_000))
    await asyncio.sleep(0)
    await store.close()
    assert list(await asked) == []


async def test_two_engines_take_a_wait_up_once(store: Store) -> None:
    run = await submitted(store, TOOL)
    [step] = await store.pending(9)
    acted = await asyncio.gather(*(store.act(enter(step)) for _ in range(2)))
    assert [each.changed for each in acted] == [True, False]
    assert {each.state for each in acted} == {State.AWAITING_TOOL}
    assert not (await store.act(enter(step))).changed
    await require_told_by_history(store, TOOL, run, TENANT)


async def test_two_engines_that_leave_a_step_to_the_workers_leave_it_once(store: Store) -> None:
    """A step that was put into the queue twice would be leased twice."""
    spec = dags.shaped(dags.SINGLE)
    parent = await submitted(store, spec)
    await drained(store)
    made = await store.submit(submission(spec, "2", parent=(parent, 1)))
    assert await store.claim(WORKER, 9) == [], "the engine looks first whether the output can be reused"
    [step] = await store.pending(9)
    assert (step.run, step.parent) == (made.run, parent)
    acted = await asyncio.gather(store.act(release(step)), store.act(release(step)))
    assert [each.changed for each in acted] == [True, False]
    [lease] = await store.claim(WORKER, 9)
    assert not (await store.act(release(step))).changed
    assert await store.claim(OTHER, 9) == []
    await store.commit([done(lease)], worker=WORKER)
    assert await ways(store, spec, made.run, TENANT) == {"a": "completed"}


async def test_an_output_that_is_reused_takes_no_attempt_and_goes_on(store: Store) -> None:
    spec = dags.shaped(dags.CHAIN)
    parent = await submitted(store, spec)
    await drained(store)
    before = (await store.steps(TENANT, parent))[0]
    run = (await store.submit(submission(spec, "2", parent=(parent, 1)))).run
    assert len(await store.pending(9)) == 1
    assert before.output is not None and before.step_hash is not None  # noqa: PT018 -- both for the types
    reuse = Reuse(TENANT, run, 0, parent, before.step_hash, before.output, ENVIRONMENT)
    assert (await store.act(reuse)).state is State.EXECUTING
    assert not (await store.act(reuse)).changed
    assert [each.position for each in await store.pending(9)] == [1]
    [after, *_] = await store.steps(TENANT, run)
    assert (after.state, after.attempts, after.output) == (State.COMPLETED, 0, before.output)
    events = [json.loads(event.data) for event in await store.events(TENANT, run)]
    assert {"by": "engine", "reusedFrom": parent} in events
    assert (await store.reruns(TENANT, parent), await store.reruns(TENANT, run)) == (1, 0)
    assert await store.reruns(Tenant("u"), parent) == 0


async def test_what_cannot_be_asked_fails_the_step_for_good(store: Store) -> None:
    run = await submitted(store, TOOL)
    acted = await store.act(Refuse(TENANT, run, 0, "input_unresolved", WHY.digest), payloads=[WHY])
    assert acted == (True, State.FAILED)
    step = (await store.steps(TENANT, run))[0]
    assert (step.reason, step.cause, step.error) == ("input_unresolved", Cause.WORK, WHY.digest)
    assert await store.payload(TENANT, WHY.digest) == WHY.body
    assert (await store.run(TENANT, run)).head.reproducible is True
    assert await store.pending(9) == []


# --- answers and decisions ------------------------------------------------------------------------------------------------


@pytest.mark.owner_only("the socket signs what it is sent with the caller's own name")
@kinds
async def test_a_word_ends_the_wait_and_the_run_goes_on(store: Store, kind: str) -> None:
    run = await waiting(store, kind)
    acted = await store.act(word(kind, run), payloads=[OUTPUT])
    assert acted == (True, State.EXECUTING)
    step = (await store.steps(TENANT, run))[0]
    assert (step.state, step.output, step.attempts) == (State.COMPLETED, OUTPUT.digest, 0)
    assert await store.payload(TENANT, OUTPUT.digest) == OUTPUT.body
    assert [lease.position for lease in await drained(store)] == [1]
    assert await ways(store, SPECS[kind], run, TENANT) == {"ask": "completed", "after": "completed"}
    assert (await store.run(TENANT, run)).head.reproducible is True
    resumed = [event for event in await store.events(TENANT, run) if '"decision"' in event.data]
    assert [event.actor for event in resumed] == [ALICE]


@kinds
async def test_the_identical_word_again_is_acknowledged_and_writes_nothing(store: Store, kind: str) -> None:
    run = await waiting(store, kind)
    await store.act(word(kind, run))
    before = await store.events(TENANT, run)
    assert not (await store.act(word(kind, run))).changed
    await drained(store)
    told = await store.events(TENANT, run)
    assert (await store.act(word(kind, run))) == (False, State.COMPLETED), "even when the run has ended"
    assert await store.events(TENANT, run) == told
    assert list(told[: len(before)]) == list(before)


@pytest.mark.owner_only("the socket signs what it is sent with the caller's own name")
@kinds
async def test_another_word_after_the_first_is_refused_and_writes_nothing(store: Store, kind: str) -> None:
    run = await waiting(store, kind)
    await store.act(word(kind, run))
    before = await store.events(TENANT, run)
    for other in others(kind, run):
        with pytest.raises(IllegalTransition) as refusal:
            await store.act(other, payloads=[SHOWN])
        assert refusal.value.hint
    assert await store.events(TENANT, run) == before
    assert await store.payload(TENANT, SHOWN.digest) is not None  # from when the wait began


@pytest.mark.owner_only("the socket signs what it is sent with the caller's own name")
@kinds
async def test_of_many_words_at_once_one_counts(store: Store, kind: str) -> None:
    run = await waiting(store, kind)
    words = [word(kind, run), *others(kind, run), word(kind, run)]
    told = await asyncio.gather(*(store.act(each) for each in words), return_exceptions=True)
    assert [getattr(each, "changed", type(each)) for each in told] == [
        True,
        IllegalTransition,
        IllegalTransition,
        IllegalTransition,
        False,
    ]
    await require_told_by_history(store, SPECS[kind], run, TENANT)


@kinds
async def test_a_word_before_anything_is_asked_is_refused(store: Store, kind: str) -> None:
    run = await submitted(store, SPECS[kind])
    with pytest.raises(IllegalTransition):
        await store.act(word(kind, run))
    with pytest.raises(IllegalTransition):
        await store.act(word("confirm" if kind == "tool" else "tool", await waiting_too(store, kind)))


async def waiting_too(store: Store, kind: str) -> RunId:
    run = await submitted(store, SPECS[kind], "another")
    await taken_up(store)
    return run


async def test_an_approval_of_something_else_is_refused_and_the_wait_goes_on(store: Store) -> None:
    run = await waiting(store, "confirm")
    before = await store.events(TENANT, run)
    for approve in (True, False):
        with pytest.raises(ConfirmationChanged):
            await store.act(decision(run, approve=approve, shown=WHY.digest))
    assert await store.events(TENANT, run) == before
    assert (await store.act(decision(run))).changed


async def test_a_rejection_fails_the_step_as_work_and_what_needs_it(store: Store) -> None:
    run = await waiting(store, "confirm")
    rejected = decision(run, approve=False, rationale=WHY.digest)
    assert (await store.act(rejected, payloads=[WHY])) == (True, State.FAILED)
    assert await ways(store, CONFIRM, run, TENANT) == {"ask": "rejected", "after": "upstream_failed"}
    head = (await store.run(TENANT, run)).head
    assert (head.state, head.reproducible) == (State.FAILED, True)
    [event] = [
        event
        for event in await store.events(TENANT, run)
        if '"rejected"' in event.data and "answerHash" in event.data
    ]
    assert json.loads(event.data)["rationaleHash"] == WHY.digest
    assert not (await store.act(rejected)).changed


async def test_a_tool_that_could_not_fails_the_step_as_work(store: Store) -> None:
    run = await waiting(store, "tool")
    assert (await store.act(answer(run, output=None), payloads=[WHY])) == (True, State.FAILED)
    step = (await store.steps(TENANT, run))[0]
    assert (step.reason, step.cause, step.error) == ("tool_failed", Cause.WORK, WHY.digest)


async def test_a_tool_chooses_among_its_dependents(store: Store) -> None:
    spec = dags.dag(
        dags.tool("ask", select=["left", "right"]), dags.step("left", "ask"), dags.step("right", "ask")
    )
    run = await submitted(store, spec)
    await taken_up(store)
    await store.act(answer(run, chosen=[1]))
    await drained(store)
    assert await ways(store, spec, run, TENANT) == {
        "ask": "completed",
        "left": "completed",
        "right": "not_selected",
    }


async def test_a_word_of_another_tenant_finds_no_run(store: Store) -> None:
    run = await waiting(store, "tool")
    stranger = answer(run)
    with pytest.raises(NotFound):
        await store.act(type(stranger)(Tenant("u"), run, 0, ALICE, OUTPUT.digest))


# --- what is told of waits ----------------------------------------------------------------------------------------------


async def test_waits_are_told_longest_first_with_since_and_until(store: Store, clock: SetClock) -> None:
    spec = dags.dag(dags.step("before"), dags.confirm("ask", "before", expires_us=HOUR_US))
    await store.register(registration(spec))
    first = (await store.submit(submission(spec, "1"))).run
    [lease] = await store.claim(WORKER, 1)
    clock.advance(5)
    second = await submitted(store, TOOL)
    await taken_up(store)
    clock.advance(5)
    await store.commit([done(lease)], worker=WORKER)
    await taken_up(store)
    told = [
        (wait.run, wait.since_us - START_US, wait.until_us, wait.shown)
        for wait in await store.waiting(TENANT)
    ]
    until_us = START_US + 10 + HOUR_US
    assert told == [(second, 5, None, SHOWN.digest), (first, 10, until_us, SHOWN.digest)]
    assert [wait.run for wait in await store.waiting(TENANT, limit=1)] == [second]
    assert list(await store.waiting(Tenant("u"))) == []
    await cancelled(store, second)
    assert [wait.run for wait in await store.waiting(TENANT)] == [first]


async def test_waits_are_told_page_by_page_whatever_ends_meanwhile(store: Store, clock: SetClock) -> None:
    both = dags.dag(dags.tool("ask"), dags.tool("too"), name="both")
    runs = [await submitted(store, both, str(number)) for number in range(3)]
    await taken_up(store)
    clock.advance(5)
    runs.append(await submitted(store, TOOL, "late"))
    await taken_up(store)
    whole = [(wait.run, wait.position) for wait in await store.waiting(TENANT)]
    assert whole == [(run, position) for run in runs[:3] for position in (0, 1)] + [(runs[3], 0)]
    told, last = [], None
    while page := await store.waiting(TENANT, limit=2, after=last):
        told += [(wait.run, wait.position) for wait in page]
        last = page[-1]
        await store.act(answer(last.run, last.position))
    assert told == whole


async def test_a_retry_that_waits_for_its_time_waits_for_nobody(store: Store) -> None:

    spec = dags.shaped(dags.SINGLE, retry=Retry())
    await submitted(store, spec)
    [lease] = await store.claim(WORKER, 1)
    await store.commit([broken(lease)], worker=WORKER)
    assert list(await store.waiting(TENANT)) == []


@pytest.mark.owner_only("a thousand calls through a socket take long and show nothing that one does not")
async def test_a_thousand_waits_hold_no_slot(store: Store) -> None:
    await store.register(registration(TOOL))
    made = await asyncio.gather(*(store.submit(submission(TOOL, str(number))) for number in range(1_000)))
    await asyncio.gather(*(store.act(enter(step)) for step in await store.pending(1_000)))
    [depth] = await store.depths(TENANT)
    assert (depth.queued, depth.executing, depth.oldest_us) == (0, 0, None)
    assert len(await store.waiting(TENANT)) == 1_000
    await store.act(answer(made[500].run))
    assert [lease.run for lease in await store.claim(WORKER, 9)] == [made[500].run]
