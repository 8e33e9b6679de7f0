"""The journal in the store's file: killed before any statement, broken at any write, and made by an earlier release."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.actions import EnterCommand
from sovrun.core.commands.journal import (
    BecameUnknown,
    CommandState,
    Parked,
    UnknownReason,
    step_key,
)
from sovrun.core.errors import StoreUnavailable
from sovrun.core.ids import Actor, Digest, StepId, Tenant
from sovrun.store.journal import Compared, Drift
from sovrun.stores.sqlite import journal_rows
from sovrun.stores.sqlite.reader import SqliteReader
from sovrun.stores.sqlite.store import SqliteStore
from support import dags
from support.acts import SHOWN
from support.clock import START_US, SetClock
from support.commands import HANDLER, MINUTE_US, ORDER, confirmed, intention, noted, refused, seen
from support.folding import require_told_by_history
from support.requests import TENANT, submitted
from support.stores import fresh_file

SPEC = dags.dag(dags.command("buy"), dags.step("after", "buy"))
LOST = BecameUnknown(UnknownReason.TIMEOUT, START_US)
KEPT = Path(__file__).parents[1] / "data" / "stores"
Act = Callable[[SqliteStore], Awaitable[object]]


def opened(path: Path) -> SqliteStore:
    return SqliteStore.open_owner(path, SetClock())


async def told(path: Path) -> list[Any]:
    """Return all that a file tells of runs and commands, read beside nobody."""
    reader = SqliteReader.open(path)
    commands = list(await reader.commands(TENANT, limit=99))
    runs = list(await reader.runs(TENANT, limit=99))
    answers = [command.response for _, command in commands if command.response is not None]
    found = [
        commands,
        [await reader.command_history(TENANT, command.id) for _, command in commands],
        [await reader.payload(TENANT, answer) for answer in answers],
        list(await reader.resources(TENANT)),
        list(await reader.drifts(TENANT, limit=99)),
        list(await reader.comparisons(TENANT)),
        list(await reader.entries(TENANT, "paper", 0)),
        runs,
        [await reader.steps(TENANT, run.head.id) for run in runs],
        [await reader.events(TENANT, run.head.id) for run in runs],
        [await reader.payload(TENANT, digest) for digest in (ORDER.digest, SHOWN.digest)],
    ]
    await reader.close()
    return found


async def of_step(store: SqliteStore) -> Any:
    """Return the one command of the one run."""
    return (await store.commands(TENANT, limit=1))[0][1]


async def begin(store: SqliteStore) -> None:
    run = await submitted(store, SPEC)
    assert len(await store.pending(9)) == 1
    await store.append(TENANT, "paper", 0, b"first")
    assert (await store.run(TENANT, run)).head.counts.queued == 1


async def enter(store: SqliteStore) -> None:
    [pending] = await store.pending(9)
    record = await store.run(TENANT, pending.run)
    wanted = intention(step_key(record.token, StepId("buy")), run=pending.run, step=StepId("buy"), position=0)
    await store.act(EnterCommand(TENANT, pending.run, 0, SHOWN.digest, wanted), payloads=[ORDER, SHOWN])


async def admit(store: SqliteStore) -> None:
    command = await of_step(store)
    await store.admit(TENANT, command.id, handler=HANDLER, due_us=START_US + MINUTE_US)


async def lose(store: SqliteStore) -> None:
    await noted(store, await of_step(store), LOST)


async def park(store: SqliteStore) -> None:
    await noted(store, await of_step(store), Parked("absent", START_US + 9))


async def confirm(store: SqliteStore) -> None:
    command = await of_step(store)
    event, answer = confirmed(command)
    await noted(store, command, event, answer, resource=seen(command))


async def refuse(store: SqliteStore) -> None:
    command = await of_step(store)
    event, answer = refused(command)
    await noted(store, command, event, answer)


async def drift(store: SqliteStore) -> None:
    command = await of_step(store)
    difference = Drift(TENANT, "paper", "order", "o-1", "pending", "filled", "progressed")
    filled = seen(command, status="filled", live=False)
    await store.note_drifts([difference], seen=[filled], compared=Compared(TENANT, "paper"))


async def append(store: SqliteStore) -> None:
    assert await store.append(TENANT, "paper", 1, b"second")


PATHS: dict[str, tuple[list[Act], Act]] = {
    "enter": ([begin], enter),
    "admit": ([begin, enter], admit),
    "unknown": ([begin, enter, admit], lose),
    "parked": ([begin, enter, admit, lose], park),
    "confirmed": ([begin, enter, admit], confirm),
    "found when parked": ([begin, enter, admit, lose, park], confirm),
    "refused": ([begin, enter, admit], refuse),
    "drift": ([begin, enter, admit, confirm], drift),
    "append": ([begin], append),
}
ways = pytest.mark.parametrize("way", list(PATHS))


def in_a_child(path: Path, act: Act, killed_at: int) -> int:
    """Do something in a process that dies before its n-th statement of SQL. Returns: its exit code, 0 when it got through."""
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(_until_killed(path, act, killed_at))
        except BaseException:  # noqa: BLE001 -- nothing of this process may go on
            os._exit(7)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def _until_killed(path: Path, act: Act, killed_at: int) -> None:
    store = opened(path)
    count = 0

    def statement(_: str) -> None:
        nonlocal count
        count += 1
        if count == killed_at:
            os._exit(9)

    store._writing.set_trace_callback(statement)
    await act(store)
    os._exit(0)


async def prepared(path: Path, acts: list[Act]) -> None:
    store = opened(path)
    for act in acts:
        await act(store)
    await store.close()


@ways
def test_killed_before_any_statement_all_of_it_is_there_or_nothing(tmp_path: Path, way: str) -> None:
    before_acts, act = PATHS[way]
    path = fresh_file(tmp_path)
    asyncio.run(prepared(path, before_acts))
    before = asyncio.run(told(path))
    ends = set()
    for killed_at in range(1, 200):
        copied = tmp_path / f"{killed_at}" / "store.db"
        copied.parent.mkdir()
        shutil.copy(path, copied)
        code = in_a_child(copied, act, killed_at)
        assert code in (0, 9)
        after = asyncio.run(told(copied))
        if code == 0:
            assert after != before
            break
        ends.add(after == before)
        asyncio.run(prepared(copied, [] if after != before else [act]))
        assert asyncio.run(told(copied)) != before, "it can be done again"
    assert killed_at > 4, "nothing was interrupted"
    assert True in ends


JOURNAL_STATEMENTS = {
    "intend": ("INSERT_COMMAND", "enter"),
    "first entry": ("INSERT_COMMAND_EVENT", "enter"),
    "state": ("UPDATE_COMMAND", "confirmed"),
    "entry": ("INSERT_COMMAND_EVENT", "confirmed"),
    "resource": ("UPSERT_RESOURCE", "confirmed"),
    "difference": ("INSERT_DRIFT", "drift"),
    "comparison": ("UPSERT_COMPARISON", "drift"),
    "ledger": ("INSERT_ENTRY", "append"),
}


@pytest.mark.parametrize("broken_at", list(JOURNAL_STATEMENTS))
async def test_a_write_that_fails_in_the_middle_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_at: str
) -> None:
    statement, way = JOURNAL_STATEMENTS[broken_at]
    before_acts, act = PATHS[way]
    path = fresh_file(tmp_path)
    store = opened(path)
    for each in before_acts:
        await each(store)
    before = await told(path)
    with monkeypatch.context() as patch:
        patch.setattr(journal_rows, statement, "INSERT INTO nowhere VALUES (?)")
        with pytest.raises(StoreUnavailable):
            await act(store)
    assert await told(path) == before
    await act(store)
    assert await told(path) != before
    for run in await store.runs(TENANT, limit=9):
        await require_told_by_history(store, SPEC, run.head.id, TENANT)
    await store.close()


async def test_what_is_open_goes_on_in_the_next_life_and_what_is_concluded_does_not(tmp_path: Path) -> None:
    path = fresh_file(tmp_path)
    await prepared(path, [begin, enter, admit])
    store = opened(path)
    assert list(await store.due_commands(9)) == [], "its handler may be alive"
    assert await store.disown_commands() == 1
    [due] = await store.due_commands(9)
    assert due.state is CommandState.SENT
    await lose(store)
    await confirm(store)
    assert await store.disown_commands() == 0
    await store.close()
    store = opened(path)
    assert list(await store.due_commands(9)) == []
    assert (await of_step(store)).state is CommandState.CONFIRMED
    await store.close()


# --- files of earlier releases ------------------------------------------------------------------------------------------


@pytest.fixture(params=["0001", "0002"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "runs.db"
    path.write_bytes(gzip.decompress((KEPT / f"schema-{request.param}.db.gz").read_bytes()))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (request.param,)
    connection.close()
    return path


async def test_a_file_of_an_earlier_release_takes_commands_and_keeps_its_runs(old: Path) -> None:
    tenant = Tenant("default")
    with sqlite3.connect(old) as connection:
        events = connection.execute("SELECT run, sequence, data FROM event ORDER BY run, sequence").fetchall()
    connection.close()
    assert len(events) > 10
    store = SqliteStore.open_owner(old, SetClock(1_900_000_000_000_000))
    assert list(await store.commands(tenant, limit=9)) == []
    assert list(await store.switches(tenant)) == []
    records = await store.runs(tenant, limit=9)
    assert len(records) == 3
    assert {tuple(record.repeat_effects) for record in records} == {()}
    assert [await store.unresolved(tenant, record.head.id) for record in records] == [0, 0, 0]
    made = (await store.intend(intention(tenant=tenant, actor=Actor("local:a")), payloads=[ORDER])).command
    sent = await store.admit(tenant, made.id, handler=HANDLER, due_us=2_000_000_000_000_000)
    event, answer = confirmed(sent)
    done = await store.note(
        *(tenant, sent.id, sent.revision, event),
        actor=Actor("engine"),
        payloads=[answer],
        resource=seen(sent),
    )
    assert (done.state, done.response) == (CommandState.CONFIRMED, Digest(answer.digest))
    await store.close()
    with sqlite3.connect(old) as connection:
        assert (
            connection.execute("SELECT run, sequence, data FROM event ORDER BY run, sequence").fetchall()
            == events
        )
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
