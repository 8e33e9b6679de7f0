"""How writes and records become events and texts that every back end keeps alike.

Owns: the data of `run.received` and of an operator's acts, and the numbering of a write's facts. Old versions of recorded data are upcast here
when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sovrun.core.canonical import canonical, decode
from sovrun.core.errors import IdempotencyKeyConflict
from sovrun.core.events import Event, plain_fields
from sovrun.core.ids import Digest, RunId
from sovrun.core.lanes import Bound, Limits
from sovrun.core.run import Deltas, Tallies, Write
from sovrun.store.protocol import Governance, Submission, Submitted


def received_data(submission: Submission) -> str:
    """Return the canonical data of the event with which a run's history begins."""
    data: dict[str, Any] = {
        "dagId": submission.dag,
        "dagVersion": submission.version,
        "inputsHash": submission.inputs.digest,
        "isolation": submission.isolation,
        "key": decode(submission.key.encode()),
        **(
            {}
            if submission.parent is None
            else {"parent": submission.parent, "fromStep": submission.from_step}
        ),
        **({"repeatEffects": list(submission.repeat_effects)} if submission.repeat_effects else {}),
        "noteHash": None if submission.note is None else submission.note.digest,
        "priority": submission.priority,
        "runToken": submission.token,
    }
    return canonical(data).decode()


def governed_data(governance: Governance, after: Limits) -> str:
    """Return the canonical data of the act that an operator's word becomes: what it changed, and what holds since."""
    change = governance.change
    changed = {
        "paused": change.paused,
        "runsMax": change.runs_max,
        "stepsMax": change.steps_max,
        "weight": change.weight,
    }
    data: dict[str, Any] = {
        "dagId": governance.dag,
        "note": governance.note,
        "change": {
            name: value.most if isinstance(value, Bound) else value
            for name, value in changed.items()
            if value is not None
        },
        "paused": after.paused,
        "runsMax": after.runs_max,
        "stepsMax": after.steps_max,
        "weight": after.weight,
    }
    return canonical(data).decode()


def events_of(write: Write) -> Iterator[Event]:
    """Yield the events of a write, numbered on from the run's last one."""
    run = write.run
    steps = write.plan.steps
    sequence = run.sequence
    for type_, position, actor, data in write.facts:
        sequence += 1
        step = None if position < 0 else steps[position].id
        yield Event(run.tenant, run.id, sequence, write.now_us, actor, type_, step, data)


def drive(write: Write, apply: Callable[[Deltas], Tallies]) -> None:
    """Settle a write: `apply` changes counters of `received` steps and returns those whose needs are all terminal."""
    settling = write.settle()
    try:
        deltas = next(settling)
        while True:
            deltas = settling.send(apply(deltas))
    except StopIteration:
        return


def shown(event: Event) -> dict[str, Any]:
    """Return an event as the object that faces show."""
    return plain_fields(event, decode(event.data.encode()))


def same_request(submission: Submission, request: Digest, run: RunId) -> Submitted:
    """Return the answer to a caller's key that was used before. Raises: IdempotencyKeyConflict."""
    if request != submission.request:
        raise IdempotencyKeyConflict(
            f"the key {submission.caller_key!r} of DAG {submission.dag} belongs to run {run}, made by another request",
            hint="use another key, or send the same inputs and version",
            run=run,
        )
    return Submitted(run, created=False)
