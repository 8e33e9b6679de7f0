"""Ledgers for tests: in memory, with faults on order, and in a directory that several processes share."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sovrun.core.errors import StoreUnavailable
from sovrun.core.ids import Tenant


class MemoryLedger:
    """The `Ledger` port in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[Tenant, str], list[bytes]] = defaultdict(list)

    async def entries(self, tenant: Tenant, name: str, after: int) -> Sequence[bytes]:
        """Return the entries after the first `after`; others go on meanwhile, as they do at a store."""
        await asyncio.sleep(0)
        return list(self.kept[tenant, name][after:])

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        """Append an entry if its place is the next one."""
        await asyncio.sleep(0)
        kept = self.kept[tenant, name]
        if at > len(kept):
            raise ValueError(f"place {at} comes after a gap: {len(kept)} are taken")
        if at < len(kept):
            return False
        kept.append(entry)
        return True


class FaultyLedger(MemoryLedger):
    """A ledger in memory that can be told to hang while it writes, or to be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self._answering = asyncio.Event()
        self._answering.set()
        self._reachable = True

    async def entries(self, tenant: Tenant, name: str, after: int) -> Sequence[bytes]:
        """Return entries unless the ledger is gone."""
        self._require_reachable()
        return await super().entries(tenant, name, after)

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        """Write, and answer once the ledger answers."""
        self._require_reachable()
        appended = await super().append(tenant, name, at, entry)
        await self._answering.wait()
        return appended

    def _require_reachable(self) -> None:
        if not self._reachable:
            raise StoreUnavailable("the ledger is gone")

    @asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        """Write and do not answer for as long as this is entered."""
        self._answering.clear()
        try:
            yield
        finally:
            self._answering.set()

    @asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        """Be out of reach for as long as this is entered."""
        self._reachable = False
        try:
            yield
        finally:
            self._reachable = True


class DirectoryLedger:
    """A ledger of one file for each entry: a place is taken by whoever makes its file first, in whatever process."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def entries(self, tenant: Tenant, name: str, after: int) -> Sequence[bytes]:
        """Return the entries after the first `after`."""
        await asyncio.sleep(0)
        found = []
        while (path := self._path(tenant, name, after + len(found))).exists():
            found.append(path.read_bytes())
        return found

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        """Append an entry; whole or not at all, since a link to it is made once it is written."""
        await asyncio.sleep(0)
        path = self._path(tenant, name, at)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"draft-{os.getpid()}-{id(self)}")
        draft.write_bytes(entry)
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def _path(self, tenant: Tenant, name: str, number: int) -> Path:
        return self._root / tenant / name / f"{number:09d}"
