"""What may happen to one step, as DESIGN section 3 says, written a second time for the checker.

Owns: the checker's own table of legal moves, `StepView`, and the rules of one step: leases, budgets, waits, answers.
Must not touch: `core.lifecycle`, `core.step`, `core.run`: a mistake there must not be repeated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from sovrun.core.spec.model import Confirmation, Kind, StepSpec, ToolWait
from sovrun.simulation.hashes import delay_us
from sovrun.simulation.histories import Entry, instant_us

LEGAL: Final[Mapping[str, frozenset[str]]] = {
    "received": frozenset({"queued", "failed", "cancelled"}),
    "queued": frozenset({"executing", "failed", "cancelled"}),
    "executing": frozenset(
        {"awaiting_tool", "awaiting_user_confirmation", "completed", "failed", "cancelled"}
    ),
    "awaiting_tool": frozenset({"executing", "failed", "cancelled"}),
    "awaiting_user_confirmation": frozenset({"executing", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
ENDED: Final = frozenset({"completed", "failed", "cancelled"})
BY_WORKERS: Final = frozenset({Kind.PYTHON, Kind.ARGV})


_OF_COMMANDS: Final = frozenset({"confirmed", "refused", "unknown", "parked", "resumed"})


class Broken(Exception):
    """A rule is broken: its name and what was seen."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule
        self.text = text


def broken(rule: str, text: str) -> NoReturn:
    """Say that a rule is broken."""
    raise Broken(rule, text)


@dataclass(slots=True)
class StepView:
    """A step as its events alone tell.

    Args:
        holder: what has the step while it executes: `worker`, `engine`, `reuse`, `answer` or `command`.
        queued_us: when it was queued; decision: of the person or tool that ended its wait.
    """

    spec: StepSpec
    position: int
    needs: tuple[int, ...]
    state: str = "received"
    reason: str | None = None
    cause: str | None = None
    attempts: int = 0
    failures: int = 0
    circumstances: int = 0
    fence: int = 1
    worker: str | None = None
    holder: str = ""
    queued_us: int = 0
    until_us: int | None = None
    step_hash: str | None = None
    known_hash: str | None = None
    output: str | None = None
    chosen: frozenset[str] | None = None
    shown: str | None = None
    decision: str | None = None


@dataclass(slots=True)
class Surroundings:
    """What of its run a rule of one step depends on.

    Args:
        stopping: since an earlier write, nothing is tried again; struck: why the rest of the run is cancelled, if it is.
        failures: reported by all steps so far; failed: some step has failed.
        final: codes of failures that the work declares as never to be retried; None when that is not known.
        steady: the clock was never set back, so that times tell whether a wait was over.
    """

    failures: int = 0
    failed: bool = False
    stopping: bool = False
    budget: int | None = None
    fail_fast: bool = False
    run_deadline_us: int | None = None
    final: frozenset[str] | None = None
    steady: bool = True


def move(step: StepView, entry: Entry, run: Surroundings) -> None:
    """Apply one event to a step. Raises: Broken."""
    state = entry.type[5:]
    if state not in LEGAL[step.state]:
        broken("legal moves", f"step {step.spec.id} goes from {step.state} to {state}")
    left = step.state == "executing"
    _RULES[state](step, entry, run)
    if left:
        step.fence += 1
        step.worker = None
    step.state = state


def _queued(step: StepView, entry: Entry, _: Surroundings) -> None:
    if entry.data.keys() - {"steps"}:
        broken("event data", f"step.queued carries {sorted(entry.data)}")
    step.queued_us = entry.time_us


