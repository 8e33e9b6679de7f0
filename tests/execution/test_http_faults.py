"""Whatever the network does to a request, an order is placed at most once, and what may have happened is called unknown.

The provider is a foreign order server; a proxy before it does what networks do.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from sovrun.core.commands.model import CancelOrder, PlaceOrder
from sovrun.execution.adapters.http import HttpAdapter, open_adapter
from sovrun.execution.port import Call, Done, NotReached, Order, OrderStatus, OutcomeUnknown, Rejected
from sovrun.wiring import SystemClock
from support.order_server import MAPPING, OrderServer, order_adapter, order_server
from support.providers import Calls
from support.proxies import Fault, Proxy, always, proxied, seeded

LIMIT = PlaceOrder("ACME", "buy", "limit", Decimal("0.3"), Decimal("1.5"), "gtc")
AFTER = {
    Fault.CUT_AFTER: "connection_lost",
    Fault.RESET_AFTER: "connection_lost",
    Fault.CUT_WITHIN: "connection_lost",
    Fault.GARBAGE_AFTER: "connection_lost",
    Fault.HANG: "timeout",
    Fault.ERROR_AFTER: "server_error",
    Fault.NOT_JSON_AFTER: "bad_answer",
}
"""What strikes after the provider has done what it was asked, and the reason that is told."""


@dataclass(frozen=True)
class Line:
    adapter: HttpAdapter
    proxy: Proxy
    server: OrderServer

    def sent(self) -> list[str]:
        return [asked.method for asked in self.proxy.asked if asked.method != "GET"]


@pytest.fixture
def calls(request: pytest.FixtureRequest) -> Calls:
    return Calls(request.node.nodeid)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    server = order_server()
    await server.empty()
    async with proxied(server.port) as proxy:
        adapter = order_adapter(proxy.url)
        yield Line(adapter, proxy, server)
        await adapter.close()


async def placed(line: Line, calls: Calls) -> Order:
    outcome = await line.adapter.place_order(calls.effect(), LIMIT)
    assert isinstance(outcome, Done)
    assert isinstance(outcome.resource, Order)
    return outcome.resource


def test_every_fault_after_the_effect_is_tried() -> None:
    assert set(AFTER) == set(Fault) - {Fault.NONE, Fault.CUT_BEFORE}


@pytest.mark.parametrize("fault", AFTER)
async def test_an_order_whose_answer_is_lost_is_unknown_sent_once_and_found(
    line: Line, calls: Calls, fault: Fault
) -> None:
    call = calls.effect(timeout_us=500_000)
    async with line.proxy.meeting(always(fault, "POST")):
        with pytest.raises(OutcomeUnknown) as unknown:
            await line.adapter.place_order(call, LIMIT)
    assert not isinstance(unknown.value, NotReached)
    assert unknown.value.reason == AFTER[fault]
    assert line.sent() == ["POST"]
    assert len(await line.server.open_orders()) == 1
    found = await line.adapter.find_order(calls.read(), str(call.client_id))
    assert found is not None
    assert (found.quantity, found.price) == (LIMIT.quantity, LIMIT.price)
    again = await line.adapter.place_order(call, LIMIT)
    assert isinstance(again, Rejected)
    assert again.duplicate
    assert len(await line.server.open_orders()) == 1


@pytest.mark.parametrize("fault", AFTER)
async def test_a_cancellation_whose_answer_is_lost_is_unknown_and_was_sent_once(
    line: Line, calls: Calls, fault: Fault
) -> None:
    order = await placed(line, calls)
    async with line.proxy.meeting(always(fault, "DELETE")):
        with pytest.raises(OutcomeUnknown) as unknown:
            await line.adapter.cancel_order(calls.effect(timeout_us=500_000), CancelOrder(order.id))
    assert unknown.value.reason == AFTER[fault]
    assert line.sent() == ["POST", "DELETE"]
    assert await line.server.open_orders() == []


async def test_what_was_lost_on_its_way_is_unknown_too_and_was_not_placed(line: Line, calls: Calls) -> None:
    call = calls.effect()
    async with line.proxy.meeting(always(Fault.CUT_BEFORE)):
        with pytest.raises(OutcomeUnknown) as unknown:
            await line.adapter.place_order(call, LIMIT)
        assert not isinstance(unknown.value, NotReached)
    assert line.sent() == ["POST"]
    assert await line.adapter.find_order(calls.read(), str(call.client_id)) is None
    assert isinstance(await line.adapter.place_order(call, LIMIT), Done)


async def test_a_refused_connection_is_told_from_a_lost_one(line: Line, calls: Calls) -> None:
    async with line.proxy.refusing():
        with pytest.raises(NotReached):
            await line.adapter.place_order(calls.effect(), LIMIT)
    assert line.proxy.asked == []
    assert isinstance(await line.adapter.place_order(calls.effect(), LIMIT), Done)


async def test_a_connection_that_was_closed_while_idle_is_not_used(line: Line, calls: Calls) -> None:
    await placed(line, calls)
    await line.proxy.close()
    await line.proxy.open()
    await placed(line, calls)
    assert line.sent() == ["POST", "POST"]


async def test_a_host_that_has_no_address_was_not_reached(calls: Calls) -> None:
    adapter = order_adapter("http://no-such-host.invalid:9")
    with pytest.raises(NotReached):
        await adapter.place_order(calls.effect(), LIMIT)
    await adapter.close()


@asynccontextmanager
async def listening(ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Give the port of a server that says nothing, and what was said to it."""
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1 << 16))
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=ssl_context)
    yield server.sockets[0].getsockname()[1], heard
    server.close()
    await server.wait_closed()


