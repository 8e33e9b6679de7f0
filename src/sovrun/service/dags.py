"""DAGs, and what an operator allows them and their tenant, as REST resources."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sovrun.core.canonical import parse
from sovrun.core.errors import CodeUnavailable, InvalidSetting
from sovrun.core.identity import code_digest
from sovrun.core.ids import DagId, Tenant, digest, require_name
from sovrun.core.lanes import LIMIT_MAX, WEIGHT_MAX, Bound, LimitsChange
from sovrun.core.spec.document import parse_dag
from sovrun.engine.desk import Desk
from sovrun.engine.handler import KnownDag, known_dag, registration_of
from sovrun.engine.views import governed_json
from sovrun.ports import Files
from sovrun.service.callers import actor_of, tenant_of
from sovrun.store.protocol import Governance, Store


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewDag(_Body):
    """A DAG version to be known: its document as a text, in YAML or JSON, and whose code it has."""

    document: str
    codeOf: str | None = None  # noqa: N815 -- the published name


class DagLimitsPatch(_Body):
    """What is to be allowed otherwise; what is left out stays as it is, and a number that is null has no bound."""

    paused: bool | None = None
    runsMax: int | None = Field(default=None, ge=1, le=LIMIT_MAX)  # noqa: N815
    stepsMax: int | None = Field(default=None, ge=1, le=LIMIT_MAX)  # noqa: N815
    note: str | None = Field(default=None, max_length=16_384)

    @field_validator("paused")
    @classmethod
    def _is_said(cls, paused: bool | None) -> bool:  # noqa: FBT001 -- a member of the body
        if paused is None:
            raise ValueError("true or false; leave it out to leave it as it is")
        return paused

    def change(self) -> LimitsChange:
        """Return the change that is asked for. Raises: InvalidSetting when it is none."""
        if not self.model_fields_set - {"note"}:
            known = ", ".join(name for name in type(self).model_fields if name != "note")
            raise InvalidSetting("nothing to change", hint=f"there are {known}")
        return LimitsChange(
            self.paused,
            Bound(self.runsMax) if "runsMax" in self.model_fields_set else None,
            Bound(self.stepsMax) if "stepsMax" in self.model_fields_set else None,
        )


class TenantLimitsPatch(DagLimitsPatch):
    """Likewise for the whole tenant, which has a weight besides: how many steps it takes in its turn."""

    weight: int | None = Field(default=None, ge=1, le=WEIGHT_MAX)

    @field_validator("weight")
    @classmethod
    def _is_weighed(cls, weight: int | None) -> int:
        if weight is None:
            raise ValueError("a number; leave it out to leave it as it is")
        return weight

    def change(self) -> LimitsChange:
        """Return the change that is asked for. Raises: InvalidSetting when it is none."""
        change = super().change()
        return LimitsChange(change.paused, change.runs_max, change.steps_max, self.weight)


def router_of(store: Store, files: Files) -> APIRouter:
    """Return the routes of DAGs and limits."""
    router = APIRouter(prefix="/api/v1", tags=["dags"])

    @router.post("/dags", status_code=201)
    async def register(body: NewDag, request: Request, response: Response) -> dict[str, Any]:
        """Check a DAG document and make its version known; 200 when it was already."""
        # A member that stands twice is an error, where the framework takes the last.
        parse(await request.body())
        known = await _known_of(store, files, tenant_of(request), body)
        created = await store.register(registration_of(known, actor_of(request)))
        response.status_code = 201 if created else 200
        return {
            "dagId": known.spec.id,
            "dagVersion": known.version,
            "codeDigest": known.code,
            "steps": [step.id for step in known.spec.steps],
            "created": created,
        }

    _add_limits(router, Desk(store, files))
    return router


async def _known_of(store: Store, files: Files, tenant: Tenant, body: NewDag) -> KnownDag:
    """Return the version that a body declares. Raises: InvalidSpec, NotFound, CodeUnavailable."""
    spec = await asyncio.to_thread(parse_dag, body.document.encode(), name="document")
    if body.codeOf is None:
        if spec.code != ():
            raise CodeUnavailable(
                "the document has code beside it, and a request has none",
                hint="say `code: []` where no step needs any, name with `codeOf` a version whose code it has, "
                "or register it with `sovrun submit`",
            )
        return known_dag(tenant, spec, code_digest(()))
    # Of the tenant's own versions: the digest of code alone would open that of others.
    like = await store.dag(tenant, digest(body.codeOf))
    if spec.code == () and like.code != code_digest(()):
        raise CodeUnavailable(
            "the document says that it has no code", hint="leave out `codeOf`, or `code: []` in the document"
        )
    await asyncio.to_thread(files.code, like.code)
    return known_dag(tenant, spec, like.code, like.source)


def _add_limits(router: APIRouter, desk: Desk) -> None:
    async def govern(
        request: Request, dag: str | None, body: DagLimitsPatch | TenantLimitsPatch
    ) -> dict[str, Any]:
        parse(await request.body())
        tenant = tenant_of(request)
        name = None if dag is None else DagId(require_name(dag, "DAG"))
        asked = Governance(tenant, name, body.change(), actor_of(request), body.note or "")
        governed = await desk.govern(asked)
        return {**governed_json(tenant, name, governed.limits), "changed": governed.changed}

    @router.get("/limits")
    async def of_tenant(request: Request) -> dict[str, Any]:
        """Show what an operator allows the tenant as a whole."""
        tenant = tenant_of(request)
        return governed_json(tenant, None, await desk.limits(tenant, None))

    @router.patch("/limits")
    async def change_tenant(body: TenantLimitsPatch, request: Request) -> dict[str, Any]:
        """Pause, unpause or limit the tenant; what is not named stays as it is."""
        return await govern(request, None, body)

    @router.get("/dags/{dag}/limits")
    async def of_dag(dag: str, request: Request) -> dict[str, Any]:
        """Show what an operator allows a DAG."""
        tenant = tenant_of(request)
        return governed_json(tenant, dag, await desk.limits(tenant, dag))

    @router.patch("/dags/{dag}/limits")
    async def change_dag(dag: str, body: DagLimitsPatch, request: Request) -> dict[str, Any]:
        """Pause, unpause or limit a DAG; what is not named stays as it is."""
        return await govern(request, dag, body)
