"""Reading the command journal, beside the owner or without one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sovrun.core.canonical import canonical
from sovrun.core.commands.gates import AdapterLimits, Switch
from sovrun.core.commands.journal import Command, CommandId, CommandRecord, CommandState
from sovrun.core.errors import NotFound
from sovrun.core.ids import RunId, Tenant
from sovrun.store.journal import Compared, Drift, Resource
from sovrun.stores.sqlite import journal_rows as sql

_ANY_KEY: Final = 2**62


class JournalReader:
    """The read verbs of `Journal`; the class that mixes it in says how a statement is read."""

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    async def command(self, tenant: Tenant, command: CommandId) -> Command:
        """See `JournalReads.command`."""
        found = self._read(sql.SELECT_COMMAND, (tenant, command))
        if not found:
            raise NotFound(f"no command {command} for tenant {tenant}", hint="`sovrun commands` lists them")
        return sql.command_of(found[0])

    async def commands(
        self,
        tenant: Tenant,
        *,
        limit: int,
        before: int | None = None,
        states: Collection[CommandState] | None = None,
        run: RunId | None = None,
    ) -> Sequence[tuple[int, Command]]:
        """See `JournalReads.commands`."""
        wanted = None if states is None else canonical(sorted(states)).decode()
        values = (tenant, _ANY_KEY if before is None else before, wanted, run, limit)
        return [(row[0], sql.command_of(row[1:])) for row in self._read(sql.SELECT_COMMANDS, values)]

    async def command_history(self, tenant: Tenant, command: CommandId) -> Sequence[CommandRecord]:
        """See `JournalReads.command_history`."""
        await self.command(tenant, command)
        return [sql.record_of(row) for row in self._read(sql.SELECT_COMMAND_EVENTS, (tenant, command))]

    async def unresolved(self, tenant: Tenant, run: RunId) -> int:
        """See `JournalReads.unresolved`."""
        return int(self._read(sql.COUNT_UNRESOLVED, (tenant, run))[0][0])

    async def switches(self, tenant: Tenant) -> Sequence[Switch]:
        """See `JournalReads.switches`."""
        return [sql.switch_of(row) for row in self._read(sql.SELECT_SWITCHES, (tenant,))]

    async def switch_moves(self, tenant: Tenant, *, limit: int) -> Sequence[Switch]:
        """See `JournalReads.switch_moves`."""
        return [sql.switch_of(row) for row in self._read(sql.SELECT_SWITCH_MOVES, (tenant, limit))]

    async def adapter_limits(self, tenant: Tenant) -> Mapping[str, AdapterLimits]:
        """See `JournalReads.adapter_limits`."""
        return {adapter: sql.limits_of(text) for adapter, text in self._read(sql.SELECT_LIMITS, (tenant,))}

    async def resources(
        self, tenant: Tenant, *, adapter: str | None = None, live: bool = False
    ) -> Sequence[Resource]:
        """See `JournalReads.resources`."""
        return [sql.resource_of(row) for row in self._read(sql.SELECT_RESOURCES, (tenant, adapter, live))]

    async def resource(self, tenant: Tenant, adapter: str, kind: str, resource: str) -> Resource | None:
        """See `JournalReads.resource`."""
        found = self._read(sql.SELECT_RESOURCE, (tenant, adapter, kind, resource))
        return sql.resource_of(found[0]) if found else None

    async def drifts(self, tenant: Tenant, *, limit: int) -> Sequence[Drift]:
        """See `JournalReads.drifts`."""
        return [sql.drift_of(row) for row in self._read(sql.SELECT_DRIFTS, (tenant, limit))]

    async def comparisons(self, tenant: Tenant) -> Sequence[Compared]:
        """See `JournalReads.comparisons`."""
        return [sql.compared_of(row) for row in self._read(sql.SELECT_COMPARISONS, (tenant,))]

    async def entries(self, tenant: Tenant, name: str, after: int) -> Sequence[bytes]:
        """See `Ledger.entries`."""
        return [bytes(row[0]) for row in self._read(sql.SELECT_ENTRIES, (tenant, name, after))]
