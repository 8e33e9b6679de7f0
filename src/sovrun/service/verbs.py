"""The engine's verbs over HTTP: what workers and the command line ask of the store's owner."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final, get_args

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from sovrun.core.actions import Action, Answer, CancelRun, Decide
from sovrun.core.canonical import canonical, parse, sha256_hex
from sovrun.core.commands.gates import Switch
from sovrun.core.commands.journal import PERSON, Confirmed, Intention, Refused
from sovrun.core.errors import InvalidIdentifier, InvalidValue, NotFound
from sovrun.core.identity import dag_version, run_id_of
from sovrun.core.ids import Actor, Tenant
from sovrun.core.spec.normal import spec_from_normal
from sovrun.engine.isolation import require_isolation
from sovrun.service import incidents
from sovrun.service.callers import actor_of, tenant_of
from sovrun.store.journal import Compared, Drift, Resource
from sovrun.store.payload import Payload
from sovrun.store.protocol import Committed, Governance, Lease, Registration, Report, Store, Submission
from sovrun.stores.remote.store import PATIENCE_MAX_US
from sovrun.stores.remote.values import from_json, to_json
from sovrun.stores.remote.verbs import VERBS

_NAMING_A_TENANT: Final = (
    *(Registration, Submission, Governance, Intention, Resource, Drift, Compared),
    *get_args(Action),
)
_AT_MOST: Final = {"patience_us": PATIENCE_MAX_US, "limit": 10_000, "slots": 1_024}
"""Larger numbers than these mean these."""
_NAMED: Final[Mapping[str, AbstractSet[str]]] = {
    "claim": {"patience_us"},
    "renew": set(),
    "pending": {"patience_us"},
    "note": {"actor", "payloads", "resource"},
    "set_adapter_limits": {"actor"},
    "note_drifts": {"seen", "compared"},
    "commands": {"limit", "before", "states", "run"},
    "resources": {"adapter", "live"},
    "entries": set(),
}
"""Where it is not as for most verbs: the arguments that go by name."""


def router_of(store: Store, isolation: str) -> APIRouter:
    """Return the routes of the engine's verbs; `isolation` is that of the workers beside it."""
    router = APIRouter(prefix="/api/v1/engine", tags=["engine"])

    @router.post("/{verb}")
    async def call(verb: str, request: Request) -> JSONResponse:
        """Carry out one verb of the store's protocol."""
        arguments = await _arguments(verb, request)
        if verb == "submit":
            require_isolation(arguments["submission"].isolation, isolation)
        reports: Sequence[Report] = arguments.get("reports", ())
        patient = bool(arguments.get("patience_us"))
        work = asyncio.ensure_future(getattr(store, verb)(*_positional(verb, arguments), **arguments))
        if patient:
            await _unless_gone(request, work)
        answer = await work
        if isinstance(answer, Committed) and answer.lost:
            await _tell_of_late(store, reports, answer.lost)
        return JSONResponse(to_json(answer))

    return router


async def _tell_of_late(store: Store, reports: Sequence[Report], lost: Sequence[Lease]) -> None:
    for report in reports:
        if report.lease in lost:
            await incidents.late_report(store, report)


async def _arguments(verb: str, request: Request) -> dict[str, Any]:
    known = VERBS.get(verb)
    if known is None:
        raise NotFound(f"the engine has no verb {verb[:80]}")
    tenant, actor = tenant_of(request), actor_of(request)
    sent = parse(await request.body())
    if not isinstance(sent, dict) or set(sent) != set(known.arguments):
        raise InvalidValue(f"{verb} takes {', '.join(known.arguments) or 'nothing'}")
    arguments = {
        name: _signed(from_json(known.arguments[name], value), actor) for name, value in sent.items()
    }
    for name, value in arguments.items():
        _require_tenant(value, tenant)
        _require_true(value)
        _require_person(value)
        if name in _AT_MOST:
            arguments[name] = min(value, _AT_MOST[name])
    if "actor" in arguments:
        arguments["actor"] = actor
    if arguments.get("tenant", tenant) != tenant:
        raise InvalidIdentifier("the request names another tenant than X-Tenant-Id")
    return arguments


def _signed(value: Any, actor: Actor) -> Any:
    """Return a request with the caller's own name in it, whatever it said."""
    if isinstance(
        value, Registration | Submission | Governance | Answer | Decide | CancelRun | Intention | Switch
    ):
        return replace(value, actor=actor)
    return value


def _require_tenant(value: Any, tenant: Tenant) -> None:
    """Refuse a request for another tenant; workers' leases and reports are of all tenants."""
    for item in value if isinstance(value, list) else [value]:
        named = isinstance(item, _NAMING_A_TENANT) or (isinstance(item, Switch) and item.tenant is not None)
        if named and item.tenant != tenant:
            raise InvalidIdentifier("the request names another tenant than X-Tenant-Id")


def _require_person(value: Any) -> None:
    """Refuse to conclude a command otherwise than by a person's word: what a provider said, the owner notes itself."""
    if isinstance(value, Confirmed | Refused) and value.how != PERSON:
        raise InvalidValue(f"a command is concluded here by a {PERSON} only, not as {value.how!r:.40}")


def _require_true(value: Any) -> None:
    """Refuse digests that are not of what they are sent with: nobody could find out later. Raises: InvalidValue."""
    payloads: list[Payload] = []
    if isinstance(value, list):
        for item in value:
            payloads += (
                item.payloads if isinstance(item, Report) else [item] if isinstance(item, Payload) else []
            )
    elif isinstance(value, Submission):
        payloads = [value.inputs] if value.note is None else [value.inputs, value.note]
        if value.id != run_id_of(value.token):
            raise InvalidValue("the run's id is not the beginning of its token")
    elif isinstance(value, Registration):
        _require_document(value)
    for payload in payloads:
        if payload.body is not None and sha256_hex(payload.body) != payload.digest:
            raise InvalidValue(f"{payload.digest} is not the digest of its payload")


def _require_document(registration: Registration) -> None:
    normal: Any = parse(registration.normal)
    try:
        same = spec_from_normal(normal).id == registration.dag and canonical(normal) == registration.normal
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidValue(f"the document is not of the normal form: {error!r:.200}") from error
    if not same or dag_version(normal, registration.code) != registration.version:
        raise InvalidValue("the DAG's version is not the digest of its document and code")


def _positional(verb: str, arguments: dict[str, Any]) -> list[Any]:
    """Take out of `arguments` what the verb takes by position."""
    by_name = {"patience_us", "slots", "worker", "payloads", "limit", "before", "after"}
    named = _NAMED.get(verb, by_name)
    return [arguments.pop(name) for name in VERBS[verb].arguments if name in arguments and name not in named]


async def _unless_gone(request: Request, work: asyncio.Future[Any]) -> None:
    """Wait for a call that takes its time; give it up when the caller goes away, so that nothing is handed to nobody."""
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise NotFound("the caller went away")
    finally:
        gone.cancel()
        work.cancel()  # without effect when it is done


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