def _executing(step: StepView, entry: Entry, run: Surroundings) -> None:
    data = entry.data
    if "worker" in data:
        _leased(step, entry, run)
    elif "answerHash" in data:
        _resumed(step, entry)
    else:
        if entry.actor != "engine" or data.get("by") != "engine":
            broken("leases", f"{entry.actor} took step {step.spec.id} without a lease: {dict(data)}")
        if step.state != "queued":
            broken("legal moves", f"the engine takes {step.spec.id} up from {step.state}")
        step.holder = "reuse" if "reusedFrom" in data else "engine"
        if step.holder == "engine" and step.spec.kind in BY_WORKERS:
            broken("leases", f"the engine itself executes {step.spec.id}, which a worker must")
    step.reason = None
    step.until_us = None


def _leased(step: StepView, entry: Entry, run: Surroundings) -> None:
    data = entry.data
    if step.spec.kind not in BY_WORKERS:
        broken("leases", f"a worker got {step.spec.id}, which is of kind {step.spec.kind}")
    due_us = step.until_us or 0
    if run.steady and step.state == "awaiting_tool" and entry.time_us < due_us:
        broken("due time", f"{step.spec.id} starts {due_us - entry.time_us} us before it is due")
    if data["attempt"] != step.attempts + 1:
        broken("attempts", f"attempt {data['attempt']} of {step.spec.id} follows attempt {step.attempts}")
    if data["fence"] != step.fence:
        broken("fencing", f"lease {data['fence']} of {step.spec.id} is given where {step.fence} is due")
    if entry.actor != f"worker:{data['worker']}":
        broken("leases", f"{entry.actor} starts {step.spec.id} for {data['worker']}")
    step.attempts += 1
    step.worker = data["worker"]
    step.holder = "worker"
    step.step_hash = None


def _resumed(step: StepView, entry: Entry) -> None:
    if step.spec.kind is Kind.COMMAND:
        _told_of_command(step, entry)
        return
    waited = {"awaiting_tool": ("answered", "failed"), "awaiting_user_confirmation": ("approved", "rejected")}
    decision = entry.data["decision"]
    if decision not in waited.get(step.state, ()) or step.reason not in ("tool", "confirmation"):
        broken("waits", f"{decision} ends {step.spec.id}, which is {step.state} ({step.reason})")
    if step.until_us is not None and entry.time_us >= step.until_us:
        broken("deadlines", f"{step.spec.id} is {decision} {entry.time_us - step.until_us} us too late")
    if entry.actor == "engine" or entry.actor.startswith("worker:"):
        broken("waits", f"{entry.actor} itself speaks for the outside on {step.spec.id}")
    step.decision = decision
    step.holder = "answer"


def _told_of_command(step: StepView, entry: Entry) -> None:
    """What becomes known of its command moves a step along; the engine says it, whoever has found it out."""
    decision = entry.data["decision"]
    if decision not in _OF_COMMANDS or step.reason not in ("command", "command_unknown"):
        broken("waits", f"{decision} of {step.spec.id}, which is {step.state} ({step.reason})")
    if entry.actor != "engine":
        broken("waits", f"{entry.actor} speaks for the command of {step.spec.id}")
    if decision == "resumed" and step.state != "awaiting_user_confirmation":
        broken("waits", f"{step.spec.id} is resumed, and nobody was asked about it")
    step.decision = decision
    step.holder = "command"


def _awaits_command(step: StepView, entry: Entry) -> None:
    """A step waits for its command: while nobody knows what became of it, for a look or for a person."""
    data = entry.data
    if step.spec.kind is not Kind.COMMAND or entry.actor != "engine":
        broken("waits", f"{entry.actor} makes {step.spec.id}, a {step.spec.kind}, wait for a command")
    due = {
        "engine": ("step.awaiting_tool", "command"),
        "parked": ("step.awaiting_user_confirmation", "command_unknown"),
        "unknown": ("step.awaiting_tool", "command_unknown"),
        "resumed": ("step.awaiting_tool", "command_unknown"),
    }.get("engine" if step.holder == "engine" else step.decision or "")
    if (entry.type, data["reason"]) != due:
        broken("waits", f"{step.spec.id} waits as {entry.type} ({data['reason']}) after {step.decision}")
    if data["until"] is not None:
        broken("deadlines", f"the command of {step.spec.id} is given up at {data['until']}")
    if step.shown not in (None, data["shownHash"]):
        broken("waits", f"the command of {step.spec.id} asks for something else than before")
    step.reason, step.shown, step.until_us = data["reason"], data["shownHash"], None
    _hash(step, data["stepHash"])


