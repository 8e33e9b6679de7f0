"""Who calls: on the Unix socket the kernel says which user it is, and nothing a caller sends can change that."""

from __future__ import annotations

import asyncio
import pwd
import socket
import struct
from typing import Final

import h11
import orjson
from fastapi import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from sovrun.core.errors import InvalidIdentifier
from sovrun.core.ids import Actor, Tenant, actor, tenant
from sovrun.service.problems import ERROR_PAGES

_CREDENTIALS: Final = struct.Struct("3i")
PEER: Final = "peer"
MALFORMED: Final = "malformed_request"


class PeerProtocol(H11Protocol):
    """HTTP/1.1 whose client address is the peer's user: `("peer", uid)`."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- ours says more
        """Refuse what is not HTTP, or has headers without end, as everything else is refused."""
        problem = {
            "type": f"{ERROR_PAGES}/{MALFORMED}",
            "title": "The request is not HTTP/1.1, or its headers are larger than 64 KiB",
            "status": 400,
            "code": MALFORMED,
        }
        kind = (b"content-type", b"application/problem+json")
        begin = h11.Response(status_code=400, headers=[kind, (b"connection", b"close")])
        for event in (begin, h11.Data(data=orjson.dumps(problem)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask the kernel who is at the other end."""
        super().connection_made(transport)
        link = transport.get_extra_info("socket")
        if link is not None and link.family == socket.AF_UNIX:
            raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            self.client = (PEER, _CREDENTIALS.unpack(raw)[1])


def actor_of(request: Request) -> Actor:
    """Return who makes a request, as `local:USER`."""
    if request.client is None or request.client.host != PEER:
        return actor("local:unknown")
    uid = request.client.port
    try:
        return actor(f"local:{pwd.getpwuid(uid).pw_name}")
    except KeyError:
        return actor(f"local:uid-{uid}")


def tenant_of(request: Request) -> Tenant:
    """Return the tenant that a request is for. Raises: InvalidIdentifier when it names none."""
    named = request.headers.get("x-tenant-id")
    if named is None:
        raise InvalidIdentifier("the header X-Tenant-Id is missing", hint="every request names its tenant")
    return tenant(named)
