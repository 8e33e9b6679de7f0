"""Serving the application on a Unix socket that only its owner may open."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from sovrun.core.errors import InvalidSetting
from sovrun.service.callers import PeerProtocol

PATH_MAX: Final = 100
"""Bytes of a socket's path that every system takes."""


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it."""

    def capture_signals(self) -> Any:
        """Capture none."""
        return nullcontext()


@asynccontextmanager
async def serving(app: FastAPI, path: Path) -> AsyncIterator[None]:
    """Serve an application at a socket of mode 0600 until the block ends. Raises: InvalidSetting."""
    listener = _listen(path)
    config = uvicorn.Config(
        app,
        http=PeerProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield  # connections made before it has begun to accept wait in the listener's backlog
    finally:
        server.should_exit = True
        await task
        _remove(path)


def _listen(path: Path) -> socket.socket:
    """Return a socket of mode 0600 that already takes connections. Raises: InvalidSetting."""
    if len(os.fsencode(path)) > PATH_MAX:
        raise InvalidSetting(
            f"{path} is too long for a socket", hint="put the store where its path is shorter"
        )
    _remove(path)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(1_024)
    return listener


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