def _awaiting_tool(step: StepView, entry: Entry, run: Surroundings) -> None:
    if "commandId" in entry.data:
        _awaits_command(step, entry)
        return
    reason = entry.data.get("reason")
    until = entry.data.get("until")
    if reason == "retry_due":
        _failure(step, entry, run)
        _expect_decision(step, entry, run, "retry_scheduled")
        wait_us = delay_us(step.failures, step.spec.retry, entry.data["stepHash"])
    elif reason == "lease_expired":
        _lost(step, entry, run)
        if step.attempts >= step.spec.retry.max_attempts:
            broken("budgets", f"{step.spec.id} waits for an attempt it does not have")
        wait_us = 0
    elif reason == "tool":
        _awaits(step, entry, Kind.TOOL)
        return
    else:
        broken("event data", f"{step.spec.id} waits for {reason}")
    if until is None or instant_us(until) != entry.time_us + wait_us:
        broken("retry delay", f"{step.spec.id} waits from {entry.time_us} until {until}, not {wait_us} us")
    step.until_us = instant_us(until)
    step.reason = reason


def _awaiting_user(step: StepView, entry: Entry, _: Surroundings) -> None:
    if "commandId" in entry.data:
        _awaits_command(step, entry)
        return
    if entry.data.get("reason") != "confirmation":
        broken("event data", f"{step.spec.id} waits for {entry.data.get('reason')}")
    _awaits(step, entry, Kind.CONFIRM)


def _awaits(step: StepView, entry: Entry, kind: Kind) -> None:
    if step.holder != "engine" or step.spec.kind is not kind or entry.actor != "engine":
        broken("waits", f"{entry.actor} makes {step.spec.id}, a {step.spec.kind}, wait for {kind}")
    allowed_us = None
    if isinstance(step.spec.entry, Confirmation):
        allowed_us = step.spec.entry.expires_us
    elif isinstance(step.spec.entry, ToolWait):
        allowed_us = step.spec.entry.deadline_us
    until = entry.data["until"]
    step.until_us = None if until is None else instant_us(until)
    due_us = None if allowed_us is None else entry.time_us + allowed_us
    if step.until_us != due_us:
        broken("deadlines", f"{step.spec.id} may wait until {due_us}, not {step.until_us}")
    step.reason = entry.data["reason"]
    step.shown = entry.data["shownHash"]
    _hash(step, entry.data["stepHash"])


def _completed(step: StepView, entry: Entry, _: Surroundings) -> None:
    data = entry.data
    if step.holder == "worker":
        _require_lease(step, entry)
    elif step.holder == "answer" and step.decision not in ("answered", "approved"):
        broken("waits", f"{step.spec.id} completes although it was {step.decision}")
    elif step.holder == "command" and step.decision != "confirmed":
        broken("waits", f"{step.spec.id} completes although its command was {step.decision}")
    elif step.holder == "engine":
        broken("waits", f"the engine completes {step.spec.id} without an answer")
    if data["attempt"] != step.attempts:
        broken("attempts", f"attempt {data['attempt']} of {step.spec.id} completes, not {step.attempts}")
    _hash(step, data["stepHash"])
    step.output = data["outputHash"]
    chosen = data.get("chosen")
    if (chosen is None) is bool(step.spec.select):
        broken("selection", f"{step.spec.id} chose {chosen} among {list(step.spec.select)}")
    if chosen is not None:
        if not set(chosen) <= set(step.spec.select):
            broken("selection", f"{step.spec.id} chose {chosen} among {list(step.spec.select)}")
        step.chosen = frozenset(chosen)
    step.reason = step.cause = None


