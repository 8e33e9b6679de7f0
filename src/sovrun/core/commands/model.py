"""What a command asks for: the kinds, their payloads as typed values, and one published JSON Schema of each.

Owns: `CommandKind`, the payload values, `normal_payload`. Quantities and prices are decimal
strings, never floats.
Must not touch: journals, adapters. Whether a symbol or a deployment exists, the gates and the adapter know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, TypeAlias

from jsonschema_rs import Draft202012Validator

from sovrun.core.commands.misfits import misfits
from sovrun.core.errors import InvalidCommand
from sovrun.core.spec.findings import Finding, subject
from sovrun.core.spec.schemas import compile_schema

SCHEMA_ROOT: Final = "https://sovrun.invalid/schemas/commands"
KEY_MAX: Final = 512
PAYLOAD_MAX: Final = 1 << 20
"""Bytes of a payload's canonical JSON."""

_DECIMAL: Final = r"^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?$"
_NAME: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
_IDENTIFIER: Final = r"^[!-~]{1,128}$"
_SIGNED: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?", re.ASCII)
_SHOWN_MAX: Final = 10
"""Mistakes that one refusal names."""
_POSITIVE: Final = {
    "title": 'a decimal above zero in a text, such as "1.5", with up to 18 digits before and after the point',
    "type": "string",
    "pattern": _DECIMAL,
    "not": {"pattern": r"^0(\.0*)?$"},
}
_NAMED: Final = {
    "title": "a name: up to 128 letters, digits, _ . and -, not beginning with . or -",
    "type": "string",
    "pattern": _NAME,
}
IDENTIFIED: Final[Mapping[str, Any]] = {
    "title": "an id: 1 to 128 printable ASCII characters without spaces",
    "type": "string",
    "pattern": _IDENTIFIER,
}
"""JSON Schema of a provider's own id."""


@dataclass(frozen=True, slots=True)
class CreateDeployment:
    """`deployment.create`, version 1.

    Args:
        name: of the deployment, for people.
        artifact: what is deployed, by the name under which the adapter knows it.
        capital: how much it may use, when the provider works with money.
        parameters: JSON object handed on to the provider.
    """

    name: str
    artifact: str
    capital: Decimal | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StopDeployment:
    """`deployment.stop`, version 1: the provider's own id of a deployment."""

    deployment: str


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """`order.place`, version 1; `price` is None for a market order.

    Args:
        side: `buy` or `sell`; type: `limit` or `market`.
        time_in_force: `gtc` rests until it is filled or cancelled, `ioc` fills what it can at once.
    """

    symbol: str
    side: str
    type: str
    quantity: Decimal
    price: Decimal | None
    time_in_force: str


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """`order.cancel`, version 1: the provider's own id of an order."""

    order: str


Payload: TypeAlias = CreateDeployment | StopDeployment | PlaceOrder | CancelOrder | Mapping[str, Any]
"""The value of one of the four kinds, or a plain JSON object for a kind that a plug-in declares."""


@dataclass(frozen=True, slots=True)
class CommandKind:
    """A kind of command.

    Args:
        name: `noun.verb`; version: of its payload, from 1.
        schema: JSON Schema (2020-12) of the payload. Its titles are what messages call what is wanted.
        needs_key: refused without an idempotency key.
        opens: it may create obligations, so every gate applies; False for what only ends or damps them (cancel, stop).
        resource: `deployment` or `order`: what its effect is about, and what `target` names.
        target: the member of the payload that names an existing resource of the same tenant.
        decimals: members that are decimal strings, brought to one spelling.
    """

    name: str
    version: int
    schema: Mapping[str, Any] = field(hash=False)
    needs_key: bool
    opens: bool
    resource: str | None
    target: str | None = None
    decimals: tuple[str, ...] = ()


def _schema(
    name: str, version: int, title: str, properties: Mapping[str, Any], required: list[str]
) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{SCHEMA_ROOT}/{name}-{version}.json",
        "title": title,
        "type": "object",
        "properties": dict(properties),
        "required": required,
        "additionalProperties": False,
    }


_PLACE_ORDER: Final = _schema(
    "order.place",
    1,
    "Place an order",
    {
        "symbol": _NAMED,
        "side": {"enum": ["buy", "sell"]},
        "type": {"enum": ["limit", "market"], "default": "limit"},
        "quantity": _POSITIVE,
        "price": _POSITIVE,
        "timeInForce": {"enum": ["gtc", "ioc"], "default": "gtc"},
    },
    ["symbol", "side", "quantity"],
) | {
    "if": {"properties": {"type": {"const": "market"}}, "required": ["type"]},
    "then": {"title": "a market order has no `price`", "not": {"required": ["price"]}},
    "else": {"title": "a limit order has one", "required": ["price"]},
}

