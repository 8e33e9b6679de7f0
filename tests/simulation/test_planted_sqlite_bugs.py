"""Bugs planted in the SQLite store on purpose: worlds on real files, restarts among them, find every one of them.

What only the file knows is wrong here: a row that says too little is noticed when the file is read again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sovrun.core.step import Step
from sovrun.simulation.campaign import campaign
from sovrun.simulation.world import Settings
from sovrun.stores.sqlite import rows
from sovrun.stores.sqlite.queue import Queue

SEED = 2_000
RUNS_MAX = 1_500
Plant = Callable[[pytest.MonkeyPatch], None]


def _said_otherwise(patch: pytest.MonkeyPatch, name: str, old: str, new: str) -> None:
    statement = getattr(rows, name)
    assert statement.count(old) == 1
    patch.setattr(rows, name, statement.replace(old, new))


def queue_is_read_in_order_of_arrival(patch: pytest.MonkeyPatch) -> None:
    """The queue's statement forgets priorities."""
    _said_otherwise(patch, "SELECT_QUEUE", "ORDER BY q.priority, q.run", "ORDER BY q.run")


def failed_needs_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    """A step's row learns that a need has ended, and not that it failed."""
    _said_otherwise(patch, "UPDATE_COUNTERS", "failed_needs + ?", "failed_needs + 0 * ?")


def fence_is_not_written(patch: pytest.MonkeyPatch) -> None:
    """What a lost lease raised the fence to is known until the file is read again."""
    row = rows.step_row

    def forgetful(step: Step) -> tuple[Any, ...]:
        return (*row(step)[:6], 0, *row(step)[7:])

    patch.setattr(rows, "step_row", forgetful)


def claimed_steps_stay_in_the_queue(patch: pytest.MonkeyPatch) -> None:
    """A claim takes steps and leaves their rows where the next claim finds them."""
    _said_otherwise(patch, "DELETE_QUEUE", "AND position = ?", "AND position = -1 - ?")


def freed_slots_are_not_written(patch: pytest.MonkeyPatch) -> None:
    """A lane counts the steps that begin, and not those that end."""
    held = Queue.held

    def counting_up(self: Queue, lane: Any, steps: int) -> None:
        held(self, lane, max(steps, 0))

    patch.setattr(Queue, "held", counting_up)


def queued_steps_are_not_written(patch: pytest.MonkeyPatch) -> None:
    """A step that became ready stands in the queue, and its own row does not say so."""
    patch.setattr(rows, "QUEUE_STEP", "UPDATE step SET state = state WHERE run = ? AND position = ?")


PLANTED: dict[Plant, set[str]] = {
    queue_is_read_in_order_of_arrival: {"queue order"},
    failed_needs_are_not_counted: {"decisions"},
    fence_is_not_written: {"fencing"},
    claimed_steps_stay_in_the_queue: {
        "error"
    },  # the lifecycle's own table refuses the move before it is written
    freed_slots_are_not_written: {"slots"},
    queued_steps_are_not_written: {"error"},
}


@pytest.mark.parametrize(
    ("plant", "rules"), PLANTED.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_a_planted_bug_is_found(plant: Plant, rules: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    report = campaign(SEED, Settings(store="sqlite"), runs=RUNS_MAX, shrink=False)
    monkeypatch.undo()
    assert report.finding is not None, f"{plant.__doc__} was not found in {report.runs} runs"
    assert report.finding.violation.rule in rules, str(report.finding.violation)
