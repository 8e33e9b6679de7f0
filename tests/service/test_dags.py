"""DAGs and limits over HTTP: a document becomes a known version, a change names what it changes, nothing crosses tenants."""

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

from sovrun.core.identity import dag_version
from sovrun.core.ids import Digest, Tenant
from sovrun.core.lanes import Limits
from sovrun.core.spec.normal import normal_form
from sovrun.stores.files import FileStore
from support import dags
from support.clock import SetClock
from support.requests import CODE, TENANT, WORKER, registration, submission
from support.served import Served, served

SINGLE = dags.shaped(dags.SINGLE)
HEADERS = {"X-Tenant-Id": TENANT}
AS_JSON = HEADERS | {"Content-Type": "application/json"}
OTHERS = {"X-Tenant-Id": "other"}
DOCUMENT = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: release}
code: []
steps:
  - {id: second, python: "builtins:dict", needs: [first]}
  - {id: first, python: "builtins:dict", with: {n: 1}}
"""
WITH_CODE = DOCUMENT.replace("code: []", "code: [plug.py]")
WITHOUT_WORD = DOCUMENT.replace("code: []\n", "")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, SetClock()) as running:
        yield running


async def post(server: Served, body: Any, headers: dict[str, str] = HEADERS) -> httpx.Response:
    return await server.client.post("/api/v1/dags", json=body, headers=headers)


async def patch(server: Served, path: str, body: Any, headers: dict[str, str] = HEADERS) -> httpx.Response:
    return await server.client.patch(f"/api/v1/{path}", json=body, headers=headers)


def require_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    return problem


# --- documents ---------------------------------------------------------------------------------------------------------


async def test_a_document_becomes_a_version_that_runs(server: Served) -> None:
    answer = await post(server, {"document": DOCUMENT})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["dagId"], made["steps"], made["created"]) == ("release", ["first", "second"], True)
    again = await post(server, {"document": json.dumps(in_other_words())})
    assert (again.status_code, again.json()) == (200, made | {"created": False})
    run = await server.client.post("/api/v1/runs", json={"dagVersion": made["dagVersion"]}, headers=HEADERS)
    assert (run.status_code, run.json()["status"]) == (201, "queued")
    [lease] = await server.owner.claim(WORKER, 9)
    assert lease.version == made["dagVersion"]


def in_other_words() -> dict[str, Any]:
    """Return what `DOCUMENT` says, its members in another order."""
    return {
        "kind": "Dag",
        "steps": [
            {"python": "builtins:dict", "with": {"n": 1}, "id": "first"},
            {"needs": ["first"], "python": "builtins:dict", "id": "second"},
        ],
        "code": [],
        "metadata": {"id": "release"},
        "apiVersion": "sovrun/v1",
    }


async def test_who_registered_a_version_is_who_the_kernel_says(server: Served) -> None:
    await post(server, {"document": DOCUMENT})
    found = server.owner._connection.execute("SELECT tenant, actor FROM dag_version").fetchall()  # type: ignore[attr-defined]
    assert found == [(TENANT, f"local:{getpass.getuser()}")]


async def test_all_mistakes_of_a_document_are_named_with_their_places(server: Served) -> None:
    answer = await post(
        server, {"document": DOCUMENT.replace("[first]", "[frist]").replace("kind: Dag", "kind: Dog")}
    )
    problem = require_problem(answer, 422, "invalid_spec")
    assert [(mistake["line"], mistake["path"]) for mistake in problem["mistakes"]] == [
        (3, ["kind"]),
        (7, ["steps", 0, "needs", 0]),
    ]
    assert all(mistake["code"] and mistake["message"] for mistake in problem["mistakes"])
    assert await server.owner.depths(TENANT) == []


@pytest.mark.parametrize("document", ["", "[", "a: 1\na: 2", "\x00", "é" * 10, "{" * 10_000])
async def test_what_is_no_document_is_refused(server: Served, document: str) -> None:
    assert require_problem(await post(server, {"document": document}), 422, "invalid_spec")["mistakes"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_request"),
        ({"document": {}}, 422, "invalid_request"),
        ({"document": DOCUMENT, "more": 1}, 422, "invalid_request"),
        ({"document": DOCUMENT, "codeOf": 7}, 422, "invalid_request"),
        ({"document": DOCUMENT, "codeOf": "x"}, 400, "invalid_identifier"),
        ({"document": DOCUMENT, "codeOf": "0" * 64}, 404, "not_found"),
        ({"document": WITH_CODE}, 422, "code_unavailable"),
        ({"document": WITHOUT_WORD}, 422, "code_unavailable"),
    ],
)
async def test_a_registration_that_is_not_whole_is_refused(
    server: Served, body: Any, status: int, code: str
) -> None:
    require_problem(await post(server, body), status, code)
    assert await server.owner.depths(TENANT) == []


TWICE = f'{{"document": {json.dumps(DOCUMENT)}, "document": {json.dumps(DOCUMENT)}}}'.encode()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"document": "\\ud800"}', 400, "invalid_value"),
        (TWICE, 400, "invalid_value"),
        (b"{", 422, "invalid_request"),
        (b"", 422, "invalid_request"),
        (b"\xff", 400, "malformed_request"),
    ],
    ids=["surrogate", "twice", "half", "empty", "no text"],
)
async def test_a_body_that_is_not_plain_json_is_refused(
    server: Served, body: bytes, status: int, code: str
) -> None:
    answer = await server.client.post("/api/v1/dags", content=body, headers=AS_JSON)
    require_problem(answer, status, code)


async def test_a_new_version_may_have_the_code_of_one_that_the_tenant_has(
    server: Served, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "plug.py").write_text("def first(): return {}\n")
    code = FileStore(tmp_path / "files").take_code(site, None, None).digest
    known = await register_with(server, TENANT, code)
    answer = await post(server, {"document": WITH_CODE, "codeOf": known})
    assert (answer.status_code, answer.json()["codeDigest"]) == (201, code)
    require_problem(await post(server, {"document": WITH_CODE, "codeOf": known}, OTHERS), 404, "not_found")
    require_problem(await post(server, {"document": DOCUMENT, "codeOf": known}), 422, "code_unavailable")


async def test_code_that_is_no_longer_kept_is_named(server: Served) -> None:
    known = await register_with(server, TENANT, CODE)
    require_problem(await post(server, {"document": WITH_CODE, "codeOf": known}), 422, "code_unavailable")


async def register_with(server: Served, tenant: Tenant, code: Digest) -> Digest:
    """Make a version known that has this code."""
    version = dag_version(normal_form(SINGLE), code)
    await server.owner.register(replace(registration(SINGLE, tenant), code=code, version=version))
    return version


# --- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["limits", f"dags/{SINGLE.id}/limits"])
async def test_what_is_not_named_stays_as_it_is(server: Served, path: str) -> None:
    await server.owner.register(registration(SINGLE))
    first = await patch(server, path, {"runsMax": 3, "stepsMax": 5, "note": "a quiet day"})
    assert first.status_code == 200, first.text
    assert first.json()["changed"] is True
    paused = (await patch(server, path, {"paused": True})).json()
    assert paused["limits"] == {"paused": True, "runsMax": 3, "stepsMax": 5, "weight": 1}
    freed = (await patch(server, path, {"runsMax": None})).json()
    assert freed["limits"] == {"paused": True, "runsMax": None, "stepsMax": 5, "weight": 1}
    again = (await patch(server, path, {"runsMax": None})).json()
    assert (again["changed"], again["limits"]) == (False, freed["limits"])
    shown = (await server.client.get(f"/api/v1/{path}", headers=HEADERS)).json()
    assert shown == {
        "tenant": TENANT,
        "dagId": None if path == "limits" else SINGLE.id,
        "limits": freed["limits"],
    }


async def test_a_pause_and_a_limit_at_the_same_time_both_hold(server: Served) -> None:
    await server.owner.register(registration(SINGLE))
    path = f"dags/{SINGLE.id}/limits"
    await asyncio.gather(patch(server, path, {"paused": True}), patch(server, path, {"stepsMax": 2}))
    [depth] = await server.owner.depths(TENANT)
    assert depth.limits == Limits(paused=True, steps_max=2)


async def test_a_tenant_has_a_weight_and_the_act_its_actor(server: Served) -> None:
    answer = await patch(server, "limits", {"weight": 4, "note": "they pay for it"})
    assert answer.json()["limits"]["weight"] == 4
    assert (await server.owner.tenant_limits(TENANT)).weight == 4
    found = server.owner._connection.execute("SELECT tenant, actor, data FROM act").fetchall()  # type: ignore[attr-defined]
    [(tenant, actor, data)] = found
    assert (tenant, actor) == (TENANT, f"local:{getpass.getuser()}")
    assert json.loads(data)["note"] == "they pay for it"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_setting"),
        ({"note": "nothing"}, 400, "invalid_setting"),
        ({"paused": None}, 422, "invalid_request"),
        ({"paused": "yes"}, 422, "invalid_request"),
        ({"paused": 1}, 422, "invalid_request"),
        ({"runsMax": 0}, 422, "invalid_request"),
        ({"runsMax": "1"}, 422, "invalid_request"),
        ({"stepsMax": 1_000_001}, 422, "invalid_request"),
        ({"stepsMax": True}, 422, "invalid_request"),
        ({"weight": 0}, 422, "invalid_request"),
        ({"weight": None}, 422, "invalid_request"),
        ({"paused": True, "more": 1}, 422, "invalid_request"),
        ([], 422, "invalid_request"),
    ],
)
async def test_limits_that_mean_nothing_are_refused(
    server: Served, body: Any, status: int, code: str
) -> None:
    await server.owner.register(registration(SINGLE))
    for path in ("limits", f"dags/{SINGLE.id}/limits"):
        require_problem(await patch(server, path, body), status, code)
    assert await server.owner.tenant_limits(TENANT) == Limits()


async def test_a_member_that_stands_twice_is_refused(server: Served) -> None:
    body = b'{"paused": true, "paused": false}'
    answer = await server.client.patch("/api/v1/limits", content=body, headers=AS_JSON)
    require_problem(answer, 400, "invalid_value")


async def test_a_dag_has_no_weight(server: Served) -> None:
    await server.owner.register(registration(SINGLE))
    answer = await patch(server, f"dags/{SINGLE.id}/limits", {"weight": 2})
    require_problem(answer, 422, "invalid_request")


async def test_another_tenants_dag_is_not_there_and_stays_as_it_is(server: Served) -> None:
    await server.owner.register(registration(SINGLE))
    path = f"dags/{SINGLE.id}/limits"
    require_problem(await patch(server, path, {"paused": True}, OTHERS), 404, "not_found")
    require_problem(await server.client.get(f"/api/v1/{path}", headers=OTHERS), 404, "not_found")
    require_problem(await patch(server, "limits", {"paused": True}, {}), 400, "invalid_identifier")
    require_problem(await patch(server, "dags/a b/limits", {"paused": True}), 400, "invalid_identifier")
    assert (await patch(server, "limits", {"paused": True}, OTHERS)).status_code == 200
    [depth] = await server.owner.depths(TENANT)
    assert (depth.limits, await server.owner.tenant_limits(TENANT)) == (Limits(), Limits())


# --- the queue ---------------------------------------------------------------------------------------------------------


async def test_the_queue_tells_of_the_tenant_and_of_each_dag(server: Served) -> None:
    await server.owner.register(registration(SINGLE))
    await server.owner.submit(submission(SINGLE, "1"))
    await patch(server, f"dags/{SINGLE.id}/limits", {"paused": True})
    await server.owner.submit(submission(SINGLE, "2"))
    shown = (await server.client.get("/api/v1/queue", headers=HEADERS)).json()
    [queue] = shown["queues"]
    for counted in (shown, queue):
        assert (counted["queued"], counted["executing"], counted["runs"]) == (1, 0, 1)
        waiting = counted["waitingRuns"]
        assert (waiting["count"], waiting["reasons"]) == (1, {"dag_paused": 1})
        assert waiting["oldest"] == counted["oldest"] is not None
    other = (await server.client.get("/api/v1/queue", headers=OTHERS)).json()
    assert (other["queued"], other["oldest"], other["waitingRuns"]["count"], other["queues"]) == (
        0,
        None,
        0,
        [],
    )