KINDS: Final[Mapping[str, CommandKind]] = {
    kind.name: kind
    for kind in (
        CommandKind(
            "deployment.create",
            1,
            _schema(
                "deployment.create",
                1,
                "Create a deployment",
                {
                    "name": _NAMED,
                    "artifact": IDENTIFIED,
                    "capital": _POSITIVE,
                    "parameters": {"type": "object"},
                },
                ["name", "artifact"],
            ),
            needs_key=True,
            opens=True,
            resource="deployment",
            decimals=("capital",),
        ),
        CommandKind(
            "deployment.stop",
            1,
            _schema(
                "deployment.stop",
                1,
                "Stop a deployment",
                {"deploymentId": IDENTIFIED},
                ["deploymentId"],
            ),
            needs_key=False,
            opens=False,
            resource="deployment",
            target="deploymentId",
        ),
        CommandKind(
            "order.place",
            1,
            _PLACE_ORDER,
            needs_key=True,
            opens=True,
            resource="order",
            decimals=("quantity", "price"),
        ),
        CommandKind(
            "order.cancel",
            1,
            _schema(
                "order.cancel",
                1,
                "Cancel an order",
                {"orderId": IDENTIFIED},
                ["orderId"],
            ),
            needs_key=False,
            opens=False,
            resource="order",
            target="orderId",
        ),
    )
}


def decimal_text(value: Decimal) -> str:
    """Return a decimal in its one spelling: no exponent, no trailing zeros."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def normal_payload(kind: CommandKind, payload: object) -> dict[str, Any]:
    """Return a payload that fits the kind's schema, its decimals in one spelling. Raises: InvalidCommand."""
    found = list(payload_findings(kind, payload))
    if found or not isinstance(payload, Mapping):
        told = sorted(f"{one.message} ({one.hint})" if one.hint else one.message for one in found)
        raise InvalidCommand(
            f"the payload does not fit {kind.name}, version {kind.version}: {'; '.join(told[:_SHOWN_MAX])}",
            hint=f"`sovrun command {kind.name} --schema` prints what does",
            kind=kind.name,
        )
    normal = dict(payload)
    for name in kind.decimals:
        if name in normal:
            normal[name] = decimal_text(Decimal(normal[name]) or Decimal(0))
    return normal


def payload_findings(
    kind: CommandKind, payload: object, unknown: frozenset[str] = frozenset()
) -> Iterator[Finding]:
    """Yield what is wrong with a payload, by paths within it.

    Args:
        unknown: members that are there, and left out because their values are not known yet.
    """
    odd = False
    for found in misfits(_validator(kind), kind.schema, payload, unknown):
        odd = True
        yield found
    if odd or not isinstance(payload, Mapping):
        return
    for name in kind.decimals:  # whatever else a plug-in's schema lets in
        value = payload.get(name, "0")
        if not isinstance(value, str) or _SIGNED.fullmatch(value) is None:
            yield Finding("bad_value", f"{subject((name,))} must be a decimal in a text", (name,))


@lru_cache(maxsize=256)
def _validator(kind: CommandKind) -> Draft202012Validator:
    return compile_schema(kind.schema)


def typed_payload(kind: str, payload: Mapping[str, Any]) -> Payload:
    """Return the value that adapters are given of a payload in its normal form."""
    match kind:
        case "deployment.create":
            capital = payload.get("capital")
            return CreateDeployment(
                payload["name"],
                payload["artifact"],
                None if capital is None else Decimal(capital),
                payload.get("parameters", {}),
            )
        case "deployment.stop":
            return StopDeployment(payload["deploymentId"])
        case "order.place":
            price = payload.get("price")
            return PlaceOrder(
                payload["symbol"],
                payload["side"],
                payload.get("type", "limit"),
                Decimal(payload["quantity"]),
                None if price is None else Decimal(price),
                payload.get("timeInForce", "gtc"),
            )
        case "order.cancel":
            return CancelOrder(payload["orderId"])
        case _:
            return dict(payload)


_KIND_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,63}\.[a-z][a-z0-9-]{0,63}")


def is_kind_name(text: str) -> bool:
    """Return whether a text has the form of a kind's name, `noun.verb`."""
    return _KIND_NAME.fullmatch(text) is not None
