"""What one transaction has gathered, and how it is written: one statement per kind for all rows of a kind."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sovrun.core.ids import Digest, RunId, Tenant
from sovrun.core.lifecycle import TERMINAL, State
from sovrun.core.run import Run, Write
from sovrun.core.step import QUEUED
from sovrun.store.payload import Payload
from sovrun.stores.sqlite import rows


@dataclass(slots=True)
class Batch:
    """What one transaction has gathered so far.

    Attributes:
        new: by run key, the columns of a new run that never change; names: of the new runs.
    """

    now_us: int
    writes: dict[int, Write] = field(default_factory=dict)
    new: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    names: set[tuple[Tenant, RunId]] = field(default_factory=set)
    payloads: list[tuple[Tenant, Digest, bytes]] = field(default_factory=list)
    caller_keys: list[tuple[Any, ...]] = field(default_factory=list)
    heads: dict[int, Run] = field(default_factory=dict)
    ended: list[Write] = field(default_factory=list)
    acted: list[Write] = field(default_factory=list)
    late: Counter[Tenant] = field(default_factory=Counter)

    def keep(self, tenant: Tenant, payloads: Iterable[Payload]) -> None:
        """Keep the payloads that come with their bodies."""
        self.payloads.extend((tenant, digest, body) for digest, body in payloads if body is not None)

    def write_runs(self, connection: sqlite3.Connection) -> None:
        """Write what is new about runs, their steps and histories."""
        if self.caller_keys:
            connection.executemany(rows.INSERT_CALLER_KEY, self.caller_keys)
        if self.payloads:
            connection.executemany(rows.INSERT_PAYLOAD, self.payloads)
        heads = self.heads = {
            key: write.head() for key, write in self.writes.items() if write.facts or key in self.new
        }
        inserts = [(*self.new[key], *_run_row(heads[key])) for key in self.new]
        if inserts:
            connection.executemany(rows.INSERT_RUN, inserts)
            steps = [(key, self.writes[key].admitted, columns[4]) for key, columns in self.new.items()]
            connection.executemany(rows.INSERT_STEPS, steps)
        advanced, updates = [], []
        for key, head in heads.items():
            if key in self.new:
                continue
            if rows.advances(self.writes[key].run, head):
                advanced.append(rows.advance_columns(head))
            else:
                updates.append((*_run_row(head), key))
        if advanced:
            connection.executemany(rows.ADVANCE_RUN, advanced)
        if updates:
            connection.executemany(rows.UPDATE_RUN, updates)
        self._write_steps_and_events(connection)

    def _write_steps_and_events(self, connection: sqlite3.Connection) -> None:
        steps = StepChanges()
        events: list[tuple[Any, ...]] = []
        large: list[tuple[Any, ...]] = []
        for key, write in self.writes.items():
            if write.outcome is None:
                steps.gather(key, write, new=key in self.new)
            _gather_events(key, write, events, large)
        steps.write(connection)
        if events:
            connection.executemany(rows.INSERT_EVENT, events)
        if large:
            connection.executemany(rows.INSERT_EVENT_DATA, large)


def _run_row(head: Run) -> tuple[Any, ...]:
    return rows.run_columns(head, head.time_us if head.state in TERMINAL else None)


class StepChanges:
    """Changed steps, each with the statement that says no more than what has changed."""

    def __init__(self) -> None:
        self._queued: list[tuple[int, int]] = []
        self._started: list[tuple[Any, ...]] = []
        self._completed: list[tuple[Any, ...]] = []
        self._other: list[tuple[Any, ...]] = []

    def gather(self, key: int, write: Write, *, new: bool) -> None:
        """Append the changed steps of a write; the rows of a `new` run are inserted with their first state."""
        now_us = write.now_us
        for position, step in write.steps.items():
            if step is QUEUED:
                if not new:
                    self._queued.append((key, position))
            elif step.state is State.EXECUTING and step.attempts == 1:
                self._started.append((step.worker, now_us, key, position))
            elif step.state is State.COMPLETED and step.shown is None and step.environment is not None:
                self._completed.append(
                    (step.fence, step.step_hash, step.output, step.environment, now_us, key, position)
                )
            else:
                self._other.append((*rows.step_row(step), now_us, key, position))

    def write(self, connection: sqlite3.Connection) -> None:
        """Write what was gathered."""
        for statement, changed in (
            (rows.QUEUE_STEP, self._queued),
            (rows.START_STEP, self._started),
            (rows.COMPLETE_STEP, self._completed),
            (rows.UPDATE_STEP, self._other),
        ):
            if changed:
                connection.executemany(statement, changed)


def _gather_events(
    key: int, write: Write, events: list[tuple[Any, ...]], large: list[tuple[Any, ...]]
) -> None:
    steps = write.plan.steps
    now_us = write.now_us
    number = key << 32 | write.run.sequence  # of an event: its run, then its place in the run's history
    for type_, position, actor, data in write.facts:
        number += 1
        step = None if position < 0 else steps[position].id
        if len(data) <= rows.EVENT_INLINE_MAX:
            events.append((number, now_us, actor, type_, step, data))
        else:
            events.append((number, now_us, actor, type_, step, None))
            large.append((key, number & 0xFFFFFFFF, data))
