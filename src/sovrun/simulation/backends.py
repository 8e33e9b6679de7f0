"""The stores a world runs on, and what becomes of them when their process is killed.

Owns: `MemoryBackend`, `SqliteBackend`. Killing the owner of a file is simulated by going on with a copy of the file as it
is at that moment, which holds what was committed and nothing else.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from sovrun.ports import Clock
from sovrun.store.memory import MemoryStore
from sovrun.store.protocol import Store
from sovrun.stores.sqlite.schema import OwnerLock, connect_owner
from sovrun.stores.sqlite.store import SqliteStore

_IN_MEMORY = next((place for place in ("/dev/shm",) if os.access(place, os.W_OK)), None)  # noqa: S108 -- see below
"""Where a file system in memory is, files go there: no simulated kill takes the disk's cache along."""


class Backend(Protocol):
    """A store that can be killed and opened again."""

    store: Store

    async def restart(self) -> None:
        """Kill the store's process and open the store again."""

    async def close(self) -> None:
        """Release everything."""


class MemoryBackend:
    """The reference; its process is never killed, only its callers are."""

    def __init__(self, clock: Clock) -> None:
        self.store: Store = MemoryStore(clock)

    async def restart(self) -> None:
        """See `Backend.restart`."""

    async def close(self) -> None:
        """See `Backend.close`."""
        await self.store.close()


class SqliteBackend:
    """A file in a directory of its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._folder = TemporaryDirectory(
            prefix="sovrun-simulation-", dir=_IN_MEMORY, ignore_cleanup_errors=True
        )
        self._lives = 0
        self._path = self._next_path()
        self._path.parent.mkdir()
        self._path.write_bytes(_empty_store())
        self._owner = SqliteStore.open_owner(self._path, clock)
        self.store: Store = self._owner

    def _next_path(self) -> Path:
        self._lives += 1
        return Path(self._folder.name) / str(self._lives) / "store.db"

    async def restart(self) -> None:
        """See `Backend.restart`."""
        path = self._next_path()
        path.parent.mkdir()
        for suffix in ("", "-wal"):
            source = self._path.with_name(self._path.name + suffix)
            if source.exists():
                shutil.copyfile(source, path.with_name(path.name + suffix))
        killed, self._path = self._owner, path
        self._owner = SqliteStore.open_owner(path, self._clock)
        self.store = self._owner
        await killed.close()

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._owner.close()
        self._folder.cleanup()


@cache
def _empty_store() -> bytes:
    """Return the file of an empty store; its schema is made once and copied, for that is most of the time."""
    with TemporaryDirectory(prefix="sovrun-simulation-") as folder:
        path = Path(folder) / "store.db"
        lock = OwnerLock(path)
        connection = connect_owner(path)
        connection.close()
        lock.release()
        return path.read_bytes()
