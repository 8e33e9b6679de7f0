"""A step keeps its promises whatever order commands come in, and its budgets are spent exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sovrun.core.canonical import sha256_hex
from sovrun.core.errors import CorruptHistory, IllegalTransition, LeaseLost
from sovrun.core.events import (
    Budget,
    Failure,
    StepCancelled,
    StepCompleted,
    StepEvent,
    StepFailed,
    StepLeaseExpired,
    StepQueued,
    StepRetryScheduled,
    StepStarted,
)
from sovrun.core.ids import Digest, WorkerId
from sovrun.core.lifecycle import TERMINAL, TRANSITIONS, Cause, Reason, State
from sovrun.core.spec.model import SECOND_US, Retry
from sovrun.core.step import (
    QUEUED,
    RECEIVED,
    Cancel,
    Complete,
    Fail,
    LoseLease,
    Start,
    Step,
    StepCommand,
    cancel_cause,
    decide,
    evolve,
    is_repeat,
)

WORKER = WorkerId("worker/1")
HASH, OUTPUT, ENVIRONMENT = (Digest(digit * 64) for digit in "abc")
RETRIED = {Reason.RETRY_DUE, Reason.LEASE_EXPIRED}


def failure(code: str = "step_raised", *, circumstance: bool = False, retryable: bool = True) -> Failure:
    error = sha256_hex(f"{code} {circumstance} {retryable}".encode())
    return Failure(code, error, HASH, ENVIRONMENT, circumstance, retryable)


def play(
    step: Step, commands: Sequence[StepCommand], retry: Retry, now_us: int = 0
) -> tuple[Step, list[StepEvent]]:
    """Send commands one after another; return the last step and the events."""
    events = []
    for command in commands:
        events.append(decide(step, command, retry, now_us))
        step = evolve(step, events[-1])
    return step, events


def attempts(results: Sequence[Failure | None]) -> list[StepCommand]:
    """Return the commands of attempts that end as given; None stands for a lost lease."""
    commands: list[StepCommand] = []
    for fence, result in enumerate(results, start=1):
        commands += [Start(WORKER), LoseLease() if result is None else Fail(fence, result)]
    return commands


# --- any order of commands ----------------------------------------------------------------------------------------------

fences = st.integers(1, 5)
failures = st.builds(
    failure,
    st.sampled_from(["step_raised", "wall_time_exceeded"]),
    circumstance=st.booleans(),
    retryable=st.booleans(),
)
commands = st.one_of(
    st.just(Start(WORKER)),
    st.builds(Complete, fences, st.just(HASH), st.sampled_from([OUTPUT, HASH]), st.just(ENVIRONMENT)),
    st.builds(Fail, fences, failures),
    st.just(LoseLease()),
    st.builds(
        Cancel,
        st.sampled_from(
            [Reason.RUN_CANCELLED, Reason.UPSTREAM_FAILED, Reason.NOT_SELECTED, Reason.FAIL_FAST]
        ),
    ),
)


class StepLifecycle(RuleBasedStateMachine):
    """Whatever the order of commands, these promises hold; a failure prints the shortest order."""

    @initialize(
        max_attempts=st.integers(1, 3),
        max_failures=st.integers(1, 3),
        begin=st.sampled_from([RECEIVED, QUEUED]),
    )
    def receive(self, max_attempts: int, max_failures: int, begin: Step) -> None:
        self.retry = Retry(max_attempts, max_failures, 2, 6)
        self.begin = self.step = begin
        self.history: tuple[StepEvent, ...] = ()
        self.ended_by: dict[int, Complete | Fail] = {}
        self.now_us = 0

    def take(self, event: StepEvent) -> None:
        before, after = self.step, evolve(self.step, event)
        assert before.state not in TERMINAL, "a terminal step is immutable"
        assert after.state in TRANSITIONS[before.state]
        assert after.fence == before.fence + (before.state is State.EXECUTING)
        assert after.attempts == before.attempts + (after.state is State.EXECUTING)
        self.step, self.history = after, (*self.history, event)

    @rule()
    def become_ready(self) -> None:
        if self.step.state is State.RECEIVED:
            self.take(StepQueued())

    @rule(command=commands, later_us=st.integers(0, 10), stopping=st.booleans())
    def send(self, command: StepCommand, later_us: int, *, stopping: bool) -> None:
        self.now_us += later_us
        before = self.step
        held = before.state is State.EXECUTING
        try:
            event = decide(before, command, self.retry, self.now_us, stopping=stopping)
        except LeaseLost:
            assert isinstance(command, Complete | Fail)
            assert not (held and command.fence == before.fence)
            return
        except IllegalTransition:
            assert not isinstance(command, Complete | Fail), "a report is judged by its fence alone"
            return
        if isinstance(command, Complete | Fail):
            assert held
            assert command.fence == before.fence, "a late report changes nothing"
            self.ended_by[command.fence] = command
        assert not (stopping and event.target is State.AWAITING_TOOL), (
            "nothing is tried again in a run that stops"
        )
        self.take(event)

    @rule()
    def send_the_current_report(self) -> None:
        if self.step.state is State.EXECUTING:
            self.send(Fail(self.step.fence, failure()), 0, stopping=False)

    @rule()
    def complete(self) -> None:
        if self.step.state is State.EXECUTING:
            self.send(Complete(self.step.fence, HASH, OUTPUT, ENVIRONMENT), 0, stopping=False)

    @invariant()
    def budgets_are_kept(self) -> None:
        assert self.step.attempts <= self.retry.max_attempts
        assert self.step.failures <= min(self.retry.max_failures, self.step.attempts)
        assert self.step.circumstances <= self.step.failures

    @invariant()
    def replay_gives_the_same_step(self) -> None:
        assert reduce(evolve, self.history, self.begin) == self.step

    @invariant()
    def only_a_wait_has_an_end_and_only_a_lease_a_worker(self) -> None:
        step = self.step
        assert (step.until_us is not None) is (step.state is State.AWAITING_TOOL)
        assert (step.worker is not None) is (step.state is State.EXECUTING)
        assert (step.output is not None) is (step.state is State.COMPLETED)
        assert (step.cause is not None) is (step.state in (State.FAILED, State.CANCELLED))
        assert step.state is not State.AWAITING_TOOL or step.reason in RETRIED
        assert step.state not in (State.FAILED, State.CANCELLED) or step.reason

    @invariant()
    def only_the_report_that_completed_the_step_is_a_repeat(self) -> None:
        for fence, report in self.ended_by.items():
            if self.step.state is State.COMPLETED:
                assert is_repeat(self.step, report) is (fence == self.step.fence - 1)


TestStepLifecycle = StepLifecycle.TestCase
TestStepLifecycle.settings = settings(max_examples=1_000, stateful_step_count=20, deadline=None)


# --- budgets ------------------------------------------------------------------------------------------------------------


def test_three_failures_wait_two_and_four_seconds_and_spend_the_attempts() -> None:
    retry = Retry(max_attempts=3, max_failures=3, base_us=2 * SECOND_US, cap_us=30 * SECOND_US)
    step, events = play(QUEUED, attempts([failure()] * 3), retry, now_us=1_000)
    waits = [event.until_us - 1_000 for event in events if isinstance(event, StepRetryScheduled)]
    assert waits == [2 * SECOND_US, 4 * SECOND_US]
    assert (step.state, step.reason, step.cause) == (
        State.FAILED,
        Reason.ATTEMPT_BUDGET_EXHAUSTED,
        Cause.WORK,
    )
    assert (step.attempts, step.failures, step.failure) == (3, 3, "step_raised")


def test_two_failures_of_five_attempts_spend_the_failures() -> None:
    step, events = play(QUEUED, attempts([failure()] * 2), Retry(max_attempts=5, max_failures=2))
    assert (step.state, step.reason, step.cause) == (
        State.FAILED,
        Reason.FAILURE_BUDGET_EXHAUSTED,
        Cause.WORK,
    )
    last = events[-1]
    assert isinstance(last, StepFailed)
    assert (last.budget.attempts_left, last.budget.failures_left) == (3, 0)


def test_a_lost_lease_waits_for_nothing_and_uses_an_attempt_but_no_failure() -> None:
    step, events = play(QUEUED, attempts([None]), Retry(max_attempts=2, max_failures=1), now_us=7)
    assert (step.state, step.reason, step.until_us) == (State.AWAITING_TOOL, Reason.LEASE_EXPIRED, 7)
    assert (step.attempts, step.failures) == (1, 0)
    assert isinstance(events[-1], StepLeaseExpired)
    assert events[-1].worker == WORKER


def test_a_lease_lost_with_the_last_attempt_fails_the_step_for_circumstance() -> None:
    step, _ = play(QUEUED, attempts([None, None]), Retry(max_attempts=2, max_failures=2))
    assert (step.state, step.reason, step.cause) == (
        State.FAILED,
        Reason.ATTEMPT_BUDGET_EXHAUSTED,
        Cause.CIRCUMSTANCE,
    )


KINDS = {"work": failure(), "limit": failure("wall_time_exceeded", circumstance=True), "lost": None}


@pytest.mark.parametrize(
    ("max_attempts", "max_failures"), [(a, f) for a in (1, 2, 3, 4) for f in (1, 2, 3, 4)]
)
def test_every_mixture_of_ends_names_the_spent_budget_and_its_cause(
    max_attempts: int, max_failures: int
) -> None:
    """The cause is `work` only where reported failures of the work alone spent the budget that is named."""
    for mixture in product(KINDS, repeat=max_attempts):
        step = QUEUED
        spent: list[str] = []
        for kind in mixture:
            step, _ = play(step, [Start(WORKER)], Retry(max_attempts, max_failures))
            result = KINDS[kind]
            command = LoseLease() if result is None else Fail(step.fence, result)
            step, _ = play(step, [command], Retry(max_attempts, max_failures))
            spent.append(kind)
            if step.state in TERMINAL:
                break
        reported = [kind for kind in spent if kind != "lost"]
        if len(spent) == max_attempts:
            expected = Reason.ATTEMPT_BUDGET_EXHAUSTED, set(spent) == {"work"}
        else:
            assert len(reported) == max_failures
            expected = Reason.FAILURE_BUDGET_EXHAUSTED, set(reported) == {"work"}
        assert step.state is State.FAILED
        assert (step.reason, step.cause is Cause.WORK) == expected, spent
        assert step.cause in (Cause.WORK, Cause.CIRCUMSTANCE)


@pytest.mark.parametrize("circumstance", [False, True])
def test_what_may_not_be_retried_fails_at_once_under_its_own_code(*, circumstance: bool) -> None:
    final = failure("bad_output", circumstance=circumstance, retryable=False)
    step, _ = play(QUEUED, attempts([final]), Retry())
    expected = Cause.CIRCUMSTANCE if circumstance else Cause.WORK
    assert (step.state, step.reason, step.cause) == (State.FAILED, "bad_output", expected)


def test_a_failure_in_a_run_that_stops_is_not_tried_again() -> None:
    executing, _ = play(QUEUED, [Start(WORKER)], Retry())
    event = decide(executing, LoseLease(), Retry(), 0, stopping=True)
    assert event == StepCancelled(Reason.FAIL_FAST, Cause.CIRCUMSTANCE)
    report = Fail(1, failure())
    event = decide(executing, report, Retry(), 0, stopping=True)
    assert event == StepFailed(Reason.FAIL_FAST, Cause.CIRCUMSTANCE, Budget(1, 1, 2, 2), report.failure)
    after = evolve(executing, event)
    assert (after.error, after.failure) == (report.failure.error, report.failure.code), "what failed is kept"
    assert is_repeat(after, report)


def test_a_jittered_wait_is_drawn_from_the_step_hash() -> None:
    retry = Retry(base_us=SECOND_US, jitter=True)
    untils = set()
    for digit in "0123456789":
        executing, _ = play(QUEUED, [Start(WORKER)], retry)
        report = Fail(1, replace(failure(), step_hash=Digest(digit * 64)))
        events = [decide(executing, report, retry, 0) for _ in range(2)]
        assert events[0] == events[1]
        assert isinstance(events[0], StepRetryScheduled)
        untils.add(events[0].until_us)
    assert len(untils) == 10
    assert all(0 <= until <= SECOND_US for until in untils)


# --- what each reason is owed to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        (Reason.UPSTREAM_FAILED, Cause.UPSTREAM_FAILED),
        (Reason.NOT_SELECTED, Cause.NOT_SELECTED),
        (Reason.RUN_CANCELLED, Cause.CIRCUMSTANCE),
        (Reason.FAIL_FAST, Cause.CIRCUMSTANCE),
    ],
)
def test_a_cancellation_is_owed_to(reason: Reason, cause: Cause) -> None:
    assert cancel_cause(reason) is cause


# --- commands and events that do not fit --------------------------------------------------------------------------------

COMPLETED, _ = play(QUEUED, [Start(WORKER), Complete(1, HASH, OUTPUT, ENVIRONMENT)], Retry())
FAILED, _ = play(QUEUED, attempts([failure(retryable=False)]), Retry())
CANCELLED, _ = play(QUEUED, [Cancel(Reason.RUN_CANCELLED)], Retry())
EXECUTING, _ = play(QUEUED, [Start(WORKER)], Retry())
WAITING, _ = play(QUEUED, attempts([failure()]), Retry())
EVERY = (RECEIVED, QUEUED, EXECUTING, WAITING, COMPLETED, FAILED, CANCELLED)


@pytest.mark.parametrize("stopping", [False, True])
@pytest.mark.parametrize(
    ("command", "legal"),
    [
        (Start(WORKER), (QUEUED, WAITING)),
        (LoseLease(), (EXECUTING,)),
        (Cancel(Reason.RUN_CANCELLED), (RECEIVED, QUEUED, EXECUTING, WAITING)),
    ],
)
def test_a_command_is_refused_in_every_state_but(
    command: StepCommand, legal: Sequence[Step], *, stopping: bool
) -> None:
    for step in EVERY:
        if step in legal:
            assert evolve(step, decide(step, command, Retry(), 0, stopping=stopping)).state is not step.state
        else:
            with pytest.raises(IllegalTransition):
                decide(step, command, Retry(), 0, stopping=stopping)


@pytest.mark.parametrize("report", [Complete(1, HASH, OUTPUT, ENVIRONMENT), Fail(1, failure())])
def test_a_report_without_the_lease_is_late_in_every_state(report: Complete | Fail) -> None:
    for step in EVERY:
        if step is EXECUTING:
            continue
        with pytest.raises(LeaseLost):
            decide(step, report, Retry(), 0)
    with pytest.raises(LeaseLost):
        decide(EXECUTING, Complete(2, HASH, OUTPUT, ENVIRONMENT), Retry(), 0)


def test_a_recorded_event_without_a_legal_move_is_a_corrupt_history() -> None:
    events: list[StepEvent] = [
        StepQueued(),
        StepStarted(WORKER, 1, 1),
        StepCompleted(HASH, OUTPUT, ENVIRONMENT, 1),
        StepCancelled(Reason.RUN_CANCELLED, Cause.CIRCUMSTANCE),
    ]
    refused = 0
    for step, event in product(EVERY, events):
        if event.target in TRANSITIONS[step.state]:
            assert evolve(step, event).state is event.target
        else:
            refused += 1
            with pytest.raises(CorruptHistory):
                evolve(step, event)
    assert refused == 6 + 5 + 6 + 3


# --- repeats ------------------------------------------------------------------------------------------------------------


def test_only_the_same_report_of_the_same_lease_is_a_repeat() -> None:
    same = Complete(1, HASH, OUTPUT, ENVIRONMENT)
    assert is_repeat(COMPLETED, same)
    assert not is_repeat(COMPLETED, Complete(1, HASH, HASH, ENVIRONMENT))
    assert not is_repeat(COMPLETED, Complete(1, OUTPUT, OUTPUT, ENVIRONMENT))
    assert not is_repeat(COMPLETED, Complete(2, HASH, OUTPUT, ENVIRONMENT))
    assert not is_repeat(COMPLETED, Fail(1, failure()))


def test_a_failure_reported_again_is_a_repeat_until_the_next_attempt() -> None:
    assert is_repeat(WAITING, Fail(1, failure()))
    assert is_repeat(FAILED, Fail(1, failure(retryable=False)))
    assert not is_repeat(WAITING, Fail(1, failure("wall_time_exceeded")))
    assert not is_repeat(WAITING, Complete(1, HASH, OUTPUT, ENVIRONMENT))


def test_a_report_of_a_lease_that_was_taken_back_is_no_repeat() -> None:
    lost, _ = play(QUEUED, attempts([None]), Retry())
    cancelled, _ = play(EXECUTING, [Cancel(Reason.RUN_CANCELLED)], Retry())
    for step in (lost, cancelled):
        assert not is_repeat(step, Complete(1, HASH, OUTPUT, ENVIRONMENT))
        assert not is_repeat(step, Fail(1, failure()))
