"""The application: its routes, and that every error leaves it as a problem document."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sovrun import __version__
from sovrun.core.errors import SovrunError
from sovrun.ports import Files, Identity
from sovrun.service import resources, verbs
from sovrun.service.problems import ERROR_PAGES, STATUS, problem_of
from sovrun.store.protocol import Store

PROBLEM = "application/problem+json"


def create_app(store: Store, files: Files, identity: Identity, *, isolation: str) -> FastAPI:
    """Return the application over an owned store. Args: isolation: of the workers beside it."""
    app = FastAPI(title="Sovrun", version=__version__, docs_url=None, redoc_url=None)
    app.include_router(verbs.router_of(store))
    app.include_router(resources.router_of(store, files, identity, isolation))

    @app.get("/api/v1/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @app.exception_handler(SovrunError)
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SovrunError)  # noqa: S101 -- registered for nothing else
        return JSONResponse(problem_of(error, request.url.path), STATUS[type(error)], media_type=PROBLEM)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        mistakes = [f"{'/'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:20]]
        return _plain_problem(
            request, 422, "invalid_request", "The request is not of the documented form", mistakes
        )

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        return _plain_problem(request, error.status_code, "http_error", str(error.detail), [])

    return app


def _plain_problem(request: Request, status: int, code: str, title: str, mistakes: list[str]) -> JSONResponse:
    problem = {
        "type": f"{ERROR_PAGES}/{code}",
        "title": title,
        "status": status,
        "instance": request.url.path,
        "code": code,
        "detail": "; ".join(mistakes) or title,
    }
    return JSONResponse(problem, status, media_type=PROBLEM)
