"""A supervisord that is reached over a line that can be cut."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sovrun.execution.adapters.supervisor_rpc import Address
from support.proxies import Plan, Proxy, proxied
from support.supervisord import Supervisord


@asynccontextmanager
async def behind_a_proxy(
    plan: Plan | None = None,
) -> AsyncIterator[tuple[Supervisord, Proxy, dict[str, Any]]]:
    """Give a supervisord, the proxy before it, and the settings of an adapter that goes through the proxy."""
    with TemporaryDirectory(prefix="sovrun-sv-") as name:
        folder = Path(name)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        listen = f"port=127.0.0.1:{port}\nusername=me\npassword=secret"
        server = Supervisord(folder, Address(None, "127.0.0.1", port), listen, ("me", "secret"))
        (folder / "password").write_text("secret\n")
        server.start()
        try:
            async with proxied(port, plan) as proxy:
                password = {"file": str(folder / "password")}
                yield server, proxy, server.settings(url=proxy.url, user="me", password=password)
        finally:
            server.kill()
