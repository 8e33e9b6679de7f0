"""The client of a server's REST routes, for what is no verb of the store: performing commands, reading providers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from sovrun.core.errors import StoreUnavailable
from sovrun.core.ids import Tenant
from sovrun.stores.remote.store import error_of

_ANSWER_SECONDS: Final = 90.0


class RestClient:
    """Asks one server on behalf of one tenant. Use it as an asynchronous context manager."""

    def __init__(self, socket: Path, tenant: Tenant) -> None:
        self._socket = socket
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket)),
            base_url="http://sovrun/api/v1",
            headers={"X-Tenant-Id": tenant},
            timeout=_ANSWER_SECONDS,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def get(self, path: str, **query: Any) -> Any:
        """Return what a resource is. Raises: the error of the answer; StoreUnavailable."""
        return (await self.send("GET", path, query=query)).json()

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Return the answer to a request, which is 2xx. Raises: the error of the answer; StoreUnavailable."""
        told = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            answer = await self._client.request(method, path, params=told, json=body, headers=headers)
        except (httpx.TransportError, OSError) as error:
            raise StoreUnavailable(
                f"{self._socket}: the server does not answer ({type(error).__name__})",
                hint="is `sovrun up` still running? what it acknowledged is not lost",
            ) from error
        if answer.is_success:
            return answer
        raise error_of(answer)
