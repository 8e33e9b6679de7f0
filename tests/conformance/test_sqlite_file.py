"""The SQLite store's file: who may open it, what else it may be, and what is there when it is opened again."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sovrun.core.errors import SovrunError, StoreOwned, StoreUnavailable, StoreVersion
from sovrun.core.ids import Tenant
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import Retry
from sovrun.stores.sqlite import schema
from sovrun.stores.sqlite.reader import SqliteReader
from sovrun.stores.sqlite.store import SqliteStore
from support import dags
from support.clock import SetClock
from support.folding import require_told_by_history
from support.requests import (
    TENANT,
    WORKER,
    broken,
    claim_one,
    done,
    drained,
    registration,
    submitted,
    version_of,
)
from support.stores import fresh_file

SPEC = dags.shaped(dags.DIAMOND, retry=Retry(base_us=1_000, cap_us=1_000))
ONE_TABLE = "CREATE TABLE theirs (x)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return fresh_file(tmp_path)


def opened(path: Path, clock: SetClock | None = None) -> SqliteStore:
    return SqliteStore.open_owner(path, clock or SetClock())


# --- opened again -------------------------------------------------------------------------------------------------------


async def test_a_new_store_is_made_with_its_directories_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "store.db"
    store = opened(path)
    run = await submitted(store, SPEC)
    await store.close()
    again = opened(path)
    assert list(await again.unfinished()) == [(TENANT, run)]
    await again.close()
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_closed_store_is_opened_where_it_was_left(path: Path, clock: SetClock) -> None:
    store = opened(path, clock)
    run = await submitted(store, SPEC)
    waiting = await submitted(store, dags.shaped(dags.SINGLE, retry=SPEC.steps[0].retry))
    held = await claim_one(store)
    await store.commit([broken(await claim_one(store))], worker=WORKER)
    before = [await store.events(TENANT, each) for each in (run, waiting)]
    await store.close()
    store = opened(path, clock)
    assert [await store.events(TENANT, each) for each in (run, waiting)] == before
    assert await store.claim(WORKER, 2) == [], "one step is leased still, the other is not due"
    assert await store.recover() == 1
    clock.advance(1_000)
    leases = await store.claim(WORKER, 2)
    assert [(lease.run, lease.attempt) for lease in leases] == [(run, 2), (waiting, 2)]
    assert (await store.commit([done(held)], worker=WORKER)).lost == (held,)
    await store.commit([done(lease) for lease in leases], worker=WORKER)
    await drained(store)
    assert list(await store.unfinished()) == []
    await require_told_by_history(store, SPEC, run, TENANT)
    again = await submitted(store, SPEC, "2")
    assert (await store.run(TENANT, again)).head.key == 3, "run keys go on rising"
    await store.close()


async def test_what_waits_in_the_queue_keeps_its_order_when_opened_again(path: Path) -> None:
    store = opened(path)
    runs = [await submitted(store, SPEC, str(number), priority=9 - number) for number in range(3)]
    await store.close()
    store = opened(path)
    assert [lease.run for lease in await store.claim(WORKER, 3)] == runs[::-1]
    await store.close()


async def test_turns_go_on_where_they_were_when_opened_again(path: Path) -> None:
    store = opened(path)
    for tenant in "abc":
        await submitted(store, SPEC, tenant=Tenant(tenant))
    assert [(await claim_one(store)).tenant for _ in range(2)] == ["a", "b"]
    await store.recover()
    await store.close()
    store = opened(path)
    assert [(await claim_one(store)).tenant for _ in range(3)] == ["c", "a", "b"]
    await store.close()


async def test_commits_are_written_ahead_and_reach_the_disk_before_they_are_acknowledged(path: Path) -> None:
    """A killed process cannot show this, for the system still writes what it left; only lost power would."""
    store = opened(path)
    full = 2
    assert store._writing.execute("PRAGMA synchronous").fetchone() == (full,)
    assert store._writing.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await store.close()


async def test_a_closed_store_refuses_and_closing_twice_is_harmless(path: Path) -> None:
    store = opened(path)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.register(registration(SPEC))
    with pytest.raises(StoreUnavailable):
        await store.unfinished()


# --- owner and readers --------------------------------------------------------------------------------------------------


async def test_a_second_owner_is_refused_and_told_who_the_first_is(path: Path) -> None:
    store = opened(path)
    with pytest.raises(StoreOwned) as refusal:
        opened(path)
    assert refusal.value.facts == {"owner": str(os.getpid())}
    assert refusal.value.hint
    await store.close()
    await opened(path).close()


async def test_an_owner_in_another_process_is_respected(path: Path) -> None:
    store = opened(path)
    assert in_child(OPEN, str(path)) == "store_owned"
    await store.close()


OPEN = textwrap.dedent("""
    import sys
    from pathlib import Path
    from support.clock import SetClock
    from sovrun.core.errors import SovrunError
    from sovrun.stores.sqlite.store import SqliteStore
    try:
        SqliteStore.open_owner(Path(sys.argv[1]), SetClock())
        print("opened")
    except SovrunError as error:
        print(error.code)
