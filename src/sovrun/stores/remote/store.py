"""The client of a store that another process owns: the same verbs, over HTTP on a Unix socket.

Owns: `RemoteStore`. Where the link breaks, the outcome of a write is unknown, which is what `StoreUnavailable` means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import httpx

from sovrun.core import errors
from sovrun.core.actions import Action
from sovrun.core.errors import SovrunError, StoreUnavailable
from sovrun.core.events import Event
from sovrun.core.ids import Digest, RunId, Tenant, WorkerId
from sovrun.core.lanes import Governed, Limits
from sovrun.core.step import Step
from sovrun.store.payload import Payload
from sovrun.store.protocol import (
    Acted,
    Committed,
    DagRecord,
    Depth,
    Governance,
    Lease,
    Pending,
    Registration,
    Report,
    RunRecord,
    Submission,
    Submitted,
    Wait,
)
from sovrun.stores.remote.journal import RemoteJournal
from sovrun.stores.remote.values import from_json, to_json
from sovrun.stores.remote.verbs import VERBS

PATIENCE_MAX_US: Final = 20_000_000
"""How long one call may wait at the server; a longer patience is several calls."""
_ANSWER_SECONDS: Final = 60.0
_NO_TENANT: Final = "default"
"""What a worker's calls name, which are for all tenants."""
_ERRORS: Final = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SovrunError) and hasattr(kind, "code")
}


