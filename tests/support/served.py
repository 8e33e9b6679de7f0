"""A store served on a socket in this very event loop, and its client, as the conformance suite's third back end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from fastapi import FastAPI

from sovrun.core.commands.journal import PERSON, Command, CommandEvent, CommandId
from sovrun.core.ids import Actor, RunId, Tenant, WorkerId
from sovrun.execution.adapter_set import PAPER_ALONE, AdapterSet
from sovrun.execution.drift import DriftWatch
from sovrun.execution.layer import CommandLayer
from sovrun.service.app import create_app
from sovrun.service.server import serving
from sovrun.store.journal import Resource
from sovrun.store.payload import Payload
from sovrun.store.protocol import Store
from sovrun.stores.files import FileStore
from sovrun.stores.remote.store import RemoteStore
from sovrun.stores.remote.verbs import PersonsVerdict
from sovrun.stores.sqlite.store import SqliteStore
from support.clock import SetClock
from support.stores import fresh_file


class SetIdentity:
    """Counts where the system draws at random."""

    def __init__(self) -> None:
        self._last = 0

    def fresh(self) -> str:
        self._last += 1
        return f"fresh-{self._last}"


class NearOwner(RemoteStore):
    """A client whose verbs for the owner alone go to the owner, which here lives in the same process."""

    def __init__(self, socket: Path, owner: Store) -> None:
        super().__init__(socket)
        self._owner = owner

    async def take_back(
        self,
        silent_us: int,
        *,
        dead: Sequence[WorkerId] = (),
        told: Callable[[WorkerId, int], None] | None = None,
    ) -> int:
        return await self._owner.take_back(silent_us, dead=dead, told=told)

    def subscribe(self, told: Callable[[RunId], None]) -> None:
        self._owner.subscribe(told)

    async def recover(self) -> int:
        return await self._owner.recover()

    async def admit(self, tenant: Tenant, command: CommandId, *, handler: str, due_us: int) -> Command:
        return await self._owner.admit(tenant, command, handler=handler, due_us=due_us)

    async def note(
        self,
        tenant: Tenant,
        command: CommandId,
        revision: int,
        event: CommandEvent,
        *,
        actor: Actor,
        payloads: Sequence[Payload] = (),
        resource: Resource | None = None,
    ) -> Command:
        persons = isinstance(event, PersonsVerdict) and getattr(event, "how", PERSON) == PERSON
        note = super().note if persons else self._owner.note
        return await note(tenant, command, revision, event, actor=actor, payloads=payloads, resource=resource)

    async def due_commands(self, limit: int, *, patience_us: int = 0) -> Sequence[Command]:
        return await self._owner.due_commands(limit, patience_us=patience_us)

    async def open_commands(self, limit: int) -> Sequence[Command]:
        return await self._owner.open_commands(limit)

    async def disown_commands(self) -> int:
        return await self._owner.disown_commands()

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        return await self._owner.append(tenant, name, at, entry)


@dataclass(frozen=True)
class Served:
    """A server: the store that it owns, where it listens, its application, and a client that says whatever a test likes.

    Args:
        layer: of the paper provider; it performs commands once a test has it run.
    """

    owner: Store
    socket: Path
    app: FastAPI
    client: httpx.AsyncClient
    layer: CommandLayer


@asynccontextmanager
async def served(folder: Path, clock: SetClock) -> AsyncIterator[Served]:
    owner = SqliteStore.open_owner(fresh_file(folder), clock)
    identity = SetIdentity()
    layer = CommandLayer(owner, AdapterSet.open(PAPER_ALONE, ledger=owner, clock=clock), clock, identity)
    watch = DriftWatch(owner, layer.adapters)
    app = create_app(owner, FileStore(folder / "files"), identity, layer, watch, isolation="in-process")
    with TemporaryDirectory(prefix="sovrun-") as short:  # a socket's path must be short, and pytest's are not
        socket = Path(short) / "s"
        async with serving(app, socket), _client(socket) as client:
            yield Served(owner, socket, app, client, layer)
    await owner.close()


@asynccontextmanager
async def _client(socket: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://sovrun", timeout=30) as client:
        yield client


@asynccontextmanager
async def remote(folder: Path, clock: SetClock) -> AsyncIterator[Store]:
    async with served(folder, clock) as server:
        store = NearOwner(server.socket, server.owner)
        yield store
        await store.close()
