"""Drift: what is recorded of live deployments and orders beside what their provider says now.

Owns: `DriftWatch`, `Comparison`, `judged`, `differing`. A difference is recorded once, and nothing is repaired: where a live resource went on by
itself the record follows it, all else is a person's.
Must not touch: effects; commands without an outcome are `execution.layer`'s to find out about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, Final, TypeAlias

from sovrun.core.canonical import canonical, decode
from sovrun.core.commands.journal import CommandId, CommandState
from sovrun.core.errors import AdapterUnavailable, InvalidIdentifier, NotFound, StoreUnavailable
from sovrun.core.events import ENGINE
from sovrun.core.ids import Tenant, run_id
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.port import (
    LIVE,
    AdapterReads,
    Call,
    Deployment,
    DeploymentStatus,
    Order,
    OutcomeUnknown,
    Unreadable,
    UnreadableRecord,
    unreadable_in,
)
from sovrun.execution.sightings import resource_json
from sovrun.store.journal import Compared, Drift, Resource
from sovrun.store.protocol import Store

READ_US: Final = 10_000_000
"""How long one read of a provider may take."""

IN_FLIGHT_MAX: Final = 1_000
"""How many commands are looked through for those that are just acting on what seems to differ."""

Name: TypeAlias = tuple[str, str]
"""`order` or `deployment`, and the provider's id."""
Seen: TypeAlias = Deployment | Order
Told: TypeAlias = Deployment | Order | Unreadable | None
_SAME: Final = ("clientId", "symbol", "side", "orderType", "quantity", "price", "name", "artifact", "capital")
"""Members that never change; where one is not told, nothing is compared."""
_MOVING: Final = ("status", "rawStatus", "filled", "averagePrice")
"""Members that go on by themselves; their going on makes a difference only where status or quantity filled do."""
_OF_DETAIL: Final = ("artifact", "capital")
_AMOUNTS: Final = frozenset({"quantity", "price", "filled", "averagePrice", "capital"})
_ENDING: Final = str(DeploymentStatus.STOPPING)
_GOING_ON: Final = frozenset(
    {str(DeploymentStatus.QUEUED), str(DeploymentStatus.RUNNING), str(DeploymentStatus.PAUSED)}
)


class Resolution(StrEnum):
    """What a difference is. A code is public: never renamed, never reused."""

    PROGRESSED = "progressed"
    """A live resource went on by itself; the record follows it."""
    MISSING = "missing"
    """It is recorded as live, and the provider does not have it."""
    CONTRADICTS = "contradicts"
    """It cannot have come about from what is recorded."""
    UNRECORDED = "unrecorded"
    """It is live at the provider, and no command has made it."""
    UNMAPPED = "unmapped"
    """The provider tells of it in a way that is not known here, such as a status without a meaning; the word is kept."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one comparison showed.

    Args:
        compared: recorded live resources that were looked at.
        drifts: the differences that are news.
        unreachable: why the provider could not be compared; then nothing was recorded.
    """

    tenant: Tenant
    adapter: str
    compared: int = 0
    drifts: tuple[Drift, ...] = ()
    unreachable: str | None = None


def differing(resource: Resource, seen: Seen) -> dict[str, dict[str, Any]]:
    """Return the members in which a record and what the provider tells differ: what is recorded, and what the provider says.

    A member that is not told on one side is not compared.
    """
    before = {**_members(decode(resource.body)), "status": resource.status, "rawStatus": resource.raw or None}
    after = _members(resource_json(seen))
    return {
        name: {"recorded": before[name], "provider": after[name]}
        for name in (*_SAME, *_MOVING)
        if before.get(name) is not None
        and after.get(name) is not None
        and _plain(name, before[name]) != _plain(name, after[name])
    }


def _members(body: Mapping[str, Any]) -> dict[str, Any]:
    detail = body.get("detail") or {}
    return {**body, **{name: detail.get(name) for name in _OF_DETAIL}}


def _plain(name: str, value: Any) -> Any:
    """Return a member as it is compared: of amounts, `1000` and `"1000.0"` are the same."""
    try:
        return Decimal(str(value)) if name in _AMOUNTS else value
    except InvalidOperation:
        return value


def judged(resource: Resource, seen: Seen) -> Resolution | None:
    """Return what the difference between a record and what the provider tells is, None when there is none."""
    differs = differing(resource, seen)
    if any(name in differs for name in _SAME):
        return Resolution.CONTRADICTS
    filled = differs.get("filled")
    if filled is not None and Decimal(filled["provider"]) < Decimal(filled["recorded"]):
        return Resolution.CONTRADICTS
    status = str(seen.status)
    if status == resource.status and filled is None:
        return None
    if not resource.live or (resource.status == _ENDING and status in _GOING_ON):
        return Resolution.CONTRADICTS
    return Resolution.PROGRESSED


