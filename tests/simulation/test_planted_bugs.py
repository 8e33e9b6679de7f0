"""Bugs planted in the engine on purpose: the simulator finds every one of them.

Each test takes one rule out of the real code while worlds run, and says which rules of the checker may notice. How many
seeds it took is recorded with the test; `docs/testing/simulation.md` lists the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import sovrun.core.run
import sovrun.core.step
import sovrun.store.memory
from sovrun.core.actions import Decide, perform
from sovrun.core.errors import LeaseLost
from sovrun.core.events import StepLeaseExpired
from sovrun.core.identity import Outcome, outcome_of
from sovrun.core.lifecycle import Cause, Reason, State, Tally, decide_received
from sovrun.core.retry import retry_delay_us
from sovrun.core.run import Write
from sovrun.core.step import evolve
from sovrun.simulation.campaign import campaign
from sovrun.simulation.world import Settings
from sovrun.store.memory import MemoryStore

SEED = 1_000
RUNS_MAX = 6_000
Plant = Callable[[pytest.MonkeyPatch], None]


def fence_is_not_raised(patch: pytest.MonkeyPatch) -> None:
    """A lost lease keeps its fencing number."""

    def forgetful(step: Any, event: Any) -> Any:
        after = evolve(step, event)
        return after._replace(fence=step.fence) if isinstance(event, StepLeaseExpired) else after

    patch.setattr(sovrun.core.run, "evolve", forgetful)


def late_report_is_accepted(patch: pytest.MonkeyPatch) -> None:
    """Whoever reports on a step that executes is believed, whatever the fence."""

    def trusting(step: Any, fence: int) -> None:
        if step.state is not State.EXECUTING:
            raise LeaseLost(f"lease {fence} ended; the step is {step.state}")

    patch.setattr(sovrun.core.step, "_require_fence", trusting)


def retry_ignores_its_time(patch: pytest.MonkeyPatch) -> None:
    """Whatever waits for its time goes into the queue at once."""
    strike = MemoryStore._strike

    def eager(self: MemoryStore) -> None:
        strike(self)
        for _, key, position in self._due:
            kept = self._runs[key]
            self._put(self._lane_of(kept), (kept.head.priority, key, position))
        self._due.clear()

    patch.setattr(MemoryStore, "_strike", eager)


def delay_does_not_grow(patch: pytest.MonkeyPatch) -> None:
    """Every retry waits for the base delay."""

    def constant(failures: int, **policy: Any) -> int:
        return retry_delay_us(min(failures, 1), **policy)

    patch.setattr(sovrun.core.step, "retry_delay_us", constant)


def counter_falls_twice(patch: pytest.MonkeyPatch) -> None:
    """The end of one need counts as two."""
    settled = sovrun.store.memory._settled

    def twice(kept: Any, tallies: Any, deltas: Any) -> Any:
        doubled = {
            position: delta._replace(remaining=2 * delta.remaining) for position, delta in deltas.items()
        }
        return settled(kept, tallies, doubled)

    patch.setattr(sovrun.store.memory, "_settled", twice)


def queue_is_popped_from_the_end(patch: pytest.MonkeyPatch) -> None:
    """The last step of a lane is claimed first."""
    heads = MemoryStore._heads
    patch.setattr(MemoryStore, "_heads", lambda self, lane, most: heads(self, lane, 10_000)[::-1][:most])


def _stop_without_queued(patch: pytest.MonkeyPatch, reason: Reason) -> None:
    stop = Write.stop

    def overlooking(self: Write, positions: Any, why: Reason, actor: Any) -> None:
        kept = [(p, step) for p, step in positions if why is not reason or step.state is not State.QUEUED]
        stop(self, kept, why, actor)

    patch.setattr(Write, "stop", overlooking)


def fail_fast_overlooks_queued_steps(patch: pytest.MonkeyPatch) -> None:
    """failFast cancels what waits, but not what is queued."""
    _stop_without_queued(patch, Reason.FAIL_FAST)


def acknowledged_report_is_lost(patch: pytest.MonkeyPatch) -> None:
    """Of the reports on one run in one commit, only the first is written; all are acknowledged."""
    record = MemoryStore._record

    def first_only(self: MemoryStore, kept: Any, write: Write, report: Any) -> bool:
        return True if write.facts else record(self, kept, write, report)

    patch.setattr(MemoryStore, "_record", first_only)


def every_late_report_is_acknowledged(patch: pytest.MonkeyPatch) -> None:
    """A late report is taken for a repeat of the one that was recorded."""
    patch.setattr(sovrun.store.memory, "is_repeat", lambda *_: True)


def lost_lease_costs_no_attempt(patch: pytest.MonkeyPatch) -> None:
    """A lost worker gives its attempt back."""

    def generous(step: Any, event: Any) -> Any:
        after = evolve(step, event)
        return after._replace(attempts=step.attempts - 1) if isinstance(event, StepLeaseExpired) else after

    patch.setattr(sovrun.core.run, "evolve", generous)


def outcome_lacks_causes(patch: pytest.MonkeyPatch) -> None:
    """The outcome hash is taken without the causes."""

    def bare(version: Any, inputs: Any, steps: Any, results: Any) -> Outcome:
        kept = list(results)
        whole = outcome_of(version, inputs, steps, kept)
        return replace(
            outcome_of(version, inputs, steps, [result._replace(cause=None) for result in kept]),
            reproducible=whole.reproducible,
        )

    patch.setattr(sovrun.store.memory, "outcome_of", bare)


def everything_is_reproducible(patch: pytest.MonkeyPatch) -> None:
    """Every run is marked reproducible."""
    patch.setattr(
        sovrun.store.memory, "outcome_of", lambda *given: replace(outcome_of(*given), reproducible=True)
    )


def circumstance_passes_for_work(patch: pytest.MonkeyPatch) -> None:
    """That the last lease was lost is put down to the work."""
    lost = sovrun.core.step._after_lost_lease

    def blaming(*given: Any, **named: Any) -> Any:
        event = lost(*given, **named)
        return replace(event, cause=Cause.WORK) if event.target is State.FAILED else event

    patch.setattr(sovrun.core.step, "_after_lost_lease", blaming)


def cancel_leaves_queued_steps(patch: pytest.MonkeyPatch) -> None:
    """A cancellation overlooks what is queued."""
    _stop_without_queued(patch, Reason.RUN_CANCELLED)


def slot_of_a_cancelled_step_leaks(patch: pytest.MonkeyPatch) -> None:
    """The slot of a step that ended without its worker is never free again."""
    patch.setattr(MemoryStore, "_let_go", lambda *_: None)


def forgotten_leases_are_renewed_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A worker that is alive keeps every lease of its name, also those it does not know of."""
    renew = MemoryStore.renew

    async def trusting(self: MemoryStore, worker: Any, held: Any) -> Any:
        with patch.context() as inner:
            inner.setattr(MemoryStore, "_take_back", lambda *_: 0)
            return await renew(self, worker, held)

    patch.setattr(MemoryStore, "renew", trusting)