async def test_a_connection_that_is_not_made_in_time_was_not_reached(tmp_path: Path, calls: Calls) -> None:
    async with listening() as (port, heard):  # it never answers the handshake
        mapping = tmp_path / "m.yaml"
        mapping.write_text(MAPPING.read_text().replace("connect: 2s", "connect: 100ms"))
        settings = {"mapping": str(mapping), "baseUrl": f"https://127.0.0.1:{port}"}
        adapter = open_adapter("exchange", settings, clock=SystemClock())
        with pytest.raises(NotReached):
            await adapter.place_order(calls.effect(), LIMIT)
        await adapter.close()
    assert b"POST" not in b"".join(heard)


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that nobody vouches for."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*request, *names], check=True, capture_output=True)
    return cert, key


async def test_a_server_without_a_valid_certificate_is_told_nothing(tmp_path: Path, calls: Calls) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with listening(context) as (port, heard):
        url = f"https://127.0.0.1:{port}"
        adapter = order_adapter(url)
        with pytest.raises(NotReached, match="CERTIFICATE_VERIFY_FAILED"):
            await adapter.place_order(calls.effect(), LIMIT)
        await adapter.close()
        assert b"".join(heard) == b""
        mapping = tmp_path / "m.yaml"
        mapping.write_text(MAPPING.read_text() + f"tls: {{ca: {cert}}}\n")
        trusting = open_adapter("exchange", {"mapping": str(mapping), "baseUrl": url}, clock=SystemClock())
        with pytest.raises(OutcomeUnknown) as unknown:
            await trusting.place_order(calls.effect(), LIMIT)
        assert unknown.value.reason == "connection_lost"
        await trusting.close()
        assert heard[-1].startswith(b"POST /place HTTP/1.1\r\n")


async def test_no_more_connections_are_open_than_the_mapping_allows(
    line: Line, calls: Calls, tmp_path: Path
) -> None:
    mapping = tmp_path / "m.yaml"
    mapping.write_text(MAPPING.read_text() + "limits: {connections: 2}\n")
    settings = {"mapping": str(mapping), "baseUrl": line.proxy.url}
    adapter = open_adapter("exchange", settings, clock=SystemClock())
    async with line.proxy.meeting(always(Fault.HANG)):
        first = [adapter.place_order(calls.effect(timeout_us=600_000), LIMIT) for _ in range(2)]
        waiting = [adapter.place_order(calls.effect(timeout_us=200_000), LIMIT) for _ in range(3)]
        outcomes = await asyncio.gather(*first, *waiting, return_exceptions=True)
    await adapter.close()
    assert [type(one) for one in outcomes] == [OutcomeUnknown] * 2 + [NotReached] * 3
    assert len(line.sent()) == 2


async def test_a_third_of_three_hundred_orders_is_cut_and_each_is_there_once(
    line: Line, calls: Calls
) -> None:
    turn = asyncio.Semaphore(8)

    async def place(call: Call) -> bool:
        async with turn:
            try:
                outcome = await line.adapter.place_order(call, LIMIT)
            except OutcomeUnknown:
                found = await line.adapter.find_order(calls.read(), str(call.client_id))
                assert found is not None
                return True
            assert isinstance(outcome, Done)
            return False

    asked = [calls.effect() for _ in range(300)]
    async with line.proxy.meeting(seeded(11, 0.33, ["POST"])):
        unknown = await asyncio.gather(*map(place, asked))
    assert 60 < sum(unknown) < 140
    assert line.sent() == ["POST"] * 300
    held = [order["order_id"] for order in await line.server.open_orders()]
    assert sorted(held) == sorted(f"acme.{call.client_id}" for call in asked)


# --- executions and orders that go on meanwhile -------------------------------------------------------------------


