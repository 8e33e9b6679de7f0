"""How a REST provider is spoken to, as a mapping file declares it.

Owns: the values of a mapping and how they are made from a checked document.
Must not touch: the text of the file and its mistakes (`http_document`), connections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sovrun.core.commands.model import CommandKind
from sovrun.core.spec.units import duration_us
from sovrun.execution.adapters.http_values import Numbers, Pointer, pointer, referred

Pick = Mapping[str, Any]
"""`at` or `const`, with `map`, `otherwise` and `after`."""

_BRACES: Final = re.compile(r"\{([^{}]*)\}")
ANSWER_DEFAULT: Final = "10s"
CONNECT_DEFAULT: Final = "5s"


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """What an HTTP status, and what the body says, means; see `errors` in the guide."""

    status: int
    at: Pointer | None
    equals: str | int | None
    begins: str | None
    outcome: str
    code: str
    duplicate: bool
    message: Pointer | None


@dataclass(frozen=True, slots=True)
class Request:
    """How one request is written.

    Args:
        path: with names in braces. query, headers, body: templates; body is None when nothing is sent.
        timeout_us: how long the whole answer may take.
    """

    method: str
    path: str
    query: Mapping[str, Any]
    headers: Mapping[str, Any]
    body: Any
    timeout_us: int


@dataclass(frozen=True, slots=True)
class Effect:
    """A request that has an effect.

    Args:
        passes: names that the request refers to; what a command says under others would be lost.
        record: where its answer holds the resource, None when it does not.
    """

    request: Request
    passes: frozenset[str]
    record: Pointer | None
    errors: tuple[ErrorRule, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """A request that reads records.

    Args:
        items: pointers to the records. absent: HTTP statuses that mean that there is none.
        next: where the next page is named, and the query parameter that asks for it.
    """

    request: Request
    items: tuple[Pointer, ...]
    absent: frozenset[int]
    next: tuple[Pointer, str] | None


@dataclass(frozen=True, slots=True)
class Record:
    """Where the members of a resource stand; `owner` None when all records are the tenant's."""

    picks: Mapping[str, Pick]
    owner: Mapping[str, Any] | None
    detail: Mapping[str, Pick]


@dataclass(frozen=True, slots=True)
class Fills:
    """Executions that are read beside the orders; each is about one order for every entry of `orders`."""

    read: Read
    quantity: Pick
    price: Pick
    orders: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Resource:
    """How deployments or orders are made (`begin`), ended (`end`) and read; `get` and `find` default to the list."""

    begin: Effect
    end: Effect
    get: Read | None
    find: Read | None
    list: Read
    record: Record
    fills: Fills | None


@dataclass(frozen=True, slots=True)
class Further:
    """A further kind of command: what it asks for, how it is performed, where what came of it is found.

    Args:
        record: has a client id.
    """

    kind: CommandKind
    perform: Effect
    find: Read
    record: Record


@dataclass(frozen=True, slots=True)
class Holdings:
    """Where names and amounts stand in a portfolio."""

    items: tuple[Pointer, ...]
    name: Pick
    amount: Pick


@dataclass(frozen=True, slots=True)
class HttpMapping:
    """A whole mapping file."""

    base_url: str
    modes: frozenset[str]
    tenant: str | None
    processing_deadline_us: int
    absence_is_conclusive: bool
    numbers: Numbers
    connections: int
    answer_bytes: int
    pages: int
    connect_us: int
    ca: str | None
    headers: Mapping[str, Any]
    symbols: Mapping[str, str] | None
    errors: tuple[ErrorRule, ...]
    orders: Resource | None
    deployments: Resource | None
    commands: Mapping[str, Further]
    portfolio: tuple[Request, Holdings | None, Holdings | None] | None
    quote: tuple[Request, frozenset[int], Pick] | None
    secrets: tuple[tuple[str, str], ...] = ()
    """`env` or `file` and the name of every secret that a header refers to; their values are never kept here."""


