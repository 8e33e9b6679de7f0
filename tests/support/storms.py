"""Storms with what each must leave behind: orders to a foreign server and to one that forgets nothing, deployments to supervisord."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from support.order_server import MAKER_PRICE, MAPPING, OrderServer, order_server
from support.proxies import Fault, Plan, Proxy, mixed, proxied
from support.rest import Got, Say, rest_server
from support.rest_provider import Desk, desk_mapping
from support.storm import TENANT, storm
from support.supervisord import starts_by_deployment
from support.supervisord_line import behind_a_proxy

CUT_SHARE = 1 / 3
FAULTS = (Fault.CUT_AFTER, Fault.CUT_AFTER, Fault.CUT_BEFORE, Fault.ERROR_AFTER)
SIZE = Decimal(2)
STRIKES = 4
DEADLINE = "3s"


@dataclass(frozen=True)
class OrdersTold:
    """What a storm of orders was like; what it had to leave behind has been asserted."""

    orders: int
    kills: int
    cut: int
    unknown: int
    found: int
    parked: int
    sent_again: int
    filled: int


@dataclass(frozen=True)
class DeploymentsTold:
    """What a storm of deployments was like; what it had to leave behind has been asserted."""

    deployments: int
    kills: int
    cut: int
    unknown: int
    parked: int


async def orders_in_a_storm(folder: Path, *, seed: int, orders: int, kills: int) -> OrdersTold:
    """Have orders placed, every other one to be filled at once, while the server's market goes on."""
    server = await asyncio.to_thread(order_server)
    await server.empty()
    await server.offer("maker-1", size=str(SIZE * orders))
    plan = mixed(seed, CUT_SHARE, {"POST"}, FAULTS)
    payloads = [order_payload(number) for number in range(orders)]
    async with proxied(server.port, plan) as proxy:
        adapters = {"exchange": {"kind": "http", "mapping": str(MAPPING), "baseUrl": proxy.url}}
        async with storm(folder, adapters, seed=seed, kills=kills) as raging:
            market = asyncio.create_task(_market(server))
            await raging.rage("order.place", "exchange", payloads, _posts(proxy), orders)
            commands = await raging.settled()
            market.cancel()
            with suppress(asyncio.CancelledError):
                await market
            await server.match()
            histories = [await raging.history(command["commandId"]) for command in commands]
        filled = await _require_exactly(server, commands, payloads)
    return OrdersTold(
        orders=len(commands),
        kills=raging.kills_done,
        cut=sum(asked.fault is not Fault.NONE for asked in proxy.asked),
        unknown=sum("command.unknown" in history for history in histories),
        found=sum("command.unknown" in history and "command.parked" not in history for history in histories),
        parked=len(raging.parked),
        sent_again=raging.sent_again,
        filled=filled,
    )


@dataclass(frozen=True)
class ResentTold:
    """What a storm of orders to a provider that forgets nothing was like; what it had to leave behind has been asserted."""

    orders: int
    kills: int
    never_heard: int
    sent_again: int


async def resent_in_a_storm(folder: Path, *, seed: int, orders: int, kills: int) -> ResentTold:
    """Have orders placed at a provider where what is not found was certainly not executed: nobody is ever asked."""
    desk, seen_before = Desk(), Counter[str]()

    def answer(got: Got) -> Say:
        said = desk.answer(got)
        if said.status == 409:
            seen_before[got.json()["client"]] += 1
        return said

    payloads = [
        {"symbol": "ACME", "side": "buy", "quantity": str(number + 1), "price": "1.5"}
        for number in range(orders)
    ]
    plan = mixed(seed, CUT_SHARE, {"POST"}, FAULTS)
    async with rest_server(answer) as server, proxied(server.port, plan) as proxy:
        adapters = {"desk": {"kind": "http", "mapping": str(desk_mapping(folder)), "baseUrl": proxy.url}}
        async with storm(folder, adapters, seed=seed, kills=kills) as raging:
            await raging.rage("order.place", "desk", payloads, _posts(proxy), orders)
            commands = await raging.settled()
            histories = [await raging.history(command["commandId"]) for command in commands]
    assert {command["state"] for command in commands} == {"confirmed"}
    assert len(commands) == orders
    assert Counter(held["client"] for held in desk.orders) == {
        command["commandId"]: 1 for command in commands
    }
    assert seen_before.total() == 0, "it was sent what it had already"
    assert sorted(held["quantity"] for held in desk.orders) == sorted(one["quantity"] for one in payloads)
    assert raging.parked == set()
    return ResentTold(
        orders=len(commands),
        kills=raging.kills_done,
        never_heard=sum(asked.fault is Fault.CUT_BEFORE for asked in proxy.asked),
        sent_again=sum(history.count("command.sent") > 1 for history in histories),
    )