class RemoteStore(RemoteJournal):
    """Implements `Store` by asking the process that owns it. Nobody but the owner recovers or takes back leases."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=httpx.Limits(max_connections=None))
        self._client = httpx.AsyncClient(
            transport=transport, base_url="http://sovrun", timeout=_ANSWER_SECONDS
        )
        self._closed = asyncio.Event()
        self._under_way: set[asyncio.Future[None]] = set()

    async def _call(self, verb: str, **arguments: Any) -> Any:
        if self._closed.is_set():
            raise StoreUnavailable(f"{self._socket}: this end is closed")
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way.add(over)
        try:
            return await self._sent(verb, arguments)
        finally:
            self._under_way.discard(over)
            over.set_result(None)

    async def _sent(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        tenant = arguments.get("tenant") or next(_tenants(arguments.values()), _NO_TENANT)
        body = {name: to_json(value) for name, value in arguments.items()}
        try:
            answer = await self._client.post(
                f"/api/v1/engine/{verb}", json=body, headers={"X-Tenant-Id": tenant}
            )
        except (httpx.TransportError, OSError) as error:
            raise self._silence(error) from error
        if answer.status_code == httpx.codes.OK:
            return from_json(VERBS[verb].answer, answer.json())
        raise error_of(answer)

    async def isolation(self) -> str:
        """Return what the server's workers isolate steps by."""
        try:
            answer = await self._client.get("/api/v1/health")
        except (httpx.TransportError, OSError) as error:
            raise self._silence(error) from error
        if answer.status_code != httpx.codes.OK:
            raise error_of(answer)
        return str(answer.json()["isolation"])

    def _silence(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._socket}: the server does not answer ({type(error).__name__})",
            hint="is `sovrun up` still running? what it acknowledged is not lost",
        )

    async def register(self, registration: Registration) -> bool:
        """See `Store.register`."""
        return cast("bool", await self._call("register", registration=registration))

    async def submit(self, submission: Submission) -> Submitted:
        """See `Store.submit`."""
        return cast("Submitted", await self._call("submit", submission=submission))

    async def claim(self, worker: WorkerId, slots: int, *, patience_us: int = 0) -> Sequence[Lease]:
        """See `Store.claim`."""
        while True:
            turn_us = min(patience_us, PATIENCE_MAX_US)
            leases = await self._waited("claim", worker=worker, slots=slots, patience_us=turn_us)
            patience_us -= turn_us
            if leases or patience_us <= 0 or self._closed.is_set():
                return cast("list[Lease]", leases)

    async def _waited(self, verb: str, **arguments: Any) -> list[Any]:
        """Call a verb that waits; closing answers it with nothing."""
        if self._closed.is_set():
            return []
        call = asyncio.ensure_future(self._call(verb, **arguments))
        closing = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait([call, closing], return_when=asyncio.FIRST_COMPLETED)
            if self._closed.is_set():
                return []
            return cast("list[Any]", call.result())
        finally:
            closing.cancel()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)  # what it would say now, nobody waits for

    async def commit(self, reports: Sequence[Report], *, worker: WorkerId, slots: int = 0) -> Committed:
        """See `Store.commit`."""
        return cast("Committed", await self._call("commit", reports=reports, worker=worker, slots=slots))

    async def act(self, action: Action, *, payloads: Sequence[Payload] = ()) -> Acted:
        """See `Store.act`."""
        return cast("Acted", await self._call("act", action=action, payloads=payloads))

    async def pending(self, limit: int, *, patience_us: int = 0) -> Sequence[Pending]:
        """See `Store.pending`."""
        turn_us = min(patience_us, PATIENCE_MAX_US)
        return await self._waited("pending", limit=limit, patience_us=turn_us)

    async def renew(self, worker: WorkerId, held: Sequence[Lease]) -> Sequence[Lease]:
        """See `Store.renew`."""
        return cast("list[Lease]", await self._call("renew", worker=worker, held=held))

    async def take_back(
        self,
        silent_us: int,
        *,
        dead: Sequence[WorkerId] = (),
        told: Callable[[WorkerId, int], None] | None = None,
    ) -> int:
        """Do nothing: the owner looks after its workers."""
        del silent_us, dead, told
        return 0

    async def govern(self, governance: Governance) -> Governed:
        """See `Store.govern`."""
        return cast("Governed", await self._call("govern", governance=governance))

    def subscribe(self, told: Callable[[RunId], None]) -> None:
        """Do nothing: no run ends by this process's writes; `run` tells."""
        del told

    async def recover(self) -> int:
        """Do nothing: the owner did so when it began."""
        return 0

    async def dag(self, tenant: Tenant, version: Digest) -> DagRecord:
        """See `Store.dag`."""
        return cast("DagRecord", await self._call("dag", tenant=tenant, version=version))

    async def payload(self, tenant: Tenant, digest: Digest) -> bytes | None:
        """See `Store.payload`."""
        return cast("bytes | None", await self._call("payload", tenant=tenant, digest=digest))

    async def outputs(self, lease: Lease | Pending, positions: Sequence[int]) -> Mapping[int, Payload | None]:
        """See `Store.outputs`."""
        return cast(
            "dict[int, Payload | None]", await self._call("outputs", lease=lease, positions=positions)
        )

    async def run(self, tenant: Tenant, run: RunId) -> RunRecord:
        """See `Store.run`."""
        return cast("RunRecord", await self._call("run", tenant=tenant, run=run))

    async def runs(self, tenant: Tenant, *, limit: int, before: int | None = None) -> Sequence[RunRecord]:
        """See `Store.runs`."""
        return cast("list[RunRecord]", await self._call("runs", tenant=tenant, limit=limit, before=before))

    async def unfinished(self) -> Sequence[tuple[Tenant, RunId]]:
        """See `Store.unfinished`."""
        return cast("list[tuple[Tenant, RunId]]", await self._call("unfinished"))

    async def steps(self, tenant: Tenant, run: RunId) -> Sequence[Step]:
        """See `Store.steps`."""
        return cast("list[Step]", await self._call("steps", tenant=tenant, run=run))

    async def events(
        self, tenant: Tenant, run: RunId, *, after: int = 0, limit: int = 10_000
    ) -> Sequence[Event]:
        """See `Store.events`."""
        return cast(
            "list[Event]", await self._call("events", tenant=tenant, run=run, after=after, limit=limit)
        )

    async def waiting(
        self, tenant: Tenant, *, limit: int = 1_000, after: Wait | None = None
    ) -> Sequence[Wait]:
        """See `Store.waiting`."""
        return cast("list[Wait]", await self._call("waiting", tenant=tenant, limit=limit, after=after))

    async def depths(self, tenant: Tenant) -> Sequence[Depth]:
        """See `Store.depths`."""
        return cast("list[Depth]", await self._call("depths", tenant=tenant))

    async def tenant_limits(self, tenant: Tenant) -> Limits:
        """See `Store.tenant_limits`."""
        return cast("Limits", await self._call("tenant_limits", tenant=tenant))

    async def reruns(self, tenant: Tenant, run: RunId) -> int:
        """See `Store.reruns`."""
        return cast("int", await self._call("reruns", tenant=tenant, run=run))

    async def late_reports(self, tenant: Tenant) -> int:
        """See `Store.late_reports`."""
        return cast("int", await self._call("late_reports", tenant=tenant))

    async def close(self) -> None:
        """Answer the calls that wait, let the others have their answers, and release the connections."""
        self._closed.set()
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._client.aclose()


def _tenants(values: Iterable[Any]) -> Iterator[Tenant]:
    """Yield the tenants that are named by arguments, or by what they list."""
    for value in values:
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(named := getattr(item, "tenant", None), str):
                yield Tenant(named)


def error_of(answer: httpx.Response) -> SovrunError:
    """Return the error that a problem document stands for."""
    try:
        problem = answer.json()
        kind = _ERRORS.get(problem.get("code"))
        detail = str(problem.get("detail") or problem.get("title") or answer.text)[:2_000]
        hint = problem.get("hint")
        facts = problem.get("facts") or {}
    except (ValueError, AttributeError):
        kind, detail, hint, facts = None, answer.text[:200], None, {}
    if kind is None or kind is errors.InvalidSpec:
        return StoreUnavailable(f"the server answered {answer.status_code}: {detail}")
    return kind(detail, hint=hint, **facts)
