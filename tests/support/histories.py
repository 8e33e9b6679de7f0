"""Histories made by hand, event by event, for tests of those who read histories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sovrun.core.canonical import digest_of, sha256_hex
from sovrun.core.ids import DagId, StepId
from sovrun.core.spec.model import Confirmation, DagSpec, Kind, Retry, StepSpec, ToolWait
from sovrun.core.times import time_text
from sovrun.simulation.histories import Entry, History

RETRY = Retry(max_attempts=3, max_failures=2, base_us=1_000, cap_us=4_000)
HASH = {
    name: sha256_hex(name.encode()) for name in ("a", "b", "c", "out", "error", "shown", "version", "inputs")
}
WORKER = "worker:w/1"
START_US = 1_700_000_000_000_000

Row = tuple[int, str, str, str | None, dict[str, Any]]
"""Time after the start, actor, type, step, data."""


def step(name: str, *needs: str, **more: Any) -> StepSpec:
    return StepSpec(
        StepId(name), more.pop("kind", Kind.PYTHON), more.pop("entry", "m:f"), tuple(map(StepId, needs)),
        retry=RETRY, **more,
    )  # fmt: skip


def dag(*steps: StepSpec, **more: Any) -> DagSpec:
    return DagSpec(DagId("d"), {}, steps, **more)


def received(digit: str = "0", **more: Any) -> Row:
    data = {
        "dagId": "d",
        "dagVersion": HASH["version"],
        "inputsHash": HASH["inputs"],
        "isolation": "in-process",
    }
    return 0, "local:me", "run.received", None, data | {"priority": 100, "runToken": digit * 64} | more


def queued(at: int, *names: str) -> Row:
    return (
        at,
        "engine",
        "step.queued",
        names[0] if len(names) == 1 else None,
        {} if len(names) == 1 else {"steps": list(names)},
    )


def run_is(at: int, state: str, **data: Any) -> Row:
    return at, "engine", f"run.{state}", None, data


def started(at: int, name: str, attempt: int = 1, fence: int = 1, worker: str = "w/1") -> Row:
    data = {"attempt": attempt, "fence": fence, "worker": worker}
    return at, f"worker:{worker}", "step.executing", name, data


def completed(at: int, name: str, attempt: int = 1, actor: str = WORKER, **more: Any) -> Row:
    data = {"attempt": attempt, "environment": None, "outputHash": HASH["out"], "stepHash": HASH[name]} | more
    return at, actor, "step.completed", name, data


def budget(attempts: int, failures: int) -> dict[str, int]:
    return {
        "attempts": attempts,
        "attemptsLeft": 3 - attempts,
        "failures": failures,
        "failuresLeft": 2 - failures,
    }


def retried(at: int, name: str, until: int, attempts: int = 1, failures: int = 1) -> Row:
    data = budget(attempts, failures) | {
        "circumstance": False, "decision": "retry_scheduled", "environment": None, "errorHash": HASH["error"],
        "failure": "step_raised", "reason": "retry_due", "stepHash": HASH[name], "until": time_text(START_US + until),
    }  # fmt: skip
    return at, WORKER, "step.awaiting_tool", name, data


def failed(at: int, name: str, attempts: int, failures: int, reason: str, cause: str = "work") -> Row:
    data = budget(attempts, failures) | {
        "cause": cause, "circumstance": False, "environment": None, "errorHash": HASH["error"],
        "failure": "step_raised", "reason": reason, "stepHash": HASH[name],
    }  # fmt: skip
    return at, WORKER, "step.failed", name, data


def lost(at: int, name: str, attempts: int = 1, failures: int = 0, worker: str = "w/1") -> Row:
    data = budget(attempts, failures) | {
        "reason": "lease_expired", "until": time_text(START_US + at), "worker": worker,
    }  # fmt: skip
    return at, "engine", "step.awaiting_tool", name, data


def cancelled(at: int, names: Sequence[str], reason: str, cause: str, actor: str = "engine") -> Row:
    more = {} if len(names) == 1 else {"steps": list(names)}
    return (
        at,
        actor,
        "step.cancelled",
        names[0] if len(names) == 1 else None,
        {"cause": cause, "reason": reason} | more,
    )


def ended(at: int, state: str, steps: Sequence[tuple[str, str, str | None]], **more: Any) -> Row:
    """Return the end of a run with its hashes; of each step its id, state and cause."""
    listed = [
        {
            "id": name, "state": of, "cause": cause,
            "stepHash": HASH[name] if of == "completed" or cause == "work" else None,
            "output": HASH["out"] if of == "completed" else None,
        }
        for name, of, cause in steps
    ]  # fmt: skip
    outcome = {"dagVersion": HASH["version"], "inputs": HASH["inputs"], "steps": listed}
    outputs = [{"id": name, "output": HASH["out"]} for name, of, _ in steps if of == "completed"]
    data = {
        "outcomeHash": digest_of("sovrun.outcome", 1, outcome),
        "outputsHash": digest_of("sovrun.outputs", 1, {"outputs": outputs}),
        "reason": {"failed": "step_failed", "cancelled": "run_cancelled"}.get(state),
        "reproducible": all(cause != "circumstance" for _, _, cause in steps),
    }
    return run_is(at, state, **data | more)


def history(spec: DagSpec, rows: Sequence[Row], digit: str = "0") -> History:
    entries = [
        Entry("t", digit * 32, number, START_US + at, actor, type_, step_, data)
        for number, (at, actor, type_, step_, data) in enumerate(rows, 1)
    ]
    return History(spec, entries)


CHAIN = dag(step("a"), step("b", "a"))
GOOD = (
    received(), queued(0, "a"), run_is(0, "queued"),
    started(1, "a"), run_is(1, "executing"),
    completed(2, "a"), queued(2, "b"),
    started(3, "b"),
    retried(4, "b", 1_004), run_is(4, "awaiting_tool"),
    started(1_004, "b", 2, 2), run_is(1_004, "executing"),
    lost(1_005, "b", 2, 1), run_is(1_005, "awaiting_tool"),
    started(1_006, "b", 3, 3, "w/2"), run_is(1_006, "executing"),
    completed(1_007, "b", 3, "worker:w/2"),
    ended(1_007, "completed", [("a", "completed", None), ("b", "completed", None)]),
)  # fmt: skip
APPROVAL = dag(
    step("a", kind=Kind.CONFIRM, entry=Confirmation(role="boss", expires_us=500, on_expiry="reject")),
    step("b", "a", kind=Kind.TOOL, entry=ToolWait("oracle", 1_000)),
)
SHOWN = {"shownHash": HASH["shown"]}


def entered(at: int, name: str) -> Row:
    return at, "engine", "step.executing", name, {"by": "engine"}


def awaits(at: int, name: str, state: str, reason: str, until: int) -> Row:
    data = SHOWN | {"reason": reason, "stepHash": HASH[name], "until": time_text(START_US + until)}
    return at, "engine", f"step.{state}", name, data


def resumed(at: int, name: str, decision: str, actor: str = "local:boss") -> Row:
    return (
        at,
        actor,
        "step.executing",
        name,
        {"answerHash": HASH["c"], "decision": decision, "rationaleHash": None},
    )


APPROVED = (
    received(), queued(0, "a"), run_is(0, "queued"),
    entered(1, "a"), awaits(1, "a", "awaiting_user_confirmation", "confirmation", 501),
    run_is(1, "executing"), run_is(1, "awaiting_user_confirmation"),
    resumed(2, "a", "approved"), completed(2, "a", 0, "local:boss"), queued(2, "b"), run_is(2, "executing"),
    entered(3, "b"), awaits(3, "b", "awaiting_tool", "tool", 1_003), run_is(3, "awaiting_tool"),
    resumed(4, "b", "answered", "tool:oracle"), completed(4, "b", 0, "tool:oracle"), run_is(4, "executing"),
    ended(4, "completed", [("a", "completed", None), ("b", "completed", None)]),
)  # fmt: skip


def changed(rows: Sequence[Row], number: int, **data: Any) -> list[Row]:
    """Return rows with members of the data of event `number` changed."""
    at, actor, type_, name, before = rows[number - 1]
    return [*rows[: number - 1], (at, actor, type_, name, before | data), *rows[number:]]


def put(rows: Sequence[Row], number: int, *instead: Row) -> list[Row]:
    """Return rows with event `number` replaced by others, or by none."""
    return [*rows[: number - 1], *instead, *rows[number:]]