class DriftWatch:
    """Compares the providers of one store with its records.

    Args:
        tell: is told in words when a provider can no longer be compared, and when it can be again.
    """

    def __init__(
        self, store: Store, adapters: AdapterSet, *, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._store = store
        self._adapters = adapters
        self._tell = tell
        self._away: set[tuple[Tenant, str]] = set()
        """Of which it was told that they cannot be compared."""
        self._turn = asyncio.Lock()
        """Two comparisons at a time would both find the same news."""
        self._settled: set[tuple[Tenant, str, str, str]] = set()
        """What is over at a provider, is not recorded as live, and contradicts no command: that stays so."""

    async def run(self, every_seconds: float) -> None:
        """Compare everything, again and again."""
        while True:
            await asyncio.sleep(every_seconds)
            with suppress(StoreUnavailable):
                await self.compare_all()

    async def compare_all(self) -> Sequence[Comparison]:
        """Compare every provider through which any tenant has made something; one after the other."""
        return [await self.compare(tenant, adapter) for tenant, adapter in await self._store.providers()]

    async def compare_tenant(self, tenant: Tenant) -> Sequence[Comparison]:
        """Compare every adapter of a tenant."""
        return [await self.compare(tenant, adapter) for adapter in list(self._adapters.names(tenant))]

    async def compare(self, tenant: Tenant, adapter: str) -> Comparison:
        """Compare one provider with what is recorded, and record what is news. Raises: StoreUnavailable."""
        async with self._turn:
            comparison = await self._compared(tenant, adapter)
        self._say(comparison)
        return comparison

    def _say(self, comparison: Comparison) -> None:
        """Tell of a provider that can no longer be compared, or can be again; while it stays so, nothing is said."""
        name = (comparison.tenant, comparison.adapter)
        which = f"{comparison.adapter} of tenant {comparison.tenant}"
        if comparison.unreachable is None:
            if name in self._away:
                self._away.remove(name)
                self._tell(f"{which} can be compared with what is recorded again")
        elif name not in self._away:
            self._away.add(name)
            self._tell(f"{which} could not be compared with what is recorded: {comparison.unreachable}")

    async def _compared(self, tenant: Tenant, adapter: str) -> Comparison:
        try:
            reads = self._adapters.reads(tenant, adapter)
            before = await self._store.resources(tenant, adapter=adapter, live=True)
            told = await self._told(reads, tenant)
            missing = await self._missing(reads, before, told)
        except (AdapterUnavailable, OutcomeUnknown, TimeoutError) as error:
            why = str(error) or "no answer in time"
            await self._store.note_drifts([], compared=Compared(tenant, adapter, why))
            return Comparison(tenant, adapter, unreachable=why)
        found: list[Drift] = []
        seen: list[Resource] = []
        live = {(resource.kind, resource.id): resource for resource in before}
        for name, one in [*told.items(), *missing.items()]:
            if name in live:
                self._weigh(live[name], one, found, seen)
            elif one is not None:
                found += await self._unrecorded(tenant, adapter, name[0], one)
        moved = await self._just_moved(tenant, adapter, found, live) if found else frozenset()
        news = [
            drift
            for drift in found
            if (drift.kind, drift.resource) not in moved and await self._is_news(drift)
        ]
        seen = [resource for resource in seen if (resource.kind, resource.id) not in moved]
        await self._store.note_drifts(news, seen=seen, compared=Compared(tenant, adapter))
        return Comparison(tenant, adapter, len(before), tuple(news))

    async def _just_moved(
        self, tenant: Tenant, adapter: str, found: Sequence[Drift], before: Mapping[Name, Resource]
    ) -> frozenset[Name]:
        """Return what of `found` our own commands act on, or have acted on since it was read: that does not go on by itself."""
        flying = {CommandState.SENT, CommandState.UNKNOWN}
        commands = await self._store.commands(tenant, limit=IN_FLIGHT_MAX, states=flying)
        targets = {
            one.intention.target
            for _, one in commands
            if one.intention.adapter == adapter
            and not one.parked  # what waits for a person may do so for days
        }
        moved = set()
        for drift in found:
            name = (drift.kind, drift.resource)
            read, now = before.get(name), await self._store.resource(tenant, adapter, *name)
            seen_since = read is not None and now is not None and now.seen_us != read.seen_us
            if seen_since or drift.resource in targets:
                moved.add(name)
        return frozenset(moved)

    async def _told(self, reads: AdapterReads, tenant: Tenant) -> dict[Name, Told]:
        call = Call(tenant, ENGINE, timeout_us=READ_US)
        told: dict[Name, Told] = {}
        async with asyncio.timeout(2 * READ_US / 1e6):
            if "order" in reads.capabilities.resources:
                orders = await reads.list_orders(call)
                told.update({("order", order.id): order for order in orders})
                told.update(_unreadable(unreadable_in(orders)))
            if "deployment" in reads.capabilities.resources:
                deployments = await reads.list_deployments(call)
                told.update({("deployment", deployment.id): deployment for deployment in deployments})
                told.update(_unreadable(unreadable_in(deployments)))
        return told

    async def _missing(
        self, reads: AdapterReads, before: Sequence[Resource], told: Mapping[Name, Told]
    ) -> dict[Name, Told]:
        """Ask by their ids for what the lists do not have: some providers list only what is open."""
        asked: dict[Name, Told] = {}
        for resource in before:
            name = (resource.kind, resource.id)
            if name in told or resource.kind not in reads.capabilities.resources:
                continue
            call = Call(resource.tenant, ENGINE, timeout_us=READ_US)
            try:
                async with asyncio.timeout(2 * READ_US / 1e6):
                    asked[name] = await (
                        reads.get_order(call, resource.id)
                        if resource.kind == "order"
                        else reads.get_deployment(call, resource.id)
                    )
            except UnreadableRecord as unreadable:
                asked[name] = unreadable.record
        return asked

    def _weigh(self, resource: Resource, one: Told, found: list[Drift], seen: list[Resource]) -> None:
        """Judge a recorded resource; what agrees or has progressed is noted as it was seen."""
        if one is None:
            found.append(_drift(resource, None, Resolution.MISSING))
            return
        if isinstance(one, Unreadable):
            found.append(_unmapped(resource, one))
            return
        resolution = judged(resource, one)
        if resolution is not None:
            found.append(_drift(resource, str(one.status), resolution, differing(resource, one)))
        if resolution in (None, Resolution.PROGRESSED):
            body = canonical(resource_json(one))
            seen.append(
                replace(
                    resource, status=str(one.status), raw=one.raw_status, body=body, live=one.status in LIVE
                )
            )

    async def _unrecorded(
        self, tenant: Tenant, adapter: str, kind: str, one: Deployment | Order | Unreadable
    ) -> list[Drift]:
        """Judge what is not recorded as live."""
        name = (tenant, adapter, kind, one.id)
        if isinstance(one, Unreadable):
            known = await self._store.resource(*name)
            if known is None:  # nobody knows whether it is live, or whose it is
                return [_drift_of(*name, None, one.raw_status, Resolution.UNMAPPED, _word(None, one))]
            return [_unmapped(known, one)]
        live = one.status in LIVE
        if not live and name in self._settled:
            return []
        state = await self._state_of(tenant, one.client_id)
        if state is not None and state is not CommandState.CONFIRMED:
            if state is not CommandState.REFUSED:
                return []  # it is just being found out about
            return [_drift_of(*name, str(state), str(one.status), Resolution.CONTRADICTS)]
        known = await self._store.resource(tenant, adapter, kind, one.id)
        if known is not None and live and not known.live:
            return [_drift(known, str(one.status), Resolution.CONTRADICTS, differing(known, one))]
        if known is None and live:
            return [_drift_of(*name, None, str(one.status), Resolution.UNRECORDED)]
        self._settled.add(name)
        return []

    async def _state_of(self, tenant: Tenant, client_id: str | None) -> CommandState | None:
        """Return the state of the command that has a client id, None when it is none of ours."""
        try:
            return (await self._store.command(tenant, CommandId(run_id(client_id or "")))).state
        except (NotFound, InvalidIdentifier):
            return None

    async def _is_news(self, drift: Drift) -> bool:
        """Whether a difference is another than was recorded last, or has come back after both had agreed."""
        last = await self._store.last_drift(drift.tenant, drift.adapter, drift.kind, drift.resource)
        if last is None or replace(last, time_us=0) != drift:
            return True
        known = await self._store.resource(drift.tenant, drift.adapter, drift.kind, drift.resource)
        return known is not None and known.seen_us > last.time_us


def _unreadable(records: Sequence[Unreadable]) -> dict[Name, Told]:
    """Return what of a list could not be read, by name; what has no id cannot be told from others like it."""
    return {(one.kind, one.id): one for one in records if one.id}


def _unmapped(resource: Resource, one: Unreadable) -> Drift:
    return _drift(resource, one.raw_status, Resolution.UNMAPPED, _word(resource.raw or None, one))


def _word(recorded: str | None, one: Unreadable) -> Mapping[str, Any]:
    """Return as a change the provider's word that is not known, or where it is not about a word what is."""
    if one.raw_status is None:
        return {"record": {"recorded": None, "provider": one.message}}
    return {"rawStatus": {"recorded": recorded, "provider": one.raw_status}}


def _drift(
    resource: Resource, provider: str | None, resolution: Resolution, changes: Mapping[str, Any] | None = None
) -> Drift:
    name = (resource.tenant, resource.adapter, resource.kind, resource.id)
    return _drift_of(*name, resource.status, provider, resolution, changes)


def _drift_of(
    tenant: Tenant,
    adapter: str,
    kind: str,
    resource: str,
    previous: str | None,
    provider: str | None,
    resolution: Resolution,
    changes: Mapping[str, Any] | None = None,
) -> Drift:
    told = canonical(changes or {}).decode()
    return Drift(tenant, adapter, kind, resource, previous, provider, str(resolution), changes=told)
