"""The independent checker: reads recorded events and DAG documents, and says which rule they break.

Owns: `check` and `check_run`, the rules of a whole run. It knows DESIGN sections 3 to 5 by heart and nothing of the code
that is to keep them: neither the lifecycle table nor the decisions of the core are read here.
Must not touch: stores, the engine, `core.lifecycle`, `core.step`, `core.run`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from sovrun.simulation.hashes import chain, outcome_hash, outputs_hash
from sovrun.simulation.histories import Entry, History, Violation
from sovrun.simulation.order import check_order
from sovrun.simulation.steps import ENDED, LEGAL, Broken, StepView, Surroundings, broken, move

TIMER_SLACK_US: Final = 1_000_000
"""How far past a deadline a run may be seen to go on; the clock is read more than once in a verb."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A report of which its sender was told that it is recorded.

    Args:
        result: the output's digest of a completed attempt, the error document's of a failed one.
    """

    run: str
    step: str
    attempt: int
    completed: bool
    result: str


def check(
    histories: Sequence[History],
    *,
    acknowledged: Iterable[Acknowledged] = (),
    final: frozenset[str] | None = None,
    steady: bool = True,
    lanes_open: bool = True,
) -> list[Violation]:
    """Return what is wrong with histories, in the order of their runs; per run only the first thing.

    Args:
        histories: in the order of their submission, each of a whole run or of its beginning.
        acknowledged: reports that were acknowledged, which must be in the histories.
        final: codes of failures that are never retried; None when that is not known.
        lanes_open: nothing was ever paused or limited; where it was, the order of the queue cannot be told.
        steady: the store's clock was never set back; when it was, times tell neither order nor whether a wait was over.
    """
    each = (check_run(history, final, steady=steady) for history in histories)
    found = [violation for violation in each if violation is not None]
    if not found:
        found = _lost_reports(histories, acknowledged)
    if not found:
        found = _strange_outputs(histories)
    if not found and steady and lanes_open:
        found = check_order(histories)
    return found


def check_run(
    history: History, final: frozenset[str] | None = None, *, steady: bool = True
) -> Violation | None:
    """Return the first rule that a run's history breaks, None when it breaks none."""
    fold = _Fold(history, final, steady=steady)
    try:
        fold.read_all()
    except Broken as error:
        return Violation(error.rule, fold.run, fold.sequence, error.text)
    except (KeyError, TypeError, ValueError) as error:
        return Violation("event data", fold.run, fold.sequence, f"{type(error).__name__}: {error}")
    return None


