"""The journal's verbs of the SQLite store: each becomes a request of the next commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from sovrun.core.commands.gates import AdapterLimits, AdapterLimitsChange, Switch
from sovrun.core.commands.journal import Command, CommandEvent, CommandId, Intention
from sovrun.core.ids import Actor, Tenant
from sovrun.ports import Clock
from sovrun.store.journal import Compared, Drift, Intent, Resource
from sovrun.store.payload import Payload
from sovrun.stores.sqlite import journal_rows as sql
from sovrun.stores.sqlite.journal import (
    Admit,
    Append,
    Disown,
    Intend,
    JournalRequest,
    MoveSwitch,
    Note,
    NoteDrifts,
    SetLimits,
)
from sovrun.stores.sqlite.journal_reader import JournalReader


class JournalStore(JournalReader):
    """The verbs of `Journal` that write, and those who wait for a command to be due."""

    _clock: Clock
    _closed: bool

    def __init__(self) -> None:
        self._due_waiting: list[asyncio.Future[None]] = []

    def _ask(self, request: JournalRequest) -> asyncio.Future[Any]:
        raise NotImplementedError

    async def intend(self, intention: Intention, *, payloads: Sequence[Payload] = ()) -> Intent:
        """See `Journal.intend`."""
        return cast("Intent", await self._ask(Intend(intention, payloads)))

    async def admit(self, tenant: Tenant, command: CommandId, *, handler: str, due_us: int) -> Command:
        """See `Journal.admit`."""
        return cast("Command", await self._ask(Admit(tenant, command, handler, due_us)))

    async def note(
        self,
        tenant: Tenant,
        command: CommandId,
        revision: int,
        event: CommandEvent,
        *,
        actor: Actor,
        payloads: Sequence[Payload] = (),
        resource: Resource | None = None,
    ) -> Command:
        """See `Journal.note`."""
        request = Note(tenant, command, revision, event, actor, payloads, resource)
        return cast("Command", await self._ask(request))

    async def disown_commands(self) -> int:
        """See `Journal.disown_commands`."""
        return cast("int", await self._ask(Disown()))

    async def move_switch(self, switch: Switch, *, payloads: Sequence[Payload] = ()) -> None:
        """See `Journal.move_switch`."""
        await self._ask(MoveSwitch(switch, payloads))

    async def set_adapter_limits(
        self, tenant: Tenant, adapter: str, change: AdapterLimitsChange, *, actor: Actor
    ) -> AdapterLimits:
        """See `Journal.set_adapter_limits`."""
        return cast("AdapterLimits", await self._ask(SetLimits(tenant, adapter, change, actor)))

    async def note_drifts(
        self, drifts: Sequence[Drift], *, seen: Sequence[Resource] = (), compared: Compared | None = None
    ) -> None:
        """See `Journal.note_drifts`."""
        await self._ask(NoteDrifts(drifts, seen, compared))

    async def providers(self) -> Sequence[tuple[Tenant, str]]:
        """See `Journal.providers`."""
        return [(Tenant(tenant), adapter) for tenant, adapter in self._read(sql.SELECT_PROVIDERS)]

    async def last_drift(self, tenant: Tenant, adapter: str, kind: str, resource: str) -> Drift | None:
        """See `Journal.last_drift`."""
        found = self._read(sql.SELECT_LAST_DRIFT, (tenant, adapter, kind, resource))
        return sql.drift_of(found[0]) if found else None

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        """See `Ledger.append`."""
        return cast("bool", await self._ask(Append(tenant, name, at, entry)))

    async def due_commands(self, limit: int, *, patience_us: int = 0) -> Sequence[Command]:
        """See `Journal.due_commands`."""
        until_us = self._clock.elapsed_us() + patience_us
        while not self._closed:
            now_us = self._clock.now_us()
            found = self._read(sql.SELECT_DUE_COMMANDS, (now_us, limit))
            left_us = until_us - self._clock.elapsed_us()
            if found or left_us <= 0:
                return [sql.command_of(row) for row in found]
            next_us = self._read(sql.SELECT_NEXT_DUE_COMMAND)[0][0]
            nap_us = left_us if next_us is None else max(1_000, min(left_us, next_us - now_us))
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._due_waiting.append(waiting)
            await asyncio.wait([waiting], timeout=nap_us / 1e6)
            if waiting in self._due_waiting:
                self._due_waiting.remove(waiting)
        return []

    async def open_commands(self, limit: int) -> Sequence[Command]:
        """See `Journal.open_commands`."""
        return [sql.command_of(row) for row in self._read(sql.SELECT_OPEN_COMMANDS, (limit,))]

    def _wake_due(self) -> None:
        """Have those look again who wait for a command to be due."""
        waiting, self._due_waiting = self._due_waiting, []
        for one in waiting:
            one.set_result(None)