""")


def environment() -> dict[str, str]:
    """Return an environment in which a child process finds what this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def in_child(script: str, *arguments: str) -> str:
    """Run a script in another process and return what it prints."""
    made = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


async def test_readers_see_what_was_acknowledged_beside_the_owner(path: Path) -> None:
    store = opened(path)
    reader = SqliteReader.open(path)
    run = await submitted(store, SPEC)
    assert (await reader.run(TENANT, run)).head.state is State.QUEUED
    lease = await claim_one(store)
    await store.commit([done(lease)], worker=WORKER)
    assert await reader.events(TENANT, run) == await store.events(TENANT, run)
    assert await reader.steps(TENANT, run) == await store.steps(TENANT, run)
    assert (await reader.dag(TENANT, version_of(SPEC))).dag == SPEC.id
    await reader.close()
    await store.close()


async def test_a_reader_cannot_write(path: Path) -> None:
    await opened(path).close()
    reader = SqliteReader.open(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM run")
    await reader.close()


def test_reading_where_there_is_no_store_is_refused_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no store"):
        SqliteReader.open(tmp_path / "store.db")
    assert list(tmp_path.iterdir()) == []


# --- what is no store of ours -------------------------------------------------------------------------------------------


def foreign(path: Path, *statements: str) -> Path:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


def kinds_of_strangers(folder: Path) -> Iterator[Path]:
    text = folder / "notes.txt"
    text.write_text("not a database, and longer than the header of one " * 50)
    yield text
    yield foreign(folder / "plain.db", ONE_TABLE)
    yield foreign(folder / "other.db", "PRAGMA application_id = 7", ONE_TABLE)


@pytest.mark.parametrize("number", range(3))
def test_a_file_that_is_no_store_is_refused_and_left_as_it_was(tmp_path: Path, number: int) -> None:
    path = list(kinds_of_strangers(tmp_path))[number]
    before = path.read_bytes()
    for open_ in (opened, SqliteReader.open):
        with pytest.raises(StoreVersion, match="not a Sovrun store"):
            open_(path)
    assert path.read_bytes() == before
    assert sqlite3.connect(":memory:").execute("SELECT 1").fetchone() == (1,)


def test_a_store_of_a_newer_schema_is_refused_and_left_as_it_was(path: Path) -> None:
    foreign(path, "UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    for open_ in (opened, SqliteReader.open):
        with pytest.raises(StoreVersion, match="9999"):
            open_(path)
    assert path.read_bytes() == before


async def test_a_file_without_tables_yet_is_completed(tmp_path: Path) -> None:
    """The first owner was killed between marking the file and making its tables."""
    path = foreign(
        tmp_path / "store.db", f"PRAGMA application_id = {schema.APPLICATION_ID}", "PRAGMA user_version = 0"
    )
    with pytest.raises(StoreVersion, match="none"):
        SqliteReader.open(path)
    store = opened(path)
    await submitted(store, SPEC)
    await store.close()


def test_a_damaged_store_is_refused_with_a_code(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(SovrunError):
        opened(path)


@pytest.mark.parametrize("name", ["", "file/store.db"])
def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable) as refusal:
        opened(tmp_path / name)
    assert refusal.value.hint


# --- without permission -------------------------------------------------------------------------------------------------

NOBODY = 65_534


def as_nobody(script: str, *arguments: str) -> str:
    """Run a script that may not write what this process made, and return what it prints."""
    drop = f"import os; os.geteuid() or (os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY}))\n"
    warm = "import support.clock, sovrun.stores.sqlite.store, asyncio, alembic.command, sqlalchemy.dialects.sqlite\n"
    return in_child(warm + drop + script, *arguments)


READ = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from sovrun.core.errors import SovrunError
    from sovrun.stores.sqlite.reader import SqliteReader
    try:
        print(len(asyncio.run(SqliteReader.open(Path(sys.argv[1])).runs("t", limit=9))))
    except SovrunError as error:
        print(error.code)
""")


@pytest.fixture
def locked() -> Iterator[Path]:
    """A directory that others may enter and read but not write, below one that they may enter too."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        Path(folder).chmod(0o755)


def test_a_directory_that_cannot_be_written_holds_no_new_store(locked: Path) -> None:
    locked.chmod(0o555)
    assert as_nobody(OPEN, str(locked / "store.db")) == "store_unavailable"
    assert list(locked.iterdir()) == []


def test_a_store_on_a_disk_that_cannot_be_written_is_read_but_not_owned(locked: Path) -> None:
    path = fresh_file(locked)
    asyncio.run(with_one_run(path))
    path.chmod(0o444)
    locked.chmod(0o555)
    before = path.read_bytes()
    assert as_nobody(OPEN, str(path)) == "store_unavailable"
    assert as_nobody(READ, str(path)) == "1"
    assert path.read_bytes() == before


async def with_one_run(path: Path) -> None:
    store = opened(path)
    await submitted(store, SPEC)
    await store.close()


def test_a_directory_that_may_not_be_entered_holds_no_store_for_reading(locked: Path) -> None:
    path = fresh_file(locked)
    locked.chmod(0o700)
    assert as_nobody(READ, str(path)) == "store_unavailable"
    assert as_nobody(OPEN, str(path)) == "store_unavailable"
