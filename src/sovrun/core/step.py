"""Step lifecycle: what a command turns into, and what an event makes of a step.

Owns: `Step`, the step commands, `decide`, `evolve`. Which move is legal is read from `lifecycle.TRANSITIONS` alone.
Must not touch: clocks, randomness, stores. Time arrives inside commands, in whole microseconds (`_us`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from sovrun.core.errors import CorruptHistory, IllegalTransition, LeaseLost
from sovrun.core.events import (
    Budget,
    Failure,
    RunBudget,
    StepAwaitsAnswer,
    StepAwaitsApproval,
    StepAwaitsCommand,
    StepAwaitsVerdict,
    StepCancelled,
    StepCompleted,
    StepEntered,
    StepEvent,
    StepFailed,
    StepLeaseExpired,
    StepQueued,
    StepResumed,
    StepRetryScheduled,
    StepReused,
    StepStarted,
    StepStopped,
)
from sovrun.core.ids import Digest, WorkerId
from sovrun.core.lifecycle import TRANSITIONS, Cause, Reason, State, is_move
from sovrun.core.network import Connection
from sovrun.core.retry import retry_delay_us
from sovrun.core.spec.model import Retry
from sovrun.core.walls import Walls

NO_HASH: Final = Digest("0" * 64)


class Step(NamedTuple):
    """One step of one run.

    Args:
        reason: why it is in its state; the failure's own code when it was not retryable.
        cause: what its end is owed to, when terminal and not completed.
        attempts: starts so far; failures: reported failures; circumstances: those among them that were no work's.
        fence: fencing number of the current or next lease.
        until_us: when a wait ends.
        failure: code of the last failed attempt; error: digest of its document.
        shown: digest of what a tool or person is asked; answer: digest of the request that ended the wait.
    """

    state: State = State.RECEIVED
    reason: str | None = None
    cause: Cause | None = None
    attempts: int = 0
    failures: int = 0
    circumstances: int = 0
    fence: int = 1
    worker: WorkerId | None = None
    until_us: int | None = None
    step_hash: Digest | None = None
    output: Digest | None = None
    failure: str | None = None
    error: Digest | None = None
    environment: Digest | None = None
    shown: Digest | None = None
    answer: Digest | None = None


RECEIVED: Final = Step()
QUEUED: Final = Step(state=State.QUEUED)


@dataclass(frozen=True, slots=True)
class Start:
    """A worker takes the step."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Complete:
    """The holder of lease `fence` reports that the attempt returned."""

    fence: int
    step_hash: Digest
    output: Digest
    environment: Digest
    chosen: tuple[int, ...] | None = None
    connections: tuple[Connection, ...] = ()
    walls: Walls | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """The holder of lease `fence` reports that the attempt failed."""

    fence: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class LoseLease:
    """The worker is not heard of any more."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The step is not to go on."""

    reason: Reason


StepCommand = Start | Complete | Fail | LoseLease | Cancel


def decide(
    step: Step,
    command: StepCommand,
    retry: Retry,
    now_us: int,
    *,
    stopping: bool = False,
    run_budget: RunBudget | None = None,
) -> StepEvent:
    """Return the event `command` causes at `now_us`; change nothing.

    Args:
        retry: the step's policy; stopping: the run is being stopped, so nothing is tried again.
        run_budget: of the run, after this command; None when it has no failure budget.
    Raises: LeaseLost when a report comes from another lease than the current one; IllegalTransition when the
        lifecycle has no such move.
    """
    event = _outcome_of(step, command, retry, now_us, stopping=stopping, run_budget=run_budget)
    if isinstance(event, StepRetryScheduled) and run_budget is not None and run_budget.failures_left == 0:
        event = StepFailed(Reason.RUN_BUDGET_EXHAUSTED, Cause.CIRCUMSTANCE, event.budget, event.failure)
    if not is_move(step.state, event.target):
        raise _illegal(step, command)  # no command of a step may use the table's answer "no change"
    return event


