"""Runs, waits and queues as REST resources."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from sovrun.core.canonical import decode
from sovrun.core.identity import RunKey
from sovrun.core.ids import Digest, RunId, StepId, Tenant, digest, idempotency_key, run_id
from sovrun.core.lifecycle import State
from sovrun.core.spec.normal import spec_from_normal
from sovrun.engine.command_views import parked_json
from sovrun.engine.desk import Desk
from sovrun.engine.handler import RunRequest, known_dag, submission_of
from sovrun.engine.isolation import require_isolation
from sovrun.engine.queues import queue_of
from sovrun.engine.views import run_json, run_summary, tenant_queue_json, wait_json
from sovrun.ports import Files, Identity
from sovrun.service.callers import actor_of, tenant_of
from sovrun.store.codec import shown
from sovrun.store.protocol import PRIORITY_DEFAULT, Store

PAGE = 2_000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewRun(_Body):
    """A run to be made of a registered DAG version."""

    dagVersion: str  # noqa: N815 -- the published name
    inputs: dict[str, Any] = Field(default_factory=dict)
    idempotencyKey: str | None = None  # noqa: N815
    note: str | None = Field(default=None, max_length=16_384)
    priority: int = Field(default=PRIORITY_DEFAULT, ge=0, le=1_000_000)


class NewAnswer(_Body):
    """A tool's answer: an output or a failure."""

    output: Any = None
    failure: str | None = Field(default=None, max_length=16_384)


class Decision(_Body):
    """A person's decision on exactly what has the digest `shown`."""

    approve: bool
    shown: str
    rationale: str | None = Field(default=None, max_length=16_384)
    roles: list[str] = Field(default_factory=list, max_length=64)


class Cancellation(_Body):
    """Why a run is to end now."""

    note: str | None = Field(default=None, max_length=16_384)


class NewRerun(_Body):
    """What of a run is to be executed again."""

    fromStep: str | None = None  # noqa: N815
    repeatEffects: list[str] = Field(default_factory=list, max_length=100_000)  # noqa: N815
    idempotencyKey: str | None = None  # noqa: N815
    note: str | None = Field(default=None, max_length=16_384)


def router_of(store: Store, files: Files, identity: Identity, isolation: str) -> APIRouter:
    """Return the routes of runs, waits and queues."""
    router = APIRouter(prefix="/api/v1", tags=["runs"])
    desk = Desk(store, files)

    @router.post("/runs", status_code=201)
    async def new_run(body: NewRun, request: Request) -> dict[str, Any]:
        """Make a run."""
        tenant = tenant_of(request)
        dag = await store.dag(tenant, digest(body.dagVersion))
        known = known_dag(tenant, spec_from_normal(decode(dag.normal)), dag.code, dag.source)
        caller = body.idempotencyKey
        key = RunKey(fresh=identity.fresh()) if caller is None else RunKey(caller=idempotency_key(caller))
        asked = RunRequest(known, body.inputs, key, actor_of(request), isolation, body.note, body.priority)
        submission, inputs = submission_of(asked)
        if submission.inputs.body is None:
            files.put(tenant, submission.inputs.digest, inputs)
        submitted = await store.submit(submission)
        made = await run_summary(store, await store.run(tenant, submitted.run))
        return {**made, "created": submitted.created}

    @router.get("/runs")
    async def runs(request: Request, limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> dict[str, Any]:
        """List runs, latest first."""
        found = await store.runs(tenant_of(request), limit=limit)
        return {"runs": [await run_summary(store, record) for record in found]}

    @router.get("/runs/{run}")
    async def one_run(run: str, request: Request) -> dict[str, Any]:
        """Show a run with its steps."""
        return await run_json(store, await store.run(tenant_of(request), run_id(run)))

    @router.get("/runs/{run}/events")
    async def events(run: str, request: Request, after: Annotated[int, Query(ge=0)] = 0) -> StreamingResponse:
        """Return the history of a run as NDJSON."""
        tenant, found = tenant_of(request), run_id(run)
        await store.run(tenant, found)
        return StreamingResponse(_lines(store, tenant, found, after), media_type="application/x-ndjson")

    _add_actions(router, store, desk, isolation)
    _add_lists(router, store, desk)
    return router


def _add_actions(router: APIRouter, store: Store, desk: Desk, isolation: str) -> None:
    @router.post("/runs/{run}/cancel")
    async def cancel(run: str, body: Cancellation, request: Request) -> dict[str, Any]:
        """End a run now."""
        acted = await desk.cancel(tenant_of(request), run_id(run), actor_of(request), body.note)
        return _acted(acted.changed, acted.state)

    @router.post("/runs/{run}/rerun", status_code=201)
    async def rerun(run: str, body: NewRerun, request: Request) -> dict[str, Any]:
        """Make a new run that cites this one and reuses what is unchanged."""
        start = None if body.fromStep is None else StepId(body.fromStep)
        tenant = tenant_of(request)
        require_isolation((await store.run(tenant, run_id(run))).isolation, isolation)
        key = None if body.idempotencyKey is None else idempotency_key(body.idempotencyKey)
        asked = (tenant, run_id(run), actor_of(request))
        repeated = tuple(map(StepId, body.repeatEffects))
        made = await desk.rerun(*asked, from_step=start, note=body.note, key=key, repeat_effects=repeated)
        return {**await run_summary(store, await store.run(tenant, made.run)), "created": made.created}

    @router.post("/runs/{run}/steps/{step}/answer")
    async def answer(run: str, step: str, body: NewAnswer, request: Request) -> dict[str, Any]:
        """Answer a `tool` step."""
        name = (tenant_of(request), run_id(run), StepId(step), actor_of(request))
        acted = await desk.answer(*name, output=body.output, failure=body.failure)
        return _acted(acted.changed, acted.state)

    @router.post("/runs/{run}/steps/{step}/decision")
    async def decide(run: str, step: str, body: Decision, request: Request) -> dict[str, Any]:
        """Approve or reject a `confirm` step."""
        acted = await desk.decide(
            *(tenant_of(request), run_id(run), StepId(step), actor_of(request)),
            roles=frozenset(body.roles),
            approve=body.approve,
            shown=Digest(digest(body.shown)),
            rationale=body.rationale,
        )
        return _acted(acted.changed, acted.state)


def _add_lists(router: APIRouter, store: Store, desk: Desk) -> None:
    @router.get("/waits")
    async def waits(request: Request) -> dict[str, Any]:
        """List what waits for whom, since when, until when."""
        tenant = tenant_of(request)
        return {
            "waits": [wait_json(view) for view in await desk.waiting(tenant)],
            "commands": [parked_json(view) for view in await desk.parked(tenant)],
        }

    @router.get("/queue")
    async def queue(request: Request) -> dict[str, Any]:
        """Show what waits and executes of the tenant, in all and by DAG, since when, and why runs wait."""
        tenant = tenant_of(request)
        return tenant_queue_json(tenant, await queue_of(store, tenant))


def _acted(changed: bool, state: State) -> dict[str, Any]:  # noqa: FBT001 -- members of one answer
    return {"changed": changed, "status": str(state)}


async def _lines(store: Store, tenant: Tenant, run: RunId, after: int) -> AsyncIterator[bytes]:
    while page := await store.events(tenant, run, after=after, limit=PAGE):
        after = page[-1].sequence
        yield b"".join(orjson.dumps(shown(event)) + b"\n" for event in page)