def _failed(step: StepView, entry: Entry, run: Surroundings) -> None:
    data = entry.data
    if "failure" in data:
        _failure(step, entry, run)
        _expect_decision(step, entry, run, data["reason"])
        step.cause = _cause(step, data)
    elif data["reason"] == "attempt_budget_exhausted":
        _lost(step, entry, run)
        if step.attempts < step.spec.retry.max_attempts:
            broken("budgets", f"{step.spec.id} gives up after {step.attempts} attempts")
        step.cause = "circumstance"
    else:
        _stopped(step, entry, run)
    step.reason = data["reason"]
    if data["cause"] != step.cause:
        broken("causes", f"{step.spec.id} failed by {data['reason']} is {step.cause}, not {data['cause']}")


def _stopped(step: StepView, entry: Entry, run: Surroundings) -> None:
    """A failure without a failed attempt: rejected, answered so, refused by the engine, or out of time."""
    reason = entry.data["reason"]
    step.cause = "circumstance"
    if reason in ("rejected", "tool_failed"):
        if (
            step.holder == "answer"
            and step.decision == {"rejected": "rejected", "tool_failed": "failed"}[reason]
        ):
            step.cause = "work"
            return
        expired = isinstance(step.spec.entry, Confirmation) and step.spec.entry.on_expiry == "reject"
        if reason == "tool_failed" or not expired:
            broken("waits", f"{step.spec.id} is {reason} and nobody did that")
        _require_over(step, entry, step.until_us, reason)
    elif reason == "command_refused":
        if step.holder != "command" or step.decision != "refused":
            broken("waits", f"{step.spec.id} failed by {reason}, its command was {step.decision}")
    elif reason in ("tool_expired", "confirmation_expired"):
        if step.reason not in ("tool", "confirmation"):
            broken("deadlines", f"{step.spec.id} does not wait for an answer that could come too late")
        _require_over(step, entry, step.until_us, reason)
    elif reason == "step_timeout":
        allowed_us = step.spec.timeout_us
        _require_over(step, entry, None if allowed_us is None else step.queued_us + allowed_us, reason)
    elif reason == "run_timeout":
        _require_over(step, entry, run.run_deadline_us, reason)
    elif step.state == "queued" and entry.actor == "engine":
        step.cause = "work"  # its arguments do not exist
    else:
        broken("event data", f"{step.spec.id} failed by {reason}")


def _require_over(step: StepView, entry: Entry, until_us: int | None, reason: str) -> None:
    if until_us is None or entry.time_us < until_us:
        broken("deadlines", f"{step.spec.id} ends by {reason} at {entry.time_us}, its time is {until_us}")


def _cancelled(step: StepView, entry: Entry, run: Surroundings) -> None:
    reason = entry.data["reason"]
    expected = reason if reason in ("upstream_failed", "not_selected") else "circumstance"
    if entry.data["cause"] != expected:
        broken("causes", f"{step.spec.id} cancelled by {reason} is {expected}, not {entry.data['cause']}")
    run.stopping |= reason == "fail_fast"  # also where the next write has the very same time
    if reason == "fail_fast" and not (run.fail_fast and run.failed):
        broken("decisions", f"{step.spec.id} is cancelled by failFast, and nothing failed or nobody asked")
    if reason == "run_budget_exhausted" and (run.budget is None or run.failures < run.budget):
        broken("budgets", f"{step.spec.id} is cancelled for a run budget that is not spent")
    if reason == "run_cancelled" and (entry.actor == "engine" or entry.actor.startswith("worker:")):
        broken("cancellation", f"{entry.actor} itself cancels {step.spec.id}")
    if reason in ("upstream_failed", "not_selected") and step.state != "received":
        broken("decisions", f"{step.spec.id} is {reason} after it was {step.state}")
    step.reason, step.cause = reason, expected


