"""Facts that happened to runs and steps, and their recorded form.

Owns: the step events and run facts, their types and data, and the text of each, which is canonical (RFC 8785) by
construction: keys stand sorted in the templates and values are integers, digests, names and other printable ASCII.
A test compares every template with the canonical form. Data holds digests, never payloads.
Must not touch: when and by whom, which the write adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar, Final, NamedTuple

from sovrun.core.canonical import canonical, decode
from sovrun.core.ids import Actor, Digest, RunId, StepId, Tenant, WorkerId
from sovrun.core.lifecycle import Cause, Reason, State
from sovrun.core.network import Connection, connections_member
from sovrun.core.times import time_text
from sovrun.core.walls import Walls, walls_member

ENGINE: Final = Actor("engine")
"""Who acts when a move follows from another and nobody asked for it."""


def _text(value: str | None) -> str:
    return "null" if value is None else f'"{value}"'


@dataclass(frozen=True, slots=True)
class StepQueued:
    """All needs are terminal and the step is in the tenant's queue."""

    target: ClassVar[State] = State.QUEUED
    type: ClassVar[str] = "step.queued"


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A worker holds the lease `fence` and begins attempt `attempt` (from 1)."""

    worker: WorkerId
    attempt: int
    fence: int

    target: ClassVar[State] = State.EXECUTING
    type: ClassVar[str] = "step.executing"

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        return f'{{"attempt":{self.attempt},"fence":{self.fence},"worker":"{self.worker}"}}'


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """The step returned; `environment` is the digest of what it ran in, None when no worker ran it."""

    step_hash: Digest
    output: Digest
    environment: Digest | None
    attempt: int
    chosen: tuple[int, ...] | None = None
    """Plan positions of the optional dependents that the output chose, None when the step is not a selector."""
    connections: tuple[Connection, ...] = ()
    walls: Walls | None = None

    target: ClassVar[State] = State.COMPLETED
    type: ClassVar[str] = "step.completed"

    def data(self, ids: Sequence[StepId] = ()) -> str:
        """Return the canonical JSON of what is recorded; `ids` are the ids of `chosen`."""
        chosen = "" if self.chosen is None else f'"chosen":[{",".join(map(_text, ids))}],'
        return (
            f'{{"attempt":{self.attempt},{chosen}{connections_member(self.connections)}'
            f'"environment":{_text(self.environment)},'
            f'"outputHash":"{self.output}","stepHash":"{self.step_hash}"{walls_member(self.walls)}}}'
        )


class RunBudget(NamedTuple):
    """What is spent and what is left of a run's failure budget, over all its steps."""

    failures: int
    failures_left: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What is spent and what is left of a step's two budgets; `run` is of its run, None when that has no budget."""

    attempts: int
    failures: int
    attempts_left: int
    failures_left: int
    run: RunBudget | None = None

    def members(self) -> str:
        """Return the members of the JSON object in which the step's own budgets are recorded."""
        return (
            f'"attempts":{self.attempts},"attemptsLeft":{self.attempts_left},'
            f'"failures":{self.failures},"failuresLeft":{self.failures_left}'
        )

    def of_run(self) -> str:
        """Return the members that tell of the run's budget, to follow others; none where the run has no budget."""
        if self.run is None:
            return ""
        return f',"runFailures":{self.run.failures},"runFailuresLeft":{self.run.failures_left}'


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed attempt reported.

    Args:
        code: stable code of what went wrong, for example `step_raised`.
        error: digest of the error document, kept as a payload.
        circumstance: it belongs to the machine or to a limit, not to the work.
        connections: what the attempt had to do with the outside.
        walls: what it ran behind, None when it did not run in a sandbox.
    """

    code: str
    error: Digest
    step_hash: Digest | None
    environment: Digest
    circumstance: bool
    retryable: bool
    connections: tuple[Connection, ...] = ()
    walls: Walls | None = None

    def members(self) -> str:
        """Return the members of the JSON object in which a failure is recorded, `budget` to be set between."""
        circumstance = "true" if self.circumstance else "false"
        return (
            f'"circumstance":{circumstance},{connections_member(self.connections)}'
            f'"environment":"{self.environment}","errorHash":"{self.error}","failure":"{self.code}"'
        )


@dataclass(frozen=True, slots=True)
class StepRetryScheduled:
    """A failed attempt is followed by another at `until_us`."""

    failure: Failure
    budget: Budget
    until_us: int

    target: ClassVar[State] = State.AWAITING_TOOL
    type: ClassVar[str] = "step.awaiting_tool"

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        failure = self.failure
        circumstance = "true" if failure.circumstance else "false"
        return (
            f'{{"attempts":{self.budget.attempts},"attemptsLeft":{self.budget.attempts_left},'
            f'"circumstance":{circumstance},{connections_member(failure.connections)}'
            f'"decision":"{Reason.RETRY_SCHEDULED}","environment":"{failure.environment}",'
            f'"errorHash":"{failure.error}","failure":"{failure.code}","failures":{self.budget.failures},'
            f'"failuresLeft":{self.budget.failures_left},"reason":"{Reason.RETRY_DUE}"{self.budget.of_run()},'
            f'"stepHash":{_text(failure.step_hash)},"until":"{time_text(self.until_us)}"'
            f"{walls_member(failure.walls)}}}"
        )


@dataclass(frozen=True, slots=True)
class StepLeaseExpired:
    """The worker was lost; the step waits to be taken up by another."""

    worker: WorkerId | None
    budget: Budget
    until_us: int

    target: ClassVar[State] = State.AWAITING_TOOL
    type: ClassVar[str] = "step.awaiting_tool"

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        return (
            f'{{{self.budget.members()},"reason":"{Reason.LEASE_EXPIRED}"{self.budget.of_run()},'
            f'"until":"{time_text(self.until_us)}","worker":{_text(self.worker)}}}'
        )


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The step failed for good; `failure` is None when it was lost rather than reported."""

    reason: str
    cause: Cause
    budget: Budget
    failure: Failure | None

    target: ClassVar[State] = State.FAILED
    type: ClassVar[str] = "step.failed"

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        failure = self.failure
        budget = self.budget
        if failure is None:
            return (
                f'{{"attempts":{budget.attempts},"attemptsLeft":{budget.attempts_left},"cause":"{self.cause}",'
                f'"failures":{budget.failures},"failuresLeft":{budget.failures_left},"reason":"{self.reason}"'
                f"{budget.of_run()}}}"
            )
        return (
            f'{{"attempts":{budget.attempts},"attemptsLeft":{budget.attempts_left},"cause":"{self.cause}",'
            f'{failure.members()},"failures":{budget.failures},"failuresLeft":{budget.failures_left},'
            f'"reason":"{self.reason}"{budget.of_run()},"stepHash":{_text(failure.step_hash)}'
            f"{walls_member(failure.walls)}}}"
        )


