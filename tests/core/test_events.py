"""What is recorded is RFC 8785 by construction: each template equals the canonical form of the same object."""

from __future__ import annotations

from dataclasses import asdict, astuple
from typing import Any

import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.canonical import decode, digest_of
from sovrun.core.events import (
    Budget,
    Event,
    Failure,
    RunBudget,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepLeaseExpired,
    StepRetryScheduled,
    StepStarted,
    chain_link,
    event_text,
    grouped,
    plain_fields,
)
from sovrun.core.ids import RunId, StepId, Tenant, WorkerId, actor
from sovrun.core.lifecycle import Cause, Reason
from sovrun.core.network import Connection
from sovrun.core.times import time_text
from sovrun.core.walls import BEST_EFFORT, HARD, Walls
from support.values import codes, digests, names, workers

MANY = settings(max_examples=1_000, deadline=None)

numbers = st.integers(0, 2**53 - 1)
instants = st.integers(0, 4_000_000_000_000_000)
budgets = st.builds(
    Budget, *(numbers, numbers, numbers, numbers), run=st.none() | st.builds(RunBudget, numbers, numbers)
)
connections = st.lists(
    st.builds(
        Connection,
        st.sampled_from(["a.test", "db", 'what"ever']),
        st.integers(1, 65_535),
        st.sampled_from(["closed", "reset", "refused", "cut"]),
        *(numbers, numbers, numbers, numbers),
    ),
    max_size=3,
).map(tuple)
walls = st.none() | st.builds(Walls, digests, numbers, st.sampled_from([HARD, BEST_EFFORT]), st.booleans())
failures = st.builds(
    Failure,
    codes,
    digests,
    st.none() | digests,
    digests,
    circumstance=st.booleans(),
    retryable=st.booleans(),
    connections=connections,
    walls=walls,
)


def rfc(value: Any) -> str:
    """Return the canonical form by the reference implementation."""
    return rfc8785.dumps(value).decode()


def spent(budget: Budget) -> dict[str, Any]:
    return {
        "attempts": budget.attempts,
        "attemptsLeft": budget.attempts_left,
        "failures": budget.failures,
        "failuresLeft": budget.failures_left,
        **(
            {}
            if budget.run is None
            else {"runFailures": budget.run.failures, "runFailuresLeft": budget.run.failures_left}
        ),
    }


def told(connections: tuple[Connection, ...]) -> dict[str, Any]:
    if not connections:
        return {}
    members = ("host", "port", "end", "count", "sent", "received", "durationUs")
    return {"connections": [dict(zip(members, astuple(one), strict=True)) for one in connections]}


def behind(walls: Walls | None) -> dict[str, Any]:
    if walls is None:
        return {}
    members = asdict(walls)
    if not members["warm"]:  # told only where it is so
        del members["warm"]
    return {"walls": members}


def reported(failure: Failure) -> dict[str, Any]:
    return {
        **told(failure.connections),
        **behind(failure.walls),
        "circumstance": failure.circumstance,
        "environment": failure.environment,
        "errorHash": failure.error,
        "failure": failure.code,
        "stepHash": failure.step_hash,
    }


@MANY
@given(workers, numbers, numbers)
def test_a_start_is_recorded_in_canonical_form(worker: WorkerId, attempt: int, fence: int) -> None:
    expected = {"worker": worker, "attempt": attempt, "fence": fence}
    assert StepStarted(worker, attempt, fence).data() == rfc(expected)


@MANY
@given(digests, digests, digests, numbers, st.none() | st.lists(names, max_size=3), connections, walls)
def test_a_completion_is_recorded_in_canonical_form(
    hash_: Any,
    output: Any,
    environment: Any,
    attempt: int,
    chosen: list[StepId] | None,
    made: tuple[Connection, ...],
    around: Walls | None,
) -> None:
    positions = None if chosen is None else tuple(range(len(chosen)))
    event = StepCompleted(hash_, output, environment, attempt, positions, made, around)
    expected: dict[str, Any] = {"stepHash": hash_, "outputHash": output, "environment": environment}
    expected |= {"attempt": attempt, **told(made), **behind(around)}
    assert event.data(chosen or ()) == rfc(expected if chosen is None else expected | {"chosen": chosen})


