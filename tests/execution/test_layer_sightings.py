"""What a provider says of a command: whether it is that, in words that are known or not; and settling at one go."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import pytest

from sovrun.core.canonical import decode
from sovrun.core.commands.journal import DETAIL_MAX, CommandState
from sovrun.execution.layer import CommandRequest
from sovrun.store.protocol import Store
from support.layers import DEPLOYMENT, ORDER, Bench, parked
from support.requests import TENANT
from support.scripted_provider import Trouble, first

CONFIRMED, UNKNOWN = CommandState.CONFIRMED, CommandState.UNKNOWN


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- what is ours -------------------------------------------------------------------------------------------------------


OTHER_ORDERS: list[dict[str, Any]] = [
    {"symbol": "GLOBEX"},
    {"side": "sell"},
    {"type": "market"},
    {"quantity": Decimal("2.000000000000000001")},
    {"price": Decimal("5.000000000000000001")},
    {"client_id": "0" * 32},
]
OTHER_DEPLOYMENTS: list[dict[str, Any]] = [
    {"name": "taker"},
    {"detail": {"artifact": "another"}},
    {"detail": {"artifact": "bot", "capital": "1000.01"}},
    {"detail": {"capital": 999}},
    {"client_id": "0" * 32},
]
OTHERS = [
    *((ORDER, change) for change in OTHER_ORDERS),
    *((DEPLOYMENT, change) for change in OTHER_DEPLOYMENTS),
]


def told_otherwise(bench: Bench, change: dict[str, Any]) -> None:
    """Have the provider tell otherwise of all it holds."""
    held = bench.provider
    held.orders.update({name: replace(one, **change) for name, one in held.orders.items()})
    held.deployments.update({name: replace(one, **change) for name, one in held.deployments.items()})


@pytest.mark.parametrize(("request_", "change"), OTHERS, ids=str)
async def test_something_under_our_id_that_is_not_ours_is_shown_to_a_person(
    bench: Bench, request_: CommandRequest, change: dict[str, Any]
) -> None:
    bench.provider.script = first(Trouble.LOST_ANSWER)
    name = await bench.intend(request_)
    await bench.turn()
    told_otherwise(bench, change)
    await bench.settle(parked)
    assert (await bench.command(name)).reason == "contradictory"
    assert bench.provider.sends(name) == 1
    assert " instead of " in str(await bench.detail(name))
    assert await bench.store.resources(TENANT) == []


@pytest.mark.parametrize(("request_", "change"), OTHERS, ids=str)
async def test_an_answer_about_something_else_is_none(
    bench: Bench, request_: CommandRequest, change: dict[str, Any]
) -> None:
    bench.provider.tells = lambda resource: replace(resource, **change)
    name = await bench.intend(request_)
    await bench.turn()
    command = await bench.command(name)
    assert (command.state, command.reason) == (UNKNOWN, "bad_answer")
    assert " instead of " in str(await bench.detail(name))
    await bench.settle()
    assert (await bench.command(name)).state is CONFIRMED, "what is found is what was asked for"
    assert bench.provider.sends(name) == 1


async def test_an_answer_about_another_order_cancels_none(bench: Bench) -> None:
    order = f"o-{await bench.intend(key='the order')}"
    await bench.settle()
    bench.provider.tells = lambda resource: replace(resource, id="o-another")
    name = await bench.intend(kind="order.cancel", payload={"orderId": order})
    await bench.turn()
    assert (await bench.command(name)).reason == "bad_answer"
    assert await bench.detail(name) == f"it tells of something else: order is o-another instead of {order}"


async def test_what_is_not_told_is_not_compared(bench: Bench) -> None:
    bench.provider.script = first(Trouble.LOST_ANSWER)
    changes: list[tuple[CommandRequest, dict[str, Any]]] = [
        (ORDER, {"price": None, "client_id": None}),
        (DEPLOYMENT, {"client_id": None, "detail": {}}),
    ]
    for request_, change in changes:
        name = await bench.intend(request_)
        await bench.turn()
        told_otherwise(bench, change)
        await bench.settle()
        assert (await bench.command(name)).state is CONFIRMED


async def test_a_word_that_is_not_known_is_recorded_and_shown_for_what_it_is(bench: Bench) -> None:
    bench.provider.script = first(Trouble.NONSENSE)
    name = await bench.intend()
    await bench.turn()
    assert await bench.detail(name) == "<html>"
    bench.provider.unreadable = "HALTED"
    begun_us = bench.clock.now_us()
    await bench.settle(parked)
    assert (await bench.command(name)).reason == "unreadable"
    assert bench.clock.now_us() - begun_us >= 900_000_000
    history = await bench.store.command_history(TENANT, name)
    looks = [decode(entry.data.encode()) for entry in history if entry.type == "command.looked"]
    assert {(look["sighting"], look["detail"]) for look in looks} == {
        ("unreadable", "its status is 'HALTED'")
    }
    assert await bench.detail(name) == "its status is 'HALTED'"
    bench.provider.unreadable = None
    await bench.settle()
    assert (await bench.command(name)).state is CONFIRMED


async def test_what_is_recorded_of_a_providers_words_is_one_line_and_bounded(bench: Bench) -> None:
    bench.provider.script = first(Trouble.NONSENSE)
    bench.provider.nonsense = "<html>\x1b[31m\n" + "x" * 10_000
    name = await bench.intend()
    await bench.turn()
    detail = str(await bench.detail(name))
    assert detail.startswith("<html> [31m xxx")
    assert len(detail) == DETAIL_MAX


# --- once, and no longer than it takes ----------------------------------------------------------------------------------


async def test_settling_takes_up_all_that_is_open_whenever_it_is_due_and_ends(bench: Bench) -> None:
    bench.provider.script = first(Trouble.LOST_ANSWER)
    found = await bench.intend(key="found")
    await bench.turn()
    bench.provider.down = True
    for _ in range(6):
        bench.clock.advance(60_000_000)
        await bench.turn()
    bench.provider.down = False
    bench.provider.script = first()
    assert await bench.turn() == 0, "it is looked for only in a while"
    fresh = await bench.intend(key="fresh")
    await bench.layer.settle()
    assert (await bench.command(found)).state is CONFIRMED
    assert (await bench.command(fresh)).state is CONFIRMED
    assert bench.provider.happened() == {found: 1, fresh: 1}


async def test_settling_ends_though_the_provider_is_away_or_cannot_be_spoken_to(bench: Bench) -> None:
    bench.provider.script = first(Trouble.LOST_ANSWER)
    name = await bench.intend()
    await bench.turn()
    bench.clock.advance(60_000_000)
    bench.provider.down = True
    async with asyncio.timeout(30):
        await bench.layer.settle()
    assert (await bench.command(name)).state is UNKNOWN
    bench.provider.down, bench.provider.find_is_broken = False, True
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with asyncio.timeout(30):
        await bench.layer.settle()
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
    assert await bench.detail(name) == "the adapter failed with ZeroDivisionError"


async def test_settling_ends_though_a_command_cannot_be_taken_further_at_all(bench: Bench) -> None:
    name = await bench.intend()
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    bench.begin(store=cast("Store", NothingIsAdmitted(bench.store)))
    async with asyncio.timeout(30):
        await bench.layer.settle()
    assert [type(context["exception"]) for context in told] == [OSError]
    assert await bench.types(name) == ["intended"]


class NothingIsAdmitted:
    """A store that fails at one write, and not as a store should."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def admit(self, *_: Any, **__: Any) -> Any:
        raise OSError("a fault")


async def test_settling_leaves_alone_what_another_process_may_be_sending(bench: Bench) -> None:
    name = await bench.intend()
    due_us = bench.clock.now_us() + 60_000_000
    await bench.store.admit(TENANT, name, handler="another", due_us=due_us)
    await bench.layer.settle()
    assert await bench.types(name) == ["intended", "sent"]