@dataclass(frozen=True, slots=True)
class StepCancelled:
    """The step never ran, or its run was cancelled."""

    reason: Reason
    cause: Cause

    target: ClassVar[State] = State.CANCELLED
    type: ClassVar[str] = "step.cancelled"

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        return f'{{"cause":"{self.cause}","reason":"{self.reason}"}}'


@dataclass(frozen=True, slots=True)
class StepEntered:
    """The engine itself takes a step that needs no worker, in the write that also says what comes of it."""

    target: ClassVar[State] = State.EXECUTING
    type: ClassVar[str] = "step.executing"

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        return '{"by":"engine"}'


@dataclass(frozen=True, slots=True)
class StepAwaitsAnswer:
    """A tool is to answer what has the digest `shown`, until `until_us` when given."""

    shown: Digest
    step_hash: Digest
    until_us: int | None

    target: ClassVar[State] = State.AWAITING_TOOL
    type: ClassVar[str] = "step.awaiting_tool"
    reason: ClassVar[Reason] = Reason.TOOL

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        return _wait_data(self)


@dataclass(frozen=True, slots=True)
class StepAwaitsApproval:
    """A person is to approve what has the digest `shown`, until `until_us` when given."""

    shown: Digest
    step_hash: Digest
    until_us: int | None

    target: ClassVar[State] = State.AWAITING_USER_CONFIRMATION
    type: ClassVar[str] = "step.awaiting_user_confirmation"
    reason: ClassVar[Reason] = Reason.CONFIRMATION

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        return _wait_data(self)


def _wait_data(event: StepAwaitsAnswer | StepAwaitsApproval) -> str:
    until = None if event.until_us is None else time_text(event.until_us)
    return (
        f'{{"reason":"{event.reason}","shownHash":"{event.shown}","stepHash":"{event.step_hash}",'
        f'"until":{_text(until)}}}'
    )


@dataclass(frozen=True, slots=True)
class StepAwaitsCommand:
    """A command is under way outside.

    Args:
        command: its id; reason: `command`, or `command_unknown` while nobody knows its outcome.
        shown: digest of its payload as the step resolved it.
    """

    command: str
    shown: Digest
    step_hash: Digest
    reason: Reason

    target: ClassVar[State] = State.AWAITING_TOOL
    type: ClassVar[str] = "step.awaiting_tool"

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        return _command_data(self)


