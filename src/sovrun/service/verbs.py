"""The engine's verbs over HTTP: what workers and the command line ask of the store's owner."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from sovrun.core.actions import Answer, CancelRun, Decide
from sovrun.core.canonical import parse
from sovrun.core.errors import InvalidIdentifier, InvalidValue, NotFound, PayloadTooLarge
from sovrun.core.ids import Actor, Tenant
from sovrun.service.callers import actor_of, tenant_of
from sovrun.store.protocol import Governance, Registration, Store, Submission
from sovrun.stores.remote.store import PATIENCE_MAX_US
from sovrun.stores.remote.values import from_json, to_json
from sovrun.stores.remote.verbs import VERBS

BODY_MAX = 64 << 20


def router_of(store: Store) -> APIRouter:
    """Return the routes of the engine's verbs."""
    router = APIRouter(prefix="/api/v1/engine", tags=["engine"])

    @router.post("/{verb}")
    async def call(verb: str, request: Request) -> JSONResponse:
        arguments = await _arguments(verb, request)
        work = asyncio.ensure_future(getattr(store, verb)(*_positional(verb, arguments), **arguments))
        if arguments.get("patience_us"):
            await _unless_gone(request, work)
        return JSONResponse(to_json(await work))

    return router


async def _arguments(verb: str, request: Request) -> dict[str, Any]:
    known = VERBS.get(verb)
    if known is None:
        raise NotFound(f"the engine has no verb {verb}")
    body = await request.body()
    if len(body) > BODY_MAX:
        raise PayloadTooLarge(f"the request has more than {BODY_MAX >> 20} MiB")
    sent = parse(body)
    if not isinstance(sent, dict) or not set(sent) <= set(known.arguments):
        raise InvalidValue(f"{verb} takes {', '.join(known.arguments) or 'nothing'}")
    arguments = {name: from_json(known.arguments[name], value) for name, value in sent.items()}
    tenant, actor = tenant_of(request), actor_of(request)
    arguments = {name: _signed(value, actor) for name, value in arguments.items()}
    for value in arguments.values():
        _require_tenant(value, tenant)
    if arguments.get("tenant", tenant) != tenant:
        raise InvalidIdentifier("the request names another tenant than X-Tenant-Id")
    if "patience_us" in arguments:
        arguments["patience_us"] = min(arguments["patience_us"], PATIENCE_MAX_US)
    return arguments


def _signed(value: Any, actor: Actor) -> Any:
    """Return a request with the caller's own name in it, whatever it said."""
    if isinstance(value, Registration | Submission | Governance | Answer | Decide | CancelRun):
        return replace(value, actor=actor)
    return value


def _require_tenant(value: Any, tenant: Tenant) -> None:
    if (
        isinstance(value, Registration | Submission | Governance | Answer | Decide | CancelRun)
        and value.tenant != tenant
    ):
        raise InvalidIdentifier("the request names another tenant than X-Tenant-Id")


def _positional(verb: str, arguments: dict[str, Any]) -> list[Any]:
    """Take out of `arguments` what the verb takes by position."""
    by_name = {"patience_us", "slots", "worker", "payloads", "limit", "before", "after"}
    named = {"claim": {"patience_us"}, "renew": set(), "pending": {"patience_us"}}.get(verb, by_name)
    return [arguments.pop(name) for name in VERBS[verb].arguments if name in arguments and name not in named]


async def _unless_gone(request: Request, work: asyncio.Future[Any]) -> None:
    """Wait for a call that takes its time; give it up when the caller goes away, so that nothing is handed to nobody."""
    while not work.done():
        await asyncio.wait([work], timeout=0.5)
        if not work.done() and await request.is_disconnected():
            work.cancel()
            raise NotFound("the caller went away")
