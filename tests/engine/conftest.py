"""An engine at work on each store, with steps that are functions of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sovrun.engine.engine import Engine
from sovrun.ports import Executor
from sovrun.sandbox.in_process import InProcessExecutor
from sovrun.store.memory import MemoryStore
from sovrun.store.protocol import Store
from sovrun.stores.files import FileStore
from sovrun.stores.sqlite.store import SqliteStore
from sovrun.wiring import SystemClock, SystemIdentity
from support.engines import Bench, Started
from support.stores import fresh_file


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(tmp_path: Path, kind: str) -> Started:
    """Start an engine on the store under test; on SQLite, again on the same file when asked again."""

    def opened() -> Store:
        if kind == "memory":
            return MemoryStore(SystemClock())
        path = tmp_path / "store.db"
        return SqliteStore.open_owner(path if path.exists() else fresh_file(tmp_path), SystemClock())

    @asynccontextmanager
    async def started(
        *, executor: Executor | None = None, slots: int = 1, **functions: Any
    ) -> AsyncIterator[Bench]:
        entries = {f"plugin:{name}": function for name, function in functions.items()}
        files = FileStore(tmp_path / "files")
        executor = executor or InProcessExecutor(slots=slots, functions=entries, spool=files.spool)
        store = opened()
        async with Engine(store, files, executor, SystemIdentity(), slots=slots, name="bench") as engine:
            yield Bench(engine, store, files, tmp_path)

    return started
