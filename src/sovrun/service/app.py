"""The application: its routes, and that every error leaves it as a problem document."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sovrun import __version__
from sovrun.core.errors import IdempotencyKeyInFlight, SovrunError
from sovrun.execution.drift import DriftWatch
from sovrun.execution.layer import CommandLayer
from sovrun.ports import Files, Identity
from sovrun.service import commands, dags, logs, resources, verbs
from sovrun.service.problems import ERROR_PAGES, STATUS, problem_of
from sovrun.store.protocol import Store

PROBLEM: Final = "application/problem+json"
BODY_MAX: Final = 64 << 20
"""Bytes that a request may have."""
HTTP_CODES: Final = {
    400: "malformed_request",  # a body that the framework cannot read as text
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
}


def create_app(
    store: Store,
    files: Files,
    identity: Identity,
    layer: CommandLayer,
    watch: DriftWatch,
    *,
    isolation: str,
) -> FastAPI:
    """Return the application over an owned store.

    Args:
        layer: performs the commands of the store; watch: compares its providers with what is recorded.
        isolation: of the workers beside it.
    """
    app = FastAPI(title="Sovrun", version=__version__, docs_url=None, redoc_url=None)
    app.include_router(verbs.router_of(store, isolation))
    app.include_router(resources.router_of(store, files, identity, isolation))
    app.include_router(dags.router_of(store, files))
    app.include_router(logs.router_of(store, files))
    app.include_router(commands.router_of(store, layer, watch))

    @app.get("/api/v1/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__, "isolation": isolation}

    @app.exception_handler(SovrunError)
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SovrunError)  # noqa: S101 -- registered for nothing else
        headers = commands.RETRY_AFTER if isinstance(error, IdempotencyKeyInFlight) else None
        problem = problem_of(error, request.url.path)
        return JSONResponse(problem, STATUS[type(error)], headers, media_type=PROBLEM)

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
        code = HTTP_CODES.get(error.status_code, "http_error")
        return _plain_problem(request, error.status_code, code, str(error.detail), [])

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        del error  # the server logs it; a caller learns nothing of our insides
        return _plain_problem(request, 500, "internal_error", "The server has a bug", [])

    app.add_middleware(BodyLimit)

    return app


class BodyLimit:
    """Refuses requests that are too large, as soon as that is known."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if int(declared) > BODY_MAX:  # the protocol has refused one that is no number
            title = f"The request has more than {BODY_MAX >> 20} MiB"
            answer = _plain_problem(Request(scope), 413, HTTP_CODES[413], title, [])
            await answer(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_MAX:
                raise HTTPException(413, f"The request has more than {BODY_MAX >> 20} MiB")
            return message

        await self._app(scope, counted, send)


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
