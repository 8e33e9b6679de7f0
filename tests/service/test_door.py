"""What the server's door lets in: who may open it, what is refused and how, and that nothing said there breaks the owner."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.openapi.utils import get_openapi

from sovrun.core import errors
from sovrun.core.actions import Action, Answer, Decide, EnterWait, Release
from sovrun.core.errors import InvalidIdentifier, InvalidSetting, InvalidValue, NotFound, SovrunError
from sovrun.core.ids import Actor, Digest, RunId, Tenant
from sovrun.core.lanes import Limits, LimitsChange
from sovrun.service.app import BODY_MAX
from sovrun.service.problems import STATUS, problem_of
from sovrun.service.server import serving
from sovrun.store.payload import Payload
from sovrun.store.protocol import Governance
from sovrun.stores.remote.store import RemoteStore
from sovrun.stores.remote.values import to_json
from sovrun.stores.remote.verbs import VERBS
from support import dags
from support.clock import SetClock
from support.requests import TENANT, WORKER, done, registration, submission, submitted
from support.served import Served, served

SINGLE = dags.shaped(dags.SINGLE)
HEADERS = {"X-Tenant-Id": TENANT}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, SetClock()) as running:
        yield running


@pytest.fixture
async def store(server: Served) -> AsyncIterator[RemoteStore]:
    client = RemoteStore(server.socket)
    yield client
    await client.close()


def require_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), problem
    assert problem["instance"] == answer.request.url.path
    assert {"type", "title"} <= set(problem)
    return problem


async def call(server: Served, verb: str, body: Any, **headers: str) -> httpx.Response:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await server.client.post(f"/api/v1/engine/{verb}", content=sent, headers=headers or HEADERS)


# --- the door ----------------------------------------------------------------------------------------------------------


async def test_only_its_owner_may_open_the_socket(server: Served) -> None:
    assert server.socket.stat().st_mode & 0o777 == 0o600


async def test_the_socket_is_gone_when_the_server_is(server: Served, tmp_path: Path) -> None:
    path = server.socket.with_name("other")
    async with serving(server.app, path):
        assert path.exists()
    assert not path.exists()


async def test_a_path_that_is_too_long_for_a_socket_is_refused(server: Served, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="too long"):
        async with serving(server.app, tmp_path / ("x" * 120)):
            pass


async def test_the_actor_is_who_the_kernel_says_whatever_a_request_says(
    server: Served, store: RemoteStore
) -> None:
    me = f"local:{getpass.getuser()}"
    await store.register(replace(registration(SINGLE), actor=Actor("local:somebody")))
    made = await store.submit(replace(submission(SINGLE, "1"), actor=Actor("local:somebody")))
    assert (await store.run(TENANT, made.run)).actor == me
    assert (await store.events(TENANT, made.run))[0].actor == me


# --- problems ----------------------------------------------------------------------------------------------------------


def all_errors(kind: type[SovrunError] = SovrunError) -> list[type[SovrunError]]:
    return [each for below in kind.__subclasses__() for each in (below, *all_errors(below))]


def test_every_error_has_a_status() -> None:
    ours = {kind for kind in all_errors() if kind.__module__ == errors.__name__}
    assert ours == set(STATUS)


def test_an_inner_error_shows_neither_detail_nor_facts() -> None:
    problem = problem_of(errors.CorruptHistory("run 12 of tenant bank", run="12"), "/x")
    assert set(problem) == {"type", "title", "status", "instance", "code"}


@pytest.mark.parametrize("path", ["/", "/api/v1/nothing", "/api/v2/runs", "/docs"])
async def test_an_unknown_route_is_a_problem(server: Served, path: str) -> None:
    require_problem(await server.client.get(path, headers=HEADERS), 404, "not_found")


async def test_a_wrong_method_is_a_problem(server: Served) -> None:
    require_problem(await server.client.delete("/api/v1/runs", headers=HEADERS), 405, "method_not_allowed")


@pytest.mark.parametrize(
    "verb", ["nothing", "close", "recover", "take_back", "subscribe", "__init__", "_ask"]
)
async def test_a_verb_that_does_not_travel_is_unknown(server: Served, verb: str) -> None:
    require_problem(await call(server, verb, {}), 404, "not_found")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"a":1,"a":2}', b'{"limit":NaN}', b"\xff", b"[" * 100_000]
)
async def test_malformed_json_is_refused(server: Served, body: bytes) -> None:
    require_problem(await call(server, "runs", body), 400, "invalid_value")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"dagVersion": 1}', b'{"dagVersion": "x", "more": 1}'])
async def test_a_request_for_a_resource_that_is_malformed_is_refused(server: Served, body: bytes) -> None:
    answer = await server.client.post("/api/v1/runs", content=body, headers=HEADERS)
    require_problem(answer, 422, "invalid_request")


async def test_a_request_without_a_tenant_is_refused(server: Served) -> None:
    problem = require_problem(await server.client.get("/api/v1/runs"), 400, "invalid_identifier")
    assert "X-Tenant-Id" in problem["detail"]
    require_problem(await call(server, "unfinished", {}, **{"X-Other": "x"}), 400, "invalid_identifier")


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 200])
async def test_a_tenant_that_is_no_name_is_refused(server: Served, name: str) -> None:
    answer = await server.client.get("/api/v1/runs", headers={"X-Tenant-Id": name})
    require_problem(answer, 400, "invalid_identifier")


async def test_a_request_that_names_another_tenant_is_refused(server: Served) -> None:
    body = {"tenant": "other", "run": "0" * 32}
    require_problem(await call(server, "run", body), 400, "invalid_identifier")
    for value in (registration(SINGLE, Tenant("other")), submission(SINGLE, "1", tenant=Tenant("other"))):
        name = type(value).__name__.lower()
        verb = "register" if name == "registration" else "submit"
        require_problem(await call(server, verb, {name: to_json(value)}), 400, "invalid_identifier")
    governance = Governance(Tenant("other"), None, LimitsChange(paused=True), Actor("local:x"))
    require_problem(
        await call(server, "govern", {"governance": to_json(governance)}), 400, "invalid_identifier"
    )


async def test_a_weight_that_gives_no_turn_is_refused(server: Served, store: RemoteStore) -> None:
    governance = Governance(TENANT, None, LimitsChange(weight=1), Actor("local:x"))
    for change in ({"weight": 0}, {"weight": 1_001}, {"runs_max": {"class": "Bound", "most": 1_000_001}}):
        sent = to_json(governance)
        sent["change"] |= change
        require_problem(await call(server, "govern", {"governance": sent}), 400, "invalid_value")
    assert await store.tenant_limits(TENANT) == Limits()


async def test_another_tenants_run_is_not_there(server: Served, store: RemoteStore) -> None:
    run = await submitted(server.owner, SINGLE)
    for path in (f"/api/v1/runs/{run}", f"/api/v1/runs/{run}/events"):
        require_problem(await server.client.get(path, headers={"X-Tenant-Id": "other"}), 404, "not_found")
    with pytest.raises(NotFound):
        await store.run(Tenant("other"), run)


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: Served) -> None:
    reader, writer = await asyncio.open_unix_connection(str(server.socket))
    head = (
        f"POST /api/v1/runs HTTP/1.1\r\nHost: x\r\nX-Tenant-Id: t\r\nContent-Length: {BODY_MAX + 1}\r\n\r\n"
    )
    writer.write(head.encode())
    async with asyncio.timeout(20):
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer
    writer.close()
    await writer.wait_closed()


async def test_an_error_comes_out_of_the_client_as_it_went_in(store: RemoteStore) -> None:
    with pytest.raises(NotFound, match="no run") as caught:
        await store.run(TENANT, RunId("0" * 32))
    assert caught.value.hint


async def test_a_server_that_is_gone_is_named(tmp_path: Path) -> None:
    store = RemoteStore(tmp_path / "nothing")
    with pytest.raises(errors.StoreUnavailable, match="does not answer"):
        await store.unfinished()
    await store.close()


async def test_the_description_is_openapi_3_1_and_names_every_route(server: Served) -> None:
    answer = await server.client.get("/openapi.json")
    described = answer.json()
    assert described == get_openapi(title="Sovrun", version=server.app.version, routes=server.app.routes)
    assert described["openapi"].startswith("3.1.")
    assert {
        "/api/v1/runs",
        "/api/v1/runs/{run}",
        "/api/v1/waits",
        "/api/v1/queue",
        "/api/v1/dags",
        "/api/v1/limits",
        "/api/v1/dags/{dag}/limits",
        "/api/v1/engine/{verb}",
    } <= set(described["paths"])


# --- honesty -----------------------------------------------------------------------------------------------------------


async def test_what_is_not_what_its_digest_says_is_refused(store: RemoteStore) -> None:
    await store.register(registration(SINGLE))
    request = submission(SINGLE, "1")
    for forged in (
        replace(request, inputs=Payload(request.inputs.digest, b"{}!")),
        replace(request, id=RunId("0" * 32)),
    ):
        with pytest.raises(InvalidValue):
            await store.submit(forged)
    for document in (
        replace(registration(SINGLE), normal=b"{}"),
        replace(registration(SINGLE), normal=b"not json"),
        replace(registration(SINGLE), version="0" * 64),
        replace(registration(SINGLE), dag="another"),
    ):
        with pytest.raises(InvalidValue):
            await store.register(document)
    with pytest.raises(InvalidIdentifier):
        await store.register(replace(registration(SINGLE), tenant=Tenant("no name")))
    assert await store.unfinished() == []


@pytest.mark.parametrize("limit", [-1, 1.5, "9", True, None])
async def test_a_number_that_is_none_is_refused(server: Served, limit: Any) -> None:
    body = {"tenant": TENANT, "limit": limit, "before": None}
    require_problem(await call(server, "runs", body), 400, "invalid_value")


@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_a_verb_with_too_few_or_too_many_arguments_is_refused(server: Served, verb: str) -> None:
    require_problem(await call(server, verb, {"more": 1}), 400, "invalid_value")
    if VERBS[verb].arguments:
        require_problem(await call(server, verb, {}), 400, "invalid_value")


@pytest.mark.parametrize("position", [1, 7, 2**40])
async def test_a_step_that_a_run_does_not_have_is_refused_and_harms_nobody(
    server: Served, position: int
) -> None:
    run = await submitted(server.owner, SINGLE)
    (lease,) = await server.owner.claim(WORKER, 1)
    actor, digest = Actor("local:x"), "0" * 64
    actions: list[Action] = [
        Answer(TENANT, run, position, actor, Digest(digest), None),
        Decide(TENANT, run, position, actor, True, Digest(digest), Digest(digest), None),  # noqa: FBT003 -- see there
        Release(TENANT, run, position),
        EnterWait(TENANT, run, position, Digest(digest), Digest(digest)),
    ]
    for action in actions:
        answer = await call(server, "act", {"action": to_json(action), "payloads": []})
        assert answer.status_code < 500, (action, answer.text)
    report = done(lease)._replace(lease=lease._replace(position=position))
    body = {"reports": [to_json(report)], "worker": WORKER, "slots": 0}
    answer = await call(server, "commit", body)
    assert answer.status_code < 500, answer.text
    assert answer.status_code != 200 or len(answer.json()["lost"]) == 1
    body = {"lease": to_json(lease), "positions": [position]}
    assert (await call(server, "outputs", body)).status_code < 500
    committed = await server.owner.commit([done(lease)], worker=WORKER)
    assert (committed.lost, committed.ended) == ((), (run,))


# --- callers who go away -----------------------------------------------------------------------------------------------


async def parked(server: Served, count: int) -> None:
    """Wait until so many claims wait at the owner."""
    async with asyncio.timeout(20):
        while len(server.owner._parked) != count:  # type: ignore[attr-defined]  # noqa: ASYNC110 -- it tells nobody
            await asyncio.sleep(0)


async def test_a_claim_whose_caller_went_away_takes_nothing(server: Served) -> None:
    client = RemoteStore(server.socket)
    waiting = asyncio.create_task(client.claim(WORKER, 4, patience_us=15_000_000))
    await parked(server, 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    await parked(server, 0)
    run = await submitted(server.owner, SINGLE)
    assert [str(step.state) for step in await server.owner.steps(TENANT, run)] == ["queued"]
    assert len(await server.owner.claim(WORKER, 1)) == 1
    await client.close()


async def test_closing_a_client_answers_its_claims_at_once(server: Served) -> None:
    client = RemoteStore(server.socket)
    waiting = asyncio.create_task(client.claim(WORKER, 4, patience_us=15_000_000))
    await parked(server, 1)
    await client.close()
    assert await waiting == []