@dataclass(frozen=True, slots=True)
class StepAwaitsVerdict:
    """A person is to say what became of a command whose outcome nobody knows."""

    command: str
    shown: Digest
    step_hash: Digest

    target: ClassVar[State] = State.AWAITING_USER_CONFIRMATION
    type: ClassVar[str] = "step.awaiting_user_confirmation"
    reason: ClassVar[Reason] = Reason.COMMAND_UNKNOWN

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        return _command_data(self)


def _command_data(event: StepAwaitsCommand | StepAwaitsVerdict) -> str:
    return (
        f'{{"commandId":"{event.command}","reason":"{event.reason}","shownHash":"{event.shown}",'
        f'"stepHash":"{event.step_hash}","until":null}}'
    )


@dataclass(frozen=True, slots=True)
class StepResumed:
    """Someone outside has spoken: the request with the digest `answer` ends a wait.

    Args:
        decision: `answered`, `failed`, `approved` or `rejected`; of a command `confirmed`, `refused`, `unknown`, `parked`
            or `resumed`.
        rationale: digest of why, when a reason was given.
    """

    decision: str
    answer: Digest
    rationale: Digest | None

    target: ClassVar[State] = State.EXECUTING
    type: ClassVar[str] = "step.executing"

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        return (
            f'{{"answerHash":"{self.answer}","decision":"{self.decision}",'
            f'"rationaleHash":{_text(self.rationale)}}}'
        )


@dataclass(frozen=True, slots=True)
class StepReused:
    """The engine takes a step whose output an earlier run `source` has recorded under the same step hash."""

    source: RunId

    target: ClassVar[State] = State.EXECUTING
    type: ClassVar[str] = "step.executing"

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        return f'{{"by":"engine","reusedFrom":"{self.source}"}}'


@dataclass(frozen=True, slots=True)
class StepStopped:
    """The step failed without a failed attempt: rejected, answered with a failure, or out of time.

    Args:
        error: digest of the document that says why, when there is one.
    """

    reason: str
    cause: Cause
    error: Digest | None = None

    target: ClassVar[State] = State.FAILED
    type: ClassVar[str] = "step.failed"

    def data(self) -> str:
        """Return the canonical JSON of what is recorded."""
        return f'{{"cause":"{self.cause}","errorHash":{_text(self.error)},"reason":"{self.reason}"}}'


StepEvent = (
    StepQueued
    | StepStarted
    | StepCompleted
    | StepRetryScheduled
    | StepLeaseExpired
    | StepFailed
    | StepCancelled
    | StepEntered
    | StepAwaitsAnswer
    | StepAwaitsApproval
    | StepAwaitsCommand
    | StepAwaitsVerdict
    | StepResumed
    | StepReused
    | StepStopped
)


class Fact(NamedTuple):
    """One entry of a run's history as the write gathers it; sequence and time are added when it is written.

    Args:
        type: `run.STATE` or `step.STATE`.
        step: plan position of the step, or -1 for the run or for several steps, then named in `data`.
        data: canonical JSON object.
    """

    type: str
    step: int
    actor: Actor
    data: str


class Event(NamedTuple):
    """One recorded entry of a run's history."""

    tenant: Tenant
    run: RunId
    sequence: int
    time_us: int
    actor: Actor
    type: str
    step: StepId | None
    data: str


def grouped(data: str, steps: Sequence[StepId]) -> str:
    """Return `data` of an event that moved several steps at once: the same members and the ids, in plan order."""
    return canonical({**decode(data.encode()), "steps": steps}).decode()


def event_text(event: Event) -> str:
    """Return the canonical JSON of an event, the form that is chained and exported."""
    return (
        f'{{"actor":"{event.actor}","data":{event.data},"runId":"{event.run}","sequence":{event.sequence},'
        f'"stepId":{_text(event.step)},"tenant":"{event.tenant}","time":"{time_text(event.time_us)}",'
        f'"type":"{event.type}"}}'
    )


def chain_link(previous: Digest, event: Event) -> Digest:
    """Return the chain head after `event`; the first predecessor is the run token.

    It is the digest of the canonical object `{event, kind: "sovrun.event", previous, version: 1}`.
    """
    text = f'{{"event":{event_text(event)},"kind":"sovrun.event","previous":"{previous}","version":1}}'
    return Digest(sha256(text.encode()).hexdigest())


def plain_fields(event: Event, data: Any) -> dict[str, Any]:
    """Return an event as the object that faces show; `data` is the decoded form of `event.data`."""
    return {
        "tenant": event.tenant,
        "runId": event.run,
        "sequence": event.sequence,
        "time": time_text(event.time_us),
        "actor": event.actor,
        "type": event.type,
        "stepId": event.step,
        "data": data,
    }
