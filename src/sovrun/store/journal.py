"""The command journal of a store: verbs and reads. They are part of `Store`, in the same atomic writes.

Owns: `Journal`, `JournalReads` and the values that pass through them. `tests/conformance` holds every back end to it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sovrun.core.commands.gates import AdapterLimits, AdapterLimitsChange, Switch
from sovrun.core.commands.journal import (
    Command,
    CommandEvent,
    CommandId,
    CommandRecord,
    CommandState,
    Intention,
)
from sovrun.core.ids import Actor, RunId, Tenant
from sovrun.store.payload import Payload


class Intent(NamedTuple):
    """The command that answers an intention; `created` is False when an identical one was intended before."""

    command: Command
    created: bool


@dataclass(frozen=True, slots=True)
class Resource:
    """A deployment or order that a command made, as it was last seen at the provider.

    Args:
        kind: `deployment` or `order`; id: the provider's; command: what made it.
        status: ours; raw: the provider's word; body: canonical JSON of what it told.
        live: it may still change; seen_us: when it was last compared.
    """

    tenant: Tenant
    adapter: str
    kind: str
    id: str
    command: CommandId
    status: str
    raw: str
    body: bytes
    live: bool
    seen_us: int = 0


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference between what is recorded of a resource and what the provider says.

    Args:
        resource: the provider's id; previous, provider: statuses, None where there is no such resource; of `unmapped` the
            provider's own word.
        resolution: `progressed` where a live resource went on by itself and the record follows it; `missing`, `contradicts`,
            `unrecorded` and `unmapped` are left to a person.
        changes: canonical JSON of the members that differ, each as `{"recorded": ..., "provider": ...}`.
    """

    tenant: Tenant
    adapter: str
    kind: str
    resource: str
    previous: str | None
    provider: str | None
    resolution: str
    time_us: int = 0
    changes: str = "{}"


@dataclass(frozen=True, slots=True)
class Compared:
    """When a provider was last compared with what is recorded of a tenant.

    Args:
        unreachable: why the last attempt came to nothing, None when it did not.
        compared_us: when a comparison last came about, 0 for never; tried_us: when one was last attempted.
    """

    tenant: Tenant
    adapter: str
    unreachable: str | None = None
    compared_us: int = 0
    tried_us: int = 0


class JournalReads(Protocol):
    """What can be read of commands, each within one tenant."""

    async def command(self, tenant: Tenant, command: CommandId) -> Command:
        """Return a command. Raises: NotFound."""

    async def commands(
        self,
        tenant: Tenant,
        *,
        limit: int,
        before: int | None = None,
        states: Collection[CommandState] | None = None,
        run: RunId | None = None,
    ) -> Sequence[tuple[int, Command]]:
        """Return commands with their numbers, latest first, of numbers below `before` when given."""

    async def command_history(self, tenant: Tenant, command: CommandId) -> Sequence[CommandRecord]:
        """Return the history of a command in order. Raises: NotFound."""

    async def unresolved(self, tenant: Tenant, run: RunId) -> int:
        """Return how many of a run's commands were sent and have no outcome."""

    async def switches(self, tenant: Tenant) -> Sequence[Switch]:
        """Return the switches that concern a tenant and were ever moved: the global one first."""

    async def switch_moves(self, tenant: Tenant, *, limit: int) -> Sequence[Switch]:
        """Return how the switches that concern a tenant were moved, each as it was after a move, latest first."""

    async def adapter_limits(self, tenant: Tenant) -> Mapping[str, AdapterLimits]:
        """Return the limits of a tenant by adapter."""

    async def resources(
        self, tenant: Tenant, *, adapter: str | None = None, live: bool = False
    ) -> Sequence[Resource]:
        """Return what the tenant's commands made, by adapter, kind and id; only what may still change when `live`."""

    async def resource(self, tenant: Tenant, adapter: str, kind: str, resource: str) -> Resource | None:
        """Return what one of the tenant's commands made, by the provider's id, None when there is none."""

    async def drifts(self, tenant: Tenant, *, limit: int) -> Sequence[Drift]:
        """Return differences that were recorded, latest first."""

    async def comparisons(self, tenant: Tenant) -> Sequence[Compared]:
        """Return when each of the tenant's providers was last compared, by adapter."""

    async def entries(self, tenant: Tenant, name: str, after: int) -> Sequence[bytes]:
        """See `execution.port.Ledger`."""


class Journal(JournalReads, Protocol):
    """Commands and what an operator says about them."""

    async def intend(self, intention: Intention, *, payloads: Sequence[Payload] = ()) -> Intent:
        """Journal a command as intended, or find the one that was intended before under its key.

        Raises: IdempotencyKeyConflict, StoreUnavailable.
        """

    async def admit(self, tenant: Tenant, command: CommandId, *, handler: str, due_us: int) -> Command:
        """Ask the gates about an intended command, and journal it as sent by `handler`, or as refused.

        The counts that the gates look at, their decision and the entry are one atomic write. A command whose step has
        ended meanwhile is refused, too. From `due_us` on, another handler may take it over.
        Raises: IllegalTransition when it is not intended any more; NotFound; StoreUnavailable.
        """

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
        """Append an event to the history of a command as it was at `revision`; a step that waits for it moves along.

        Raises: CommandMoved when it has gone on since; IllegalTransition; NotFound; StoreUnavailable.
        """

    async def due_commands(self, limit: int, *, patience_us: int = 0) -> Sequence[Command]:
        """Return commands of all tenants that are due, the longest due first, waiting for the first of them."""

    async def open_commands(self, limit: int) -> Sequence[Command]:
        """Return commands of all tenants that are not concluded, the longest due first; for the owner."""

    async def disown_commands(self) -> int:
        """Make every command that is sent due at once; for a caller who knows that no handler is alive."""

    async def move_switch(self, switch: Switch, *, payloads: Sequence[Payload] = ()) -> None:
        """Trip or reset a kill switch."""

    async def set_adapter_limits(
        self, tenant: Tenant, adapter: str, change: AdapterLimitsChange, *, actor: Actor
    ) -> AdapterLimits:
        """Change what a tenant may do through an adapter, from what holds at the moment of the write; return what holds then."""

    async def note_drifts(
        self, drifts: Sequence[Drift], *, seen: Sequence[Resource] = (), compared: Compared | None = None
    ) -> None:
        """Record differences, resources as they were just seen, and that a provider was compared or could not be.

        A resource that names by `seen_us` with which record it was compared is left as it is when that has been seen again
        since; 0 stands for any.
        """

    async def providers(self) -> Sequence[tuple[Tenant, str]]:
        """Return the tenants and adapters through which anything was ever made, in order; for the owner."""

    async def last_drift(self, tenant: Tenant, adapter: str, kind: str, resource: str) -> Drift | None:
        """Return the difference that was recorded last about a resource."""

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        """See `execution.port.Ledger`."""