def _failure(step: StepView, entry: Entry, run: Surroundings) -> None:
    """A reported failure: under the latest lease, and counted."""
    _require_lease(step, entry)
    step.failures += 1
    step.circumstances += entry.data["circumstance"]
    run.failures += 1
    _hash(step, entry.data["stepHash"])
    _require_counts(step, entry.data, run)


def _lost(step: StepView, entry: Entry, run: Surroundings) -> None:
    if step.holder != "worker" or entry.actor != "engine":
        broken("leases", f"{entry.actor} loses the lease of {step.spec.id}, held by {step.holder}")
    if "worker" in entry.data and entry.data["worker"] != step.worker:
        broken("leases", f"{entry.data['worker']} lost the lease of {step.spec.id} that {step.worker} held")
    _require_counts(step, entry.data, run)


def _require_lease(step: StepView, entry: Entry) -> None:
    if step.holder != "worker" or entry.actor != f"worker:{step.worker}":
        broken("fencing", f"{entry.actor} reports on {step.spec.id}, leased to {step.worker or step.holder}")


def _require_counts(step: StepView, data: Mapping[str, Any], run: Surroundings) -> None:
    retry = step.spec.retry
    counted: dict[str, int | None] = {
        "attempts": step.attempts,
        "attemptsLeft": max(0, retry.max_attempts - step.attempts),
        "failures": step.failures,
        "failuresLeft": max(0, retry.max_failures - step.failures),
        "runFailures": None if run.budget is None else run.failures,
        "runFailuresLeft": None if run.budget is None else max(0, run.budget - run.failures),
    }
    recorded = {name: data.get(name) for name in counted}
    if recorded != counted:
        broken("budgets", f"{step.spec.id} records {recorded} where {counted} is right")


def _expect_decision(step: StepView, entry: Entry, run: Surroundings, decision: str) -> None:
    """The decision about a failed attempt follows from what is left of the budgets."""
    retry = step.spec.retry
    code = entry.data["failure"]
    if (decision == code) if run.final is None else (code in run.final):
        expected = code
    elif step.attempts >= retry.max_attempts:
        expected = "attempt_budget_exhausted"
    elif step.failures >= retry.max_failures:
        expected = "failure_budget_exhausted"
    elif run.stopping and decision != "retry_scheduled":
        expected = "fail_fast" if run.fail_fast else "run_budget_exhausted"
    elif run.budget is not None and run.failures >= run.budget:
        expected = "run_budget_exhausted"
    else:
        expected = "retry_scheduled"
    if decision != expected:
        broken("budgets", f"{step.spec.id} fails by {code}: decided {decision}, due {expected}")
    if expected == "retry_scheduled" and run.stopping:
        broken("decisions", f"{step.spec.id} is tried again in a run that is being stopped")


def _cause(step: StepView, data: Mapping[str, Any]) -> str:
    """What a failure is owed to: work only when nothing but the work can have brought it about."""
    if data["reason"] in ("fail_fast", "run_budget_exhausted"):
        return "circumstance"
    if data["reason"] == "attempt_budget_exhausted":
        alone = step.circumstances == 0 and step.failures == step.attempts
    elif data["reason"] == "failure_budget_exhausted":
        alone = step.circumstances == 0
    else:
        alone = not data["circumstance"]
    return "work" if alone else "circumstance"


def _hash(step: StepView, step_hash: str | None) -> None:
    """A step's hash is a function of its run's inputs and outputs, so that all attempts have the same."""
    step.step_hash = step_hash
    if step_hash is None:
        return
    if step.known_hash not in (None, step_hash):
        broken("step hash", f"{step.spec.id} has the hash {step_hash}, and had {step.known_hash} before")
    step.known_hash = step_hash


_RULES: Final = {
    "queued": _queued,
    "executing": _executing,
    "awaiting_tool": _awaiting_tool,
    "awaiting_user_confirmation": _awaiting_user,
    "completed": _completed,
    "failed": _failed,
    "cancelled": _cancelled,
}
