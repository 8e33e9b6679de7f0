"""Runs under way as the owner sees them: what is remembered of them, else what the file says.

Owns: `Runs`, `Hot`. What is remembered is dropped whole after anything went wrong (`forget`).
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sovrun.core.canonical import canonical, decode
from sovrun.core.errors import NotFound
from sovrun.core.ids import Digest, Tenant
from sovrun.core.lanes import Lane, Lanes
from sovrun.core.lifecycle import TERMINAL
from sovrun.core.plan import Plan, plan_of
from sovrun.core.run import Run, Write
from sovrun.core.spec.normal import spec_from_normal
from sovrun.core.step import Step
from sovrun.stores.sqlite import rows
from sovrun.stores.sqlite.batch import Batch

PLANS_MAX: Final = 64
HOT_MAX: Final = 4_096
UNSTARTED: Final = ["received", "queued", "awaiting_tool", "awaiting_user_confirmation"]
UNFINISHED: Final = [*UNSTARTED, "executing"]


@dataclass(slots=True)
class Hot:
    """A run under way as it stands in the file."""

    head: Run
    plan: Plan
    lane: Lane
    executing: dict[int, Step] = field(default_factory=dict)


class Runs:
    """The runs under way of one file."""

    def __init__(self, connection: sqlite3.Connection, lanes: Callable[[], Lanes]) -> None:
        self._connection = connection
        self._lanes = lanes
        self._plans: OrderedDict[tuple[Tenant, Digest], tuple[int, Plan]] = OrderedDict()
        self.hot: OrderedDict[int, Hot] = OrderedDict()

    def trim(self) -> None:
        """Forget the runs that were remembered first, where there are too many."""
        while len(self.hot) > HOT_MAX:
            self.hot.popitem(last=False)

    def write(self, batch: Batch, key: int) -> Write:
        """Return this transaction's write to a run. Raises: NotFound."""
        write = batch.writes.get(key)
        if write is None:
            hot = self.hot.get(key) or self.load(key)
            write = batch.writes[key] = Write(hot.plan, hot.head, batch.now_us)
        return write

    def load(self, key: int) -> Hot:
        """Return a run under way from the file. Raises: NotFound."""
        row = self._connection.execute(rows.SELECT_RUN, (key,)).fetchone()
        if row is None:
            raise NotFound(f"no run with key {key}")
        head = rows.run_of(row)
        _, plan = self.plan(head.tenant, head.version)
        hot = self.hot[key] = Hot(head, plan, self._lanes()[rows.lane_key(row)])
        return hot

    def step(self, write: Write, position: int) -> Step:
        """Return a step as it stands in this write. Raises: NotFound."""
        key = write.run.key
        step = write.steps.get(position) or self.hot[key].executing.get(position)
        if step is not None:
            return step
        row = self._connection.execute(rows.SELECT_STEP, (key, position)).fetchone()
        if row is None:
            raise NotFound(f"no step {position} in run {write.run.id}")
        return rows.step_of(row)

    def all_in(self, write: Write, states: list[str]) -> list[tuple[int, Step]]:
        """Return the steps that were in `states` before this write or were changed by it, as they stand now."""
        return sorted((dict(self.steps_in(write.run.key, states)) | write.steps).items())

    def unfinished(self, write: Write) -> list[tuple[int, Step]]:
        """Return the steps that are not terminal, as they stand in this write."""
        return [(p, step) for p, step in self.all_in(write, UNFINISHED) if step.state not in TERMINAL]

    def steps_in(self, key: int, states: list[str]) -> list[tuple[int, Step]]:
        """Return the steps that are in `states` in the file."""
        cursor = self._connection.execute(rows.SELECT_STEPS_IN, (key, canonical(states).decode()))
        return [(row[0], rows.step_of(row[1:])) for row in cursor]

    def executing(self) -> list[tuple[int, int, Step]]:
        """Return run key, position and step of all that workers hold, as the file says."""
        found = []
        for key, count in self._connection.execute(rows.SELECT_EXECUTING).fetchall():
            hot = self.hot.get(key) or self.load(key)
            if len(hot.executing) != count:  # the run was read from the file since they began
                hot.executing = dict(self.steps_in(key, ["executing"]))
            found += [(key, position, step) for position, step in sorted(hot.executing.items())]
        return found

    def plan(self, tenant: Tenant, version: Digest) -> tuple[int, Plan]:
        """Return the number and the plan of a registered DAG version. Raises: NotFound."""
        known = self._plans.get((tenant, version))
        if known is not None:
            return known
        row = self._connection.execute(rows.SELECT_DAG_KEY, (tenant, version)).fetchone()
        if row is None:
            raise NotFound(f"DAG version {version} is not registered for tenant {tenant}")
        found = self._plans[tenant, version] = (row[0], plan_of(spec_from_normal(decode(row[1]))))
        if len(self._plans) > PLANS_MAX:
            self._plans.popitem(last=False)
        return found


class StepsOf:
    """Steps as an action sees them: the file's, changed by what this transaction has gathered."""

    def __init__(self, runs: Runs, write: Write) -> None:
        self._runs = runs
        self._write = write

    def step(self, position: int) -> Step:
        """See `actions.Steps`."""
        return self._runs.step(self._write, position)

    def unfinished(self) -> list[tuple[int, Step]]:
        """See `actions.Steps`."""
        return self._runs.unfinished(self._write)
