"""Records of a provider as deployments, orders and executions.

Owns: making the port's values of records by a mapping's picks, whose a record is, adding executions to orders.
Must not touch: connections.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from typing import Any, Final

from sovrun.execution.adapters.http_mapping import Fills, Holdings, HttpMapping, Record
from sovrun.execution.adapters.http_values import (
    Numbers,
    Scope,
    at,
    bad_answer,
    decimal_of,
    each,
    filled_text,
    picked,
    plain,
    pointer,
    text_of,
    word_of,
)
from sovrun.execution.port import (
    Deployment,
    DeploymentStatus,
    Listing,
    Order,
    OrderStatus,
    OutcomeUnknown,
    Told,
    Unreadable,
)

TRADED: Final = "traded"
"""Raw status of an order that only its executions tell of."""

_CLIENT_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_WORD_MAX: Final = 80
_EXACT: Final = Context(prec=60)
_AVERAGE: Final = Context(prec=28)


def is_owned(record: Record, item: Any, scope: Scope) -> bool:
    """Whether an item belongs to the tenant that asks."""
    owner = record.owner
    if owner is None:
        return True
    told = at(item, pointer(owner["at"]))
    text = told if isinstance(told, str) else str(told) if isinstance(told, int) else None
    if text is None:
        return False
    if "is" in owner:
        return text == filled_text(owner["is"], scope)
    begin = filled_text(owner["begins"], scope)
    return begin is not None and begin != "" and text.startswith(begin)


class _Picker:
    """Picks from one item."""

    def __init__(self, record: Record, item: Any, scope: Scope, numbers: Numbers) -> None:
        self._picks, self._item, self._scope, self._numbers = record.picks, item, scope, numbers
        self._detail = record.detail

    def raw(self, name: str) -> Any:
        pick = self._picks.get(name)
        return None if pick is None else picked(pick, self._item, self._scope)

    def text(self, name: str) -> str:
        return text_of(self.raw(name), name)

    def decimal(self, name: str) -> Decimal | None:
        value = self.raw(name)
        return None if value is None else decimal_of(value, name, self._numbers)

    def quantity(self, name: str) -> Decimal:
        value = self.decimal(name)
        if value is None or value < 0:
            bad_answer(f"{value} cannot be the {name}")
        return value

    def filled(self) -> Decimal:
        return Decimal(0) if self.raw("filled") is None else self.quantity("filled")

    def client_id(self) -> str | None:
        """Return our id of what was made by us, None for what was not."""
        value = self.raw("clientId")
        return value if isinstance(value, str) and _CLIENT_ID.fullmatch(value) else None

    def status(self) -> tuple[str, str]:
        """Return the mapped status and the provider's own word."""
        mapped = self.raw("status")
        if mapped is None:
            bad_answer("there is no status")
        pick = self._picks["status"]
        return mapped, mapped if "const" in pick else str(at(self._item, pointer(pick["at"])))

    def detail(self) -> Mapping[str, Any]:
        found = {name: picked(pick, self._item, self._scope) for name, pick in self._detail.items()}
        return {name: plain(value) for name, value in found.items() if value is not None}


def identity_of(record: Record, item: Any, scope: Scope) -> tuple[str | None, str | None]:
    """Return the provider's id of an item, None when it cannot be read, and ours, None for what was not made by us."""
    pick = _Picker(record, item, scope, Numbers())
    try:
        return pick.text("id"), pick.client_id()
    except OutcomeUnknown:
        return None, pick.client_id()


def client_id_of(record: Record, item: Any, scope: Scope) -> str | None:
    """Return our id of an item, None for what was not made by us."""
    return _Picker(record, item, scope, Numbers()).client_id()


def read_each(
    kind: str, record: Record, items: Iterable[Any], scope: Scope, made: Callable[[Any], Told]
) -> Listing[Told]:
    """Return items as `made` reads them; one that it cannot read hides no other, and is named beside them."""
    found: list[Told] = []
    unreadable: list[Unreadable] = []
    for item in items:
        try:
            found.append(made(item))
        except OutcomeUnknown as unknown:
            unreadable.append(_unreadable(kind, record, item, scope, str(unknown)))
    return Listing(found, unreadable)


def _unreadable(kind: str, record: Record, item: Any, scope: Scope, message: str) -> Unreadable:
    theirs, ours = identity_of(record, item, scope)
    return Unreadable(kind, theirs or "", ours, _unmapped(record.picks.get("status"), item), message)


def _unmapped(pick: Mapping[str, Any] | None, item: Any) -> str | None:
    """Return the provider's word for a status where the mapping does not have it."""
    if pick is None or pick.keys() & {"const", "otherwise", "after"}:
        return None
    told = at(item, pointer(pick["at"]))
    word = None if told is None else word_of(told)
    return None if word is None or word in pick.get("map", {word: word}) else word[:_WORD_MAX]


def deployment_of(record: Record, item: Any, scope: Scope, numbers: Numbers) -> Deployment:
    """Return a record as a deployment. Raises: OutcomeUnknown."""
    pick = _Picker(record, item, scope, numbers)
    status, raw = pick.status()
    name = pick.raw("name")
    if not isinstance(name, str):
        bad_answer(f"{name!r:.80} cannot be the name")
    return Deployment(pick.text("id"), pick.client_id(), name, DeploymentStatus(status), raw, pick.detail())


