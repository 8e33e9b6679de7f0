"""How a `command` step follows its command: each move of the journal becomes moves of the step, in the same write."""

from __future__ import annotations

from sovrun.core.canonical import digest_of
from sovrun.core.commands.journal import Command, CommandState
from sovrun.core.events import (
    ENGINE,
    StepAwaitsCommand,
    StepAwaitsVerdict,
    StepCompleted,
    StepEvent,
    StepResumed,
    StepStopped,
)
from sovrun.core.lifecycle import Cause, Reason, State
from sovrun.core.run import Write
from sovrun.core.step import Step

_WAITS = frozenset({Reason.COMMAND, Reason.COMMAND_UNKNOWN})


def waits_for_command(step: Step) -> bool:
    """Return whether a step waits for the outcome of its command."""
    return (
        step.state in (State.AWAITING_TOOL, State.AWAITING_USER_CONFIRMATION)
        and step.reason is not None
        and step.reason in _WAITS
    )


def follow(write: Write, position: int, step: Step, command: Command) -> None:
    """Gather what a command's last move means for the step that waits for it; nothing when it waits no more."""
    if not waits_for_command(step):
        return
    events = _events(step, command)
    if events:
        write.happen(position, step, events, ENGINE)


def _events(step: Step, command: Command) -> tuple[StepEvent, ...]:
    assert step.step_hash is not None  # noqa: S101 -- set when the wait began
    assert step.shown is not None  # noqa: S101 -- likewise
    if command.state is CommandState.CONFIRMED:
        assert command.response is not None  # noqa: S101 -- set by every conclusion
        completed = StepCompleted(step.step_hash, command.response, None, step.attempts)
        return (StepResumed("confirmed", command.response, None), completed)
    if command.state is CommandState.REFUSED:
        assert command.response is not None  # noqa: S101 -- set by every conclusion
        stopped = StepStopped(Reason.COMMAND_REFUSED, Cause.CIRCUMSTANCE, command.response)
        return (StepResumed("refused", command.response, None), stopped)
    if command.state is not CommandState.UNKNOWN:
        return ()
    asked = step.state is State.AWAITING_USER_CONFIRMATION
    if command.parked == asked and step.reason == Reason.COMMAND_UNKNOWN:
        return ()
    decision = "parked" if command.parked else "resumed" if asked else "unknown"
    known = digest_of("sovrun.command-known", 1, {"command": command.id, "revision": command.revision})
    waits: StepAwaitsCommand | StepAwaitsVerdict
    if command.parked:
        waits = StepAwaitsVerdict(command.id, step.shown, step.step_hash)
    else:
        waits = StepAwaitsCommand(command.id, step.shown, step.step_hash, Reason.COMMAND_UNKNOWN)
    return (StepResumed(decision, known, None), waits)
