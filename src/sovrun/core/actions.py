"""What is done to a run from outside its workers: waits begun and ended, outputs reused, cancellation, time running out.

Owns: the action values and `perform`, which turns one into the moves of a write. Back ends only look up steps.
Must not touch: who is allowed to ask, which faces and the engine decide from the token and the document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from sovrun.core.canonical import digest_of
from sovrun.core.commands.journal import Intention
from sovrun.core.errors import ConfirmationChanged, IllegalTransition
from sovrun.core.events import (
    ENGINE,
    StepAwaitsAnswer,
    StepAwaitsApproval,
    StepAwaitsCommand,
    StepCompleted,
    StepEntered,
    StepResumed,
    StepReused,
    StepStopped,
)
from sovrun.core.ids import Actor, Digest, RunId, Tenant
from sovrun.core.lifecycle import TERMINAL, Cause, Reason, State
from sovrun.core.run import Write
from sovrun.core.spec.model import Confirmation, Kind, ToolWait
from sovrun.core.step import Step


class Steps(Protocol):
    """What a back end looks up for an action: steps as they stand in this write."""

    def step(self, position: int) -> Step:
        """Return one step."""

    def unfinished(self) -> list[tuple[int, Step]]:
        """Return all steps that are not terminal, in plan order."""


@dataclass(frozen=True, slots=True)
class EnterWait:
    """The engine takes up a queued `tool` or `confirm` step: what is asked is known now.

    Args:
        shown: digest of the resolved arguments, which are exactly what is shown.
    """

    tenant: Tenant
    run: RunId
    position: int
    shown: Digest
    step_hash: Digest


@dataclass(frozen=True, slots=True)
class Release:
    """The engine has looked at a queued step of a re-run and leaves it to a worker."""

    tenant: Tenant
    run: RunId
    position: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The engine cannot resolve the arguments of a queued step; `error` is the digest of the document that says why."""

    tenant: Tenant
    run: RunId
    position: int
    reason: str
    error: Digest


