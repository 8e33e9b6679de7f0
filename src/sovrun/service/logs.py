"""What steps print, as a REST resource."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from sovrun.core.ids import run_id
from sovrun.engine.logs import Logs, piece_json
from sovrun.ports import Files
from sovrun.service.callers import tenant_of
from sovrun.store.protocol import Store


def router_of(store: Store, files: Files) -> APIRouter:
    """Return the route of logs."""
    router = APIRouter(prefix="/api/v1", tags=["runs"])
    logs = Logs(store, files)

    @router.get("/runs/{run}/steps/{step}/log")
    async def log(
        run: str,
        step: str,
        request: Request,
        attempt: Annotated[int | None, Query(ge=1)] = None,
        after: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        """Return what a step has printed from a place on, while it runs and afterwards."""
        found = await logs.look(tenant_of(request), run_id(run))
        page = found.page(step, attempt=attempt, after=after)
        return {
            "attempt": page.attempt or None,
            "attempts": page.attempts,
            "pieces": [piece_json(piece) for piece in page.pieces],
            "next": page.next,
            "isOver": page.is_over,
            "isLast": page.is_last,
        }

    return router
