"""Drift: what is recorded of live deployments and orders beside what their provider says now.

Owns: `DriftWatch`, `Comparison`, `judged`. A difference is recorded once, and nothing is repaired: where a live resource went on by
itself the record follows it, all else is a person's.
Must not touch: effects; commands without an outcome are `execution.layer`'s to find out about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
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
)
from sovrun.execution.sightings import resource_json
from sovrun.store.journal import Drift, Resource
from sovrun.store.protocol import Store

READ_US: Final = 10_000_000
"""How long one read of a provider may take."""

Seen: TypeAlias = Deployment | Order
_SAME: Final = ("clientId", "symbol", "side", "orderType", "quantity", "price", "name")
"""Members that never change; where one is not told, nothing is compared."""
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


def judged(resource: Resource, seen: Seen) -> Resolution | None:
    """Return what the difference between a record and what the provider tells is, None when there is none."""
    before: Mapping[str, Any] = decode(resource.body)
    after = resource_json(seen)
    if any(
        before.get(name) is not None and after.get(name) is not None and before[name] != after[name]
        for name in _SAME
    ):
        return Resolution.CONTRADICTS
    if "filled" in before and "filled" in after and Decimal(after["filled"]) < Decimal(before["filled"]):
        return Resolution.CONTRADICTS
    status = str(seen.status)
    if status == resource.status:
        return None
    if not resource.live or (resource.status == _ENDING and status in _GOING_ON):
        return Resolution.CONTRADICTS
    return Resolution.PROGRESSED


class DriftWatch:
    """Compares the providers of one store with its records."""

    def __init__(self, store: Store, adapters: AdapterSet) -> None:
        self._store = store
        self._adapters = adapters
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
            return await self._compared(tenant, adapter)

    async def _compared(self, tenant: Tenant, adapter: str) -> Comparison:
        try:
            reads = self._adapters.reads(tenant, adapter)
            before = await self._store.resources(tenant, adapter=adapter, live=True)
            told = await self._told(reads, tenant)
            missing = await self._missing(reads, before, told)
        except (AdapterUnavailable, OutcomeUnknown, TimeoutError) as error:
            return Comparison(tenant, adapter, unreachable=str(error) or "no answer in time")
        found: list[Drift] = []
        seen: list[Resource] = []
        live = {(resource.kind, resource.id): resource for resource in before}
        for kind, one in [*told.items(), *missing.items()]:
            if kind in live:
                self._weigh(live[kind], one, found, seen)
            elif one is not None:
                found += await self._unrecorded(tenant, adapter, kind[0], one)
        news = [drift for drift in found if await self._is_news(drift)]
        if news or seen:
            await self._store.note_drifts(news, seen=seen)
        return Comparison(tenant, adapter, len(before), tuple(news))

    async def _told(self, reads: AdapterReads, tenant: Tenant) -> dict[tuple[str, str], Seen | None]:
        call = Call(tenant, ENGINE, timeout_us=READ_US)
        told: dict[tuple[str, str], Seen | None] = {}
        async with asyncio.timeout(2 * READ_US / 1e6):
            if "order" in reads.capabilities.resources:
                told.update({("order", order.id): order for order in await reads.list_orders(call)})
            if "deployment" in reads.capabilities.resources:
                listed = await reads.list_deployments(call)
                told.update({("deployment", deployment.id): deployment for deployment in listed})
        return told

    async def _missing(
        self, reads: AdapterReads, before: Sequence[Resource], told: Mapping[tuple[str, str], Seen | None]
    ) -> dict[tuple[str, str], Seen | None]:
        """Ask by their ids for what the lists do not have: some providers list only what is open."""
        asked: dict[tuple[str, str], Seen | None] = {}
        for resource in before:
            name = (resource.kind, resource.id)
            if name in told or resource.kind not in reads.capabilities.resources:
                continue
            call = Call(resource.tenant, ENGINE, timeout_us=READ_US)
            async with asyncio.timeout(2 * READ_US / 1e6):
                asked[name] = await (
                    reads.get_order(call, resource.id)
                    if resource.kind == "order"
                    else reads.get_deployment(call, resource.id)
                )
        return asked

    def _weigh(self, resource: Resource, one: Seen | None, found: list[Drift], seen: list[Resource]) -> None:
        """Judge a recorded resource; what agrees or has progressed is noted as it was seen."""
        resolution = Resolution.MISSING if one is None else judged(resource, one)
        if resolution is not None:
            status = None if one is None else str(one.status)
            found.append(_drift(resource, resource.status, status, resolution))
        if one is not None and resolution in (None, Resolution.PROGRESSED):
            body = canonical(resource_json(one))
            seen.append(
                replace(
                    resource, status=str(one.status), raw=one.raw_status, body=body, live=one.status in LIVE
                )
            )

    async def _unrecorded(self, tenant: Tenant, adapter: str, kind: str, one: Seen) -> list[Drift]:
        """Judge what is not recorded as live."""
        name = (tenant, adapter, kind, one.id)
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
            return [_drift_of(*name, known.status, str(one.status), Resolution.CONTRADICTS)]
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


def _drift(resource: Resource, previous: str, provider: str | None, resolution: Resolution) -> Drift:
    return _drift_of(
        *(resource.tenant, resource.adapter, resource.kind, resource.id, previous, provider), resolution
    )


def _drift_of(
    tenant: Tenant,
    adapter: str,
    kind: str,
    resource: str,
    previous: str | None,
    provider: str | None,
    resolution: Resolution,
) -> Drift:
    return Drift(tenant, adapter, kind, resource, previous, provider, str(resolution))
