"""The SQLite store when processes are killed and disks are full: what was acknowledged stays, the rest never was."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sovrun.core.errors import StoreUnavailable
from sovrun.core.lifecycle import TERMINAL, State
from sovrun.core.spec.model import Retry
from sovrun.store.protocol import Lease, Store
from sovrun.stores.sqlite.store import SqliteStore
from support import dags
from support.clock import SetClock
from support.facilities import lacking
from support.folding import require_told_by_history
from support.requests import TENANT, WORKER, done, drained, registration, submission
from support.stores import fresh_file, limited_files

SPEC = dags.shaped(dags.CROSSED, retry=Retry(max_attempts=50, max_failures=50, base_us=0, cap_us=0))


def environment() -> dict[str, str]:
    """Return an environment in which a child process finds what this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


# --- kill -9 ------------------------------------------------------------------------------------------------------------

WORK = textwrap.dedent("""
    import asyncio, json, sys
    from pathlib import Path
    from support import dags
    from support.clock import SetClock
    from support.requests import WORKER, done, registration, submission
    from sovrun.core.spec.model import Retry
    from sovrun.stores.sqlite.store import SqliteStore

    SPEC = dags.shaped(dags.CROSSED, retry=Retry(max_attempts=50, max_failures=50, base_us=0, cap_us=0))

    async def work():
        store = SqliteStore.open_owner(Path(sys.argv[1]), SetClock())
        await store.recover()
        await store.register(registration(SPEC))
        for number in range(1_000_000):
            made = await store.submit(submission(SPEC, f"{sys.argv[2]}-{number}"))
            print(json.dumps({"run": made.run}), flush=True)
            leases = await store.claim(WORKER, 2)
            while leases:
                reports = [done(lease) for lease in leases]
                answer = await store.commit(reports, worker=WORKER, slots=2)
                for lease in leases:
                    print(json.dumps({"run": lease.run, "done": lease.position}), flush=True)
                leases = answer.leases

    asyncio.run(work())
""")


def killed_after(path: Path, name: str, lines: int) -> list[dict[str, object]]:
    """Let a process own the store and work, kill it, and return what was acknowledged to it."""
    with subprocess.Popen(
        [sys.executable, "-c", WORK, str(path), name], stdout=subprocess.PIPE, text=True, env=environment()
    ) as worker:
        assert worker.stdout is not None
        told = [json.loads(worker.stdout.readline()) for _ in range(lines)]
        os.kill(worker.pid, signal.SIGKILL)
        rest = worker.stdout.read().splitlines(keepends=True)
    assert worker.returncode == -signal.SIGKILL
    return told + [json.loads(line) for line in rest if line.endswith("\n")]


async def test_what_was_acknowledged_survives_the_killed_owner(tmp_path: Path) -> None:
    path = fresh_file(tmp_path)
    acknowledged: list[dict[str, object]] = []
    for number, lines in enumerate((1, 8, 23)):
        acknowledged += killed_after(path, str(number), lines)
        store = SqliteStore.open_owner(path, SetClock())
        for entry in acknowledged:
            steps = await store.steps(TENANT, entry["run"])  # type: ignore[arg-type]
            if "done" in entry:
                assert steps[entry["done"]].state is State.COMPLETED  # type: ignore[call-overload]
        await store.close()
    store = SqliteStore.open_owner(path, SetClock())
    await store.recover()
    await drained(store)
    assert list(await store.unfinished()) == []
    runs = [record.head.id for record in await store.runs(TENANT, limit=10_000)]
    assert {entry["run"] for entry in acknowledged} <= set(runs)
    outcomes = set()
    for run in runs:
        await require_told_by_history(store, SPEC, run, TENANT)
        head = (await store.run(TENANT, run)).head
        outcomes.add(head.outcome)
        types = [event.type for event in await store.events(TENANT, run)]
        assert types.count("step.completed") == len(SPEC.steps), "each step is completed once"
    assert len(outcomes) == 1
    await store.close()


# --- full disks ---------------------------------------------------------------------------------------------------------