def mapping_of(document: Mapping[str, Any]) -> HttpMapping:
    """Return the mapping that a document without mistakes declares."""
    limits, timeouts = document.get("limits", {}), document.get("timeouts", {})
    answer_us = duration_us(timeouts.get("answer", ANSWER_DEFAULT))
    numbers = document.get("numbers", {})
    orders, deployments = document.get("orders"), document.get("deployments")
    portfolio, quote = document.get("portfolio"), document.get("quote")
    return HttpMapping(
        base_url=document["baseUrl"].rstrip("/"),
        modes=frozenset(document["modes"]),
        tenant=document.get("tenant"),
        processing_deadline_us=duration_us(document["processingDeadline"]),
        absence_is_conclusive=document["absenceIsConclusive"],
        numbers=Numbers(numbers.get("form", "string"), numbers.get("digits")),
        connections=limits.get("connections", 10),
        answer_bytes=limits.get("answerBytes", 8 << 20),
        pages=limits.get("pages", 100),
        connect_us=duration_us(timeouts.get("connect", CONNECT_DEFAULT)),
        ca=document.get("tls", {}).get("ca"),
        headers=document.get("headers", {}),
        symbols=document.get("symbols"),
        errors=_errors(document),
        orders=None if orders is None else _resource(orders, "place", "cancel", answer_us),
        deployments=None if deployments is None else _resource(deployments, "create", "stop", answer_us),
        commands={name: _further(name, one, answer_us) for name, one in document.get("commands", {}).items()},
        portfolio=None
        if portfolio is None
        else (
            _request(portfolio, answer_us),
            _holdings(portfolio.get("cash")),
            _holdings(portfolio.get("positions")),
        ),
        quote=None
        if quote is None
        else (
            _request(quote, answer_us),
            frozenset(quote.get("absent", (404,))),
            pick_of(quote["price"]),
        ),
    )


def pick_of(value: str | Mapping[str, Any]) -> Pick:
    """Return a pick in its long form."""
    return {"at": value} if isinstance(value, str) else value


def _resource(value: Mapping[str, Any], begin: str, end: str, answer_us: int) -> Resource:
    get, find, fills = value.get("get"), value.get("find"), value.get("fills")
    return Resource(
        _effect(value[begin], answer_us),
        _effect(value[end], answer_us),
        None if get is None else _read(get, answer_us),
        None if find is None else _read(find, answer_us),
        _read(value["list"], answer_us),
        _record(value["record"]),
        None if fills is None else _fills(fills, answer_us),
    )


def further_kind(name: str, value: Mapping[str, Any]) -> CommandKind:
    """Return the kind of command that a mapping declares; whether it is usable is not said."""
    resource, target = next(iter(value.get("target", {}).items()), (None, None))
    return CommandKind(
        *(name, value["version"], value["schema"]),
        needs_key=True,
        opens=value.get("opens", True),
        resource=resource,
        target=target,
        decimals=tuple(value.get("decimals", ())),
    )


def _further(name: str, value: Mapping[str, Any], answer_us: int) -> Further:
    record = Record({"clientId": pick_of(value["clientId"])}, value.get("owner"), {})
    kind = further_kind(name, value)
    return Further(kind, _effect(value["perform"], answer_us), _read(value["find"], answer_us), record)


def _fills(value: Mapping[str, Any], answer_us: int) -> Fills:
    return Fills(
        _read(value, answer_us),
        pick_of(value["quantity"]),
        pick_of(value["price"]),
        tuple(map(_record, value["orders"])),
    )


def _record(value: Mapping[str, Any]) -> Record:
    picks = {name: pick_of(pick) for name, pick in value.items() if name not in ("owner", "detail")}
    detail = {name: pick_of(pick) for name, pick in value.get("detail", {}).items()}
    return Record(picks, value.get("owner"), detail)


def _request(value: Mapping[str, Any], answer_us: int) -> Request:
    timeout = value.get("timeout")
    return Request(
        value.get("method", "GET"),
        value["path"],
        value.get("query", {}),
        value.get("headers", {}),
        value.get("body"),
        answer_us if timeout is None else duration_us(timeout),
    )


def _effect(value: Mapping[str, Any], answer_us: int) -> Effect:
    record = value.get("record")
    at = None if record is None else pointer(record)
    return Effect(_request(value, answer_us), passes(value), at, _errors(value))


def passes(value: Mapping[str, Any]) -> frozenset[str]:
    """Return the names that a request of a mapping refers to."""
    templates = [value.get("body"), value.get("query", {}), value.get("headers", {})]
    return frozenset({*_BRACES.findall(value["path"]), *referred(templates)})


def _read(value: Mapping[str, Any], answer_us: int) -> Read:
    following = value.get("next")
    return Read(
        _request(value, answer_us),
        tuple(map(pointer, value["items"])),
        frozenset(value.get("absent", (404,) if "{" in value["path"] else ())),
        None if following is None else (pointer(following["at"]), following["query"]),
    )


def _holdings(value: Mapping[str, Any] | None) -> Holdings | None:
    if value is None:
        return None
    return Holdings(tuple(map(pointer, value["items"])), pick_of(value["name"]), pick_of(value["amount"]))


def _errors(value: Mapping[str, Any]) -> tuple[ErrorRule, ...]:
    return tuple(
        ErrorRule(
            rule["status"],
            None if "at" not in rule else pointer(rule["at"]),
            rule.get("is"),
            rule.get("begins"),
            rule.get("outcome", "rejected"),
            rule.get("code", "duplicate" if rule.get("duplicate") else "provider_rejected"),
            rule.get("duplicate", False),
            None if "message" not in rule else pointer(rule["message"]),
        )
        for rule in value.get("errors", ())
    )
