"""How runs end: failFast, choices, hashes, times; and that the history tells all of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sovrun.core.canonical import digest_of
from sovrun.core.identity import StepResult, outcome_body
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import Retry
from sovrun.core.step import Fail
from sovrun.store.protocol import Lease, Store
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
    payload,
    registration,
    submission,
    submitted,
)

CHAIN = dags.shaped(dags.CHAIN)
TWICE = Retry(max_attempts=2, max_failures=2, base_us=1_000, cap_us=1_000)


# --- failFast -----------------------------------------------------------------------------------------------------------

FAST = dags.shaped({"a": "", "b": "", "c": "", "d": "a", "e": "b"}, fail_fast=True, retry=TWICE)


async def test_fail_fast_cancels_what_has_not_started_and_lets_the_rest_end(store: Store) -> None:
    run = await submitted(store, FAST)
    first, second = await store.claim(WORKER, 2)
    committed = await commit(store, broken(first, retryable=False), slots=3)
    assert committed.leases == ()
    assert await ways(store, FAST, run, TENANT) == {
        "a": "step_raised",
        "b": "executing",
        "c": "fail_fast",
        "d": "upstream_failed",
        "e": "fail_fast",
    }
    assert await store.claim(WORKER, 5) == []
    assert (await commit(store, done(second))).ended == (run,)
    head = (await store.run(TENANT, run)).head
    assert (head.state, head.reproducible) == (State.FAILED, False)


async def test_fail_fast_cancels_a_wait_too_even_one_that_is_over(store: Store, clock: SetClock) -> None:
    run = await submitted(store, FAST)
    first, second, third = await store.claim(WORKER, 3)
    await commit(store, broken(first))
    clock.advance(1_000)
    committed = await commit(store, broken(second, retryable=False), slots=3)
    assert committed.leases == ()
    assert (await ways(store, FAST, run, TENANT))["a"] == "fail_fast"
    assert await store.claim(WORKER, 3) == []
    assert (await commit(store, done(third))).ended == (run,)


async def test_fail_fast_reaches_a_wait_that_begins_in_the_same_commit(store: Store, clock: SetClock) -> None:
    run = await submitted(store, FAST)
    first, second, third = await store.claim(WORKER, 3)
    await commit(store, broken(first), broken(second, retryable=False))
    assert await ways(store, FAST, run, TENANT) == {
        "a": "fail_fast",
        "b": "step_raised",
        "c": "executing",
        "d": "fail_fast",
        "e": "upstream_failed",
    }
    clock.advance(10_000)
    assert await store.claim(WORKER, 3) == []
    await commit(store, done(third))


async def test_nothing_is_tried_again_in_a_run_that_stops(store: Store) -> None:
    run = await submitted(store, FAST)
    first, second, third = await store.claim(WORKER, 3)
    await commit(store, broken(first, retryable=False))
    report = broken(second, "bad_luck")
    assert (await commit(store, report)).lost == ()
    assert (await ways(store, FAST, run, TENANT))["b"] == "fail_fast"
    step = (await store.steps(TENANT, run))[second.position]
    assert isinstance(report.result, Fail)
    assert (step.state, step.failure, step.error) == (State.FAILED, "bad_luck", report.result.failure.error)
    assert await store.payload(TENANT, report.result.failure.error) == report.payloads[0].body
    assert (await commit(store, report)).lost == (), "the same report again is acknowledged"
    assert (await commit(store, broken(second, "another"))).lost == (second,)
    assert await store.recover() == 1
    assert (await ways(store, FAST, run, TENANT))["c"] == "fail_fast"
    assert (await store.run(TENANT, run)).head.state is State.FAILED
    assert third.position == 2


async def test_other_branches_go_on_without_fail_fast(store: Store) -> None:
    spec = replace(FAST, fail_fast=False)
    run = await submitted(store, spec)
    await commit(store, broken(await claim_one(store), retryable=False))
    await drained(store)
    assert await ways(store, spec, run, TENANT) == {
        "a": "step_raised",
        "b": "completed",
        "c": "completed",
        "d": "upstream_failed",
        "e": "completed",
    }


# --- choices ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (
            ["left", "right"],
            {"left": "completed", "right": "completed", "tail": "completed", "join": "completed"},
        ),
        (
            ["left"],
            {"left": "completed", "right": "not_selected", "tail": "not_selected", "join": "completed"},
        ),
        (["right"], {"left": "not_selected", "right": "completed", "tail": "completed", "join": "completed"}),
        (
            [],
            {"left": "not_selected", "right": "not_selected", "tail": "not_selected", "join": "not_selected"},
        ),
    ],
)
async def test_a_choice_is_obeyed_and_recorded(
    store: Store, chosen: list[str], expected: dict[str, str]
) -> None:
    spec = dags.chooser()
    run = await submitted(store, spec)
    index = {step.id: position for position, step in enumerate(spec.steps)}
    committed = await commit(
        store, done(await claim_one(store), chosen=[index[choice] for choice in chosen]), slots=4
    )
    while committed.leases:
        committed = await commit(store, *map(done, committed.leases), slots=4)
    assert await ways(store, spec, run, TENANT) == {"pick": "completed", **expected}
    head = (await store.run(TENANT, run)).head
    assert (head.state, head.reproducible) == (State.COMPLETED, True)
    told = [json.loads(event.data) for event in await store.events(TENANT, run) if event.step == "pick"]
    assert [data["chosen"] for data in told if "chosen" in data] == [chosen]


async def test_a_selector_that_fails_chooses_nothing_and_fails_what_needs_it(store: Store) -> None:
    spec = dags.chooser()
    run = await submitted(store, spec)
    await commit(store, broken(await claim_one(store)))
    told = await ways(store, spec, run, TENANT)
    assert {told[id_] for id_ in ("left", "right", "tail", "join")} == {"upstream_failed"}


async def test_a_failure_goes_down_every_branch_in_one_event(store: Store) -> None:
    spec = dags.shaped({"a": "", "b": "a", "c": "a", "d": "b c", "e": "d"})
    run = await submitted(store, spec)
    assert (await commit(store, broken(await claim_one(store)))).ended == (run,)
    told = await ways(store, spec, run, TENANT)
    assert [told[id_] for id_ in "bcde"] == ["upstream_failed"] * 4
    cancelled = [
        json.loads(event.data) for event in await store.events(TENANT, run) if event.type == "step.cancelled"
    ]
    assert [data.get("steps") for data in cancelled] == [["b", "c"], None, None], "one event for each wave"


# --- ends ---------------------------------------------------------------------------------------------------------------


async def test_a_run_ends_with_hashes_that_anyone_can_take(store: Store, clock: SetClock) -> None:
    await store.register(registration(CHAIN))
    request = submission(CHAIN, "1", inputs={"x": 1})
    await store.submit(request)
    clock.advance(5)
    await drained(store)
    record = await store.run(TENANT, request.id)
    steps = await store.steps(TENANT, request.id)
    results = [StepResult(step.step_hash, step.state, step.cause, step.output) for step in steps]
    ids = [step.id for step in CHAIN.steps]
    body = outcome_body(request.version, request.inputs.digest, ids, results)
    assert record.head.outcome == digest_of("sovrun.outcome", 1, body)
    outputs = [{"id": id_, "output": step.output} for id_, step in zip(ids, steps, strict=True)]
    assert record.head.outputs == digest_of("sovrun.outputs", 1, {"outputs": outputs})
    assert (record.head.state, record.head.reason, record.head.reproducible) == (State.COMPLETED, None, True)
    assert (record.started_us, record.ended_us) == (START_US + 5, START_US + 5)
    last = (await store.events(TENANT, request.id))[-1]
    assert json.loads(last.data) == {
        "outcomeHash": record.head.outcome,
        "outputsHash": record.head.outputs,
        "reason": None,
        "reproducible": True,
    }


async def test_the_order_of_work_changes_no_outcome(store: Store) -> None:
    spec = dags.shaped(dags.CROSSED, retry=Retry())
    outcomes = set()
    for number, slots in enumerate((1, 2, 5)):
        run = await submitted(store, spec, str(number))
        if slots == 2:
            await store.claim(OTHER, 2)
            await store.recover()
        await drained(store, slots=slots)
        head = (await store.run(TENANT, run)).head
        assert head.reproducible is True
        outcomes.add((head.outcome, head.outputs))
    assert len(outcomes) == 1


async def test_times_never_go_back_even_when_the_clock_does(store: Store, clock: SetClock) -> None:
    spec = dags.shaped(dags.CHAIN, retry=TWICE)
    run = await submitted(store, spec)
    lease: Lease | None = await claim_one(store)
    while lease is not None:
        clock.advance(-1_000_000)
        leases = (await commit(store, done(lease), slots=1)).leases
        lease = leases[0] if leases else None
    await require_told_by_history(store, spec, run, TENANT)
    assert {event.time_us for event in await store.events(TENANT, run)} == {START_US}


async def test_a_long_history_is_told_without_gaps(store: Store, clock: SetClock) -> None:
    retry = Retry(max_attempts=30, max_failures=20, base_us=1, cap_us=1)
    spec = dags.shaped({"a": "", "b": "a"}, retry=retry)
    run = await submitted(store, spec)
    for attempt in range(29):
        lease = await claim_one(store)
        if attempt % 3:
            await commit(store, broken(lease, circumstance=attempt % 2 == 0))
        else:
            await store.recover()
        clock.advance(7)
    await drained(store)
    assert await ways(store, spec, run, TENANT) == {"a": "completed", "b": "completed"}
    step = (await store.steps(TENANT, run))[0]
    assert (step.attempts, step.failures, step.circumstances, step.fence) == (30, 19, 10, 31)


async def test_an_output_is_kept_byte_for_byte(store: Store) -> None:
    run = await submitted(store, dags.shaped(dags.SINGLE))
    lease = await claim_one(store)
    value = {"step": 0, "output": {"b": [1, 2.5, None], "a": "\u20ac"}}
    await commit(store, done(lease, value["output"]))
    kept = payload(value)
    assert (await store.steps(TENANT, run))[0].output == kept.digest
    assert await store.payload(TENANT, kept.digest) == kept.body
