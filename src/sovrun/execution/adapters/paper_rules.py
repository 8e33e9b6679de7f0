"""What a paper provider answers: whether something may be done, and the entry that says that it was.

Owns: one function for each effect, and the kinds of commands that only this provider knows.
Must not touch: ledgers. Nothing here changes an account.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import Any, Final, TypeAlias

from sovrun.core.commands.model import (
    IDENTIFIED,
    CancelOrder,
    CommandKind,
    CreateDeployment,
    PlaceOrder,
    StopDeployment,
    decimal_text,
)
from sovrun.execution.adapters.paper_account import Account, Entry, OrderRecord, recorded_fills
from sovrun.execution.adapters.paper_book import EXACT, Book, Fill, match
from sovrun.execution.adapters.paper_settings import PaperSettings
from sovrun.execution.port import Call, Done, Rejected

Decision: TypeAlias = Entry | Done | Rejected

PAUSE: Final = "deployment.pause"
RESUME: Final = "deployment.resume"
MOVES: Final[Mapping[str, tuple[str, str]]] = {PAUSE: ("running", "paused"), RESUME: ("paused", "running")}
"""Kinds of commands that only this provider knows: from which status to which."""
FURTHER: Final[Mapping[str, CommandKind]] = {
    name: CommandKind(
        name,
        1,
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"https://sovrun.invalid/schemas/commands/paper/{name}-1.json",
            "title": title,
            "type": "object",
            "properties": {"deploymentId": IDENTIFIED},
            "required": ["deploymentId"],
            "additionalProperties": False,
        },
        needs_key=True,
        opens=opens,
        resource="deployment",
        target="deploymentId",
    )
    for name, title, opens in (
        (PAUSE, "Pause a deployment", False),
        (RESUME, "Let a paused deployment run again", True),
    )
}
"""What they ask for. A pause only damps, so no gate is in its way; what runs again may trade again."""

_DIGITS_MAX: Final = 18


def opening(settings: PaperSettings) -> Entry:
    """Return the first entry of every account."""
    return Entry("account.opened", {"currency": settings.currency, "cash": decimal_text(settings.cash)})


def place(account: Account, settings: PaperSettings, call: Call, asked: PlaceOrder) -> Decision:
    """Decide on an order; when it is taken, its entry says what was filled at once."""
    client_id = str(call.client_id)
    if (known := account.order_by_client.get(client_id)) is not None:
        return Done(known.told()) if known.asked == asked else _another(client_id)
    if not _is_order(asked):
        return Rejected("invalid_order", "the order's type, price and quantity do not go together")
    if asked.symbol not in settings.prices:
        return Rejected("unknown_symbol", f"there is no price of {asked.symbol}")
    with localcontext(EXACT):
        book = account.books.get(asked.symbol) or Book()
        offers = book.offers(asked.side, settings.offers(asked.symbol, asked.side), account.left_of)
        fills = match(asked.side, asked.quantity, asked.price, offers)
        refusal = _uncovered(account, settings, asked, fills)
    if refusal is not None:
        return refusal
    data = {
        "id": f"o{account.length:08d}-{client_id[:12]}",
        "clientId": client_id,
        "actor": call.actor,
        "symbol": asked.symbol,
        "side": asked.side,
        "orderType": asked.type,
        "quantity": decimal_text(asked.quantity),
        "timeInForce": asked.time_in_force,
        "fills": recorded_fills(fills),
    }
    if asked.price is not None:
        data["price"] = decimal_text(asked.price)
    return Entry("order.placed", data)


def _is_order(asked: PlaceOrder) -> bool:
    numbers = [asked.quantity] if asked.price is None else [asked.quantity, asked.price]
    return (
        (asked.price is None) == (asked.type == "market")
        and asked.side in {"buy", "sell"}
        and all(
            number > 0 and number.adjusted() < _DIGITS_MAX and _places(number) <= _DIGITS_MAX
            for number in numbers
        )
    )


def _places(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else _DIGITS_MAX + 1


def _uncovered(
    account: Account, settings: PaperSettings, asked: PlaceOrder, fills: list[Fill]
) -> Rejected | None:
    """Return the refusal of an order that the account cannot pay or deliver."""
    if asked.side == "sell":
        held = account.free(asked.symbol)
        if settings.short_selling or asked.quantity <= held:
            return None
        return Rejected("insufficient_position", f"{decimal_text(held)} of {asked.symbol} may be sold")
    cost = sum((fill.price * fill.quantity for fill in fills), Decimal(0))
    if asked.price is not None and asked.time_in_force == "gtc":
        cost += (asked.quantity - sum((fill.quantity for fill in fills), Decimal(0))) * asked.price
    if cost <= account.free_cash:
        return None
    return Rejected(
        "insufficient_funds",
        f"the order needs {decimal_text(cost)}, free are {decimal_text(account.free_cash)}",
    )


def cancel(account: Account, call: Call, asked: CancelOrder) -> Decision:
    """Decide on the cancellation of what is left of an order."""
    record = account.orders.get(asked.order)
    if record is None:
        return Rejected("not_found", f"there is no order {asked.order}")
    if record.rests:
        return Entry(
            "order.cancelled", {"order": record.id, "clientId": str(call.client_id), "actor": call.actor}
        )
    return _ended(record)


def _ended(record: OrderRecord) -> Decision:
    if record.raw_status == "filled":
        return Rejected("already_filled", f"the order {record.id} is filled")
    return Done(record.told())


def create(account: Account, settings: PaperSettings, call: Call, asked: CreateDeployment) -> Decision:
    """Decide on a deployment."""
    client_id = str(call.client_id)
    if (known := account.deployment_by_client.get(client_id)) is not None:
        return Done(known.told()) if known.asked == asked else _another(client_id)
    if settings.artifacts is not None and asked.artifact not in settings.artifacts:
        return Rejected("unknown_artifact", f"there is no artifact {asked.artifact}")
    if asked.capital is not None and asked.capital > account.free_cash:
        return Rejected(
            "insufficient_funds",
            f"the deployment may use {decimal_text(asked.capital)}, free are {decimal_text(account.free_cash)}",
        )
    data = {
        "id": f"d{account.length:08d}-{client_id[:12]}",
        "clientId": client_id,
        "actor": call.actor,
        "name": asked.name,
        "artifact": asked.artifact,
        "parameters": dict(asked.parameters),
    }
    if asked.capital is not None:
        data["capital"] = decimal_text(asked.capital)
    return Entry("deployment.created", data)


def stop(account: Account, call: Call, asked: StopDeployment) -> Decision:
    """Decide on the end of a deployment."""
    record = account.deployments.get(asked.deployment)
    if record is None:
        return Rejected("not_found", f"there is no deployment {asked.deployment}")
    if record.raw_status == "stopped":
        return Done(record.told())
    return _move(call, record.id, "stopped")


def perform(account: Account, call: Call, kind: str, payload: Mapping[str, Any]) -> Decision:
    """Decide on a pause of a deployment, or on its resumption."""
    if kind not in MOVES:
        return Rejected("unknown_kind", f"there is no {kind} here; known are {', '.join(MOVES)}")
    if set(payload) != {"deploymentId"}:
        return Rejected("invalid_payload", 'the payload is {"deploymentId": ID}')
    client_id = str(call.client_id)
    asked = payload["deploymentId"]
    if (known := account.performed.get((kind, client_id))) is not None:
        return Done(account.deployments[known].told()) if known == asked else _another(client_id)
    record = account.deployments.get(asked) if isinstance(asked, str) else None
    if record is None:
        return Rejected("not_found", f"there is no deployment {asked!r:.140}")
    before, after = MOVES[kind]
    if record.raw_status not in {before, after}:
        return Rejected("wrong_status", f"the deployment {record.id} is {record.raw_status}")
    return _move(call, record.id, after, kind)


def _move(call: Call, deployment: str, status: str, kind: str | None = None) -> Entry:
    data = {"deployment": deployment, "status": status, "clientId": str(call.client_id), "actor": call.actor}
    return Entry("deployment.moved", data if kind is None else data | {"kind": kind})


def _another(client_id: str) -> Rejected:
    return Rejected("duplicate_client_id", f"{client_id} names another order or deployment", duplicate=True)