def time_runs_backwards(patch: pytest.MonkeyPatch) -> None:
    """The time of an event is the clock's, even when that was set back."""
    begin = Write.__init__

    def naive(self: Write, plan: Any, run: Any, now_us: int) -> None:
        begin(self, plan, run, now_us)
        self.now_us = now_us

    patch.setattr(Write, "__init__", naive)


def join_any_waits_for_all(patch: pytest.MonkeyPatch) -> None:
    """A join goes on only when every need was selected."""

    def strict(tally: Tally, needs: int, *, join_any: bool) -> Any:
        return decide_received(tally, needs, join_any=False)

    patch.setattr(sovrun.core.run, "decide_received", strict)


def started_run_stays_queued(patch: pytest.MonkeyPatch) -> None:
    """A claim starts steps and forgets the run's own state."""
    take, derive = MemoryStore._take, Write.derive

    def careless(self: MemoryStore, worker: Any, slots: int) -> Any:
        patch.setattr(Write, "derive", lambda _: None)
        try:
            return take(self, worker, slots)
        finally:
            patch.setattr(Write, "derive", derive)

    patch.setattr(MemoryStore, "_take", careless)


def approval_of_something_else_counts(patch: pytest.MonkeyPatch) -> None:
    """An approval is taken for what is shown now, whatever it names."""

    def obliging(write: Write, action: Any, steps: Any) -> bool:
        if isinstance(action, Decide):
            action = replace(action, shown=steps.step(action.position).shown)
        return perform(write, action, steps)

    patch.setattr(sovrun.store.memory, "perform", obliging)


def wait_never_expires(patch: pytest.MonkeyPatch) -> None:
    """Nobody remembers when a wait, a step or a run is out of time."""
    patch.setattr(sovrun.store.memory, "time_is_over", lambda *_: None)


PLANTED: dict[Plant, set[str]] = {
    fence_is_not_raised: {"fencing"},
    late_report_is_accepted: {"fencing", "leases"},
    retry_ignores_its_time: {"due time"},
    delay_does_not_grow: {"retry delay"},
    counter_falls_twice: {"needs", "progress", "decisions"},
    queue_is_popped_from_the_end: {"queue order"},
    fail_fast_overlooks_queued_steps: {"decisions"},
    acknowledged_report_is_lost: {"acknowledged"},
    every_late_report_is_acknowledged: {"acknowledged"},
    lost_lease_costs_no_attempt: {"attempts", "budgets"},
    outcome_lacks_causes: {"outcome hash"},
    everything_is_reproducible: {"reproducible"},
    circumstance_passes_for_work: {"causes"},
    cancel_leaves_queued_steps: {"cancellation"},
    slot_of_a_cancelled_step_leaks: {"slots"},
    forgotten_leases_are_renewed_for_ever: {"held"},
    time_runs_backwards: {"times"},
    join_any_waits_for_all: {"decisions"},
    started_run_stays_queued: {"run state"},
    approval_of_something_else_counts: {"waits"},
    wait_never_expires: {"deadlines", "progress"},
}


@pytest.mark.parametrize(
    ("plant", "rules"), PLANTED.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_a_planted_bug_is_found(plant: Plant, rules: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    report = campaign(SEED, Settings(), runs=RUNS_MAX, shrink=False)
    monkeypatch.undo()
    assert report.finding is not None, f"{plant.__doc__} was not found in {report.runs} runs"
    assert report.finding.violation.rule in rules, str(report.finding.violation)
