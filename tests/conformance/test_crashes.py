"""Crashes at bad moments, by the names under which users of other systems filed them, on the store's file."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.errors import StoreUnavailable
from sovrun.core.ids import Tenant
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import Retry
from sovrun.stores.sqlite import rows
from sovrun.stores.sqlite.store import SqliteStore
from support import dags
from support.acts import answer, cancelled, govern, taken_up
from support.clock import SetClock
from support.folding import require_told_by_history, ways
from support.requests import (
    OTHER,
    TENANT,
    WORKER,
    broken,
    claim_one,
    commit,
    done,
    drained,
    registration,
    submission,
    submitted,
)
from support.stores import fresh_file

SPEC = dags.shaped(dags.DIAMOND, retry=Retry(base_us=1_000, cap_us=1_000))
STATEMENTS = {
    "ends of steps": "COMPLETE_STEP",
    "starts of steps": "START_STEP",
    "run": "ADVANCE_RUN",
    "events": "INSERT_EVENT",
    "lanes": "UPDATE_LANE",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return fresh_file(tmp_path)


def opened(path: Path, clock: SetClock | None = None) -> SqliteStore:
    return SqliteStore.open_owner(path, clock or SetClock())


def killed(store: SqliteStore) -> None:
    """Leave a store as a killed process does: nothing is finished, the kernel takes files and locks."""
    store._connection.close()
    store._writing.close()
    store._lock.release()


async def told_by(store: SqliteStore) -> list[Any]:
    records = await store.runs(TENANT, limit=99)
    runs = [record.head.id for record in records]
    events = [await store.events(TENANT, run) for run in runs]
    return [
        records,
        events,
        list(await store.depths(TENANT)),
        list(await store.waiting(TENANT)),
        list(await store.pending(99)),
    ]


@pytest.mark.parametrize("broken_at", list(STATEMENTS))
async def test_a_crash_between_hand_over_and_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch, broken_at: str
) -> None:
    """What was handed over but not committed was not handed over: the step is there for the next claim, once."""
    store = opened(path)
    run = await submitted(store, SPEC)
    first = await claim_one(store)
    before = await told_by(store)
    with monkeypatch.context() as patch:
        patch.setattr(rows, STATEMENTS[broken_at], "INSERT INTO nowhere VALUES (?)")
        with pytest.raises(StoreUnavailable):
            await commit(store, done(first), slots=9)
    assert await told_by(store) == before
    killed(store)
    store = opened(path)
    assert await told_by(store) == before
    committed = await commit(store, done(first), slots=9)
    assert (committed.lost, [lease.position for lease in committed.leases]) == ((), [1, 2])
    assert await store.claim(OTHER, 9) == []
    await commit(store, *map(done, committed.leases))
    await drained(store)
    await require_told_by_history(store, SPEC, run, TENANT)
    assert (await store.run(TENANT, run)).head.state is State.COMPLETED
    await store.close()


async def test_a_database_restart_inside_recovery(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery that is interrupted, or done twice, costs each step one attempt at most."""
    store = opened(path)
    runs = [await submitted(store, SPEC, str(number)) for number in range(3)]
    await store.claim(WORKER, 2)
    killed(store)
    store = opened(path)
    before = await told_by(store)
    with monkeypatch.context() as patch:
        patch.setattr(rows, "INSERT_EVENT", "INSERT INTO nowhere VALUES (?)")
        with pytest.raises(StoreUnavailable):
            await store.recover()
    killed(store)
    store = opened(path)
    assert await told_by(store) == before
    assert (await store.recover(), await store.recover()) == (2, 0)
    killed(store)
    store = opened(path)
    assert await store.recover() == 0
    assert [lease.attempt for lease in await store.claim(WORKER, 3)] == [2, 2, 1]
    await store.recover()
    await drained(store)
    assert {(await store.run(TENANT, run)).head.state for run in runs} == {State.COMPLETED}
    await store.close()


async def test_everything_that_waits_survives_a_kill(path: Path) -> None:
    """Waits, their deadlines, pending steps, limits, runs that are not admitted, slots of processes that may run."""
    clock = SetClock()
    store = opened(path, clock)
    tool = dags.dag(dags.tool("ask", deadline_us=60_000_000), dags.step("after", "ask"), name="tool")
    asked = [await submitted(store, tool, str(number)) for number in range(2)]
    await taken_up(store)
    pending = await submitted(store, tool, "pending")
    retried = await submitted(store, SPEC, "retried")
    await commit(store, broken(await claim_one(store)))
    gone = await submitted(store, SPEC, "gone")
    running = await claim_one(store)
    await cancelled(store, gone)
    limited = dags.dag(dags.step("a"), name="limited")
    await store.register(registration(limited))
    await govern(store, limited.id, runs_max=0)
    held = (await store.submit(submission(limited, "held"))).run
    before = await told_by(store)
    killed(store)
    store = opened(path, clock)
    assert await told_by(store) == before
    assert [step.run for step in await store.pending(9)] == [pending]
    assert list(await store.renew(WORKER, [running])) == [running], (
        "the process of the cancelled step may still run"
    )
    assert (await store.act(answer(asked[0]))).changed
    clock.advance(60_000_000)
    leases = await store.claim(OTHER, 9)
    assert [lease.run for lease in leases] == [asked[0], retried]
    assert (await ways(store, tool, asked[1], TENANT))["ask"] == "tool_expired"
    await govern(store, limited.id, runs_max=1)
    assert [lease.run for lease in await store.claim(OTHER, 9)] == [held]
    await store.close()


async def test_requests_that_fail_together_can_be_sent_again_together(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(path)
    tool = dags.dag(dags.tool("ask"), name="tool")
    asked = await submitted(store, tool)
    await taken_up(store)
    await submitted(store, SPEC)
    lease = await claim_one(store)
    before = await told_by(store)

    async def all_at_once() -> list[Any]:
        calls = (
            store.act(answer(asked)),
            commit(store, done(lease), slots=1),
            store.submit(submission(SPEC, "more")),
        )
        return await asyncio.gather(*calls, return_exceptions=True)

    with monkeypatch.context() as patch:
        patch.setattr(rows, "UPDATE_RUN", "INSERT INTO nowhere VALUES (?)")
        assert {type(each) for each in await all_at_once()} == {StoreUnavailable}
    assert await told_by(store) == before
    acted, committed, made = await all_at_once()
    assert (acted, made.created) == ((True, State.COMPLETED), True)
    assert (committed.lost, len(committed.leases)) == ((), 1)
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    await store.close()


async def test_turns_go_on_where_they_stopped_when_the_file_is_opened_again(path: Path) -> None:
    store = opened(path)
    tenants = [Tenant("a"), Tenant("b")]
    for tenant in tenants:
        for number in range(4):
            await submitted(store, dags.shaped(dags.SINGLE), str(number), tenant=tenant)
    await govern(store, tenant=tenants[0], weight=2)
    order = ""
    for _ in range(6):
        order += (await claim_one(store)).tenant
        killed(store)
        store = opened(path)
    assert order == "aabaab"
    await store.close()
