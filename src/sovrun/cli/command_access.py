"""How the command line reaches the command layer: the routes of the server that owns a store, or a layer of its own.

Owns: `perform`, `reading`. Where a server owns the store, its settings say which adapters there are.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from sovrun.core.canonical import decode
from sovrun.core.errors import IdempotencyKeyInFlight, InvalidSetting, NotAllowed, StoreOwned
from sovrun.core.ids import Tenant
from sovrun.engine.command_views import command_json, comparison_json
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.drift import DriftWatch
from sovrun.execution.layer import CommandLayer, CommandRequest
from sovrun.store.journal import JournalReads
from sovrun.stores.remote.rest import RestClient
from sovrun.stores.sqlite.store import SqliteStore
from sovrun.wiring import (
    StoreAddress,
    SystemClock,
    adapter_settings,
    is_served,
    open_commands,
    open_reader,
    socket_of,
)

WAIT_SECONDS: Final = 50
"""How long one request waits at a server; a longer wait is several."""


@dataclass(frozen=True, slots=True)
class Concluded:
    """A command's recorded answer, its bytes as they are kept."""

    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The answer, decoded."""
        answer: dict[str, Any] = decode(self.body)
        return answer


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A command without an outcome yet, as programs see it."""

    command: dict[str, Any]


async def perform(
    address: StoreAddress, request: CommandRequest, *, wait_us: int, adapters: Path | None
) -> Concluded | UnderWay:
    """Perform a command here, or where the store's server is, and wait for its outcome for so long.

    Raises: what `CommandLayer.execute` raises but IdempotencyKeyInFlight; StoreOwned, InvalidSetting.
    """
    path = file_of(address)
    settings = adapter_settings(adapters)
    try:
        store = SqliteStore.open_owner(path, SystemClock())
    except StoreOwned:
        if not is_served(address):
            raise
        return await _perform_there(socket_of(path), request, wait_us)
    try:
        layer = open_commands(store, settings)
        return await _perform_here(layer, store, request, wait_us)
    finally:
        await store.close()


async def _perform_here(
    layer: CommandLayer, store: SqliteStore, request: CommandRequest, wait_us: int
) -> Concluded | UnderWay:
    name = (await layer.begin(request)).command.id
    work = asyncio.create_task(layer.run() if wait_us else asyncio.sleep(0))
    answer = asyncio.create_task(layer.answer(request.tenant, name, patience_us=wait_us))
    try:
        await asyncio.wait([work, answer] if wait_us else [answer], return_when=asyncio.FIRST_COMPLETED)
        if work.done() and not answer.done():
            work.result()  # why nothing is performed any more
        return Concluded((await answer).body)
    except IdempotencyKeyInFlight:
        return UnderWay(command_json(await store.command(request.tenant, name)))
    finally:
        await layer.stop()
        for task in (work, answer):
            task.cancel()
        await asyncio.gather(work, answer, return_exceptions=True)
        await layer.adapters.close()


async def _perform_there(place: Path, request: CommandRequest, wait_us: int) -> Concluded | UnderWay:
    wanted = {
        "kind": request.kind,
        "adapter": request.adapter,
        "mode": request.mode,
        "payload": request.payload,
    }
    headers = {} if request.key is None else {"Idempotency-Key": quoted(request.key)}
    left = [
        min(WAIT_SECONDS, wait_us / 1_000_000 - begun)
        for begun in range(0, wait_us // 1_000_000, WAIT_SECONDS)
    ]
    async with RestClient(place, request.tenant) as server:
        try:
            query = {"wait": left[0] if left else wait_us / 1_000_000}
            answer = await server.send("POST", "/commands", body=wanted, headers=headers, query=query)
            if answer.status_code != httpx.codes.ACCEPTED:
                return Concluded(answer.content)
            name = answer.json()["commandId"]
        except IdempotencyKeyInFlight as flight:
            name = flight.facts["command"]
        for seconds in left[1:]:
            with suppress(IdempotencyKeyInFlight):
                waited = await server.send("GET", f"/commands/{name}/answer", query={"wait": seconds})
                return Concluded(waited.content)
        return UnderWay(await server.get(f"/commands/{name}"))


async def compare(address: StoreAddress, tenant: Tenant, adapters: Path | None) -> list[dict[str, Any]]:
    """Compare a tenant's providers with what is recorded, here or where the store's server is.

    Raises: StoreOwned, StoreUnavailable, InvalidSetting.
    """
    settings = adapter_settings(adapters)
    try:
        store = SqliteStore.open_owner(file_of(address), SystemClock())
    except StoreOwned:
        if not is_served(address):
            raise
        async with RestClient(socket_of(file_of(address)), tenant) as server:
            told: list[dict[str, Any]] = (await server.send("POST", "/drifts")).json()["comparisons"]
            return told
    try:
        layer = open_commands(store, settings)
        try:
            compared = await DriftWatch(store, layer.adapters).compare_tenant(tenant)
        finally:
            await layer.adapters.close()
    finally:
        await store.close()
    return [comparison_json(one) for one in compared]


def quoted(key: str) -> str:
    """Return a key as a structured field String."""
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def is_listened_to(address: StoreAddress) -> bool:
    """Return whether a server answers for a store; a socket may have been left by one that was killed."""
    if address.path is None:
        return False
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(str(socket_of(address.path)))
        except OSError:
            return False
    return True


def file_of(address: StoreAddress) -> Path:
    """Return the file of a store. Raises: InvalidSetting for one that ends with the process."""
    if address.path is None:
        raise InvalidSetting("memory: holds nothing beyond the process that made it", hint="use sqlite:PATH")
    return address.path


class _Entries:
    """A provider's ledger as a reader of the store sees it."""

    def __init__(self, reads: JournalReads) -> None:
        self._reads = reads

    async def entries(self, tenant: Tenant, name: str, after: int) -> Sequence[bytes]:
        """See `Ledger.entries`."""
        return await self._reads.entries(tenant, name, after)

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        """Refuse: here is only read."""
        del tenant, name, at, entry
        raise NotAllowed("a provider is only read here")


@asynccontextmanager
async def local_adapters(address: StoreAddress, adapters: Path | None) -> AsyncIterator[AdapterSet]:
    """Give the adapters of the settings, for reading. Raises: InvalidSetting, StoreUnavailable, StoreVersion."""
    settings = adapter_settings(adapters)
    async with open_reader(address) as (reader, _):
        opened = AdapterSet.open(settings, ledger=_Entries(reader), clock=SystemClock())
        try:
            yield opened
        finally:
            await opened.close()