def order_of(
    mapping: HttpMapping, record: Record, item: Any, scope: Scope, *, quantity: Decimal | None = None
) -> Order:
    """Return a record as an order.

    Args:
        quantity: how much was ordered, when that is known; for a provider that tells only what remains.
    Raises: OutcomeUnknown.
    """
    pick = _Picker(record, item, scope, mapping.numbers)
    status, raw = pick.status()
    if "remaining" in record.picks:
        remaining = pick.quantity("remaining")
        filled = pick.filled() if quantity is None else _EXACT.subtract(quantity, remaining)
        whole = _EXACT.add(remaining, filled) if quantity is None else quantity
    else:
        whole, filled = pick.quantity("quantity"), pick.filled()
    average = pick.decimal("averagePrice")
    return Order(
        id=pick.text("id"),
        client_id=pick.client_id(),
        symbol=_symbol(mapping, pick.text("symbol")),
        side=pick.text("side"),
        type=pick.text("type"),
        quantity=whole,
        price=pick.decimal("price"),
        filled=filled,
        average_price=average if filled else None,
        status=OrderStatus(status),
        raw_status=raw,
        detail=pick.detail(),
    )


def _symbol(mapping: HttpMapping, told: str) -> str:
    """Return our symbol for the provider's, its own where the mapping has none."""
    known = mapping.symbols or {}
    return next((ours for ours, theirs in known.items() if theirs == told), told)


@dataclass(frozen=True, slots=True)
class Executed:
    """What the executions tell of one order; `value` None when a price is missing."""

    order: Order
    value: Decimal | None

    def and_of(self, other: Executed) -> Executed:
        """Return both together."""
        filled = _EXACT.add(self.order.filled, other.order.filled)
        value = None
        if self.value is not None and other.value is not None:
            value = _EXACT.add(self.value, other.value)
        average = None if value is None or not filled else _average(value, filled)
        order = replace(self.order, quantity=filled, filled=filled, average_price=average)
        return Executed(order, value)


def _average(value: Decimal, quantity: Decimal) -> Decimal:
    """Return the mean price: exact to 28 significant digits."""
    return _AVERAGE.divide(value, quantity).normalize(_AVERAGE)


Wanted = Callable[["str | None", "str | None"], bool]
"""Whether a record is looked for, by the provider's id, None when it cannot be read, and ours."""


def executed(
    mapping: HttpMapping, fills: Fills, items: Iterable[Any], scope: Scope, wanted: Wanted
) -> tuple[Mapping[str, Executed], list[Unreadable]]:
    """Return by id what executions tell of the tenant's orders that are wanted, and those of which it cannot be read.

    Raises: OutcomeUnknown for an execution that does not tell its order: it may be of any.
    """
    found: dict[str, Executed] = {}
    unreadable: list[Unreadable] = []
    for item in items:
        for record in fills.orders:
            if not is_owned(record, item, scope):
                continue
            theirs, ours = identity_of(record, item, scope)
            if theirs is None:
                bad_answer("an execution does not tell its order")
            if not wanted(theirs, ours):
                continue
            try:
                one = _execution(mapping, fills, record, item, scope)
            except OutcomeUnknown as unknown:
                unreadable.append(_unreadable("order", record, item, scope, str(unknown)))
                continue
            before = found.get(theirs)
            found[theirs] = one if before is None else before.and_of(one)
    return found, unreadable


def _execution(mapping: HttpMapping, fills: Fills, record: Record, item: Any, scope: Scope) -> Executed:
    picks = {**record.picks, "quantity": fills.quantity, "averagePrice": fills.price}
    pick = _Picker(Record(picks, None, {}), item, scope, mapping.numbers)
    quantity, price = pick.quantity("quantity"), pick.decimal("averagePrice")
    order = Order(
        id=pick.text("id"),
        client_id=pick.client_id(),
        symbol=_symbol(mapping, pick.text("symbol")),
        side=pick.text("side"),
        type=pick.text("type"),
        quantity=quantity,
        price=None,
        filled=quantity,
        average_price=price,
        status=OrderStatus.FILLED,
        raw_status=TRADED,
    )
    return Executed(order, None if price is None else _EXACT.multiply(quantity, price))


def with_executions(orders: Iterable[Order], executions: Mapping[str, Executed]) -> list[Order]:
    """Return orders that tell what remains with what was filled of them, and those that only executions tell of."""
    told = {order.id: order for order in orders}
    for name, one in executions.items():
        resting = told.get(name)
        if resting is None:
            told[name] = one.order
        else:
            filled = one.order.filled
            told[name] = replace(
                resting,
                quantity=_EXACT.add(resting.quantity, filled),
                filled=filled,
                average_price=one.order.average_price,
            )
    return list(told.values())


def holdings_of(mapping: HttpMapping, holdings: Holdings | None, answer: Any) -> Mapping[str, Decimal]:
    """Return amounts by name. Raises: OutcomeUnknown."""
    found: dict[str, Decimal] = {}
    if holdings is None:
        return found
    for path in holdings.items:
        for item in each(answer, path):
            name = _symbol(mapping, text_of(picked(holdings.name, item, {}), "name"))
            found[name] = decimal_of(picked(holdings.amount, item, {}), "amount", mapping.numbers)
    return found


def positions_of(orders: Iterable[Order]) -> Mapping[str, Decimal]:
    """Return by symbol what was bought less what was sold."""
    found: dict[str, Decimal] = {}
    for order in orders:
        signed = order.filled if order.side == "buy" else -order.filled
        found[order.symbol] = _EXACT.add(found.get(order.symbol, Decimal(0)), signed)
    return {symbol: amount for symbol, amount in found.items() if amount}