def _illegal(step: Step, command: StepCommand) -> IllegalTransition:
    name = type(command).__name__
    return IllegalTransition(
        f"{name} is no move of a step that is {step.state}", state=step.state, command=name
    )


def _outcome_of(
    step: Step,
    command: StepCommand,
    retry: Retry,
    now_us: int,
    *,
    stopping: bool,
    run_budget: RunBudget | None,
) -> StepEvent:
    match command:
        case Start(worker):
            return StepStarted(worker, step.attempts + 1, step.fence)
        case Complete(fence, step_hash, output, environment, chosen, connections, walls):
            _require_fence(step, fence)
            return StepCompleted(step_hash, output, environment, step.attempts, chosen, connections, walls)
        case Fail(fence, failure):
            _require_fence(step, fence)
            budget = _budget(step, step.failures + 1, retry, run_budget)
            return _after_failure(step, failure, now_us, retry, budget, stopping=stopping)
        case LoseLease():
            if step.state is not State.EXECUTING:
                raise _illegal(step, command)
            budget = _budget(step, step.failures, retry, run_budget)
            return _after_lost_lease(step, now_us, budget, stopping=stopping)
        case Cancel(reason):
            return StepCancelled(reason, cancel_cause(reason))


def cancel_cause(reason: Reason) -> Cause:
    """Return what a cancellation for `reason` is owed to."""
    if reason is Reason.UPSTREAM_FAILED:
        return Cause.UPSTREAM_FAILED
    return Cause.NOT_SELECTED if reason is Reason.NOT_SELECTED else Cause.CIRCUMSTANCE


def _require_fence(step: Step, fence: int) -> None:
    if step.state is not State.EXECUTING or step.fence != fence:
        raise LeaseLost(f"lease {fence} ended; the step is {step.state} and its lease is {step.fence}")


def _after_failure(
    step: Step, failure: Failure, now_us: int, retry: Retry, budget: Budget, *, stopping: bool
) -> StepEvent:
    failures = budget.failures
    circumstances = step.circumstances + failure.circumstance
    if not failure.retryable:
        cause = Cause.CIRCUMSTANCE if failure.circumstance else Cause.WORK
        return StepFailed(failure.code, cause, budget, failure)
    if budget.attempts_left == 0:
        alone = circumstances == 0 and failures == step.attempts
        return StepFailed(
            Reason.ATTEMPT_BUDGET_EXHAUSTED, Cause.WORK if alone else Cause.CIRCUMSTANCE, budget, failure
        )
    if budget.failures_left == 0:
        cause = Cause.CIRCUMSTANCE if circumstances else Cause.WORK
        return StepFailed(Reason.FAILURE_BUDGET_EXHAUSTED, cause, budget, failure)
    if stopping:
        return StepFailed(Reason.FAIL_FAST, Cause.CIRCUMSTANCE, budget, failure)
    delay_us = retry_delay_us(
        failures,
        base_us=retry.base_us,
        cap_us=retry.cap_us,
        jitter=retry.jitter,
        step_hash=failure.step_hash or NO_HASH,
    )
    return StepRetryScheduled(failure, budget, now_us + delay_us)


def _after_lost_lease(step: Step, now_us: int, budget: Budget, *, stopping: bool) -> StepEvent:
    if budget.attempts_left == 0:
        return StepFailed(Reason.ATTEMPT_BUDGET_EXHAUSTED, Cause.CIRCUMSTANCE, budget, None)
    if stopping:
        return StepCancelled(Reason.FAIL_FAST, Cause.CIRCUMSTANCE)
    return StepLeaseExpired(step.worker, budget, now_us)


def _budget(step: Step, failures: int, retry: Retry, run: RunBudget | None) -> Budget:
    return Budget(
        attempts=step.attempts,
        failures=failures,
        attempts_left=max(0, retry.max_attempts - step.attempts),
        failures_left=max(0, retry.max_failures - failures),
        run=run,
    )