def order_payload(number: int) -> dict[str, Any]:
    """Return an order that is filled by the maker's offer, or one that rests."""
    price = MAKER_PRICE if number % 2 else Decimal("1.5")
    return {"symbol": "ACME", "side": "buy", "quantity": str(SIZE), "price": str(price)}


class _Posts:
    """Counts what was asked of a provider other than to read."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def __len__(self) -> int:
        return sum(asked.method == "POST" for asked in self._proxy.asked)

    def __getitem__(self, position: Any) -> Any:
        raise IndexError(position)


def _posts(proxy: Proxy) -> Any:
    return _Posts(proxy)


async def _market(server: OrderServer) -> None:
    while True:
        await server.match()
        await asyncio.sleep(0.1)


async def _require_exactly(server: OrderServer, commands: list[dict[str, Any]], payloads: list[Any]) -> int:
    """Assert that the server holds what was commanded, each once and whole; return how many orders were filled."""
    assert {command["state"] for command in commands} == {"confirmed"}
    assert sorted(command["key"] for command in commands) == sorted(
        f"order.place-{number}" for number in range(len(payloads))
    )
    held: Counter[str] = Counter()
    for order in await server.open_orders():
        held[order["order_id"]] += Decimal(str(order["size"]))  # type: ignore[assignment] # sums of decimals
    filled = 0
    for trade in await server.trades():
        held[trade["incoming_order_id"]] += Decimal(str(trade["size"]))  # type: ignore[assignment] # likewise
        held[trade["book_order_id"]] += Decimal(str(trade["size"]))  # type: ignore[assignment] # likewise
        filled += 1
    ours = {name: size for name, size in held.items() if not name.startswith("maker")}
    assert ours == {f"{TENANT}.{command['commandId']}": SIZE for command in commands}
    return filled


def _at_first(plan: Plan) -> Plan:
    """Have a plan strike the first calls for each deployment: looks are calls, too, and shall come to an end."""
    return lambda method, path, key, nth: plan(method, path, key, nth) if nth < STRIKES else Fault.NONE


async def deployments_in_a_storm(folder: Path, *, seed: int, deployments: int, kills: int) -> DeploymentsTold:
    """Have deployments created on a real supervisord."""
    payloads = [
        {"name": f"maker-{number}", "artifact": "bot", "parameters": {"number": number}}
        for number in range(deployments)
    ]
    async with behind_a_proxy(_at_first(mixed(seed, CUT_SHARE, {"POST"}, FAULTS))) as (
        server,
        proxy,
        settings,
    ):
        settings["processingDeadline"] = DEADLINE
        async with storm(
            folder, {"host": {"kind": "supervisor", **settings}}, seed=seed, kills=kills
        ) as raging:
            await raging.rage("deployment.create", "host", payloads, _posts(proxy), deployments)
            commands = await raging.settled()
            histories = [await raging.history(command["commandId"]) for command in commands]
        await asyncio.to_thread(server.started, deployments)
        await asyncio.to_thread(server.settle)
        assert {command["state"] for command in commands} == {"confirmed"}
        assert starts_by_deployment(server) == {command["commandId"]: 1 for command in commands}
        return DeploymentsTold(
            deployments=len(commands),
            kills=raging.kills_done,
            cut=sum(asked.fault is not Fault.NONE for asked in proxy.asked),
            unknown=sum("command.unknown" in history for history in histories),
            parked=len(raging.parked),
        )