@MANY
@given(failures, budgets, instants)
def test_a_retry_is_recorded_in_canonical_form(failure: Failure, budget: Budget, until_us: int) -> None:
    expected = {
        **spent(budget),
        **reported(failure),
        "decision": "retry_scheduled",
        "reason": "retry_due",
        "until": time_text(until_us),
    }
    assert StepRetryScheduled(failure, budget, until_us).data() == rfc(expected)


@MANY
@given(st.none() | workers, budgets, instants)
def test_a_lost_lease_is_recorded_in_canonical_form(
    worker: WorkerId | None, budget: Budget, until_us: int
) -> None:
    expected = {**spent(budget), "reason": "lease_expired", "until": time_text(until_us), "worker": worker}
    assert StepLeaseExpired(worker, budget, until_us).data() == rfc(expected)


@MANY
@given(codes, st.sampled_from(Cause), budgets, st.none() | failures)
def test_a_failure_is_recorded_in_canonical_form(
    reason: str, cause: Cause, budget: Budget, failure: Failure | None
) -> None:
    expected = {**spent(budget), "cause": str(cause), "reason": reason}
    if failure is not None:
        expected |= reported(failure)
    assert StepFailed(reason, cause, budget, failure).data() == rfc(expected)


@MANY
@given(st.sampled_from(Reason), st.sampled_from(Cause), st.lists(names, min_size=2, max_size=5))
def test_a_cancellation_of_one_or_many_is_recorded_in_canonical_form(
    reason: Reason, cause: Cause, steps: list[StepId]
) -> None:
    data = StepCancelled(reason, cause).data()
    assert data == rfc({"reason": str(reason), "cause": str(cause)})
    assert grouped(data, steps) == rfc({"reason": str(reason), "cause": str(cause), "steps": steps})
    assert grouped("{}", steps) == rfc({"steps": steps})


def test_many_starts_of_one_cause_are_recorded_in_canonical_form() -> None:
    data = StepStarted(WorkerId("worker/1"), 1, 1).data()
    together = grouped(data, [StepId("a"), StepId("b")])
    expected = {"attempt": 1, "fence": 1, "steps": ["a", "b"], "worker": "worker/1"}
    assert decode(together.encode()) == expected
    assert together == rfc(expected)


events = st.builds(
    Event,
    tenant=names.map(Tenant),
    run=digests.map(lambda digest: RunId(digest[:32])),
    sequence=numbers,
    time_us=instants,
    actor=st.text(max_size=20).map(actor),
    type=st.sampled_from(["run.queued", "step.completed"]),
    step=st.none() | names.map(StepId),
    data=st.dictionaries(names, st.none() | numbers | digests, max_size=3).map(rfc),
)


@MANY
@given(events)
def test_an_event_is_exported_in_canonical_form(event: Event) -> None:
    fields = plain_fields(event, decode(event.data.encode()))
    assert event_text(event) == rfc(fields)


@MANY
@given(events, digests)
def test_a_link_of_the_chain_is_the_digest_of_the_event_and_the_link_before(
    event: Event, previous: Any
) -> None:
    fields = plain_fields(event, decode(event.data.encode()))
    assert chain_link(previous, event) == digest_of(
        "sovrun.event", 1, {"event": fields, "previous": previous}
    )


def test_a_link_changes_with_every_member_of_the_event_and_with_the_link_before() -> None:
    run = RunId("0" * 32)
    event = Event(Tenant("t"), run, 1, 1, actor("local:a"), "step.queued", StepId("a"), "{}")
    others = [
        event._replace(tenant=Tenant("u")),
        event._replace(run=RunId("1" * 32)),
        event._replace(sequence=2),
        event._replace(time_us=2),
        event._replace(actor=actor("local:b")),
        event._replace(type="step.executing"),
        event._replace(step=StepId("b")),
        event._replace(step=None),
        event._replace(data='{"a":1}'),
    ]
    previous = digest_of("sovrun.run", 1, {})
    links = {chain_link(previous, each) for each in (event, *others)}
    links.add(chain_link(digest_of("sovrun.run", 1, {"other": 1}), event))
    assert len(links) == len(others) + 2
