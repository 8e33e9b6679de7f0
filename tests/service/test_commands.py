"""Commands over REST: at most one effect under a key, the recorded answer byte for byte, and a clear code for all else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from sovrun.core.commands.journal import (
    BecameUnknown,
    Command,
    CommandId,
    Confirmed,
    Looked,
    Refused,
    ResendWanted,
    UnknownReason,
)
from sovrun.core.errors import IllegalTransition, InvalidIdentifier, InvalidValue
from sovrun.core.events import ENGINE
from sovrun.core.ids import Digest, Tenant
from sovrun.engine.command_desk import CommandDesk, Verdict
from sovrun.execution.port import Call
from sovrun.service.idempotency import key_of
from sovrun.store.journal import Resource
from sovrun.stores.remote.store import RemoteStore
from support.clock import START_US, SetClock
from support.requests import ACTOR, TENANT
from support.served import Served, served

HEADERS = {"X-Tenant-Id": TENANT}
LATER_US = START_US + 3_600_000_000
ORDER = {"symbol": "ACME", "side": "buy", "type": "market", "quantity": "2"}
RESTING = {"symbol": "ACME", "side": "buy", "quantity": "1", "price": "1"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    """A server whose commands are performed."""
    async with served(tmp_path, SetClock()) as running:
        work = asyncio.create_task(running.layer.run())
        yield running
        await running.layer.stop()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Served]:
    """A server whose commands nobody performs."""
    async with served(tmp_path, SetClock()) as running:
        yield running


async def ask(
    server: Served,
    payload: Any = ORDER,
    key: str | None = '"k-1"',
    *,
    kind: str = "order.place",
    wait: float = 20,
    tenant: str = TENANT,
    **more: Any,
) -> httpx.Response:
    body = {"kind": kind, "adapter": "paper", "payload": payload, **more}
    headers = {"X-Tenant-Id": tenant} | ({} if key is None else {"Idempotency-Key": key})
    return await server.client.post("/api/v1/commands", json=body, headers=headers, params={"wait": wait})


async def orders(server: Served, tenant: str = TENANT) -> list[dict[str, Any]]:
    answer = await server.client.get("/api/v1/adapters/paper/orders", headers={"X-Tenant-Id": tenant})
    found: list[dict[str, Any]] = answer.json()["orders"]
    return found


async def journal(server: Served) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await server.client.get("/api/v1/commands", headers=HEADERS)).json()[
        "commands"
    ]
    return found


def require_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), problem
    return problem


# --- one effect under a key --------------------------------------------------------------------------------------------


async def test_a_repeat_is_answered_with_the_recorded_bytes_and_has_no_effect(server: Served) -> None:
    first = await ask(server)
    again = await ask(server, {**ORDER, "quantity": "2.00"})
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["status"] == "confirmed"
    assert again.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(await orders(server)) == 1
    kept = await server.client.get(f"{first.headers['location']}/answer", headers=HEADERS)
    assert kept.content == first.content


async def test_many_callers_with_few_keys_cause_one_effect_for_each_key(server: Served) -> None:
    keys = [f'"k-{number % 5}"' for number in range(60)]
    answers = await asyncio.gather(*(ask(server, key=key) for key in keys))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 5
    by_key = dict(zip(keys, answers, strict=True))
    assert all(by_key[key].content == answer.content for key, answer in zip(keys, answers, strict=True))
    assert len(await orders(server)) == 5


async def test_another_payload_under_the_key_is_a_conflict_and_has_no_effect(server: Served) -> None:
    await ask(server)
    require_problem(await ask(server, {**ORDER, "quantity": "3"}), 422, "idempotency_key_conflict")
    assert len(await orders(server)) == 1


async def test_the_key_of_another_tenant_is_another_key(server: Served) -> None:
    assert (await ask(server)).content != (await ask(server, tenant="globex")).content
    assert len(await orders(server)) == len(await orders(server, "globex")) == 1


async def test_a_refusal_is_replayed_too(server: Served) -> None:
    first = await ask(server, {**ORDER, "quantity": "1000000"})
    assert (first.status_code, first.json()["status"]) == (200, "refused")
    assert first.json()["code"] == "insufficient_funds"
    assert (await ask(server, {**ORDER, "quantity": "1000000"})).content == first.content


async def test_without_an_outcome_the_first_is_accepted_and_a_repeat_is_told_that_it_is_in_flight(
    idle: Served,
) -> None:
    first = await ask(idle, wait=0)
    assert (first.status_code, first.json()["state"]) == (202, "intended")
    assert first.headers["retry-after"] == "1"
    again = await ask(idle, wait=0)
    require_problem(again, 409, "idempotency_key_in_flight")
    assert again.headers["retry-after"] == "1"
    answer = await idle.client.get(f"{first.headers['location']}/answer", headers=HEADERS)
    require_problem(answer, 409, "idempotency_key_in_flight")


# --- what is refused before anything is journalled ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({**ORDER, "quantity": "-1"}, "invalid_command"),
        ({**ORDER, "quantity": "0"}, "invalid_command"),
        ({**ORDER, "quantity": 1.5}, "invalid_command"),
        ({**RESTING, "price": 10.5}, "invalid_command"),
        ({**ORDER, "price": "1"}, "invalid_command"),
        ({**ORDER, "more": "1"}, "invalid_command"),
        ({**ORDER, "symbol": "NOPE"}, "unknown_symbol"),
    ],
)
async def test_an_order_that_makes_no_sense_is_not_journalled(
    server: Served, payload: Any, code: str
) -> None:
    require_problem(await ask(server, payload), 422, code)
    assert await journal(server) == []


@pytest.mark.parametrize(
    ("kind", "more", "status", "code"),
    [
        ("order.destroy", {}, 422, "invalid_command"),
        ("order.place", {"mode": "live"}, 422, "invalid_command"),
        ("order.place", {"adapter": "nothing"}, 422, "adapter_unavailable"),
        ("order.place", {"another": 1}, 422, "invalid_request"),
    ],
)
async def test_what_no_adapter_takes_is_not_journalled(
    server: Served, kind: str, more: dict[str, Any], status: int, code: str
) -> None:
    require_problem(await ask(server, kind=kind, **more), status, code)
    assert await journal(server) == []


async def test_a_member_that_stands_twice_is_refused(server: Served) -> None:
    twice = json.dumps({"kind": "order.place", "adapter": "paper", "payload": ORDER}).replace(
        '"quantity": "2"', '"quantity": "2", "quantity": "3"'
    )
    headers = {**HEADERS, "Idempotency-Key": '"k"', "Content-Type": "application/json"}
    answer = await server.client.post("/api/v1/commands", content=twice, headers=headers)
    require_problem(answer, 400, "invalid_value")
    assert await journal(server) == []


async def test_a_command_that_creates_needs_a_key(server: Served) -> None:
    require_problem(await ask(server, key=None), 400, "idempotency_key_required")
    assert await journal(server) == []


@pytest.mark.parametrize(
    "key", ["", '"', '"a', 'a"', '""', "a b", "a, b", '"a" "b"', '"\\a"', '"' + "x" * 513 + '"']
)
async def test_a_malformed_key_is_refused(server: Served, key: str) -> None:
    require_problem(await ask(server, key=key), 400, "invalid_identifier")
    assert await journal(server) == []


async def test_a_key_of_a_mebibyte_is_refused_as_a_problem(server: Served) -> None:
    require_problem(await ask(server, key="x" * (1 << 20)), 400, "malformed_request")
    assert await journal(server) == []


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ('"a b"', "a b"),
        ("a-1", "a-1"),
        ('"a\\"b\\\\"', 'a"b\\'),
        ("8e03978e-40d5", "8e03978e-40d5"),
        (' "x" ', "x"),
    ],
)
def test_a_key_is_a_structured_field_or_stands_as_it_is(sent: str, key: str) -> None:
    assert key_of(Headers({"Idempotency-Key": sent})) == key


def test_two_keys_are_none() -> None:
    with pytest.raises(InvalidIdentifier):
        key_of(Headers(raw=[(b"idempotency-key", b"a"), (b"idempotency-key", b"a")]))


async def test_what_another_tenant_has_made_cannot_be_ended(server: Served) -> None:
    made = await ask(server, {"name": "one", "artifact": "a"}, kind="deployment.create")
    name = made.json()["resource"]["id"]
    for tenant, status in (("globex", 404), (TENANT, 200)):
        stop = await ask(server, {"deploymentId": name}, '"s"', kind="deployment.stop", tenant=tenant)
        assert stop.status_code == status, stop.text
    found = await server.layer.adapters.reads(TENANT, "paper").list_deployments(Call(TENANT, ACTOR))
    assert [str(one.status) for one in found] == ["stopped"]


# --- reading ------------------------------------------------------------------------------------------------------------


async def test_a_command_is_shown_with_its_history_to_its_tenant_alone(server: Served) -> None:
    name = (await ask(server)).json()["commandId"]
    shown = (await server.client.get(f"/api/v1/commands/{name}", headers=HEADERS)).json()
    assert [entry["type"] for entry in shown["history"]] == [
        "command.intended",
        "command.sent",
        "command.confirmed",
    ]
    assert shown["payload"] == ORDER
    assert shown["answer"]["resource"]["filled"] == "2"
    other = await server.client.get(f"/api/v1/commands/{name}", headers={"X-Tenant-Id": "globex"})
    require_problem(other, 404, "not_found")


async def test_commands_are_listed_in_pages(idle: Served) -> None:
    for number in range(5):
        await ask(idle, key=f'"k-{number}"', wait=0)
    seen, before = [], None
    while True:
        query = {"limit": 2} | ({} if before is None else {"before": before})
        page = (await idle.client.get("/api/v1/commands", headers=HEADERS, params=query)).json()
        seen += [one["key"] for one in page["commands"]]
        before = page["next"]
        if before is None:
            break
    assert seen == [f"k-{number}" for number in (4, 3, 2, 1, 0)]
    none = await idle.client.get("/api/v1/commands", headers=HEADERS, params={"unresolved": True})
    assert none.json()["commands"] == []


async def test_what_is_at_the_provider_is_shown(server: Served) -> None:
    await ask(server)
    read = server.client.get
    (adapter,) = (await read("/api/v1/adapters", headers=HEADERS)).json()["adapters"]
    assert (adapter["name"], adapter["symbols"]) == ("paper", ["ACME", "GLOBEX", "THIN"])
    portfolio = (await read("/api/v1/adapters/paper/portfolio", headers=HEADERS)).json()
    assert portfolio == {"cash": {"USD": "999979"}, "positions": {"ACME": "2"}}
    (kept,) = (await read("/api/v1/resources", headers=HEADERS)).json()["resources"]
    (order,) = await orders(server)
    assert kept["seen"] == order
    assert (await read("/api/v1/adapters/paper/deployments", headers=HEADERS)).json() == {
        "deployments": [],
        "unreadable": [],
    }
    require_problem(await read("/api/v1/adapters/no/orders", headers=HEADERS), 422, "adapter_unavailable")


# --- people -------------------------------------------------------------------------------------------------------------


async def an_unknown_command(server: Served) -> CommandId:
    name = CommandId((await ask(server, wait=0)).json()["commandId"])
    sent = await server.owner.admit(TENANT, name, handler="h", due_us=LATER_US)
    event = BecameUnknown(UnknownReason.TIMEOUT, LATER_US)
    await server.owner.note(TENANT, name, sent.revision, event, actor=ENGINE)
    return name


async def say(server: Served, name: str, verdict: str, **more: Any) -> httpx.Response:
    body = {"verdict": verdict, "rationale": "I have looked", **more}
    return await server.client.post(f"/api/v1/commands/{name}/resolution", json=body, headers=HEADERS)


async def test_a_person_says_what_became_of_an_unknown_command(idle: Served) -> None:
    name = await an_unknown_command(idle)
    resolved = await say(idle, name, "confirmed", resourceId="o-17")
    assert (resolved.json()["state"], resolved.json()["resourceId"]) == ("confirmed", "o-17")
    answer = await ask(idle)
    assert answer.json()["resolvedBy"]["rationale"] == "I have looked"
    assert answer.json()["resource"] == {"id": "o-17", "type": "order"}
    assert (await say(idle, name, "confirmed", resourceId="o-17")).status_code == 200
    require_problem(await say(idle, name, "refused"), 409, "illegal_transition")
    cancel = await ask(idle, {"orderId": "o-17"}, '"c"', kind="order.cancel", wait=0)
    assert cancel.status_code == 202, "what a person has found can be cancelled"


async def test_a_person_says_that_nothing_happened(idle: Served) -> None:
    name = await an_unknown_command(idle)
    assert (await say(idle, name, "refused")).json()["reason"] == "resolved_by_person"
    assert (await ask(idle)).json()["status"] == "refused"


async def test_a_person_wants_it_sent_again(idle: Served) -> None:
    name = await an_unknown_command(idle)
    assert (await say(idle, name, "resend")).json()["resendWanted"]
    (due,) = await idle.owner.due_commands(10)
    assert (due.id, due.resend) == (name, True)


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"rationale": " "}, 400, "invalid_setting"),
        ({"verdict": "perhaps"}, 422, "invalid_request"),
        ({}, 400, "invalid_setting"),
        ({"verdict": "refused", "resourceId": "x"}, 400, "invalid_setting"),
        ({"resourceId": "\n"}, 400, "invalid_setting"),
    ],
)
async def test_a_verdict_that_makes_no_sense_changes_nothing(
    idle: Served, more: dict[str, Any], status: int, code: str
) -> None:
    name = await an_unknown_command(idle)
    require_problem(await say(idle, name, more.pop("verdict", "confirmed"), **more), status, code)
    assert (await idle.owner.command(TENANT, name)).revision == 3


async def test_nobody_decides_on_what_is_not_unknown(idle: Served) -> None:
    name = (await ask(idle, wait=0)).json()["commandId"]
    require_problem(await say(idle, name, "refused"), 409, "illegal_transition")
    await idle.owner.admit(TENANT, CommandId(name), handler="h", due_us=LATER_US)
    require_problem(await say(idle, name, "confirmed"), 409, "illegal_transition")
    assert [one["state"] for one in await journal(idle)] == ["sent"]


class OneBehind(RemoteStore):
    """A client that first sees a command as it was before the last entry."""

    def __init__(self, socket: Path, stale: Command) -> None:
        super().__init__(socket)
        self._stale: Command | None = stale

    async def command(self, tenant: Tenant, command: CommandId) -> Command:
        stale, self._stale = self._stale, None
        return stale or await super().command(tenant, command)


async def test_a_verdict_stands_when_the_command_is_looked_for_meanwhile(idle: Served) -> None:
    name = await an_unknown_command(idle)
    before = await idle.owner.command(TENANT, name)
    after = await idle.owner.note(TENANT, name, before.revision, Looked("absent", LATER_US), actor=ENGINE)
    client = OneBehind(idle.socket, before)
    resolved = await CommandDesk(client).resolve(TENANT, name, Verdict.REFUSED, actor=ACTOR, rationale="gone")
    assert (str(resolved.state), resolved.revision) == ("refused", after.revision + 1)
    found = OneBehind(idle.socket, after)
    with pytest.raises(IllegalTransition):
        await CommandDesk(found).resolve(
            TENANT, name, Verdict.CONFIRMED, actor=ACTOR, rationale="there", resource="o-1"
        )
    await client.close()
    await found.close()


async def test_only_a_persons_word_concludes_a_command_from_outside_and_only_an_unknown_one(
    idle: Served,
) -> None:
    name = CommandId((await ask(idle, wait=0)).json()["commandId"])
    sent = await idle.owner.admit(TENANT, name, handler="h", due_us=LATER_US)
    client = RemoteStore(idle.socket)
    digest = Digest("0" * 64)
    for event, error in (
        (Confirmed("answered", digest, "o"), InvalidValue),
        (Refused("gate", "rate", digest, "rate"), InvalidValue),
        (Confirmed("person", digest, "o"), IllegalTransition),
        (Refused("person", "resolved_by_person", digest), IllegalTransition),
        (ResendWanted(digest), IllegalTransition),
    ):
        with pytest.raises(error):
            await client.note(TENANT, name, sent.revision, event, actor=ACTOR)
    assert await idle.owner.command(TENANT, name) == sent
    unknown = BecameUnknown(UnknownReason.TIMEOUT, LATER_US)
    known = await idle.owner.note(TENANT, name, sent.revision, unknown, actor=ENGINE)
    theirs = Resource(Tenant("globex"), "paper", "order", "o", name, "pending", "", b"{}", live=True)
    with pytest.raises(InvalidIdentifier):
        await client.note(
            TENANT, name, known.revision, Confirmed("person", digest, "o"), actor=ACTOR, resource=theirs
        )
    switch = {
        "class": "Switch",
        "tenant": "globex",
        "tripped": True,
        "actor": "x",
        "rationale": digest,
        "time_us": 0,
    }
    answer = await idle.client.post(
        "/api/v1/engine/move_switch", json={"switch": switch, "payloads": []}, headers=HEADERS
    )
    require_problem(answer, 400, "invalid_identifier")
    await client.close()


async def move(server: Served, **body: Any) -> httpx.Response:
    body = {"rationale": "too hot", **body}
    return await server.client.post("/api/v1/switches", json=body, headers=HEADERS)


@pytest.mark.parametrize("everybody", [False, True])
async def test_a_tripped_switch_lets_nothing_out_until_it_is_reset(
    server: Served,
    everybody: bool,  # noqa: FBT001 -- a row of the table
) -> None:
    tripped = (await move(server, tripped=True, everybody=everybody)).json()
    assert (tripped["tripped"], tripped["rationale"]) == (True, "too hot")
    refused = (await ask(server)).json()
    assert (refused["status"], refused["gate"], refused["code"]) == ("refused", "kill_switch", "kill_switch")
    assert refused["message"].endswith(": too hot"), "whoever is refused is told why"
    assert (await ask(server, key='"g"', tenant="globex")).json()["status"] == (
        "refused" if everybody else "confirmed"
    )
    await move(server, tripped=False, everybody=everybody)
    assert (await ask(server, key='"k-2"')).json()["status"] == "confirmed"
    shown = (await server.client.get("/api/v1/switches", headers=HEADERS)).json()["switches"]
    assert [(one["tenant"], one["tripped"]) for one in shown] == [(None if everybody else TENANT, False)]
    moves = (await server.client.get("/api/v1/switches/history", headers=HEADERS)).json()["moves"]
    assert [(one["tripped"], one["rationale"]) for one in moves] == [(False, "too hot"), (True, "too hot")]
    latest = await server.client.get("/api/v1/switches/history", headers=HEADERS, params={"limit": 1})
    assert latest.json()["moves"] == moves[:1]
    other = await server.client.get("/api/v1/switches/history", headers={"X-Tenant-Id": "globex"})
    assert other.json()["moves"] == (moves if everybody else [])


async def test_limits_of_an_adapter_are_set_shown_and_kept_to(server: Served) -> None:
    path = "/api/v1/adapters/paper/limits"
    answer = await server.client.put(path, json={"perDay": 1, "orderNotional": "100"}, headers=HEADERS)
    assert answer.json()["limits"]["perDay"] == 1
    assert (await server.client.get(path, headers=HEADERS)).json() == answer.json()
    assert (await ask(server, {**ORDER, "quantity": "11"}, '"a"')).json()["gate"] == "notional"
    assert (await ask(server, key='"b"')).json()["status"] == "confirmed"
    assert (await ask(server, key='"c"')).json()["gate"] == "count"
    wrong = await server.client.put(path, json={"perYear": 1}, headers=HEADERS)
    require_problem(wrong, 400, "invalid_setting")


async def test_drift_is_listed_and_looked_for(server: Served) -> None:
    await ask(server, RESTING)
    compared = (await server.client.post("/api/v1/drifts", headers=HEADERS)).json()["comparisons"]
    assert compared == [{"adapter": "paper", "compared": 1, "unreachable": None, "drifts": []}]
    (kept,) = await server.owner.resources(TENANT)
    await server.owner.note_drifts([], seen=[replace(kept, status="cancelled", live=False)])
    ((found,),) = [
        one["drifts"]
        for one in (await server.client.post("/api/v1/drifts", headers=HEADERS)).json()["comparisons"]
    ]
    assert (found["previous"], found["provider"], found["resolution"]) == (
        "cancelled",
        "pending",
        "contradicts",
    )
    (listed,) = (await server.client.get("/api/v1/drifts", headers=HEADERS)).json()["drifts"]
    assert {**listed, "timestamp": None} == found
    other = await server.client.get("/api/v1/drifts", headers={"X-Tenant-Id": "globex"})
    assert other.json() == {"drifts": [], "providers": []}
    (provider,) = (await server.client.get("/api/v1/drifts", headers=HEADERS)).json()["providers"]
    assert (provider["adapter"], provider["unreachable"]) == ("paper", None)
    assert provider["comparedAt"] == provider["triedAt"] is not None
