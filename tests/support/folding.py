"""A second reading of histories, which knows only the design and the recorded events.

Nothing of `core.step` or `core.run` is used: it rebuilds what the steps must be, so that what a store says of its steps
can be held against what it recorded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from sovrun.core.events import Event
from sovrun.core.ids import RunId, Tenant
from sovrun.core.spec.model import DagSpec
from sovrun.core.step import Step
from sovrun.core.times import time_us
from sovrun.store.protocol import Reads

LEGAL = {
    "received": {"queued", "failed", "cancelled"},
    "queued": {"executing", "failed", "cancelled"},
    "executing": {"awaiting_tool", "awaiting_user_confirmation", "completed", "failed", "cancelled"},
    "awaiting_tool": {"executing", "failed", "cancelled"},
    "awaiting_user_confirmation": {"executing", "failed", "cancelled"},
    "completed": set(),
    "failed": set(),
    "cancelled": set(),
}
SHOWN = (
    "state", "reason", "cause", "attempts", "failures", "circumstances", "fence", "worker", "until_us", "step_hash",
    "output", "failure", "error", "environment", "shown", "answer",
)  # fmt: skip
WAITS = {"tool", "confirmation", "command", "command_unknown"}
FRESH: dict[str, Any] = dict.fromkeys(SHOWN) | {
    "state": "received", "attempts": 0, "failures": 0, "circumstances": 0, "fence": 1,
}  # fmt: skip


def folded(events: Sequence[Event], spec: DagSpec) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the state of the run and its steps by id, as the events alone tell."""
    run = ""
    steps = {step.id: dict(FRESH) for step in spec.steps}
    for event in events:
        scope, state = event.type.split(".")
        data = json.loads(event.data)
        if scope == "run":
            assert state in LEGAL[run] if run else state == "received", f"{run} -> {state}"
            run = state
            continue
        moved = data.get("steps") or [event.step]
        assert (event.step is None) is ("steps" in data)
        assert len(moved) > 1 or event.step is not None, "one step is named by the event itself"
        assert moved == sorted(moved, key=[step.id for step in spec.steps].index), "named in plan order"
        for id_ in moved:
            _move(steps[id_], state, data)
    return run, steps


def _move(step: dict[str, Any], state: str, data: dict[str, Any]) -> None:
    assert state in LEGAL[step["state"]], f"{step['state']} -> {state}"
    left = step["state"] == "executing"
    waited = step["reason"]
    step.update(state=state, reason=data.get("reason"), cause=data.get("cause"), worker=None, until_us=None)
    step["fence"] += left
    if state == "executing" and "answerHash" in data:
        assert waited in WAITS, "only a wait is ended by an answer"
        step.update(answer=data["answerHash"])
    elif state == "executing" and data.get("by") == "engine":
        assert step["attempts"] == 0, "the engine takes no step up that a worker has had"
    elif state == "executing":
        assert data["attempt"] == step["attempts"] + 1
        assert data["fence"] == step["fence"]
        step.update(worker=data["worker"], attempts=data["attempt"])
        step.update(dict.fromkeys(("step_hash", "failure", "error", "environment")))
    elif state == "completed":
        assert data["attempt"] == step["attempts"]
        step.update(step_hash=data["stepHash"], output=data["outputHash"], environment=data["environment"])
    elif "failure" in data:
        assert left
        step.update(step_hash=data["stepHash"], failure=data["failure"], error=data["errorHash"])
        step["environment"] = data["environment"]
        step["failures"] += 1
        step["circumstances"] += data["circumstance"]
    elif state == "failed" and data.get("errorHash"):
        step["error"] = data["errorHash"]
    if "shownHash" in data:
        assert left
        step.update(shown=data["shownHash"], step_hash=data["stepHash"])
    if "failures" in data:
        assert (data["attempts"], data["failures"]) == (step["attempts"], step["failures"])
    if state in ("awaiting_tool", "awaiting_user_confirmation"):
        step["until_us"] = None if data["until"] is None else time_us(data["until"])


def shown(step: Step) -> dict[str, Any]:
    """Return a step as the members that a history tells."""
    values = {name: getattr(step, name) for name in SHOWN}
    return {name: str(value) if isinstance(value, str) else value for name, value in values.items()}


async def require_told_by_history(store: Reads, spec: DagSpec, run: RunId, tenant: Tenant) -> None:
    """Assert that a run and its steps are exactly what their gapless history tells."""
    events = await store.events(tenant, run)
    record = await store.run(tenant, run)
    steps = await store.steps(tenant, run)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert all(before.time_us <= after.time_us for before, after in pairwise(events))
    assert {(event.tenant, event.run) for event in events} == {(tenant, run)}
    assert (record.head.sequence, record.head.time_us) == (len(events), events[-1].time_us)
    state, told = folded(events, spec)
    assert state == record.head.state
    for declared, step in zip(spec.steps, steps, strict=True):
        assert shown(step) == told[declared.id], declared.id
    states = [str(step.state) for step in steps]
    names = ("received", "queued", "executing", "awaiting_tool", "awaiting_user_confirmation", "failed")
    assert tuple(record.head.counts) == tuple(map(states.count, names))
    ends = [event for event in events if event.type in ("run.completed", "run.failed", "run.cancelled")]
    assert [json.loads(end.data)["outcomeHash"] for end in ends] == ([record.head.outcome] if ends else [])


async def ways(store: Reads, spec: DagSpec, run: RunId, tenant: Tenant) -> dict[str, str]:
    """Return of each step its reason, or its state where it has none; and check the history on the way."""
    await require_told_by_history(store, spec, run, tenant)
    steps = await store.steps(tenant, run)
    return {
        declared.id: str(step.reason or step.state) for declared, step in zip(spec.steps, steps, strict=True)
    }
