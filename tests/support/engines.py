"""An engine under test and what a caller says to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sovrun.core.canonical import decode
from sovrun.core.identity import RunKey
from sovrun.core.ids import Actor, Digest, RunId, StepId
from sovrun.core.spec.model import DagSpec, Reference, StepSpec
from sovrun.engine.desk import WaitView
from sovrun.engine.engine import Engine
from sovrun.engine.handler import RunRequest, known_dag
from sovrun.store.protocol import RunRecord, Store
from sovrun.stores.files import FileStore
from support import dags
from support.requests import ACTOR, TENANT

PATIENCE_S = 20.0
"""After this long a test is told what did not come; no test takes nearly as long."""


def calls(
    name: str, function: str, *needs: str, more: dict[str, Any] | None = None, **arguments: Any
) -> StepSpec:
    """Return a step that calls a function of the test; an argument `"from steps.a.b"` is a reference."""
    made = dags.step(name, *needs, **(more or {}))
    return replace(
        made,
        entry=f"plugin:{function}",
        arguments={key: _template(value) for key, value in arguments.items()},
    )


def _template(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("from "):
        root, *path = value.removeprefix("from ").split(".")
        return (
            Reference(None, tuple(path)) if root == "inputs" else Reference(StepId(path[0]), tuple(path[1:]))
        )
    return value


@dataclass
class Bench:
    """An engine at work."""

    engine: Engine
    store: Store
    files: FileStore
    folder: Path
    runs: int = 0

    async def submit(
        self, spec: DagSpec, *, actor: Actor = ACTOR, code: Path | None = None, **inputs: Any
    ) -> RunId:
        root = code or self.folder / "code"
        root.mkdir(exist_ok=True)
        dag = known_dag(TENANT, spec, self.files.take_code(root, None, None).digest)
        await self.engine.register(dag, actor)
        self.runs += 1
        key = RunKey(caller=f"{spec.id}-{self.runs}")
        return (await self.engine.submit(RunRequest(dag, inputs, key, actor, self.engine.isolation))).run

    async def ended(self, run: RunId) -> RunRecord:
        async with asyncio.timeout(PATIENCE_S):
            return await self.engine.wait(TENANT, run)

    async def wait_of(self, run: RunId) -> WaitView:
        """Return the one wait of a run, once it waits."""
        async with asyncio.timeout(PATIENCE_S):
            await self.engine.wait_idle(TENANT, run)
        [view] = [view for view in await self.engine.desk.waiting(TENANT) if view.wait.run == run]
        return view

    async def outputs(self, run: RunId) -> dict[str, Any]:
        """Return the outputs of the completed steps of a run, by step."""
        record = await self.store.run(TENANT, run)
        plan = known_plan(await self.store.dag(TENANT, record.head.version))
        steps = zip(plan, await self.store.steps(TENANT, run), strict=True)
        return {name: await self.value(step.output) for name, step in steps if step.output is not None}

    async def value(self, digest: Digest) -> Any:
        body = await self.store.payload(TENANT, digest)
        assert body is not None
        return decode(body)

    async def attempts(self, run: RunId) -> list[int]:
        return [step.attempts for step in await self.store.steps(TENANT, run)]


def known_plan(record: Any) -> list[str]:
    return [step["id"] for step in decode(record.normal)["steps"]]


Started = Callable[..., AbstractAsyncContextManager[Bench]]
"""Starts an engine: `executor` or functions by name, and `slots`."""


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when a condition of the world outside holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 -- nobody tells of it
            await asyncio.sleep(0.01)