def is_repeat(step: Step, report: Complete | Fail) -> bool:
    """Return whether `report` is word for word the one that ended its lease, so that it may be acknowledged again."""
    if step.fence != report.fence + 1:
        return False
    if isinstance(report, Complete):
        return step.output == report.output and step.step_hash == report.step_hash
    return step.error == report.failure.error and step.failure == report.failure.code


def evolve(step: Step, event: StepEvent) -> Step:
    """Return `step` after `event`; a recorded event without a legal move means `CorruptHistory`."""
    if event.target not in TRANSITIONS[step.state]:
        raise CorruptHistory(f"{event.type} follows {step.state}", state=step.state, event=event.type)
    fence = step.fence + 1 if step.state is State.EXECUTING else step.fence
    match event:
        case StepQueued():
            return step._replace(state=State.QUEUED)
        case StepStarted():
            return Step(
                State.EXECUTING,
                None,
                None,
                event.attempt,
                step.failures,
                step.circumstances,
                event.fence,
                event.worker,
            )
        case StepCompleted():
            return Step(
                State.COMPLETED,
                attempts=step.attempts,
                failures=step.failures,
                circumstances=step.circumstances,
                fence=fence,
                step_hash=event.step_hash,
                output=event.output,
                environment=event.environment,
                shown=step.shown,
                answer=step.answer,
            )
        case StepRetryScheduled():
            return _failed_step(
                step, event.failure, fence, State.AWAITING_TOOL, Reason.RETRY_DUE, None, event.until_us
            )
        case StepLeaseExpired():
            return step._replace(
                state=State.AWAITING_TOOL,
                reason=Reason.LEASE_EXPIRED,
                fence=fence,
                worker=None,
                until_us=event.until_us,
            )
        case StepFailed() if event.failure is not None:
            return _failed_step(step, event.failure, fence, State.FAILED, event.reason, event.cause, None)
        case StepFailed():
            return step._replace(
                state=State.FAILED, reason=event.reason, cause=event.cause, fence=fence, worker=None
            )
        case StepCancelled():
            return step._replace(
                state=State.CANCELLED,
                reason=event.reason,
                cause=event.cause,
                fence=fence,
                worker=None,
                until_us=None,
            )
        case _:
            return _evolve_unattended(step, event, fence)


def _evolve_unattended(
    step: Step,
    event: StepEntered
    | StepReused
    | StepAwaitsAnswer
    | StepAwaitsApproval
    | StepAwaitsCommand
    | StepAwaitsVerdict
    | StepResumed
    | StepStopped,
    fence: int,
) -> Step:
    """Return `step` after an event in which no worker has a part."""
    match event:
        case StepEntered() | StepReused():
            return step._replace(state=State.EXECUTING)
        case StepAwaitsAnswer() | StepAwaitsApproval():
            return step._replace(
                state=event.target,
                reason=event.reason,
                fence=fence,
                until_us=event.until_us,
                step_hash=event.step_hash,
                shown=event.shown,
            )
        case StepAwaitsCommand() | StepAwaitsVerdict():
            return step._replace(
                state=event.target,
                reason=event.reason,
                fence=fence,
                until_us=None,
                step_hash=event.step_hash,
                shown=event.shown,
            )
        case StepResumed():
            return step._replace(state=State.EXECUTING, reason=None, until_us=None, answer=event.answer)
        case StepStopped():
            return step._replace(
                state=State.FAILED,
                reason=event.reason,
                cause=event.cause,
                fence=fence,
                worker=None,
                until_us=None,
                error=event.error or step.error,
            )


def _failed_step(
    step: Step,
    failure: Failure,
    fence: int,
    state: State,
    reason: str,
    cause: Cause | None,
    until_us: int | None,
) -> Step:
    return Step(
        state=state,
        reason=reason,
        cause=cause,
        attempts=step.attempts,
        failures=step.failures + 1,
        circumstances=step.circumstances + failure.circumstance,
        fence=fence,
        until_us=until_us,
        step_hash=failure.step_hash,
        failure=failure.code,
        error=failure.error,
        environment=failure.environment,
    )
