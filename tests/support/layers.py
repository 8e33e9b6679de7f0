"""A command layer on a store in memory and a scripted provider, and ways to let it work without waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sovrun.core.canonical import decode
from sovrun.core.commands.journal import OPEN, Command, CommandId
from sovrun.core.ids import Tenant
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.layer import Answered, CommandLayer, CommandRequest
from sovrun.store.memory import MemoryStore
from sovrun.store.protocol import Store
from support.clock import SetClock
from support.requests import ACTOR, TENANT
from support.scripted_provider import ScriptedProvider
from support.served import SetIdentity

ORDER = CommandRequest(
    TENANT,
    "order.place",
    "scripted",
    {"symbol": "ACME", "side": "buy", "quantity": "2", "price": "5"},
    ACTOR,
    key="k",
)
DEPLOYMENT = CommandRequest(
    TENANT,
    "deployment.create",
    "scripted",
    {"name": "maker", "artifact": "bot", "capital": "1000"},
    ACTOR,
    key="k",
)
LOOKS_MAX = 2_000
"""More turns than any command of a test takes: one that never ends fails its test instead of hanging."""


def parked(command: Command) -> bool:
    """Whether a person is asked what became of a command."""
    return command.parked


class KilledError(BaseException):
    """The process dies here: nothing of it runs any more."""


@dataclass
class Bench:
    """One layer after another on the same store and provider."""

    clock: SetClock = field(default_factory=SetClock)
    provider: ScriptedProvider = field(init=False)
    store: Store = field(init=False)
    layer: CommandLayer = field(init=False)

    def __post_init__(self) -> None:
        self.provider = ScriptedProvider(self.clock)
        self.store = MemoryStore(self.clock)
        self.begin()

    def begin(self, *, adapters: AdapterSet | None = None, store: Store | None = None) -> None:
        """Begin another life: a fresh layer, which remembers nothing."""
        known = adapters or AdapterSet({"scripted": self.provider})
        self.layer = CommandLayer(store or self.store, known, self.clock, SetIdentity())

    # --- turn by turn -------------------------------------------------------------------------------------------------

    async def intend(self, request: CommandRequest = ORDER, **more: Any) -> CommandId:
        """Journal a command as intended; nobody takes it up."""
        prepared = await self.layer.prepare(replace(request, **more))
        return (await self.store.intend(prepared.intention, payloads=[prepared.payload])).command.id

    async def turn(self) -> int:
        """Take everything that is due one step further; return how many that were."""
        due = await self.store.due_commands(1_000)
        await asyncio.gather(*(self.layer._drive(command) for command in due))
        return len(due)

    async def settle(self, until: Callable[[Command], bool] | None = None) -> None:
        """Go on, with the clock set to whatever is due next, until every command is concluded or `until` holds for all."""
        for _ in range(LOOKS_MAX):
            while await self.turn():
                pass
            open_ = [command for _, command in await self.store.commands(TENANT, limit=1_000, states=OPEN)]
            if all(until is not None and until(command) for command in open_):
                return
            due_us = min(command.due_us for command in open_ if command.due_us is not None)
            self.clock.advance(max(1, due_us - self.clock.now_us()))
        raise AssertionError(f"it did not come to an end: {open_}")

    async def died(self) -> None:
        """Begin the next life as a process does that finds what a dead one left."""
        self.begin()
        await self.store.disown_commands()

    async def command(self, name: CommandId, tenant: Tenant = TENANT) -> Command:
        return await self.store.command(tenant, name)

    async def types(self, name: CommandId) -> list[str]:
        """Return the types of a command's entries, without their common prefix."""
        history = await self.store.command_history(TENANT, name)
        return [entry.type.removeprefix("command.") for entry in history]

    async def detail(self, name: CommandId) -> str | None:
        """Return what is recorded last of the provider's words."""
        history = await self.store.command_history(TENANT, name)
        told: list[str] = [
            data["detail"] for entry in history if "detail" in (data := decode(entry.data.encode()))
        ]
        return told[-1] if told else None

    # --- by itself ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the layer work by itself, as a process does."""
        work = asyncio.create_task(self.layer.run())
        try:
            yield
        finally:
            await self.layer.stop()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def called(self, count: int) -> None:
        """Wait until the provider has been called so often."""
        while len(self.provider.called) < count:  # noqa: ASYNC110 -- whoever is called tells nobody
            await asyncio.sleep(0)

    async def execute(
        self, request: CommandRequest = ORDER, *, patience_us: int = 60_000_000, **more: Any
    ) -> Answered:
        return await self.layer.execute(replace(request, **more), patience_us=patience_us)
