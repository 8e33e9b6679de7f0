"""Commands, and what they act on, as REST resources."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from sovrun.core.canonical import parse
from sovrun.core.commands.gates import AdapterLimits, AdapterLimitsChange
from sovrun.core.commands.journal import UNRESOLVED, CommandId, CommandState
from sovrun.core.errors import IdempotencyKeyInFlight, ProviderUnavailable
from sovrun.core.ids import run_id
from sovrun.engine.command_desk import CommandDesk, Verdict
from sovrun.engine.command_views import (
    adapter_json,
    adapter_limits_json,
    command_json,
    compared_json,
    comparison_json,
    drift_json,
    kind_json,
    recorded_json,
    switch_json,
    whole_command_json,
)
from sovrun.execution.drift import DriftWatch
from sovrun.execution.kinds import kind_named, kinds_of
from sovrun.execution.layer import Answered, CommandLayer, CommandRequest
from sovrun.execution.port import Call, OutcomeUnknown
from sovrun.execution.sightings import listing_json, portfolio_json
from sovrun.service.callers import actor_of, tenant_of
from sovrun.service.idempotency import key_of
from sovrun.store.protocol import Store

WAIT_MAX: Final = 60
RATIONALE: Final = 16_384
RETRY_AFTER: Final = {"Retry-After": "1"}
Wait = Annotated[float, Query(ge=0, le=WAIT_MAX)]
Found = TypeVar("Found")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewCommand(_Body):
    """One effect that is wanted outside."""

    kind: str = Field(max_length=200)
    adapter: str = Field(max_length=200)
    mode: str = Field(default="paper", max_length=200)
    payload: dict[str, Any]


class Resolution(_Body):
    """What a person says became of a command."""

    verdict: Literal["confirmed", "refused", "resend"]
    rationale: str = Field(max_length=RATIONALE)
    resourceId: str | None = Field(default=None, max_length=128)  # noqa: N815 -- the published name


class SwitchMove(_Body):
    """A kill switch is tripped or reset, of the tenant or of everybody."""

    tripped: bool
    everybody: bool = False
    rationale: str = Field(max_length=RATIONALE)


@dataclass(frozen=True, slots=True)
class _Parts:
    router: APIRouter
    store: Store
    layer: CommandLayer
    desk: CommandDesk


def router_of(store: Store, layer: CommandLayer, watch: DriftWatch) -> APIRouter:
    """Return the routes of commands.

    Args:
        layer: performs the commands of the store; watch: compares its providers with what is recorded.
    """
    parts = _Parts(APIRouter(prefix="/api/v1", tags=["commands"]), store, layer, CommandDesk(store))
    _add_performing(parts)
    _add_commands(parts)
    _add_guards(parts)
    _add_reads(parts)
    _add_drift(parts.router, store, watch)
    return parts.router


def _add_performing(parts: _Parts) -> None:
    router, store, layer = parts.router, parts.store, parts.layer

    @router.post("/commands")
    async def perform(body: NewCommand, request: Request, wait: Wait = 10) -> Response:
        """Perform a command, or answer with what is recorded of the one under the same key, byte for byte."""
        # A member that stands twice is an error, where the framework takes the last.
        parse(await request.body())
        tenant = tenant_of(request)
        asked = CommandRequest(
            *(tenant, body.kind, body.adapter, body.payload, actor_of(request), body.mode),
            key=key_of(request.headers),
        )
        intent = await layer.begin(asked)
        name = intent.command.id
        replayed = {} if intent.created else {"Idempotent-Replayed": "true"}
        try:
            answered = await layer.answer(tenant, name, patience_us=int(wait * 1_000_000))
        except IdempotencyKeyInFlight:
            if not intent.created:
                raise
            command = await store.command(tenant, name)
            return JSONResponse(command_json(command), 202, headers=_place(name) | RETRY_AFTER)
        return _recorded(answered, _place(name) | replayed)

    @router.get("/commands/{command}/answer")
    async def answer(command: str, request: Request, wait: Wait = 0) -> Response:
        """Return the recorded answer of a command, byte for byte."""
        tenant, name = tenant_of(request), CommandId(run_id(command))
        return _recorded(await layer.answer(tenant, name, patience_us=int(wait * 1_000_000)), {})


def _recorded(answered: Answered, headers: dict[str, str]) -> Response:
    return Response(answered.body, media_type="application/json", headers=headers)


def _place(command: CommandId) -> dict[str, str]:
    return {"Location": f"/api/v1/commands/{command}"}


def _add_commands(parts: _Parts) -> None:
    router, store, desk = parts.router, parts.store, parts.desk

    @router.get("/commands")
    async def commands(
        request: Request,
        state: Annotated[list[CommandState] | None, Query()] = None,
        unresolved: Annotated[bool, Query()] = False,  # noqa: FBT002 -- a parameter of the query
        run: str | None = None,
        before: Annotated[int | None, Query(ge=0)] = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> dict[str, Any]:
        """List commands, latest first; `next` is the `before` of the next page."""
        states = UNRESOLVED if unresolved else state
        found = await store.commands(
            tenant_of(request),
            limit=limit,
            before=before,
            states=states,
            run=None if run is None else run_id(run),
        )
        return {
            "commands": [command_json(command) for _, command in found],
            "next": found[-1][0] if len(found) == limit else None,
        }

    @router.get("/commands/{command}")
    async def one(command: str, request: Request) -> dict[str, Any]:
        """Show a command with its payload, its answer and its history."""
        found = await store.command(tenant_of(request), CommandId(run_id(command)))
        return await whole_command_json(store, found)

    @router.post("/commands/{command}/resolution")
    async def resolve(command: str, body: Resolution, request: Request) -> dict[str, Any]:
        """Say what became of a command whose outcome is unknown."""
        resolved = await desk.resolve(
            tenant_of(request),
            CommandId(run_id(command)),
            Verdict(body.verdict),
            actor=actor_of(request),
            rationale=body.rationale,
            resource=body.resourceId,
        )
        return command_json(resolved)


def _add_guards(parts: _Parts) -> None:
    router, store, desk = parts.router, parts.store, parts.desk

    @router.get("/switches")
    async def switches(request: Request) -> dict[str, Any]:
        """Show the kill switches that concern the tenant and were ever moved."""
        found = await store.switches(tenant_of(request))
        return {"switches": [await switch_json(store, switch) for switch in found]}

    @router.get("/switches/history")
    async def moves(request: Request, limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> dict[str, Any]:
        """List how the kill switches that concern the tenant were moved, latest first."""
        found = await store.switch_moves(tenant_of(request), limit=limit)
        return {"moves": [await switch_json(store, switch) for switch in found]}

    @router.post("/switches")
    async def move(body: SwitchMove, request: Request) -> dict[str, Any]:
        """Trip or reset a kill switch."""
        whose = None if body.everybody else tenant_of(request)
        moved = await desk.move_switch(whose, actor_of(request), body.rationale, tripped=body.tripped)
        return await switch_json(store, moved)

    @router.get("/adapters/{adapter}/limits")
    async def limits(adapter: str, request: Request) -> dict[str, Any]:
        """Show what the tenant may do through an adapter."""
        found = await store.adapter_limits(tenant_of(request))
        return adapter_limits_json(adapter, found.get(adapter, AdapterLimits()))

    @router.put("/adapters/{adapter}/limits")
    async def limit(adapter: str, body: dict[str, Any], request: Request) -> dict[str, Any]:
        """Set all of what the tenant may do through an adapter."""
        change = AdapterLimitsChange.to(AdapterLimits.of(body))
        after = await desk.limit(tenant_of(request), adapter, change, actor_of(request))
        return adapter_limits_json(adapter, after)


def _add_reads(parts: _Parts) -> None:
    router, store, adapters = parts.router, parts.store, parts.layer.adapters

    @router.get("/command-kinds")
    async def kinds(request: Request) -> dict[str, Any]:
        """List the kinds of commands that the tenant can ask for, each with the adapters that take it."""
        return {"kinds": [kind_json(one) for one in kinds_of(adapters, tenant_of(request))]}

    @router.get("/command-kinds/{kind}")
    async def schema(
        kind: str, request: Request, adapter: Annotated[str | None, Query(max_length=200)] = None
    ) -> dict[str, Any]:
        """Return the JSON Schema of a kind's payload."""
        return dict(kind_named(adapters, tenant_of(request), kind, adapter).schema)

    @router.get("/adapters")
    async def all_adapters(request: Request) -> dict[str, Any]:
        """List the tenant's adapters and what may be relied on of each."""
        tenant = tenant_of(request)
        return {"adapters": [adapter_json(adapters.reads(tenant, name)) for name in adapters.names(tenant)]}

    @router.get("/adapters/{adapter}/orders")
    async def orders(adapter: str, request: Request) -> dict[str, Any]:
        """List the orders at the provider, as it tells of them now."""
        tenant = tenant_of(request)
        call = Call(tenant, actor_of(request))
        found = await answered(adapters.reads(tenant, adapter).list_orders(call), adapter)
        return listing_json("orders", found)

    @router.get("/adapters/{adapter}/deployments")
    async def deployments(adapter: str, request: Request) -> dict[str, Any]:
        """List the deployments at the provider, as it tells of them now."""
        tenant = tenant_of(request)
        call = Call(tenant, actor_of(request))
        found = await answered(adapters.reads(tenant, adapter).list_deployments(call), adapter)
        return listing_json("deployments", found)

    @router.get("/adapters/{adapter}/portfolio")
    async def portfolio(adapter: str, request: Request) -> dict[str, Any]:
        """Show cash and positions at the provider."""
        tenant = tenant_of(request)
        call = Call(tenant, actor_of(request))
        return portfolio_json(await answered(adapters.reads(tenant, adapter).portfolio(call), adapter))

    @router.get("/resources")
    async def resources(
        request: Request,
        adapter: str | None = None,
        live: bool = False,  # noqa: FBT001, FBT002 -- a parameter of the query
    ) -> dict[str, Any]:
        """List what the tenant's commands have made, as it was last seen."""
        found = await store.resources(tenant_of(request), adapter=adapter, live=live)
        return {"resources": [recorded_json(resource) for resource in found]}


def _add_drift(router: APIRouter, store: Store, watch: DriftWatch) -> None:
    @router.get("/drifts")
    async def drifts(request: Request, limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> dict[str, Any]:
        """List the differences between records and providers, latest first, and when each provider was last compared."""
        tenant = tenant_of(request)
        found = await store.drifts(tenant, limit=limit)
        providers = [compared_json(one) for one in await store.comparisons(tenant)]
        return {"drifts": [drift_json(drift) for drift in found], "providers": providers}

    @router.post("/drifts")
    async def compare(request: Request) -> dict[str, Any]:
        """Compare the tenant's providers with what is recorded now."""
        compared = await watch.compare_tenant(tenant_of(request))
        return {"comparisons": [comparison_json(one) for one in compared]}


async def answered(read: Awaitable[Found], adapter: str) -> Found:
    """Return what a provider answers to a read. Raises: ProviderUnavailable."""
    try:
        return await read
    except OutcomeUnknown as unknown:
        raise ProviderUnavailable(
            f"{adapter}: {unknown}", adapter=adapter, reason=unknown.reason
        ) from unknown
