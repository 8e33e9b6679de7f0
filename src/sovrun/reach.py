"""How the faces reach the command layer: by the routes of the server that owns a store, or with a layer of their own.

Owns: `CommandAccess`, `open_access`, `schema_of`, `compare`, `adapters_of`, `local_adapters`. Where a server owns the store, its settings say which adapters there are.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

import httpx

from sovrun.core.canonical import decode
from sovrun.core.commands.journal import CommandId
from sovrun.core.commands.model import KINDS
from sovrun.core.errors import IdempotencyKeyInFlight, InvalidSetting, NotAllowed, StoreOwned
from sovrun.core.ids import Tenant
from sovrun.engine.command_desk import CommandDesk, Verdict
from sovrun.engine.command_views import adapter_json, command_json, comparison_json, whole_command_json
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.drift import DriftWatch
from sovrun.execution.kinds import kind_named
from sovrun.execution.layer import CommandLayer, CommandRequest
from sovrun.store.journal import JournalReads
from sovrun.store.memory import MemoryStore
from sovrun.stores.remote.rest import RestClient
from sovrun.stores.sqlite.store import SqliteStore
from sovrun.wiring import (
    StoreAddress,
    SystemClock,
    adapter_settings,
    is_served,
    local_actor,
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


class CommandAccess(Protocol):
    """The commands of one tenant, wherever they are performed. Commands are shown as REST shows them."""

    async def perform(self, request: CommandRequest, *, wait_us: int) -> Concluded | UnderWay:
        """Perform a command and wait for its outcome for so long; with 0 it is journalled, and others perform it.

        Raises: what `CommandLayer.execute` raises but IdempotencyKeyInFlight.
        """

    async def read(self, command: CommandId) -> dict[str, Any]:
        """Return a command with its payload, its answer and its history. Raises: NotFound."""

    async def resolve(
        self, command: CommandId, verdict: Verdict, *, rationale: str, resource: str | None = None
    ) -> dict[str, Any]:
        """Say what became of a command whose outcome is unknown. Raises: what `CommandDesk.resolve` raises."""


@asynccontextmanager
async def open_access(
    address: StoreAddress, tenant: Tenant, adapters: Path | None
) -> AsyncIterator[CommandAccess]:
    """Give the commands of a tenant: of a store that this process owns meanwhile, or of the server that owns it.

    Raises: StoreOwned, StoreUnavailable, StoreVersion, InvalidSetting.
    """
    path = file_of(address)
    settings = adapter_settings(adapters)
    store = _owned(address, path)
    if store is None:
        async with RestClient(socket_of(path), tenant) as server:
            yield _There(server)
        return
    try:
        layer = open_commands(store, settings)
        here = _Here(store, layer, tenant)
        try:
            yield here
        finally:
            await here.end()
    finally:
        await store.close()


def _owned(address: StoreAddress, path: Path) -> SqliteStore | None:
    try:
        return SqliteStore.open_owner(path, SystemClock())
    except StoreOwned:
        if not is_served(address):
            raise
        return None


class _Here:
    """Commands that this process performs; it begins with the first that somebody waits for."""

    def __init__(self, store: SqliteStore, layer: CommandLayer, tenant: Tenant) -> None:
        self._store = store
        self._layer = layer
        self._tenant = tenant
        self._work: asyncio.Task[None] | None = None

    async def perform(self, request: CommandRequest, *, wait_us: int) -> Concluded | UnderWay:
        """See `CommandAccess.perform`."""
        name = (await self._layer.begin(request)).command.id
        if wait_us and self._work is None:
            self._work = asyncio.create_task(self._layer.run())
        answer = asyncio.create_task(self._layer.answer(request.tenant, name, patience_us=wait_us))
        try:
            waited = {answer} if self._work is None else {answer, self._work}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._work is not None and self._work.done() and not answer.done():
                self._work.result()  # why nothing is performed any more
            return Concluded((await answer).body)
        except IdempotencyKeyInFlight:
            return UnderWay(command_json(await self._store.command(request.tenant, name)))
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)

    async def read(self, command: CommandId) -> dict[str, Any]:
        """See `CommandAccess.read`."""
        return await whole_command_json(self._store, await self._store.command(self._tenant, command))

    async def resolve(
        self, command: CommandId, verdict: Verdict, *, rationale: str, resource: str | None = None
    ) -> dict[str, Any]:
        """See `CommandAccess.resolve`."""
        resolved = await CommandDesk(self._store).resolve(
            self._tenant, command, verdict, actor=local_actor(), rationale=rationale, resource=resource
        )
        return command_json(resolved)

    async def end(self) -> None:
        """Let what was sent have its answer, and begin nothing more."""
        await self._layer.stop()
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        await self._layer.adapters.close()


class _There:
    """Commands that a server performs."""

    def __init__(self, server: RestClient) -> None:
        self._server = server

    async def perform(self, request: CommandRequest, *, wait_us: int) -> Concluded | UnderWay:
        """See `CommandAccess.perform`."""
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
        try:
            query = {"wait": left[0] if left else wait_us / 1_000_000}
            answer = await self._server.send("POST", "/commands", body=wanted, headers=headers, query=query)
            if answer.status_code != httpx.codes.ACCEPTED:
                return Concluded(answer.content)
            name = answer.json()["commandId"]
        except IdempotencyKeyInFlight as flight:
            name = flight.facts["command"]
        for seconds in left[1:]:
            with suppress(IdempotencyKeyInFlight):
                waited = await self._server.send("GET", f"/commands/{name}/answer", query={"wait": seconds})
                return Concluded(waited.content)
        return UnderWay(await self._server.get(f"/commands/{name}"))

    async def read(self, command: CommandId) -> dict[str, Any]:
        """See `CommandAccess.read`."""
        told: dict[str, Any] = await self._server.get(f"/commands/{command}")
        return told

    async def resolve(
        self, command: CommandId, verdict: Verdict, *, rationale: str, resource: str | None = None
    ) -> dict[str, Any]:
        """See `CommandAccess.resolve`."""
        body = {"verdict": str(verdict), "rationale": rationale, "resourceId": resource}
        answer = await self._server.send("POST", f"/commands/{command}/resolution", body=body)
        told: dict[str, Any] = answer.json()
        return told


async def schema_of(
    address: StoreAddress, tenant: Tenant, kind: str, *, adapter: str | None, adapters: Path | None
) -> dict[str, Any]:
    """Return the JSON Schema of a kind's payload, as the store's server or the settings here declare it.

    Raises: NotFound, InvalidCommand, AdapterUnavailable, InvalidSetting.
    """
    if kind in KINDS:
        return dict(KINDS[kind].schema)
    if is_listened_to(address):
        async with RestClient(socket_of(file_of(address)), tenant) as server:
            told: dict[str, Any] = await server.get(f"/command-kinds/{quote(kind, safe='')}", adapter=adapter)
            return told
    clock = SystemClock()
    opened = AdapterSet.open(adapter_settings(adapters), ledger=MemoryStore(clock), clock=clock)
    try:
        return dict(kind_named(opened, tenant, kind, adapter).schema)
    finally:
        await opened.close()


async def compare(address: StoreAddress, tenant: Tenant, adapters: Path | None) -> list[dict[str, Any]]:
    """Compare a tenant's providers with what is recorded, here or where the store's server is.

    Raises: StoreOwned, StoreUnavailable, InvalidSetting.
    """
    settings = adapter_settings(adapters)
    store = _owned(address, file_of(address))
    if store is None:
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


async def adapters_of(address: StoreAddress, tenant: Tenant, adapters: Path | None) -> list[dict[str, Any]]:
    """Return a tenant's adapters: those of the store's server, without one those of the settings, be there a store or not.

    Raises: InvalidSetting.
    """
    if is_listened_to(address):
        async with RestClient(socket_of(file_of(address)), tenant) as server:
            told: list[dict[str, Any]] = (await server.get("/adapters"))["adapters"]
            return told
    clock = SystemClock()
    opened = AdapterSet.open(adapter_settings(adapters), ledger=MemoryStore(clock), clock=clock)
    try:
        return [adapter_json(opened.reads(tenant, name)) for name in opened.names(tenant)]
    finally:
        await opened.close()


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