async def test_what_is_partly_filled_tells_how_much_and_what_it_cost(line: Line, calls: Calls) -> None:
    await line.server.offer("maker-1", size="0.1", price=Decimal("50.1"))
    await line.server.offer("maker-2", size="0.1", price=Decimal("50.4"))
    order = PlaceOrder("ACME", "buy", "limit", Decimal("0.3"), Decimal("50.5"), "gtc")
    call = calls.effect()
    await line.adapter.place_order(call, order)
    await line.server.match()
    found = await line.adapter.find_order(calls.read(), str(call.client_id))
    assert found is not None
    # the server itself is left with 0.09999999999999998
    assert (found.quantity, found.filled, found.average_price) == (
        Decimal("0.3"), Decimal("0.2"), Decimal("50.25"),
    )  # fmt: skip
    assert found.status is OrderStatus.PENDING
    assert (await line.adapter.portfolio(calls.read())).positions == {"ACME": Decimal("0.2")}
    outcome = await line.adapter.cancel_order(calls.effect(), CancelOrder(found.id))
    assert isinstance(outcome, Done)
    assert isinstance(outcome.resource, Order)
    told = outcome.resource
    assert (told.status, told.quantity, told.filled) == (
        OrderStatus.CANCELLED, Decimal("0.3"), Decimal("0.2"),
    )  # fmt: skip


async def test_an_order_that_is_filled_between_two_reads_is_counted_once(line: Line, calls: Calls) -> None:
    call = calls.effect()
    order = PlaceOrder("ACME", "buy", "limit", Decimal("0.3"), Decimal(50), "gtc")
    await line.adapter.place_order(call, order)
    await line.server.offer("maker-1", size="0.1", price=Decimal(60))
    fills = iter(["0.1", "0.1"])
    inner = line.proxy._answer

    async def filled_meanwhile(request: bytes) -> bytes:
        answer = await inner(request)
        size = next(fills, None) if request.startswith(b"GET /orders ") else None
        if size is not None:
            await line.server.offer(f"maker-{size}-{id(answer)}", size=size, price=Decimal(50))
        return answer

    line.proxy._answer = filled_meanwhile  # type: ignore[method-assign] -- the world goes on between two reads
    found = await line.adapter.find_order(calls.read(), str(call.client_id))
    assert found is not None
    assert (found.quantity, found.filled) == (Decimal("0.3"), Decimal("0.2"))


async def test_orders_that_never_stand_still_are_not_guessed(line: Line, calls: Calls) -> None:
    call = calls.effect()
    order = PlaceOrder("ACME", "buy", "limit", Decimal(100), Decimal(50), "gtc")
    await line.adapter.place_order(call, order)
    inner, count = line.proxy._answer, iter(range(100))

    async def filled_each_time(request: bytes) -> bytes:
        answer = await inner(request)
        if request.startswith(b"GET /orders "):
            await line.server.offer(f"maker-{next(count)}", size="1", price=Decimal(50))
        return answer

    line.proxy._answer = filled_each_time  # type: ignore[method-assign] -- as above
    with pytest.raises(OutcomeUnknown, match="at each of 5 looks"):
        await line.adapter.find_order(calls.read(), str(call.client_id))


# --- the proxy as a program -------------------------------------------------------------------------------------------


def test_a_seed_decides_which_requests_are_cut_in_whatever_order_they_come() -> None:
    ids = [f"{number:032x}" for number in range(3_000)]
    plan = seeded(7, 0.33, ["POST"])
    cut = {one for one in ids if plan("POST", "/place", one, 0) is Fault.CUT_AFTER}
    assert {one for one in reversed(ids) if seeded(7, 0.33, ["POST"])("POST", "/place", one, 0)} >= cut
    assert 900 < len(cut) < 1_080
    assert all(plan("GET", "/orders", one, 0) is Fault.NONE for one in ids)
    assert any(plan("POST", "/place", one, 1) is Fault.NONE for one in cut), "a second time may get through"


async def test_the_proxy_runs_as_a_program(calls: Calls, tmp_path: Path) -> None:
    server, log = order_server(), tmp_path / "log"
    await server.empty()
    program = [sys.executable, str(Path(__file__).parents[1] / "support" / "proxies.py")]
    options = ["--to", f"127.0.0.1:{server.port}", "--seed", "1", "--cut-share", "1", "--log", str(log)]
    process = await asyncio.create_subprocess_exec(*program, *options, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    port = (await process.stdout.readline()).decode().strip().rpartition(":")[2]
    adapter = order_adapter(f"http://127.0.0.1:{port}")
    with pytest.raises(OutcomeUnknown):
        await adapter.place_order(calls.effect(), LIMIT)
    assert len(await adapter.list_orders(calls.read())) == 1
    await adapter.close()
    process.terminate()
    await process.wait()
    assert [line.split('"')[3] for line in log.read_text().splitlines()][:1] == ["POST"]
