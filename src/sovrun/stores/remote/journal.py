"""The command journal of a store that another process owns. Performing commands is the owner's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from sovrun.core.commands.gates import AdapterLimits, AdapterLimitsChange, Switch
from sovrun.core.commands.journal import (
    Command,
    CommandEvent,
    CommandId,
    CommandRecord,
    CommandState,
    Intention,
)
from sovrun.core.errors import NotAllowed
from sovrun.core.ids import Actor, RunId, Tenant
from sovrun.store.journal import Compared, Drift, Intent, Resource
from sovrun.store.payload import Payload


class RemoteJournal:
    """Implements `Journal` by asking the owner; what belongs to who performs commands is refused."""

    async def _call(self, verb: str, **arguments: Any) -> Any:
        raise NotImplementedError

    async def intend(self, intention: Intention, *, payloads: Sequence[Payload] = ()) -> Intent:
        """See `Journal.intend`."""
        return cast("Intent", await self._call("intend", intention=intention, payloads=payloads))

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
        """Note a person's verdict about an unknown command; the owner's layer notes all else."""
        return cast(
            "Command",
            await self._call(
                "note",
                tenant=tenant,
                command=command,
                revision=revision,
                event=event,
                actor=actor,
                payloads=payloads,
                resource=resource,
            ),
        )

    async def move_switch(self, switch: Switch, *, payloads: Sequence[Payload] = ()) -> None:
        """See `Journal.move_switch`."""
        await self._call("move_switch", switch=switch, payloads=payloads)

    async def set_adapter_limits(
        self, tenant: Tenant, adapter: str, change: AdapterLimitsChange, *, actor: Actor
    ) -> AdapterLimits:
        """See `Journal.set_adapter_limits`."""
        told = await self._call(
            "set_adapter_limits", tenant=tenant, adapter=adapter, change=change, actor=actor
        )
        return cast("AdapterLimits", told)

    async def admit(self, tenant: Tenant, command: CommandId, *, handler: str, due_us: int) -> Command:
        """Refuse: the owner admits."""
        del tenant, command, handler, due_us
        raise NotAllowed("commands are performed by the process that owns the store")

    async def due_commands(self, limit: int, *, patience_us: int = 0) -> Sequence[Command]:
        """Return nothing: the owner performs commands."""
        del limit, patience_us
        return ()

    async def open_commands(self, limit: int) -> Sequence[Command]:
        """Return nothing: the owner performs commands."""
        del limit
        return ()

    async def disown_commands(self) -> int:
        """Do nothing: the owner did so when it began."""
        return 0

    async def note_drifts(
        self, drifts: Sequence[Drift], *, seen: Sequence[Resource] = (), compared: Compared | None = None
    ) -> None:
        """See `Journal.note_drifts`."""
        await self._call("note_drifts", drifts=drifts, seen=seen, compared=compared)

    async def providers(self) -> Sequence[tuple[Tenant, str]]:
        """Return nothing: the owner compares."""
        return ()

    async def last_drift(self, tenant: Tenant, adapter: str, kind: str, resource: str) -> Drift | None:
        """Refuse: the owner compares."""
        del tenant, adapter, kind, resource
        raise NotAllowed("providers are compared by the process that owns the store")

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        """Refuse: effects are the owner's."""
        del tenant, name, at, entry
        raise NotAllowed("commands are performed by the process that owns the store")

    async def command(self, tenant: Tenant, command: CommandId) -> Command:
        """See `JournalReads.command`."""
        return cast("Command", await self._call("command", tenant=tenant, command=command))

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
        wanted = None if states is None else sorted(states)
        return cast(
            "list[tuple[int, Command]]",
            await self._call("commands", tenant=tenant, limit=limit, before=before, states=wanted, run=run),
        )

    async def command_history(self, tenant: Tenant, command: CommandId) -> Sequence[CommandRecord]:
        """See `JournalReads.command_history`."""
        return cast(
            "list[CommandRecord]", await self._call("command_history", tenant=tenant, command=command)
        )

    async def unresolved(self, tenant: Tenant, run: RunId) -> int:
        """See `JournalReads.unresolved`."""
        return cast("int", await self._call("unresolved", tenant=tenant, run=run))

    async def switches(self, tenant: Tenant) -> Sequence[Switch]:
        """See `JournalReads.switches`."""
        return cast("list[Switch]", await self._call("switches", tenant=tenant))

    async def switch_moves(self, tenant: Tenant, *, limit: int) -> Sequence[Switch]:
        """See `JournalReads.switch_moves`."""
        return cast("list[Switch]", await self._call("switch_moves", tenant=tenant, limit=limit))

    async def adapter_limits(self, tenant: Tenant) -> Mapping[str, AdapterLimits]:
        """See `JournalReads.adapter_limits`."""
        return cast("dict[str, AdapterLimits]", await self._call("adapter_limits", tenant=tenant))

    async def resources(
        self, tenant: Tenant, *, adapter: str | None = None, live: bool = False
    ) -> Sequence[Resource]:
        """See `JournalReads.resources`."""
        return cast(
            "list[Resource]", await self._call("resources", tenant=tenant, adapter=adapter, live=live)
        )

    async def resource(self, tenant: Tenant, adapter: str, kind: str, resource: str) -> Resource | None:
        """See `JournalReads.resource`."""
        return cast(
            "Resource | None",
            await self._call("resource", tenant=tenant, adapter=adapter, kind=kind, resource=resource),
        )

    async def drifts(self, tenant: Tenant, *, limit: int) -> Sequence[Drift]:
        """See `JournalReads.drifts`."""
        return cast("list[Drift]", await self._call("drifts", tenant=tenant, limit=limit))

    async def comparisons(self, tenant: Tenant) -> Sequence[Compared]:
        """See `JournalReads.comparisons`."""
        return cast("list[Compared]", await self._call("comparisons", tenant=tenant))

    async def entries(self, tenant: Tenant, name: str, after: int) -> Sequence[bytes]:
        """See `Ledger.entries`."""
        return cast("list[bytes]", await self._call("entries", tenant=tenant, name=name, after=after))
