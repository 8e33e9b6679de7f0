"""The order of the queue, as the histories of all runs of a tenant tell it.

Owns: `check_order`. A claim takes the first by (priority, run sequence, plan index) of what a tenant has ready; a retry
that is due and a lost lease keep their places. The order can be told as far as the times of the events differ.
Must not touch: how a store keeps its queue.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, TypeAlias

from sovrun.simulation.histories import Entry, History, Violation, instant_us
from sovrun.simulation.steps import BY_WORKERS

Place: TypeAlias = tuple[int, int, int]
"""Priority, run sequence, plan index."""

CLAIM_SLACK_US: Final = 100
"""How long after its time a wait may be overlooked: a claim looks for waits that are over before it reads the queue."""

_READY: Final = 0
_GONE: Final = 1
_STARTED: Final = 2

Change: TypeAlias = tuple[int, int, Place, str, int]
"""When, what, whose place, and in which event of which run."""


def check_order(histories: Sequence[History]) -> list[Violation]:
    """Return the starts that overtook a step of their tenant that had been ready for longer and is before them.

    Args:
        histories: in the order of their submission.
    """
    by_tenant: dict[str, list[Change]] = {}
    for number, history in enumerate(histories):
        first = history.entries[0]
        by_tenant.setdefault(first.tenant, []).extend(_changes(number, history))
    return [violation for changes in by_tenant.values() for violation in _overtakings(sorted(changes))]


def _changes(number: int, history: History) -> Iterator[Change]:
    """Yield when each step of a run became ready for a claim and when it no longer was."""
    index: Mapping[str, int] = {
        str(step.id): position for position, step in enumerate(history.spec.steps) if step.kind in BY_WORKERS
    }
    received = history.entries[0].data
    looked_at_first = received.get("parent") is not None  # the engine decides whether an output is reused
    ready: dict[str, Change] = {}
    for entry in history.entries:
        if not entry.type.startswith("step."):
            continue
        what, since_us = _change(entry)
        named: Sequence[str] = entry.data.get("steps") or (str(entry.step),)
        for id_ in named:
            if id_ not in index:
                continue
            before = ready.pop(id_, None)
            if before is not None and before[0] <= entry.time_us:
                yield before
            change = (since_us, what, (received["priority"], number, index[id_]), entry.run, entry.sequence)
            if what != _READY:
                yield change
            elif not (looked_at_first and entry.type == "step.queued"):
                ready[id_] = change
    yield from ready.values()


def _change(entry: Entry) -> tuple[int, int]:
    if entry.type == "step.queued":
        return _READY, entry.time_us
    if entry.type == "step.awaiting_tool" and entry.data["until"] is not None:
        return _READY, max(entry.time_us, instant_us(entry.data["until"])) + CLAIM_SLACK_US
    if entry.type == "step.executing" and "worker" in entry.data:
        return _STARTED, entry.time_us
    return _GONE, entry.time_us


def _overtakings(changes: Sequence[Change]) -> Iterator[Violation]:
    """Yield a violation for each instant at which a later step started and an earlier one stayed behind."""
    waiting: set[Place] = set()
    line: list[Place] = []
    for _, together in groupby(changes, key=lambda change: change[0]):
        now = list(together)
        last = {change[2]: change for change in sorted(now, key=lambda change: change[4])}
        waiting.difference_update(place for place, change in last.items() if change[1] != _READY)
        while line and line[0] not in waiting:
            heapq.heappop(line)
        for _, what, place, run, sequence in now:
            if what == _STARTED and line and line[0] < place:
                yield Violation("queue order", run, sequence, f"{place} starts while {line[0]} is ready")
        for place, change in last.items():
            if change[1] == _READY:
                waiting.add(place)
                heapq.heappush(line, place)