async def told_by(store: Store) -> list[object]:
    """Return all that a store says of the tenant's runs."""
    runs = await store.runs(TENANT, limit=1_000)
    return [
        *runs,
        *[await store.steps(TENANT, record.head.id) for record in runs],
        *[await store.events(TENANT, record.head.id) for record in runs],
    ]


async def fill(store: Store, name: str) -> Sequence[Lease]:
    """Submit and claim until the disk is full; return the leases that were acknowledged."""
    leases: list[Lease] = []
    for number in range(5_000):
        try:
            await store.submit(submission(SPEC, f"{name}{number}", inputs={"padding": f"{number}" * 1_500}))
            leases += await store.claim(WORKER, 1)
        except StoreUnavailable:
            return leases
    pytest.fail("the disk was never full")


async def require_nothing_half_done(store: SqliteStore) -> None:
    """Assert that what the owner says is what the file says, and that each run is told by its history."""
    for record in await store.runs(TENANT, limit=1_000):
        await require_told_by_history(store, SPEC, record.head.id, TENANT)
    assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def recover_from_full(store: SqliteStore, path: Path, leases: Sequence[Lease]) -> None:
    """Show that a store that was full goes on where it was, and so does one that is opened again."""
    await require_nothing_half_done(store)
    assert (await store.commit([done(lease) for lease in leases], worker=WORKER)).lost == ()
    again = await store.submit(submission(SPEC, "afterwards"))
    assert again.created
    before = await told_by(store)
    await store.close()
    store = SqliteStore.open_owner(path, SetClock())
    assert await told_by(store) == before
    await store.recover()
    await drained(store, slots=64)
    assert {record.head.state for record in await store.runs(TENANT, limit=1_000)} == {State.COMPLETED}
    await require_nothing_half_done(store)
    await store.close()


async def test_a_store_whose_files_may_not_grow_loses_nothing_and_goes_on_later(tmp_path: Path) -> None:
    path = fresh_file(tmp_path)
    store = SqliteStore.open_owner(path, SetClock())
    await store.register(registration(SPEC))
    with limited_files(300_000):
        leases = await fill(store, "a")
        before = await told_by(store)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.submit(submission(SPEC, "large", inputs={"padding": "x" * 60_000}))
        assert await told_by(store) == before
    await recover_from_full(store, path, leases)


async def test_a_claim_that_waits_is_served_when_the_disk_has_room_again(tmp_path: Path) -> None:
    path = fresh_file(tmp_path)
    store = SqliteStore.open_owner(path, SetClock())
    await store.register(registration(SPEC))
    claim = asyncio.create_task(store.claim(WORKER, 1, patience_us=30_000_000))
    await store.recover()
    with limited_files(1):
        with pytest.raises(StoreUnavailable):
            await store.submit(submission(SPEC, "1"))
        assert not claim.done()
    made = await store.submit(submission(SPEC, "1"))
    assert made.created, "the submission that failed left nothing"
    assert [lease.run for lease in await claim] == [made.run]
    await store.close()


async def test_a_store_that_cannot_be_made_on_a_full_disk_is_made_later(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with limited_files(5_000), pytest.raises(StoreUnavailable):
        SqliteStore.open_owner(path, SetClock())
    store = SqliteStore.open_owner(path, SetClock())
    await store.register(registration(SPEC))
    assert (await store.submit(submission(SPEC, "1"))).created
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a mebibyte."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "disk"
    folder.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=512k,mode=0700") != 0:
        lacking(f"no right to mount a small disk: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(os.fsencode(folder), 2)


async def test_a_store_on_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 100_000)
    path = fresh_file(small_disk)
    store = SqliteStore.open_owner(path, SetClock())
    await store.register(registration(SPEC))
    leases = await fill(store, "a")
    before = await told_by(store)
    with pytest.raises(StoreUnavailable):
        await store.submit(submission(SPEC, "large", inputs={"padding": "x" * 60_000}))
    assert await told_by(store) == before
    ballast.unlink()
    await require_nothing_half_done(store)
    committed = await store.commit([done(leases[0])], worker=WORKER, slots=1)
    assert (committed.lost, len(committed.leases)) == ((), 1)
    assert (await store.run(TENANT, leases[0].run)).head.state not in TERMINAL
    await store.close()
