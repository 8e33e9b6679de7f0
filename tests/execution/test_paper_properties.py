"""Whatever is asked of the paper provider, in whatever order and from wherever: the books are right."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256

from hypothesis import event, given, settings
from hypothesis import strategies as st

from sovrun.core.commands.model import CancelOrder, PlaceOrder
from sovrun.core.ids import Actor, Tenant
from sovrun.execution.adapters.paper import PaperAdapter, open_adapter
from sovrun.execution.port import Call, Done, ExecutionAdapter, Order, OrderStatus, Portfolio, Rejected
from support.ledgers import MemoryLedger
from support.paper import views
from support.paper_model import Model

TENANT, ACTOR = Tenant("acme"), Actor("local:tester")
NAME = "paper"
MARKET = [
    ("THIN", "sell", "10.5", "4"),
    ("THIN", "sell", "11", "0.000000000000000003"),
    ("THIN", "sell", "12", "30"),
    ("THIN", "buy", "9.5", "2.5"),
    ("THIN", "buy", "9", "30"),
    ("ODD", "sell", "999999999999999999.999999999999999999", "2"),
    ("ODD", "buy", "0.000000000000000001", "999999999999999999"),
]


def market_settings(*, cash: str, short_selling: bool) -> dict[str, object]:
    """Return the settings of a provider with that market."""
    depth: dict[str, dict[str, list[list[str]]]] = {}
    for symbol, side, price, quantity in MARKET:
        sides = depth.setdefault(symbol, {})
        sides.setdefault("asks" if side == "sell" else "bids", []).append([price, quantity])
    prices = {"THIN": "10", "ODD": "1"}
    return {"prices": prices, "depth": depth, "cash": cash, "shortSelling": short_selling}


@dataclass(frozen=True)
class Cancel:
    """Cancel the order that was placed as the n-th."""

    nth: int


@dataclass(frozen=True)
class Again:
    """Place the n-th order again, under its client id."""

    nth: int


Act = PlaceOrder | Cancel | Again

SYMBOLS = st.sampled_from(["THIN", "THIN", "THIN", "ODD"])
PRICES = st.sampled_from(["9", "9.5", "10", "10.25", "10.5", "11", "12", "0.000000000000000001"]).map(Decimal)
QUANTITIES = st.one_of(
    st.sampled_from(["1", "2.5", "7", "0.000000000000000001", "999999999999999999.999999999999999999"]).map(
        Decimal
    ),
    st.integers(1, 200).map(lambda n: Decimal(n) / 8),
)


@st.composite
def orders(draw: st.DrawFn) -> PlaceOrder:
    """Give orders that often meet."""
    kind = draw(st.sampled_from(["limit", "limit", "limit", "market"]))
    return PlaceOrder(
        symbol=draw(SYMBOLS),
        side=draw(st.sampled_from(["buy", "sell"])),
        type=kind,
        quantity=draw(QUANTITIES),
        price=draw(PRICES) if kind == "limit" else None,
        time_in_force=draw(st.sampled_from(["gtc", "gtc", "gtc", "ioc"])),
    )


ACTS = st.lists(
    st.one_of(
        orders(),
        orders(),
        orders(),
        st.builds(Cancel, st.integers(0, 9)),
        st.builds(Again, st.integers(0, 9)),
    ),
    min_size=1,
    max_size=14,
)
CASHES = st.sampled_from(["0", "50", "500", "999999999999999999.999999999999999999"])


def call_of(number: int) -> Call:
    """Return the call of the effect with this number."""
    return Call(TENANT, ACTOR, "paper", sha256(str(number).encode()).hexdigest()[:32])


async def carry_out(
    adapter: ExecutionAdapter, acts: Sequence[Act], first: int = 0
) -> list[Done | Rejected | None]:
    """Do what is asked in turn, and return the answers; None where there is nothing yet to be cancelled."""
    placed: list[tuple[Call, PlaceOrder, Order]] = []
    answers: list[Done | Rejected | None] = []
    for number, act in enumerate(acts, first):
        answer: Done | Rejected | None = None
        if isinstance(act, PlaceOrder):
            answer = await adapter.place_order(call_of(number), act)
            if isinstance(answer, Done):
                assert isinstance(answer.resource, Order)
                placed.append((call_of(number), act, answer.resource))
        elif placed:
            call, order, resource = placed[act.nth % len(placed)]
            if isinstance(act, Cancel):
                answer = await adapter.cancel_order(call_of(number), CancelOrder(resource.id))
            else:
                answer = await adapter.place_order(call, order)
        answers.append(answer)
    return answers


@settings(max_examples=700)
@given(acts=ACTS, cash=CASHES, short_selling=st.booleans())
def test_the_provider_does_what_a_plain_model_of_a_market_does(
    acts: list[Act], cash: str, *, short_selling: bool
) -> None:
    ledger = MemoryLedger()
    adapter = open_adapter(NAME, market_settings(cash=cash, short_selling=short_selling), ledger=ledger)
    model = Model(Fraction(cash), short_selling, MARKET)

    async def compare() -> None:
        numbers: dict[str, int] = {}
        for number, act in enumerate(acts):
            if isinstance(act, PlaceOrder):
                answer = await adapter.place_order(call_of(number), act)
                expected = model.place(act)
                if isinstance(expected, str):
                    assert isinstance(answer, Rejected)
                    assert answer.code == expected
                    event(expected)
                else:
                    assert isinstance(answer, Done), answer
                    assert isinstance(answer.resource, Order)
                    numbers[answer.resource.id] = len(numbers)
                    event(f"filled from {min(len(expected), 3)} offers")
                    if any(maker is not None for _, _, maker in expected):
                        event("filled from an order")
            elif isinstance(act, Cancel) and numbers:
                order = list(numbers)[act.nth % len(numbers)]
                before = await adapter.get_order(call_of(number), order)
                answer = await adapter.cancel_order(call_of(number), CancelOrder(order))
                assert before is not None
                assert model.cancel(numbers[order]) is (before.status is OrderStatus.PENDING)
                assert isinstance(answer, Rejected) is (before.status is OrderStatus.FILLED)
            await require_same(adapter, model, numbers)

    asyncio.run(compare())


async def require_same(adapter: ExecutionAdapter, model: Model, numbers: dict[str, int]) -> None:
    """Fail unless cash, positions and every order are what the model has, digit for digit."""
    read = Call(TENANT, ACTOR)
    portfolio = await adapter.portfolio(read)
    assert Fraction(portfolio.cash["USD"]) == model.cash
    assert {symbol: Fraction(held) for symbol, held in portfolio.positions.items()} == {
        symbol: held for symbol, held in model.held.items() if held
    }
    if told := await adapter.list_orders(read):
        assert isinstance(adapter, PaperAdapter)
        account = adapter._accounts[TENANT]
        assert Fraction(account.free_cash) == model.free_cash()
        assert all(Fraction(account.free(order.symbol)) == model.free(order.symbol) for order in told)
    open_left = {row.number: row.left for row in model.standing if row.is_order}
    assert [numbers[order.id] for order in told] == list(range(len(model.trades)))
    for order in told:
        trades = model.trades[numbers[order.id]]
        fills = [
            (Fraction(fill["price"]), Fraction(fill["quantity"]), numbers.get(fill.get("against", "")))
            for fill in order.detail["fills"]
        ]
        assert fills == trades
        filled = sum((quantity for _, quantity, _ in trades), Fraction(0))
        notional = sum((price * quantity for price, quantity, _ in trades), Fraction(0))
        assert Fraction(order.filled) == filled <= Fraction(order.quantity)
        assert Fraction(order.detail["notional"]) == notional
        if order.average_price is None:
            assert not trades
        else:
            assert abs(Fraction(order.average_price) - notional / filled) <= Fraction(1, 2 * 10**18)
        rests = open_left.get(numbers[order.id])
        assert (order.status is OrderStatus.PENDING) is (rests is not None)
        assert (order.status is OrderStatus.FILLED) is (filled == Fraction(order.quantity))
        if rests is not None:
            assert rests == Fraction(order.quantity) - filled


@settings(max_examples=500)
@given(acts=ACTS, cash=CASHES, short_selling=st.booleans())
def test_the_same_sequence_gives_the_same_ledger_and_the_ledger_alone_the_state(
    acts: list[Act], cash: str, *, short_selling: bool
) -> None:
    async def sequence() -> tuple[list[bytes], bytes]:
        ledger = MemoryLedger()
        adapter = open_adapter(NAME, market_settings(cash=cash, short_selling=short_selling), ledger=ledger)
        await carry_out(adapter, acts)
        state = await views(adapter, TENANT)
        other = open_adapter(NAME, {"prices": {"ELSE": "1"}, "cash": "1"}, ledger=ledger)
        if ledger.kept[TENANT, NAME]:
            assert await views(other, TENANT) == state, "settings that came later change what happened before"
        return ledger.kept[TENANT, NAME], state

    assert asyncio.run(sequence()) == asyncio.run(sequence())


@settings(max_examples=500)
@given(acts=ACTS)
def test_a_client_id_has_one_effect_however_often_it_is_sent(acts: list[Act]) -> None:
    async def twice() -> tuple[list[bytes], list[bytes]]:
        kept = []
        for repeats in (1, 2):
            ledger = MemoryLedger()
            adapter = open_adapter(NAME, market_settings(cash="500", short_selling=False), ledger=ledger)
            for number, act in enumerate(acts):
                if isinstance(act, PlaceOrder):
                    answers = [await adapter.place_order(call_of(number), act) for _ in range(repeats)]
                    assert answers == answers[:1] * repeats
            kept.append(ledger.kept[TENANT, NAME])
        return kept[0], kept[1]

    once, repeated = asyncio.run(twice())
    assert once == repeated


class SlowLedger(MemoryLedger):
    """A ledger that lets others go first, as often as it is told to."""

    def __init__(self, waits: Sequence[int]) -> None:
        super().__init__()
        self._waits = list(waits)
        self.conflicts = 0

    async def entries(self, tenant: Tenant, name: str, after: int) -> Sequence[bytes]:
        found = await super().entries(tenant, name, after)
        await self._wait()
        return found

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        await self._wait()
        appended = await super().append(tenant, name, at, entry)
        self.conflicts += not appended
        return appended

    async def _wait(self) -> None:
        for _ in range(self._waits.pop() if self._waits else 0):
            await asyncio.sleep(0)


@settings(max_examples=500)
@given(
    shares=st.lists(ACTS, min_size=2, max_size=3),
    shared=st.lists(orders(), max_size=4),
    waits=st.lists(st.integers(0, 3), max_size=60),
    cash=CASHES,
)
def test_providers_in_several_places_share_one_account(
    shares: list[list[Act]], shared: list[PlaceOrder], waits: list[int], cash: str
) -> None:
    async def together() -> None:
        ledger = SlowLedger(waits)
        places = [
            open_adapter(NAME, market_settings(cash=cash, short_selling=True), ledger=ledger) for _ in shares
        ]
        answers = await asyncio.gather(
            *(carry_out(place, [*shared]) for place in places),
            *(
                carry_out(place, acts, 100 * n)
                for n, (place, acts) in enumerate(zip(places, shares, strict=True), 1)
            ),
        )
        event(f"conflicts: {min(ledger.conflicts, 5)}")
        states = {await views(place, TENANT) for place in places}
        assert len(states) == 1
        if ledger.kept[TENANT, NAME]:
            assert await views(open_adapter(NAME, {}, ledger=ledger), TENANT) in states
        told = await places[0].list_orders(Call(TENANT, ACTOR))
        clients = [order.client_id for order in told]
        assert len(clients) == len(set(clients))
        for first, *others in zip(*answers[: len(places)], strict=True):
            for other in others:
                require_one_effect(first, other)
        require_balance(await places[0].portfolio(Call(TENANT, ACTOR)), told, cash)

    asyncio.run(together())


def require_one_effect(first: Done | Rejected | None, other: Done | Rejected | None) -> None:
    """Fail if two places were told of two orders under one client id."""
    if isinstance(first, Done) and isinstance(other, Done):
        assert isinstance(first.resource, Order)
        assert isinstance(other.resource, Order)
        assert first.resource.id == other.resource.id


def require_balance(portfolio: Portfolio, told: Sequence[Order], cash: str) -> None:
    """Fail unless what is owned is the opening cash and all fills, added up from the orders alone."""
    total = Fraction(cash)
    held: dict[str, Fraction] = {}
    for order in told:
        sign = 1 if order.side == "buy" else -1
        for fill in order.detail["fills"]:
            total -= sign * Fraction(fill["price"]) * Fraction(fill["quantity"])
            held[order.symbol] = held.get(order.symbol, Fraction(0)) + sign * Fraction(fill["quantity"])
    assert Fraction(portfolio.cash["USD"]) == total
    assert {name: Fraction(owned) for name, owned in portfolio.positions.items()} == {
        name: owned for name, owned in held.items() if owned
    }


def test_views_tell_accounts_apart() -> None:
    async def states() -> set[bytes]:
        found = set()
        for quantity in ("1", "2"):
            adapter = open_adapter(NAME, {}, ledger=MemoryLedger())
            await adapter.place_order(
                call_of(0), PlaceOrder("ACME", "buy", "market", Decimal(quantity), None, "gtc")
            )
            found.add(await views(adapter, TENANT))
        return found

    assert len(asyncio.run(states())) == 2