class _Fold:
    """One pass over a run's entries."""

    def __init__(self, history: History, final: frozenset[str] | None, *, steady: bool) -> None:
        spec = history.spec
        self._history = history
        index = {step.id: position for position, step in enumerate(spec.steps)}
        self._steps = [
            StepView(step, position, tuple(index[need] for need in step.needs))
            for position, step in enumerate(spec.steps)
        ]
        self._index: dict[str, int] = {str(id_): position for id_, position in index.items()}
        self._around = Surroundings(
            budget=spec.failure_budget, fail_fast=spec.fail_fast, final=final, steady=steady
        )
        self._received: dict[str, Any] = {}
        self._tenant = ""
        self.run = history.entries[0].run if history.entries else ""
        self.sequence = 0
        self._time_us = -1
        self._state = ""
        self._started = False
        self._cancelled = False
        self._timed_out = False

    def read_all(self) -> None:
        """Hold every entry against the rules. Raises: Broken."""
        if not self._history.entries:
            broken("sequences", "a run without a single event")
        for entry in self._history.entries:
            self._read(entry)
        self._boundary()
        head = self._history.chain_head
        if head is not None and head != chain(self._received["runToken"], self._history.entries):
            broken("chain", f"the chain head is not {head}")

    def _read(self, entry: Entry) -> None:
        if entry.sequence != self.sequence + 1:
            broken("sequences", f"event {entry.sequence} follows event {self.sequence}")
        if entry.time_us < self._time_us:
            broken("times", f"event {entry.sequence} is {self._time_us - entry.time_us} us before the last")
        if entry.time_us > self._time_us and self.sequence:
            self._boundary()  # a later time: another write
        self.sequence, self._time_us = entry.sequence, entry.time_us
        if not entry.canonical:
            broken("event data", "the data is not in its canonical form")
        if self._state in ENDED:
            broken("terminal", f"{entry.type} follows the end of the run")
        if self.sequence == 1:
            self._begin(entry)
        elif (entry.tenant, entry.run) != (self._tenant, self.run):
            broken("tenants", f"an event of run {entry.run} of {entry.tenant} is in another history")
        elif entry.type.startswith("run."):
            self._move_run(entry)
        else:
            self._move_steps(entry)

    def _begin(self, entry: Entry) -> None:
        if entry.type != "run.received" or entry.step is not None:
            broken("legal moves", f"a history begins with {entry.type}")
        self._received = dict(entry.data)
        self._tenant = entry.tenant
        if entry.data["runToken"][:32] != entry.run or entry.data["dagId"] != self._history.spec.id:
            broken("event data", "the run is not named by its token, or is of another DAG")
        timeout_us = self._history.spec.timeout_us
        self._around.run_deadline_us = None if timeout_us is None else entry.time_us + timeout_us
        self._state = "received"

    # --- steps ------------------------------------------------------------------------------------------------------

    def _move_steps(self, entry: Entry) -> None:
        several = entry.data.get("steps")
        if (entry.step is None) is (several is None) or (several is not None and len(several) < 2):
            broken("event data", f"{entry.type} names {entry.step} and {several}")
        named = [entry.step] if several is None else several
        positions = [self._index.get(id_ or "", -1) for id_ in named]
        if -1 in positions or positions != sorted(set(positions)):
            broken("event data", f"{named} are not steps of the DAG in plan order")
        for position in positions:
            step = self._steps[position]
            if step.state == "received" and entry.type[5:] in LEGAL["received"]:
                self._decide(step, entry)
            move(step, entry, self._around)
            if step.state == "executing":
                self._started = True
            elif step.state == "failed":
                self._around.failed = True
                self._timed_out |= entry.data["reason"] == "run_timeout"
            elif step.state == "cancelled":
                self._cancelled |= entry.data["reason"] == "run_cancelled"

    def _decide(self, step: StepView, entry: Entry) -> None:
        """A step leaves `received` only as its needs demand, or because the whole run is being ended."""
        reason = entry.data.get("reason")
        if reason in ("run_cancelled", "fail_fast", "run_budget_exhausted", "run_timeout"):
            return
        needs = [self._steps[position] for position in step.needs]
        if not self._over(step.needs):
            broken("needs", f"{step.spec.id} leaves received before its needs are over")
        due = _decision(step, needs)
        if (reason if entry.type == "step.cancelled" else entry.type) != (due or "step.queued"):
            broken(
                "decisions", f"{step.spec.id}: {entry.type} ({reason}), but due was {due or 'step.queued'}"
            )

    # --- the run ----------------------------------------------------------------------------------------------------

    def _move_run(self, entry: Entry) -> None:
        state = entry.type[4:]
        if state not in LEGAL[self._state]:
            broken("legal moves", f"the run goes from {self._state} to {state}")
        if entry.step is not None:
            broken("event data", f"{entry.type} names the step {entry.step}")
        self._state = state
        if state in ENDED:
            self._end(entry)

    def _end(self, entry: Entry) -> None:
        open_ = [step.spec.id for step in self._steps if step.state not in ENDED]
        if open_:
            broken("run state", f"the run ends while {', '.join(open_)} have not")
        data = entry.data
        reason = {"failed": "step_failed", "cancelled": "run_cancelled"}.get(self._state)
        if data["reason"] != reason:
            broken("run state", f"the run is {self._state} for {data['reason']}, not {reason}")
        reproducible = all(step.cause != "circumstance" for step in self._steps)
        if data["reproducible"] is not reproducible:
            broken("reproducible", f"marked {data['reproducible']}, the causes make it {reproducible}")
        steps = [
            {
                "id": step.spec.id,
                "stepHash": step.step_hash,
                "state": step.state,
                "cause": step.cause,
                "output": step.output,
            }
            for step in self._steps
        ]
        outcome = outcome_hash(self._received["dagVersion"], self._received["inputsHash"], steps)
        if data["outcomeHash"] != outcome:
            broken("outcome hash", f"{data['outcomeHash']} is recorded, {outcome} came out")
        completed = [(s.spec.id, s.output) for s in self._steps if s.state == "completed"]
        if data["outputsHash"] != outputs_hash(completed):
            broken("outputs hash", f"{data['outputsHash']} is not the digest of the outputs")

    def _boundary(self) -> None:
        """Between two writes the run is what its steps make it, and nothing that is due is left undone."""
        due = self._due_state()
        if self._state != due:
            broken("run state", f"the run is {self._state} where its steps make it {due}")
        around = self._around
        spent = around.budget is not None and around.failures >= around.budget and around.failed
        around.stopping |= spent or (around.fail_fast and around.failed)
        untouched = all(step.state == "received" for step in self._steps)
        for step in self._steps:
            if step.state in ENDED or step.state == "executing":
                if step.state == "executing" and step.holder != "worker":
                    broken("legal moves", f"{step.spec.id} executes, and no worker has it")
            elif around.stopping:
                broken("decisions", f"{step.spec.id} is {step.state} in a run that is being stopped")
            elif step.state == "received" and not untouched and self._over(step.needs):
                broken("decisions", f"{step.spec.id} is not decided, and all its needs are over")

        if around.steady and self._state not in ENDED:
            self._require_prompt()

    def _require_prompt(self) -> None:
        """Whatever happens in a run, first everything ends whose time is over."""
        late_us = self._time_us - TIMER_SLACK_US
        due_us = self._around.run_deadline_us
        if due_us is not None and due_us < late_us:
            broken("deadlines", f"the run goes on {self._time_us - due_us} us after its time was over")
        for step in self._steps:
            if step.state == "received" or step.state in ENDED:
                continue
            allowed_us = step.spec.timeout_us
            if step.reason in ("tool", "confirmation") and (step.until_us or late_us) < late_us:
                broken("deadlines", f"{step.spec.id} still waits at {self._time_us}, until {step.until_us}")
            if allowed_us is not None and step.queued_us + allowed_us < late_us:
                broken("deadlines", f"{step.spec.id} goes on after its time was over")

    def _over(self, positions: Sequence[int]) -> bool:
        return all(self._steps[position].state in ENDED for position in positions)

    def _due_state(self) -> str:
        states = {step.state for step in self._steps}
        if states <= ENDED:
            return "cancelled" if self._cancelled else "failed" if "failed" in states else "completed"
        if self._cancelled:
            broken("cancellation", "a cancelled run has steps that are not over")
        if self._timed_out:
            broken("deadlines", "a run whose time is over has steps that are not over")
        if not self._started:
            return "queued" if "queued" in states else "received"
        if states & {"queued", "executing"}:
            return "executing"
        if not states & {"awaiting_user_confirmation", "awaiting_tool"}:
            broken("decisions", "no step can ever go on")
        return "awaiting_user_confirmation" if "awaiting_user_confirmation" in states else "awaiting_tool"


