"""Kinds of commands over REST: which there are, what each asks for, and that a declared one is held to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sovrun.core.commands.model import KINDS
from support.clock import SetClock
from support.requests import TENANT
from support.served import Served, served

HEADERS = {"X-Tenant-Id": TENANT}
KINDS_ROUTE = "/api/v1/command-kinds"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    """A server whose commands nobody performs."""
    async with served(tmp_path, SetClock()) as running:
        yield running


async def test_kinds_are_listed_with_what_is_asked_of_them_and_each_has_its_schema(server: Served) -> None:
    listed = (await server.client.get(KINDS_ROUTE, headers=HEADERS)).json()["kinds"]
    told = {one["kind"]: one for one in listed}
    assert {*told} == {*KINDS, "deployment.pause", "deployment.resume"}
    for kind, one in told.items():
        alone = await server.client.get(f"{KINDS_ROUTE}/{kind}", headers=HEADERS)
        assert alone.json() == one["schema"]
    assert {**told["deployment.pause"], "schema": None} == {
        "kind": "deployment.pause",
        "version": 1,
        "needsKey": True,
        "opens": False,
        "target": {"deployment": "deploymentId"},
        "decimals": [],
        "adapters": ["paper"],
        "schema": None,
    }


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("deployment.sell", "not_found"),
        ("deployment.pause?adapter=none", "adapter_unavailable"),
    ],
)
async def test_what_nobody_declares_has_no_schema(server: Served, path: str, code: str) -> None:
    answer = await server.client.get(f"{KINDS_ROUTE}/{path}", headers=HEADERS)
    assert answer.status_code >= 400
    assert answer.json()["code"] == code


async def test_a_declared_kind_that_makes_no_sense_is_not_journalled(server: Served) -> None:
    body = {"kind": "deployment.pause", "adapter": "paper", "payload": {"any": 1}}
    headers = {**HEADERS, "Idempotency-Key": "k"}
    answer = await server.client.post("/api/v1/commands", json=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_command")
    assert "`deploymentId`" in answer.json()["detail"]
    listed = await server.client.get("/api/v1/commands", headers=HEADERS)
    assert listed.json()["commands"] == []
