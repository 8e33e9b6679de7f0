"""What each answer of a provider means: done, rejected, never sent, or openly unknown; and what is sent to it at all."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.commands.model import CancelOrder, CreateDeployment, PlaceOrder, StopDeployment
from sovrun.core.ids import Tenant
from sovrun.execution.adapters.http import HttpAdapter
from sovrun.execution.port import Done, NotReached, OrderStatus, OutcomeUnknown, Rejected
from support.providers import TENANT, Calls
from support.rest import Got, RestServer, Say, rest_server
from support.rest_provider import MAPPING, SECRET, desk_adapter

LIMIT = PlaceOrder("ACME", "buy", "limit", Decimal("2.5"), Decimal("1.5"), "gtc")
RECORD = {
    "id": "o1", "client": None, "account": "acme", "symbol": "ACME", "side": "buy", "type": "LMT",
    "quantity": "2.5", "filled": "0", "limit": "1.5", "status": "OPEN",
}  # fmt: skip


@pytest.fixture
def calls(request: pytest.FixtureRequest) -> Calls:
    return Calls(request.node.nodeid)


@asynccontextmanager
async def spoken_to(
    folder: Path, answer: Callable[[Got], Say], mapping: str = MAPPING
) -> AsyncIterator[tuple[HttpAdapter, RestServer]]:
    """Give an adapter and the server that it speaks to."""
    async with rest_server(answer) as server:
        adapter = desk_adapter(folder, server.url, mapping)
        yield adapter, server
        await adapter.close()


def order_told(got: Got, **other: Any) -> Say:
    return Say(201, {"order": {**RECORD, "client": got.json()["client"], **other}})


# --- statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (500, "server_error"), (502, "server_error"), (503, "server_error"), (504, "server_error"),
        (408, "timeout"), (425, "server_error"), (429, "server_error"), (409, "bad_answer"),
        (301, "bad_answer"), (302, "bad_answer"), (307, "bad_answer"), (308, "bad_answer"), (304, "bad_answer"),
    ],
)  # fmt: skip
async def test_an_answer_that_settles_nothing_leaves_the_outcome_unknown_and_is_not_asked_again(
    tmp_path: Path, calls: Calls, status: int, reason: str
) -> None:
    elsewhere = {"Location": "/orders/elsewhere", "Retry-After": "0"}
    async with spoken_to(tmp_path, lambda _: Say(status, b"{}", elsewhere)) as (adapter, server):
        with pytest.raises(OutcomeUnknown) as unknown:
            await adapter.place_order(calls.effect(), LIMIT)
        assert unknown.value.reason == reason
        assert not isinstance(unknown.value, NotReached)
        assert len(server.got) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 418, 422])
async def test_a_clients_error_is_a_refusal(tmp_path: Path, calls: Calls, status: int) -> None:
    async with spoken_to(tmp_path, lambda _: Say(status, b"no, thanks")) as (adapter, server):
        outcome = await adapter.place_order(calls.effect(), LIMIT)
        assert isinstance(outcome, Rejected)
        assert outcome.code == ("not_found" if status == 404 else "provider_rejected")
        assert outcome.message == f"HTTP {status}: no, thanks"
        assert not outcome.duplicate
        assert len(server.got) == 1


async def test_the_body_tells_one_refusal_from_another(tmp_path: Path, calls: Calls) -> None:
    told: dict[str, Any] = {}
    async with spoken_to(tmp_path, lambda _: Say(422, told)) as (adapter, _):
        for code, ours in (("NO_SUCH_SYMBOL", "unknown_symbol"), ("OTHER", "provider_rejected")):
            told["error"] = {"code": code}
            outcome = await adapter.place_order(calls.effect(), LIMIT)
            assert isinstance(outcome, Rejected)
            assert outcome.code == ours


async def test_what_the_provider_calls_a_duplicate_is_marked_so(tmp_path: Path, calls: Calls) -> None:
    body = {"error": {"code": "DUPLICATE", "text": "seen before"}}
    async with spoken_to(tmp_path, lambda _: Say(409, body)) as (adapter, _):
        outcome = await adapter.place_order(calls.effect(), LIMIT)
    assert outcome == Rejected("duplicate", "HTTP 409: seen before", duplicate=True)


async def test_a_mapping_may_say_that_a_refusal_was_for_now_or_settles_nothing(
    tmp_path: Path, calls: Calls
) -> None:
    rules = "errors:\n  - {status: 429, outcome: not_taken_up}\n  - {status: 400, outcome: unknown}\n"
    mapping = MAPPING.replace("errors:\n", rules)
    async with spoken_to(tmp_path, lambda _: Say(429), mapping) as (adapter, _):
        with pytest.raises(NotReached, match="did not take it up"):
            await adapter.place_order(calls.effect(), LIMIT)
    async with spoken_to(tmp_path, lambda _: Say(400), mapping) as (adapter, _):
        with pytest.raises(OutcomeUnknown) as unknown:
            await adapter.place_order(calls.effect(), LIMIT)
        assert not isinstance(unknown.value, NotReached)


# --- answers that make no sense ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"\xff\xfe", b'{"order": ', b'{"order": NaN}', b'{"order": {}, "order": {}}',
        b"[" * 100_000, b"1" * 100_000, b'{"order": null}', b"[]", b'{"other": {}}',
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
async def test_an_acknowledgement_that_cannot_be_read_leaves_the_outcome_unknown(
    tmp_path: Path, calls: Calls, body: bytes
) -> None:
    async with spoken_to(tmp_path, lambda _: Say(200, body)) as (adapter, server):
        with pytest.raises(OutcomeUnknown) as unknown:
            await adapter.place_order(calls.effect(), LIMIT)
        assert unknown.value.reason == "bad_answer"
        assert len(server.got) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"status": "HALTED"}, {"status": None}, {"side": "long"}, {"id": None}, {"id": "a b"}, {"id": True},
        {"quantity": None}, {"quantity": "many"}, {"quantity": "-1"}, {"quantity": "1e999"}, {"quantity": "0x1"},
        {"quantity": "1" * 100}, {"limit": "NaN"}, {"limit": [1]}, {"client": "0" * 32}, {"client": None},
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
async def test_a_record_that_makes_no_sense_leaves_the_outcome_unknown(
    tmp_path: Path, calls: Calls, other: dict[str, Any]
) -> None:
    async with spoken_to(tmp_path, lambda got: order_told(got, **other)) as (adapter, _):
        with pytest.raises(OutcomeUnknown) as unknown:
            await adapter.place_order(calls.effect(), LIMIT)
        assert unknown.value.reason == "bad_answer"


async def test_a_record_that_says_two_things_leaves_the_outcome_unknown(tmp_path: Path, calls: Calls) -> None:
    def twice(got: Got) -> Say:
        told = json.dumps(order_told(got).body)
        return Say(201, told.replace('"status": "OPEN"', '"status": "OPEN", "status": "DONE"').encode())

    async with spoken_to(tmp_path, twice) as (adapter, _):
        with pytest.raises(OutcomeUnknown, match="stands twice"):
            await adapter.place_order(calls.effect(), LIMIT)


async def test_a_status_that_is_not_mapped_is_what_the_mapping_says_for_the_rest(
    tmp_path: Path, calls: Calls
) -> None:
    mapping = MAPPING.replace("DELETED: cancelled}", "DELETED: cancelled}, otherwise: failed")
    async with spoken_to(tmp_path, lambda got: order_told(got, status="HALTED"), mapping) as (adapter, _):
        outcome = await adapter.place_order(calls.effect(), LIMIT)
        assert isinstance(outcome, Done)
        assert (outcome.resource.status, outcome.resource.raw_status) == (OrderStatus.FAILED, "HALTED")


async def test_an_answer_that_is_too_large_is_not_read_to_its_end(tmp_path: Path, calls: Calls) -> None:
    mapping = MAPPING + "limits: {answerBytes: 2000}\n"
    async with spoken_to(tmp_path, lambda got: order_told(got, more="x" * 2000), mapping) as (adapter, _):
        with pytest.raises(OutcomeUnknown, match="more than 2000 bytes"):
            await adapter.place_order(calls.effect(), LIMIT)


async def test_an_answer_that_is_compressed_is_not_unpacked(tmp_path: Path, calls: Calls) -> None:
    packed = Say(200, b"\x1f\x8b", {"Content-Encoding": "gzip"})
    async with spoken_to(tmp_path, lambda _: packed) as (adapter, server):
        with pytest.raises(OutcomeUnknown, match="compressed"):
            await adapter.place_order(calls.effect(), LIMIT)
        assert server.got[0].headers["accept-encoding"] == "identity"


# --- reads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [Say(500), Say(404), Say(401), Say(200, b"{}"), Say(200, {"orders": 7})])
async def test_what_cannot_be_read_is_never_taken_for_absence(
    tmp_path: Path, calls: Calls, answer: Say
) -> None:
    async with spoken_to(tmp_path, lambda _: answer) as (adapter, _):
        for read in (
            adapter.find_order(calls.read(), calls.client_id()),
            adapter.list_orders(calls.read()),
            adapter.find_deployment(calls.read(), calls.client_id()),
        ):
            with pytest.raises(OutcomeUnknown):
                await read


async def test_two_orders_under_one_client_id_are_not_taken_for_one(tmp_path: Path, calls: Calls) -> None:
    client = calls.client_id()
    two = {"orders": [{**RECORD, "client": client, "id": "o1"}, {**RECORD, "client": client, "id": "o2"}]}
    async with spoken_to(tmp_path, lambda _: Say(200, two)) as (adapter, _):
        with pytest.raises(OutcomeUnknown, match="2 records"):
            await adapter.find_order(calls.read(), client)


async def test_a_provider_that_ignores_what_is_looked_for_is_not_believed(
    tmp_path: Path, calls: Calls
) -> None:
    others = {"orders": [{**RECORD, "client": "0" * 32}], "order": RECORD}
    async with spoken_to(tmp_path, lambda _: Say(200, others)) as (adapter, _):
        assert await adapter.find_order(calls.read(), calls.client_id()) is None
        assert await adapter.get_order(calls.read(), "o2") is None


async def test_pages_that_do_not_end_are_not_taken_for_a_list(tmp_path: Path, calls: Calls) -> None:
    async with spoken_to(tmp_path, lambda _: Say(200, {"orders": [], "next": "same"})) as (adapter, _):
        with pytest.raises(OutcomeUnknown, match="names itself"):
            await adapter.list_orders(calls.read())
    pages = iter(range(1_000))
    mapping = MAPPING + "limits: {pages: 3}\n"
    endless = lambda _: Say(200, {"orders": [], "next": str(next(pages))})  # noqa: E731
    async with spoken_to(tmp_path, endless, mapping) as (adapter, server):
        with pytest.raises(OutcomeUnknown, match="more than 3 pages"):
            await adapter.list_orders(calls.read())
        assert len(server.got) == 3


async def test_numbers_of_any_spelling_are_read_exactly(tmp_path: Path, calls: Calls) -> None:
    text = b'{"last": 0.10000000000000000000000001}'
    async with spoken_to(tmp_path, lambda _: Say(200, text)) as (adapter, _):
        assert await adapter.quote(calls.read(), "ACME") == Decimal("0.10000000000000000000000001")
    async with spoken_to(tmp_path, lambda _: Say(200, b'{"last": 12e-1}')) as (adapter, _):
        assert str(await adapter.quote(calls.read(), "ACME")) == "1.2"
    async with spoken_to(tmp_path, lambda _: Say(200, b'{"last": null}')) as (adapter, _):
        assert await adapter.quote(calls.read(), "ACME") is None


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_what_could_not_be_read_before_is_not_ended(tmp_path: Path, calls: Calls) -> None:
    async with spoken_to(tmp_path, lambda _: Say(500)) as (adapter, server):
        with pytest.raises(NotReached):
            await adapter.cancel_order(calls.effect(), CancelOrder("o1"))
        with pytest.raises(NotReached):
            await adapter.stop_deployment(calls.effect(), StopDeployment("d1"))
        assert server.effects() == []


async def test_an_order_that_is_filled_while_it_is_cancelled_is_told_to_be_filled(
    tmp_path: Path, calls: Calls
) -> None:
    def answer(got: Got) -> Say:
        if got.method == "POST":
            return Say(404)
        filled = bool(server.effects())
        state = {"status": "DONE", "filled": "2.5", "average": "1.5"} if filled else {}
        return Say(200, {"order": {**RECORD, **state}})

    async with spoken_to(tmp_path, answer) as (adapter, server):
        outcome = await adapter.cancel_order(calls.effect(), CancelOrder("o1"))
        assert isinstance(outcome, Rejected)
        assert outcome.code == "already_filled"
        assert len(server.effects()) == 1


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../orders", "a\\b", "a%2e", "a?b", "a#b"])
async def test_an_id_cannot_lead_to_another_path(tmp_path: Path, calls: Calls, name: str) -> None:
    async with spoken_to(tmp_path, lambda _: Say(200, {"order": {**RECORD, "id": name}})) as (
        adapter,
        server,
    ):
        outcome = await adapter.cancel_order(calls.effect(), CancelOrder(name))
        assert isinstance(outcome, Rejected)
        assert outcome.code == "not_found"
        assert await adapter.get_order(calls.read(), name) is None
        assert await adapter.quote(calls.read(), name) is None
        assert server.got == []


# --- what is sent -----------------------------------------------------------------------------------------------------


async def test_a_request_is_exactly_what_the_mapping_says(tmp_path: Path, calls: Calls) -> None:
    async with spoken_to(tmp_path, order_told) as (adapter, server):
        call = calls.effect()
        await adapter.place_order(call, LIMIT)
        (got,) = server.got
    assert (got.method, got.path, got.query) == ("POST", "/orders", {})
    assert got.json() == {
        "client": call.client_id, "symbol": "ACME", "side": "buy", "type": "LMT", "quantity": "2.5",
        "limit": "1.5", "timeInForce": "gtc",
    }  # fmt: skip
    assert got.headers["authorization"] == f"Bearer {SECRET}"
    assert (got.headers["x-account"], got.headers["x-on-behalf-of"]) == ("acme", "local:tester")
    assert got.headers["content-type"] == "application/json"


async def test_a_header_of_a_request_takes_the_place_of_the_one_for_all(tmp_path: Path, calls: Calls) -> None:
    own = "    path: /orders\n    headers: {x-account: {join: [desk-, {from: tenant}]}}\n"
    mapping = MAPPING.replace("    path: /orders\n", own, 1)
    async with spoken_to(tmp_path, order_told, mapping) as (adapter, server):
        await adapter.place_order(calls.effect(), LIMIT)
        assert server.got[0].headers["x-account"] == "desk-acme"


async def test_a_member_without_a_value_is_left_out(tmp_path: Path, calls: Calls) -> None:
    async with spoken_to(tmp_path, lambda got: order_told(got, type="MKT")) as (adapter, server):
        await adapter.place_order(
            calls.effect(), PlaceOrder("ACME", "buy", "market", Decimal(1), None, "ioc")
        )
        assert "limit" not in server.got[0].json()


async def test_what_the_mapping_would_leave_out_of_a_command_is_refused(tmp_path: Path, calls: Calls) -> None:
    lines = ("      timeInForce: {from: timeInForce}\n", ", capital: {from: capital}")
    mapping = MAPPING.replace(lines[0], "").replace(lines[1], "")
    async with spoken_to(tmp_path, order_told, mapping) as (adapter, server):
        ioc = PlaceOrder("ACME", "buy", "limit", Decimal(1), Decimal(1), "ioc")
        rich = CreateDeployment("bot", "bot", Decimal(5), {})
        outcomes = [
            await adapter.place_order(calls.effect(), ioc),
            await adapter.create_deployment(calls.effect(), rich),
        ]
        for outcome, lost in zip(outcomes, ("timeInForce", "capital"), strict=True):
            assert isinstance(outcome, Rejected)
            assert (outcome.code, lost in outcome.message) == ("not_supported", True)
        assert server.got == []
        assert isinstance(await adapter.place_order(calls.effect(), LIMIT), Done)


async def test_what_no_url_can_hold_is_refused(tmp_path: Path, calls: Calls) -> None:
    mapping = MAPPING.replace("    path: /deployments/{clientId}\n", "    path: /d\n    query: {all: {from: parameters}, c: {from: clientId}}\n")  # fmt: skip
    async with spoken_to(tmp_path, order_told, mapping) as (adapter, server):
        rich = CreateDeployment("bot", "bot", None, {"text": "x" * 70_000})
        outcome = await adapter.create_deployment(calls.effect(), rich)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "not_supported"
        assert server.got == []


async def test_a_provider_that_shows_what_is_another_tenants_is_not_followed(
    tmp_path: Path, calls: Calls
) -> None:
    client = calls.client_id()
    held = [{**RECORD, "client": client, "account": account} for account in ("globex", None, "acme ", "")]
    for record in held:
        told = Say(200, {"order": record, "orders": [record]})
        async with spoken_to(tmp_path, lambda _, told=told: told) as (adapter, server):  # type: ignore[misc]
            assert await adapter.get_order(calls.read(), "o1") is None
            assert await adapter.find_order(calls.read(), client) is None
            assert await adapter.list_orders(calls.read()) == []
            outcome = await adapter.cancel_order(calls.effect(), CancelOrder("o1"))
            assert isinstance(outcome, Rejected)
            assert outcome.code == "not_found"
            assert server.effects() == []


async def test_an_account_of_one_tenant_is_nobody_elses(tmp_path: Path, calls: Calls) -> None:
    mapping = MAPPING.replace("    owner: {at: /account, is: {from: tenant}}\n", "") + "tenant: acme\n"
    async with spoken_to(tmp_path, order_told, mapping) as (adapter, server):
        other = Tenant("globex")
        outcome = await adapter.place_order(calls.effect(tenant=other), LIMIT)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "tenant_not_allowed"
        assert await adapter.list_orders(calls.read(other)) == []
        assert await adapter.get_order(calls.read(other), "o1") is None
        assert (await adapter.portfolio(calls.read(other))).cash == {}
        assert await adapter.quote(calls.read(other), "ACME") is None
        assert server.got == []
        assert isinstance(await adapter.place_order(calls.effect(tenant=TENANT), LIMIT), Done)


async def test_symbols_are_the_providers_there_and_ours_here(tmp_path: Path, calls: Calls) -> None:
    mapping = MAPPING + "symbols: {ACME: XACM.1}\n"
    async with spoken_to(tmp_path, lambda got: order_told(got, symbol="XACM.1"), mapping) as (
        adapter,
        server,
    ):
        outcome = await adapter.place_order(calls.effect(), LIMIT)
        assert isinstance(outcome, Done)
        assert outcome.resource.symbol == "ACME"
        assert server.got[0].json()["symbol"] == "XACM.1"


# --- further kinds ----------------------------------------------------------------------------------------------------

REPORTS = """\
commands:
  report.publish:
    version: 1
    schema:
      type: object
      properties: {text: {type: string}, more: {type: array}}
      required: [text]
      additionalProperties: false
    perform: {method: PUT, path: "/reports/{clientId}", body: {text: {from: payload.text}, all: {from: payload}}}
    find: {path: "/reports/{clientId}", items: [/report]}
    clientId: /name
    owner: {at: /account, is: {from: tenant}}