def _decision(step: StepView, needs: Sequence[StepView]) -> str | None:
    """Return why a step whose needs are all over is cancelled, None when it is queued."""
    if any(need.state == "failed" or need.reason == "upstream_failed" for need in needs):
        return "upstream_failed"
    for need in needs:
        offered = step.spec.id in need.spec.select
        if need.state == "completed" and offered and step.spec.id not in (need.chosen or ()):
            return "not_selected"
    skipped = [need.reason == "not_selected" for need in needs]
    if skipped and all(skipped):
        return "not_selected"
    return "not_selected" if any(skipped) and not step.spec.join_any else None


def _strange_outputs(histories: Sequence[History]) -> list[Violation]:
    """Return the reused outputs that the cited parent did not record under the same step hash."""
    made = {
        (entry.run, entry.step, entry.data["stepHash"], entry.data["outputHash"])
        for history in histories
        for entry in history.entries
        if entry.type == "step.completed"
    }
    found = []
    for history in histories:
        parent = history.entries[0].data.get("parent")
        for reused, completed in pairwise(history.entries):
            source = reused.data.get("reusedFrom")
            name = (source, completed.step, completed.data.get("stepHash"), completed.data.get("outputHash"))
            if source is not None and (source != parent or name not in made):
                text = f"{reused.step} takes from {source} what its parent {parent} did not record"
                found.append(Violation("reuse", reused.run, reused.sequence, text))
    return found


def _lost_reports(histories: Sequence[History], acknowledged: Iterable[Acknowledged]) -> list[Violation]:
    """Return the acknowledged reports that no history holds."""
    recorded: set[tuple[str, str | None, bool, str | None]] = set()
    for history in histories:
        for entry in history.entries:
            if entry.type == "step.completed":
                recorded.add((entry.run, entry.step, True, entry.data["outputHash"]))
            elif "failure" in entry.data:
                recorded.add((entry.run, entry.step, False, entry.data["errorHash"]))
    return [
        Violation(
            "acknowledged", one.run, 0, f"{one.step}, attempt {one.attempt}: its report {one.result} is gone"
        )
        for one in acknowledged
        if (one.run, one.step, one.completed, one.result) not in recorded
    ]
