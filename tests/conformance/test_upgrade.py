"""A file of an earlier schema is brought up to date with its queue, its lanes and its counts right."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.ids import DagId, RunId, Tenant
from sovrun.core.lifecycle import State
from sovrun.store.journal import Compared, Drift
from sovrun.store.protocol import Store
from sovrun.stores.sqlite.store import SqliteStore
from support.acts import govern
from support.clock import SetClock
from support.requests import OTHER, WORKER, done

KEPT = Path(__file__).parents[1] / "data" / "stores"
TENANT = Tenant("default")
KILLED = RunId(json.loads((KEPT / "schema-0001.json").read_text())["killed"])
LATER_US = 1_800_000_000_000_000


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return unpacked(tmp_path, "0001")


def unpacked(folder: Path, schema: str) -> Path:
    path = folder / "runs.db"
    path.write_bytes(gzip.decompress((KEPT / f"schema-{schema}.db.gz").read_bytes()))
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (schema,)
    connection.close()
    return path


@contextmanager
def changed(path: Path) -> Iterator[sqlite3.Connection]:
    """Change a file as the program of its schema would have."""
    connection = sqlite3.connect(path)
    yield connection
    connection.commit()
    connection.close()


def opened(path: Path) -> SqliteStore:
    return SqliteStore.open_owner(path, SetClock(LATER_US))


async def counts(store: Store) -> dict[str, tuple[int, int]]:
    return {depth.dag: (depth.queued, depth.executing) for depth in await store.depths(TENANT)}


async def test_lanes_and_counts_of_what_was_executing_are_right(old: Path) -> None:
    store = opened(old)
    assert await counts(store) == {"completes": (0, 0), "fails": (0, 0), "killed": (0, 1)}
    assert await store.unfinished() == [(TENANT, KILLED)]
    assert await store.recover() == 1
    assert await counts(store) == {"completes": (0, 0), "fails": (0, 0), "killed": (0, 0)}
    [lease] = await store.claim(WORKER, 9)
    assert (lease.run, lease.position, lease.attempt) == (KILLED, 1, 2)
    [last] = (await store.commit([done(lease)], worker=WORKER, slots=9)).leases
    await store.commit([done(last)], worker=WORKER)
    assert (await store.run(TENANT, KILLED)).head.state is State.COMPLETED
    await store.close()


async def test_the_lost_worker_of_before_is_found_silent(old: Path) -> None:
    clock = SetClock(LATER_US)
    store = SqliteStore.open_owner(old, clock)
    assert await store.take_back(15_000_000) == 0, "all are given that long after the store was opened"
    clock.advance(15_000_000)
    assert await store.take_back(15_000_000) == 1
    await store.close()


async def test_what_was_queued_is_in_the_lane_of_its_dag(old: Path) -> None:
    with changed(old) as connection:
        connection.execute(
            "UPDATE step SET state = 'queued', attempts = 0, worker = NULL WHERE run = 3 AND position = 1"
        )
        connection.execute("UPDATE run SET executing = 0, queued = 1 WHERE key = 3")
        connection.execute("INSERT INTO queue VALUES (?, ?, ?, ?)", ("default", 100, 3, 1))
    store = opened(old)
    assert await counts(store) == {"completes": (0, 0), "fails": (0, 0), "killed": (1, 0)}
    await govern(store, DagId("killed"), tenant=TENANT, paused=True)
    assert await store.claim(WORKER, 9) == []
    await govern(store, DagId("killed"), tenant=TENANT)
    assert [(lease.run, lease.position) for lease in await store.claim(OTHER, 9)] == [(KILLED, 1)]
    assert await counts(store) == {"completes": (0, 0), "fails": (0, 0), "killed": (0, 1)}
    await store.close()


async def test_what_was_finished_reads_as_before(old: Path) -> None:
    before: dict[str, Any] = {}
    with changed(old) as connection:
        for run, sequence, data in connection.execute("SELECT run, sequence, data FROM event"):
            before[run, sequence] = data
    store = opened(old)
    records = await store.runs(TENANT, limit=9)
    assert [record.head.admitted for record in records] == [True] * 3
    assert [record.head.parent for record in records] == [None] * 3
    told = {
        (record.head.key, event.sequence): event.data
        for record in records
        for event in await store.events(TENANT, record.head.id)
    }
    assert told == before
    await store.close()


async def test_a_file_of_the_third_schema_tells_what_waits_and_since_when(tmp_path: Path) -> None:
    old = unpacked(tmp_path, "0003")
    with changed(old) as connection:
        (lane,) = connection.execute("SELECT key FROM lane WHERE dag = 'completes'").fetchone()
        connection.execute("UPDATE lane SET queued = 2 WHERE key = ?", (lane,))
        places = [(lane, 1, 1, 0, 1_700_000_000_000_009), (lane, 100, 2, 0, 1_700_000_000_000_005)]
        connection.executemany("INSERT INTO queue VALUES (?, ?, ?, ?, ?)", places)
        connection.execute(
            "UPDATE run SET admitted = 0, executing = 0, state = 'received', started = 0, lane = ?"
            " WHERE ended_us IS NULL",
            (lane,),
        )
        (created_us,) = connection.execute("SELECT created_us FROM run WHERE ended_us IS NULL").fetchone()
    store = opened(old)
    depth, *others = await store.depths(TENANT)
    assert (depth.dag, depth.queued, depth.oldest_us) == ("completes", 2, 1_700_000_000_000_005)
    assert (depth.runs, depth.waiting, depth.waiting_us) == (0, 1, created_us)
    assert {(other.runs, other.waiting, other.oldest_us) for other in others} == {(0, 0, None)}
    await store.close()


async def test_a_file_of_the_third_schema_counts_the_runs_that_were_admitted(tmp_path: Path) -> None:
    store = opened(unpacked(tmp_path, "0003"))
    runs = {depth.dag: (depth.runs, depth.waiting) for depth in await store.depths(TENANT)}
    assert runs == {"completes": (0, 0), "fails": (0, 0), "killed": (1, 0)}
    await store.close()


async def test_differences_of_the_third_schema_are_kept_and_comparisons_begin(tmp_path: Path) -> None:
    old = unpacked(tmp_path, "0003")
    with changed(old) as connection:
        connection.execute(
            "INSERT INTO drift (tenant, adapter, kind, resource, previous, provider, resolution, time_us)"
            " VALUES ('default', 'paper', 'order', 'o-1', 'pending', 'filled', 'progressed', 5)"
        )
    store = opened(old)
    assert await store.drifts(TENANT, limit=9) == [
        Drift(TENANT, "paper", "order", "o-1", "pending", "filled", "progressed", 5, "{}")
    ]
    assert await store.comparisons(TENANT) == []
    await store.note_drifts([], compared=Compared(TENANT, "paper"))
    assert await store.comparisons(TENANT) == [Compared(TENANT, "paper", None, LATER_US, LATER_US)]
    await store.close()
