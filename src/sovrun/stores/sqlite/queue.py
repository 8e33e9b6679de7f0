"""The queue in the file: what waits in which lane, and who goes on.

Owns: the lanes' counts as they are remembered, and claims: the heads of open lanes, merged in the order of the queue,
tenants in turn. Counts are read again from the file after anything went wrong.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from heapq import merge
from typing import NamedTuple

from sovrun.core.ids import DagId, Tenant
from sovrun.core.lanes import Governed, Lane, Lanes, LimitsChange
from sovrun.core.step import QUEUED, Step
from sovrun.core.turns import Turn, in_turn
from sovrun.stores.sqlite import rows


class Place(NamedTuple):
    """A step's place in its tenant's queue, which it keeps for life: priority, run sequence, plan position."""

    priority: int
    run: int
    position: int


class Taken(NamedTuple):
    """A step that a claim takes, as it stands in the queue."""

    lane: Lane
    place: Place
    step: Step


_TURN = "turn"


class Queue:
    """The queue of every lane of a store, within the owner's transactions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.lanes = Lanes()
        self._changed: set[int] = set()
        self._written: dict[int, tuple[int, int, int, int]] = {}
        """By lane the counts that the file has, as far as they were written since `load`."""
        saved = connection.execute(rows.SELECT_SETTING, (_TURN,)).fetchone()
        tenant, used = json.loads(saved[0]) if saved else ("", 0)
        self.turn = Turn(Tenant(tenant), used)
        """Whose turn it is; written where it changes."""
        self._fresh: dict[int, list[Place]] = {}

    def load(self) -> None:
        """Read again what is remembered, but for the turn."""
        self.lanes = Lanes()
        for tenant, *limits, weight in self._connection.execute(rows.SELECT_TENANTS):
            self.lanes.tenant(Tenant(tenant)).limits = rows.limits_of(tuple(limits), weight)
        for key, tenant, dag, paused, runs, steps, *counts in self._connection.execute(rows.SELECT_LANES):
            self.lanes.add(
                Lane(key, Tenant(tenant), DagId(dag), rows.limits_of((paused, runs, steps)), *counts)
            )
        self._changed.clear()
        self._written.clear()
        self._fresh.clear()

    def lane(self, tenant: Tenant, dag: DagId) -> Lane:
        """Return the lane of a tenant's DAG, made when it is new."""
        lane = self.lanes.named(tenant, dag)
        if lane is None:
            key = self._connection.execute(rows.INSERT_LANE, (tenant, dag)).fetchone()[0]
            lane = self.lanes.add(Lane(key, tenant, dag))
        return lane

    def ready(self, lane: Lane, places: Iterable[Place]) -> None:
        """Offer steps that have just become ready to this transaction's claims, before they are written to the queue."""
        self._fresh.setdefault(lane.key, []).extend(places)

    def put(self, lane: Lane, places: Iterable[Place], since_us: int) -> None:
        """Write steps to the queue."""
        cursor = self._connection.executemany(
            rows.INSERT_QUEUE, ((lane.key, *place, since_us) for place in places)
        )
        lane.queued += cursor.rowcount
        self._changed.add(lane.key)

    def remove(self, lane: Lane, places: Iterable[Place]) -> None:
        """Take steps out of the queue that are not to be claimed any more."""
        cursor = self._connection.executemany(rows.DELETE_QUEUE, ((lane.key, *place) for place in places))
        lane.queued -= cursor.rowcount
        self._changed.add(lane.key)

    def held(self, lane: Lane, steps: int) -> None:
        """Count steps that workers have taken or, negative, let go."""
        if steps:
            self.lanes.held(lane, steps)
            self._changed.add(lane.key)

    def admitted(self, lane: Lane, runs: int) -> None:
        """Count runs that were admitted or, negative, have ended."""
        self.lanes.run_admitted(lane, runs)
        self._changed.add(lane.key)

    def waits(self, lane: Lane, runs: int) -> None:
        """Count runs that wait to be admitted or, negative, do so no more."""
        lane.waiting += runs
        self._changed.add(lane.key)

    def take(self, slots: int) -> list[Taken]:
        """Take up to `slots` steps from the heads of open lanes, tenants in turn."""
        if slots <= 0:
            return []
        found: dict[tuple[int, Place], Step] = {}
        queues: dict[Tenant, list[tuple[Place, Lane]]] = {}
        for tenant in self.lanes.tenants():
            head = self._head(tenant, min(slots, self.lanes.tenant_room(tenant)), found)
            if head:
                queues[tenant] = head
        if not queues:
            return []
        taken, turn = in_turn(queues, slots, self.turn, self.lanes.weights())
        if turn != self.turn:  # of one tenant alone it never changes, so a chain pays nothing for it
            saved = json.dumps([turn.tenant, turn.used])
            self._connection.execute(rows.UPSERT_SETTING, (_TURN, saved))
        self.turn = turn
        return self._taken([(lane, place) for _, (place, lane) in taken], found)

    def _head(
        self, tenant: Tenant, most: int, found: dict[tuple[int, Place], Step]
    ) -> list[tuple[Place, Lane]]:
        """Return the first `most` steps of a tenant's open lanes in the order of the queue."""
        parts: list[list[tuple[Place, Lane]]] = []
        for lane in self.lanes.tenant(tenant).lanes:
            fresh = self._fresh.get(lane.key)
            if not (fresh or lane.queued > 0):
                continue
            room = min(most, self.lanes.room(lane))
            if room <= 0:
                continue
            part = [(place, lane) for place in sorted(fresh)[:room]] if fresh else []
            if lane.queued > 0:
                waiting = []
                for row in self._connection.execute(rows.SELECT_QUEUE, (lane.key, room)):
                    place = Place(row[0], row[1], row[2])
                    found[lane.key, place] = rows.step_of(row[3:])
                    waiting.append((place, lane))
                part = list(merge(waiting, part, key=_place))[:room]
            parts.append(part)
        if len(parts) < 2:
            return parts[0][:most] if parts else []
        return list(merge(*parts, key=_place))[:most]

    def _taken(self, chosen: list[tuple[Lane, Place]], found: dict[tuple[int, Place], Step]) -> list[Taken]:
        taken: list[Taken] = []
        gone: list[tuple[int, ...]] = []
        used: dict[int, set[Place]] = {}
        for lane, place in chosen:
            step = found.get((lane.key, place))
            if step is None:
                used.setdefault(lane.key, set()).add(place)
                step = QUEUED
            else:
                gone.append((lane.key, *place))
                lane.queued -= 1
            taken.append(Taken(lane, place, step))
            self.lanes.held(lane, 1)
            self._changed.add(lane.key)
        for key, places in used.items():
            self._fresh[key] = [place for place in self._fresh[key] if place not in places]
        if gone:
            self._connection.executemany(rows.DELETE_QUEUE, gone)
        return taken

    def write_down(self, now_us: int) -> None:
        """Write the steps that nobody took, and the counts of changed lanes."""
        for key, places in self._fresh.items():
            if places:
                self.put(self.lanes[key], places, now_us)
        self._fresh.clear()
        if self._changed:
            for key in self._changed:
                lane = self.lanes[key]
                counts = (lane.queued, lane.executing, lane.runs, lane.waiting)
                if self._written.get(key) != counts:  # a chain that goes on holds as many steps as before
                    self._connection.execute(rows.UPDATE_LANE, (*counts, key))
                    self._written[key] = counts
            self._changed.clear()

    def govern(self, tenant: Tenant, dag: DagId | None, change: LimitsChange) -> Governed:
        """Change what an operator allows a DAG of a tenant or, with `dag` None, the tenant. Raises: NotFound."""
        governed = self.lanes.govern(tenant, dag, change)
        limits = governed.limits
        values = (limits.paused, limits.runs_max, limits.steps_max)
        if dag is None:
            self._connection.execute(rows.GOVERN_TENANT, (tenant, *values, limits.weight))
        else:
            self._connection.execute(rows.GOVERN_LANE, (*values, tenant, dag))
        return governed


def _place(item: tuple[Place, Lane]) -> Place:
    return item[0]
