"""A small HTTP server that answers as a test tells it, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Got:
    """A request: `path` as it was sent, `query` decoded, `body` as its bytes."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def parts(self) -> list[str]:
        return [unquote(part) for part in self.path.strip("/").split("/")]


@dataclass(frozen=True)
class Say:
    """An answer; `body` is sent as JSON unless it is bytes."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def written(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        lines = [f"HTTP/1.1 {self.status} Whatever", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body


Handler = Callable[[Got], Say]


@dataclass
class RestServer:
    """Listens on `port` of 127.0.0.1."""

    handler: Handler
    got: list[Got] = field(default_factory=list)
    port: int = 0
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def effects(self) -> list[Got]:
        """Return what was asked other than to read."""
        return [one for one in self.got if one.method != "GET"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        # a connection's task must not end as cancelled: asyncio would report it as a fault of the server
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                got = await _request(reader)
                self.got.append(got)
                writer.write(self.handler(got).written())
                await writer.drain()
        self._open.discard(task)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def close(self) -> None:
        """Close the connections that are open."""
        for task in [*self._open]:
            task.cancel()
        await asyncio.gather(*self._open)


async def _request(reader: asyncio.StreamReader) -> Got:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    split = urlsplit(target)
    return Got(method, split.path, dict(parse_qsl(split.query)), headers, body)


@asynccontextmanager
async def rest_server(handler: Handler) -> AsyncIterator[RestServer]:
    """Give a server that answers by `handler`."""
    served = RestServer(handler)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        await served.close()
        await server.wait_closed()