@dataclass(frozen=True, slots=True)
class Reuse:
    """The engine gives a queued step of a re-run the output that `source` has recorded under the same step hash."""

    tenant: Tenant
    run: RunId
    position: int
    source: RunId
    step_hash: Digest
    output: Digest
    environment: Digest | None
    chosen: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A tool answers: with an output, or with the digest of a document that says why it could not."""

    tenant: Tenant
    run: RunId
    position: int
    actor: Actor
    output: Digest | None
    error: Digest | None = None
    chosen: tuple[int, ...] | None = None

    def digest(self) -> Digest:
        """Return the digest by which an identical answer is known again."""
        return digest_of(
            "sovrun.answer", 1, {"actor": self.actor, "error": self.error, "output": self.output}
        )


@dataclass(frozen=True, slots=True)
class Decide:
    """A person approves or rejects exactly what has the digest `shown`.

    Args:
        output: digest of `{decision, shown}`, the step's output when approved.
        rationale: digest of why.
    """

    tenant: Tenant
    run: RunId
    position: int
    actor: Actor
    approve: bool
    shown: Digest
    output: Digest
    rationale: Digest | None

    def digest(self) -> Digest:
        """Return the digest by which an identical decision is known again."""
        body = {
            "actor": self.actor,
            "approve": self.approve,
            "rationale": self.rationale,
            "shown": self.shown,
        }
        return digest_of("sovrun.decision", 1, body)


@dataclass(frozen=True, slots=True)
class CancelRun:
    """A person or program wants a run to end now; `note` is the digest of why."""

    tenant: Tenant
    run: RunId
    actor: Actor
    note: Digest | None

    def digest(self) -> Digest:
        """Return the digest by which an identical request is known again."""
        return digest_of("sovrun.cancel", 1, {"actor": self.actor, "note": self.note})


@dataclass(frozen=True, slots=True)
class EnterCommand:
    """The engine takes up a queued `command` step: the command is journalled as intended in the same write."""

    tenant: Tenant
    run: RunId
    position: int
    step_hash: Digest
    intention: Intention


TakeUp: TypeAlias = EnterWait | EnterCommand | Release | Refuse | Reuse
"""What the engine does to a pending step, once: a step that is not pending any more was taken up by another engine."""
Action: TypeAlias = TakeUp | Answer | Decide | CancelRun


def perform(write: Write, action: Action, steps: Steps) -> bool:
    """Gather in `write` what an action causes; False when it changes nothing, being done already.

    Whether a step that is taken up is pending still, the back end has looked up before.
    Raises: IllegalTransition; ConfirmationChanged when an approval is for something else than what is shown.
    """
    match action:
        case CancelRun():
            return _cancel(write, action, steps)
        case Answer():
            return _answer(write, action, steps.step(action.position))
        case Decide():
            return _decide(write, action, steps.step(action.position))
        case _:
            _take_up(write, action, steps.step(action.position))
            return True


def _take_up(write: Write, action: TakeUp, step: Step) -> None:
    position = action.position
    match action:
        case Release():
            write.ready.append(position)
        case Refuse(reason=reason, error=error):
            write.happen(position, step, (StepStopped(reason, Cause.WORK, error),), ENGINE)
        case Reuse():
            completed = StepCompleted(action.step_hash, action.output, action.environment, 0, action.chosen)
            write.happen(position, step, (StepReused(action.source), completed), ENGINE)
        case EnterCommand(intention=intention):
            waits_for = StepAwaitsCommand(intention.id, intention.payload, action.step_hash, Reason.COMMAND)
            write.happen(position, step, (StepEntered(), waits_for), ENGINE)
        case EnterWait():
            entry = write.plan.steps[position].entry
            waits: StepAwaitsAnswer | StepAwaitsApproval
            if isinstance(entry, Confirmation):
                until = None if entry.expires_us is None else write.now_us + entry.expires_us
                waits = StepAwaitsApproval(action.shown, action.step_hash, until)
            else:
                allowed = entry.deadline_us if isinstance(entry, ToolWait) else None
                until = None if allowed is None else write.now_us + allowed
                waits = StepAwaitsAnswer(action.shown, action.step_hash, until)
            write.happen(position, step, (StepEntered(), waits), ENGINE)


def _answer(write: Write, action: Answer, step: Step) -> bool:
    answer = action.digest()
    if step.answer == answer:
        return False
    if step.state is not State.AWAITING_TOOL or step.reason != Reason.TOOL:
        raise _not_waiting(write, action.position, step, "a tool's answer")
    assert step.step_hash is not None  # noqa: S101 -- set when the wait began
    if action.output is None:
        resumed = StepResumed("failed", answer, None)
        write.happen(
            action.position,
            step,
            (resumed, StepStopped("tool_failed", Cause.WORK, action.error)),
            action.actor,
        )
    else:
        completed = StepCompleted(step.step_hash, action.output, None, step.attempts, action.chosen)
        write.happen(action.position, step, (StepResumed("answered", answer, None), completed), action.actor)
    return True


def _decide(write: Write, action: Decide, step: Step) -> bool:
    answer = action.digest()
    if step.answer == answer:
        return False
    if step.state is not State.AWAITING_USER_CONFIRMATION or step.reason != Reason.CONFIRMATION:
        raise _not_waiting(write, action.position, step, "a decision")  # nor is it a verdict about a command
    if step.shown != action.shown:
        raise ConfirmationChanged(
            f"step {write.plan.steps[action.position].id} shows {step.shown}, the decision is for {action.shown}",
            hint="look at what is shown now (`sovrun waiting`) and decide again",
        )
    assert step.step_hash is not None  # noqa: S101 -- set when the wait began
    if action.approve:
        resumed = StepResumed("approved", answer, action.rationale)
        completed = StepCompleted(step.step_hash, action.output, None, step.attempts)
        write.happen(action.position, step, (resumed, completed), action.actor)
    else:
        resumed = StepResumed("rejected", answer, action.rationale)
        write.happen(action.position, step, (resumed, StepStopped(Reason.REJECTED, Cause.WORK)), action.actor)
    return True


def _cancel(write: Write, action: CancelRun, steps: Steps) -> bool:
    request = action.digest()
    ended = write.ending  # a run whose last step ended earlier in this very write is terminal, too
    if ended is not None:
        if write.cancel == request:
            return False
        raise IllegalTransition(
            f"run {write.run.id} is {ended}; a terminal run cannot be cancelled", state=ended
        )
    write.cancel = request
    write.cancel_note = action.note
    write.stop(steps.unfinished(), Reason.RUN_CANCELLED, action.actor)
    return True


def _not_waiting(write: Write, position: int, step: Step, what: str) -> IllegalTransition:
    name = write.plan.steps[position].id
    return IllegalTransition(
        f"step {name} of run {write.run.id} is {step.state} and does not wait for {what}",
        hint="`sovrun waiting` lists what waits for whom",
        state=step.state,
        step=name,
    )


def time_is_over(write: Write, position: int, steps: Steps, due_us: int) -> None:
    """Gather what follows when a timer strikes: a wait that has expired, a step's or (position -1) the run's time.

    Args:
        due_us: the instant of the timer; one that no longer means anything changes nothing.
    """
    if position < 0:
        rest = steps.unfinished()
        if rest:
            write.run_out(rest, Reason.RUN_TIMEOUT)
        return
    step = steps.step(position)
    if step.state in TERMINAL:
        return
    spec = write.plan.steps[position]
    if step.until_us == due_us and spec.kind in (Kind.TOOL, Kind.CONFIRM):
        reason = Reason.TOOL_EXPIRED
        if isinstance(spec.entry, Confirmation):
            reason = Reason.REJECTED if spec.entry.on_expiry == "reject" else Reason.CONFIRMATION_EXPIRED
        write.happen(position, step, (StepStopped(reason, Cause.CIRCUMSTANCE),), ENGINE)
    else:
        write.happen(position, step, (StepStopped(Reason.STEP_TIMEOUT, Cause.CIRCUMSTANCE),), ENGINE)
