"""Reading, on a connection of its own that cannot write, beside the owner or without one."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sovrun.core.canonical import canonical
from sovrun.core.errors import NotFound, StoreUnavailable
from sovrun.core.events import Event
from sovrun.core.ids import Actor, DagId, Digest, RunId, StepId, Tenant
from sovrun.core.lanes import Lane, Lanes, Limits
from sovrun.core.lifecycle import TERMINAL, Reason, State
from sovrun.core.step import Step
from sovrun.store.payload import Payload
from sovrun.store.protocol import DagRecord, Depth, Lease, Pending, RunRecord, Wait, depth_of
from sovrun.stores.sqlite import rows
from sovrun.stores.sqlite.journal_reader import JournalReader
from sovrun.stores.sqlite.schema import connect_reader

_ANY_KEY: Final = 2**62


class SqliteReader(JournalReader):
    """The read verbs of `Store` and of `Journal`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> SqliteReader:
        """Open a store's file for reading only. Raises: StoreUnavailable, StoreVersion."""
        return cls(connect_reader(path))

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a statement. Raises: StoreUnavailable."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(
                f"the store cannot be read: {error}", hint="check the file and its disk"
            ) from error

    def _first(self, statement: str, values: Sequence[Any]) -> tuple[Any, ...] | None:
        found = self._read(statement, values)
        return found[0] if found else None

    async def dag(self, tenant: Tenant, version: Digest) -> DagRecord:
        """See `Store.dag`."""
        row = self._first(rows.SELECT_DAG, (tenant, version))
        if row is None:
            raise NotFound(f"no DAG version {version} for tenant {tenant}")
        return rows.dag_of(row)

    async def payload(self, tenant: Tenant, digest: Digest) -> bytes | None:
        """See `Store.payload`."""
        row = self._first(rows.SELECT_PAYLOAD, (tenant, digest))
        return None if row is None else row[0]

    async def outputs(self, lease: Lease | Pending, positions: Sequence[int]) -> Mapping[int, Payload | None]:
        """See `Store.outputs`."""
        wanted = canonical(list(positions)).decode()
        found = self._read(rows.SELECT_OUTPUTS, (lease.tenant, lease.run_key, wanted))
        return {
            position: None if output is None else Payload(Digest(output), body)
            for position, output, body in found
        }

    async def run(self, tenant: Tenant, run: RunId) -> RunRecord:
        """See `Store.run`."""
        row = self._first(rows.SELECT_RUN_BY_ID, (tenant, run))
        if row is None:
            raise NotFound(f"no run {run} for tenant {tenant}", hint="`sovrun runs` lists them")
        return (await self._as_they_are([row]))[0]

    async def runs(self, tenant: Tenant, *, limit: int, before: int | None = None) -> Sequence[RunRecord]:
        """See `Store.runs`."""
        found = self._read(rows.SELECT_RUNS, (tenant, _ANY_KEY if before is None else before, limit))
        return await self._as_they_are(found)

    async def _as_they_are(self, found: Sequence[tuple[Any, ...]]) -> list[RunRecord]:
        """Return rows of run columns as runs; what one that is not admitted waits for changes without a write to it."""
        reasons: dict[int, Reason] = {}
        records = []
        for row in found:
            record = rows.record_of(row)
            if not record.head.admitted and record.head.state not in TERMINAL:
                lane = rows.lane_key(row)
                if lane not in reasons:
                    reasons[lane] = await self._waits_for(lane)
                record = replace(record, head=record.head._replace(reason=reasons[lane]))
            records.append(record)
        return records

    async def _waits_for(self, lane: int) -> Reason:
        """Return what the runs of a lane wait for that are not admitted, the first of them at least."""
        row = self._read(rows.SELECT_ADMISSION, (lane,))[0]
        key, tenant, dag, paused, runs_max, of_lane, of_tenant = row
        lanes = Lanes()
        lanes.tenant(tenant).limits = await self.tenant_limits(tenant)
        lanes.tenant(tenant).runs = of_tenant - of_lane
        one = lanes.add(Lane(key, tenant, dag, Limits(bool(paused), runs_max), runs=of_lane))
        return lanes.reason(one)

    async def unfinished(self) -> Sequence[tuple[Tenant, RunId]]:
        """See `Store.unfinished`."""
        return [(Tenant(tenant), RunId(run)) for tenant, run in self._read(rows.SELECT_UNFINISHED_RUNS)]

    async def steps(self, tenant: Tenant, run: RunId) -> Sequence[Step]:
        """See `Store.steps`."""
        key = (await self.run(tenant, run)).head.key
        return [rows.step_of(row) for row in self._read(rows.SELECT_STEPS, (key,))]

    async def events(
        self, tenant: Tenant, run: RunId, *, after: int = 0, limit: int = 10_000
    ) -> Sequence[Event]:
        """See `Store.events`."""
        key = (await self.run(tenant, run)).head.key
        return [
            Event(
                tenant,
                run,
                sequence,
                time_us,
                Actor(actor),
                type_,
                None if step is None else StepId(step),
                data,
            )
            for sequence, time_us, actor, type_, step, data in self._read(
                rows.SELECT_EVENTS, (key, after, limit)
            )
        ]

    async def waiting(
        self, tenant: Tenant, *, limit: int = 1_000, after: Wait | None = None
    ) -> Sequence[Wait]:
        """See `Store.waiting`."""
        last = (-1, tenant, "", 0) if after is None else (after.since_us, tenant, after.run, after.position)
        return [
            Wait(
                tenant,
                RunId(run),
                DagId(dag),
                Digest(version),
                position,
                State(state),
                reason,
                since_us,
                until_us,
                None if shown is None else Digest(shown),
            )
            for run, dag, version, position, state, reason, since_us, until_us, shown in self._read(
                rows.SELECT_WAITS, (tenant, *last, limit)
            )
        ]

    async def depths(self, tenant: Tenant) -> Sequence[Depth]:
        """See `Store.depths`."""
        lanes = Lanes()
        oldest: list[tuple[Lane, int | None, int | None]] = []
        for key, dag, paused, runs, steps, *counts, oldest_us, waiting_us, _, _, _ in (
            found := self._read(rows.SELECT_DEPTHS, (tenant,))
        ):
            lane = lanes.add(Lane(key, tenant, DagId(dag), rows.limits_of((paused, runs, steps)), *counts))
            oldest.append((lane, oldest_us, waiting_us))
        if found:
            lanes.tenant(tenant).limits = rows.limits_of(found[0][-3:])
        return [depth_of(lanes, *each) for each in oldest]

    async def tenant_limits(self, tenant: Tenant) -> Limits:
        """See `Store.tenant_limits`."""
        row = self._first(rows.SELECT_TENANT, (tenant,))
        return Limits() if row is None else rows.limits_of(row[:3], row[3])

    async def reruns(self, tenant: Tenant, run: RunId) -> int:
        """See `Store.reruns`."""
        return int(self._read(rows.COUNT_RERUNS, (tenant, run))[0][0])

    async def late_reports(self, tenant: Tenant) -> int:
        """See `Store.late_reports`."""
        row = self._first(rows.SELECT_SETTING, (rows.LATE_REPORTS.format(tenant),))
        return 0 if row is None else int(row[0])

    async def close(self) -> None:
        """Release the connection."""
        self._connection.close()
