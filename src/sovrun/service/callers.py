"""Who calls: on the Unix socket the kernel says which user it is, and nothing a caller sends can change that."""

from __future__ import annotations

import asyncio
import pwd
import socket
import struct
from typing import Final

from fastapi import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from sovrun.core.errors import InvalidIdentifier
from sovrun.core.ids import Actor, Tenant, actor, tenant

_CREDENTIALS: Final = struct.Struct("3i")
PEER: Final = "peer"


class PeerProtocol(H11Protocol):
    """HTTP/1.1 whose client address is the peer's user: `("peer", uid)`."""

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
