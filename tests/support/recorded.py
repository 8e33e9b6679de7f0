"""Recorded histories as events of today's core: the upcasting reader.

A history is what `sovrun events --json` printed, by this release or an earlier one. Where a later release records
something else, what earlier ones recorded is brought into today's form here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sovrun.core.canonical import canonical
from sovrun.core.events import (
    Budget,
    Event,
    Failure,
    RunBudget,
    StepCancelled,
    StepCompleted,
    StepEvent,
    StepFailed,
    StepLeaseExpired,
    StepQueued,
    StepRetryScheduled,
    StepStarted,
)
from sovrun.core.ids import Actor, Digest, RunId, StepId, Tenant, WorkerId
from sovrun.core.lifecycle import Cause, Reason
from sovrun.core.times import time_us


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the events of a file, one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def event_of(line: Mapping[str, Any]) -> Event:
    """Return a recorded event as the core's value of it."""
    step = line["stepId"]
    return Event(
        Tenant(line["tenant"]),
        RunId(line["runId"]),
        line["sequence"],
        time_us(line["time"]),
        Actor(line["actor"]),
        line["type"],
        None if step is None else StepId(step),
        canonical(line["data"]).decode(),
    )


def step_events(line: Mapping[str, Any], order: Sequence[str]) -> Iterator[tuple[str, StepEvent]]:
    """Yield what a recorded event means for each step that it moved; nothing for an event of the run.

    Args:
        order: ids of the DAG's steps in plan order.
    """
    scope, _, state = line["type"].partition(".")
    if scope != "step":
        return
    data = line["data"]
    event = _event(state, data, order)
    for id_ in data.get("steps") or [line["stepId"]]:
        yield id_, event


def _event(state: str, data: Mapping[str, Any], order: Sequence[str]) -> StepEvent:
    match state:
        case "queued":
            return StepQueued()
        case "executing":
            return StepStarted(WorkerId(data["worker"]), data["attempt"], data["fence"])
        case "completed":
            chosen = data.get("chosen")
            return StepCompleted(
                data["stepHash"],
                data["outputHash"],
                data["environment"],
                data["attempt"],
                None if chosen is None else tuple(order.index(id_) for id_ in chosen),
            )
        case "awaiting_tool" if data["reason"] == Reason.RETRY_DUE:
            return StepRetryScheduled(_failure(data), _budget(data), time_us(data["until"]))
        case "awaiting_tool":
            assert data["reason"] == Reason.LEASE_EXPIRED
            return StepLeaseExpired(data["worker"], _budget(data), time_us(data["until"]))
        case "failed":
            failure = _failure(data) if "failure" in data else None
            return StepFailed(data["reason"], Cause(data["cause"]), _budget(data), failure)
        case "cancelled":
            return StepCancelled(Reason(data["reason"]), Cause(data["cause"]))
    raise AssertionError(f"no reading of step.{state} {data}")


def _failure(data: Mapping[str, Any]) -> Failure:
    return Failure(
        code=data["failure"],
        error=Digest(data["errorHash"]),
        step_hash=data["stepHash"],
        environment=Digest(data["environment"]),
        circumstance=data["circumstance"],
        retryable=data["reason"] != data["failure"],
    )


def _budget(data: Mapping[str, Any]) -> Budget:
    run = RunBudget(data["runFailures"], data["runFailuresLeft"]) if "runFailures" in data else None
    return Budget(data["attempts"], data["failures"], data["attemptsLeft"], data["failuresLeft"], run)