"""


@pytest.mark.parametrize("record", ["", ", record: /report"])
async def test_a_further_kind_is_performed_and_found_again(tmp_path: Path, calls: Calls, record: str) -> None:
    held: dict[str, Any] = {}

    def answer(got: Got) -> Say:
        name = got.parts[1]
        if got.method == "PUT":
            held[name] = {**got.json(), "name": name, "account": "acme"}
            return Say(201, b'{"report": {"weight": 0.10}}' if record else b"")
        return Say(200, {"report": held[name]}) if name in held else Say(404)

    mapping = MAPPING + REPORTS.replace("payload}}}", f"payload}}}}{record}}}")
    async with spoken_to(tmp_path, answer, mapping) as (adapter, server):
        kind = adapter.capabilities.kinds["report.publish"]
        assert (kind.version, kind.opens, kind.target, kind.schema["required"]) == (1, True, None, ["text"])
        call, payload = calls.effect(), {"text": "up", "more": [1, None]}
        assert await adapter.find_performed(calls.read(), "report.publish", str(call.client_id)) is None
        outcome = await adapter.perform_further(call, "report.publish", payload)
        told = {"text": "up", "all": payload, "name": call.client_id, "account": "acme"}
        assert outcome == Done({"weight": "0.10"} if record else told)
        assert await adapter.find_performed(calls.read(), "report.publish", str(call.client_id)) == told
        other = calls.read(Tenant("globex"))
        assert await adapter.find_performed(other, "report.publish", str(call.client_id)) is None
        assert len(server.effects()) == 1


@pytest.mark.parametrize("answer", [Say(200), Say(200, {"report": 7}), Say(500)])
async def test_a_further_kind_whose_end_is_not_told_is_unknown(
    tmp_path: Path, calls: Calls, answer: Say
) -> None:
    async with spoken_to(tmp_path, lambda _: answer, MAPPING + REPORTS) as (adapter, _):
        with pytest.raises(OutcomeUnknown):
            await adapter.perform_further(calls.effect(), "report.publish", {"text": "up"})
        outcome = await adapter.perform_further(calls.effect(mode="live"), "report.publish", {})
        assert isinstance(outcome, Rejected)
        assert outcome.code == "mode_not_allowed"


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_a_secret_is_never_shown(
    tmp_path: Path, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def echo(got: Got) -> Say:
        return Say(400, f"who is {got.headers['authorization']}?".encode())

    async with spoken_to(tmp_path, echo) as (adapter, server):
        outcome = await adapter.place_order(calls.effect(), LIMIT)
        assert isinstance(outcome, Rejected)
        assert outcome.message == "HTTP 400: who is Bearer ***?"
        with pytest.raises(OutcomeUnknown) as unknown:
            await adapter.list_orders(calls.read())
        assert SECRET in server.got[0].headers["authorization"]
    assert caplog.records != []
    assert SECRET not in caplog.text + repr(vars(adapter)) + repr(adapter) + str(unknown.value)


async def test_a_renewed_secret_counts_at_once_and_a_lost_one_sends_nothing(
    tmp_path: Path, calls: Calls
) -> None:
    async with spoken_to(tmp_path, order_told) as (adapter, server):
        (tmp_path / "token").write_text("renewed")
        await adapter.place_order(calls.effect(), LIMIT)
        assert server.got[0].headers["authorization"] == "Bearer renewed"
        (tmp_path / "token").unlink()
        with pytest.raises(NotReached, match="the secret file"):
            await adapter.place_order(calls.effect(), LIMIT)
        assert len(server.got) == 1
