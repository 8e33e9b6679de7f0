"""The back ends that the conformance suite runs on."""

from __future__ import annotations

import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sovrun.store.memory import MemoryStore
from sovrun.store.protocol import Store
from sovrun.stores.sqlite.store import SqliteStore
from support.clock import SetClock

BackEnd = Callable[[Path, SetClock], AbstractAsyncContextManager[Store]]


@asynccontextmanager
async def memory(_: Path, clock: SetClock) -> AsyncIterator[Store]:
    store = MemoryStore(clock)
    yield store
    await store.close()


@asynccontextmanager
async def sqlite(folder: Path, clock: SetClock) -> AsyncIterator[Store]:
    store = SqliteStore.open_owner(fresh_file(folder), clock)
    yield store
    await store.close()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder for a property's many small stores: in memory where the system has such a place, for no power fails."""
    memory_disk = Path("/dev/shm")  # noqa: S108 -- only as the parent of a directory with a name of its own
    with TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None) as folder:
        yield Path(folder)


BACK_ENDS: dict[str, BackEnd] = {"memory": memory, "sqlite": sqlite}


def fresh_file(folder: Path) -> Path:
    """Return a new, empty store's file; its schema is made once and copied, for that is most of the time."""
    path = folder / "store.db"
    path.write_bytes(_empty_store())
    return path


@cache
def _empty_store() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        opened = SqliteStore.open_owner(path, SetClock())
        opened._connection.close()
        opened._writing.close()
        opened._lock.release()
        assert not path.with_name("store.db-wal").exists(), "the last to close writes all into the file"
        return path.read_bytes()


@contextmanager
def limited_files(limit: int) -> Iterator[None]:
    """Let no file of this process grow beyond `limit` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
