"""A mapping file as a text: read strictly, with every mistake at its line and column.

Owns: `read_mapping`: the published schema's verdicts as messages, and what a schema cannot say (references, secrets,
durations, what belongs together).
Must not touch: connections; the values of secrets.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from jsonschema_rs import Draft202012Validator, ValidationError

from sovrun.core.commands.kinds import kind_faults
from sovrun.core.errors import InvalidSetting, Mistake
from sovrun.core.jsontext import Path
from sovrun.core.spec.document import placed, read_any
from sovrun.core.spec.findings import Finding, Suggester, UnreadableError, kind_of, quoted, subject
from sovrun.core.spec.schemas import compile_schema
from sovrun.core.spec.units import duration_us
from sovrun.execution.adapters.http_mapping import HttpMapping, further_kind, mapping_of, passes
from sovrun.execution.adapters.http_values import FORMS

SHOWN_MAX: Final = 20
"""Mistakes that one refusal names."""

EVERYWHERE: Final = ("tenant", "actor", "mode", "now")
NAMES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("orders", "place"): ("clientId", "symbol", "side", "type", "quantity", "price", "timeInForce"),
    ("orders", "cancel"): ("clientId", "orderId"),
    ("orders", "get"): ("orderId",),
    ("orders", "find"): ("clientId",),
    ("deployments", "create"): ("clientId", "name", "artifact", "capital", "parameters"),
    ("deployments", "stop"): ("clientId", "deploymentId"),
    ("deployments", "get"): ("deploymentId",),
    ("deployments", "find"): ("clientId",),
    ("quote", ""): ("symbol",),
}
"""Names that a request may refer to beside those of `EVERYWHERE`: the members of the command's payload."""

PASSED_ON: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("orders", "place"): ("clientId", "side", "quantity"),
    ("orders", "cancel"): ("orderId",),
    ("deployments", "create"): ("clientId", "artifact"),
    ("deployments", "stop"): ("deploymentId",),
}
"""Without these a request cannot mean what the command says, or its effect could never be found again."""

OWN_HEADERS: Final = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "accept-encoding"}
)
"""Headers on which it depends where a request and its answer end."""

_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_STEP: Final = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?", re.ASCII)
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "orders.side": ("buy", "sell"),
    "orders.type": ("limit", "market"),
    "orders.status": ("pending", "filled", "cancelled", "failed"),
    "deployments.status": ("queued", "running", "paused", "stopping", "stopped", "failed"),
}
"""What picks must be mapped to."""
_SPOKEN: Final[Mapping[str, str]] = {
    "object": "a map", "array": "a list", "string": "a text", "integer": "a whole number", "boolean": "true or false",
}  # fmt: skip


class InvalidMapping(InvalidSetting):
    """A mapping file has mistakes; `mistakes` holds all of them in the order of the text."""

    def __init__(self, name: str, mistakes: Sequence[Mistake]) -> None:
        lines = [
            f"{name}:{found.line}:{found.column}: {found.message}"
            + (f" ({found.hint})" if found.hint else "")
            for found in mistakes[:SHOWN_MAX]
        ]
        more = [f"and {len(mistakes) - SHOWN_MAX} more"] if len(mistakes) > SHOWN_MAX else []
        super().__init__(
            "; ".join([*lines, *more]), hint="correct the mapping file at the places named", setting="mapping"
        )
        self.mistakes = tuple(mistakes)


@cache
def mapping_schema() -> Mapping[str, Any]:
    """Return the published JSON Schema of a mapping file."""
    text = files(__package__).joinpath("http-adapter.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@cache
def _validator() -> Draft202012Validator:
    return compile_schema(mapping_schema())


def read_mapping(data: bytes, *, name: str) -> HttpMapping:
    """Return the mapping that a text (YAML or JSON) declares. Raises: InvalidMapping with every mistake."""
    try:
        document = read_any(data)
    except UnreadableError as error:
        raise InvalidMapping(name, error.mistakes) from None
    value = document.value
    if not isinstance(value, dict):
        message = "a mapping is a map, with apiVersion as its first field"
        raise InvalidMapping(name, [Mistake("wrong_type", message, (), 1, 1)])
    suggester = Suggester()
    found = [*document.findings, *_shape_findings(value, suggester)]
    if not found:  # what follows looks into fields that have their shape
        found = [*_reference_findings(value, suggester), *_meaning_findings(value)]
    if found:
        raise InvalidMapping(name, placed(document, found))
    return replace(mapping_of(value), secrets=tuple(secrets_of(value)))


def _shape_findings(value: Any, suggester: Suggester) -> Iterator[Finding]:
    for error in _validator().iter_errors(value):
        yield from _translated(error, tuple(error.instance_path), suggester)


def _rule(schema_path: Sequence[str | int]) -> Mapping[str, Any]:
    rule: Any = mapping_schema()
    for part in schema_path[:-1]:
        if part == "$ref":
            rule = mapping_schema()["$defs"][str(rule["$ref"]).rpartition("/")[2]]
        elif part in rule:
            rule = rule[part]
    return rule if isinstance(rule, dict) else {}


def _translated(error: ValidationError, path: Path, suggester: Suggester) -> Iterator[Finding]:
    keyword, facts, rule = error.kind.name, error.kind, _rule(error.schema_path)
    title = rule.get("title") or _title_behind(rule)
    match keyword:
        case "additionalProperties":
            for field in facts.as_dict()["unexpected"]:
                hint = (
                    suggester.hint(field, rule["properties"]) or f"known are {', '.join(rule['properties'])}"
                )
                yield Finding(
                    "unknown_field", f"unknown field {quoted(field)}", (*path, field), hint, at_key=True
                )
        case "required":
            field = facts.as_dict()["property"]
            yield Finding("missing_field", f"{subject(path)} lacks the field `{field}`", path)
        case "type":
            kinds = " or ".join(_SPOKEN[kind] for kind in facts.as_dict()["types"])
            wanted = kinds if title is None or kinds == _SPOKEN["boolean"] else title
            message = f"{subject(path)} must be {wanted}; it is {kind_of(error.instance)}"
            yield Finding("wrong_type", message, path)
        case "const" | "enum":
            options = rule.get("enum") or [rule["const"]]
            allowed = " or ".join(map(quoted, options))
            message = f"{subject(path)} must be {allowed}, not {quoted(error.instance)}"
            yield Finding("bad_value", message, path)
        case "propertyNames":
            yield Finding("bad_value", f"{subject(path)}: {error.message[:120]}", path)
        case "pattern":
            yield Finding("bad_value", f"{quoted(error.instance)} is not {title or 'of its form'}", path)
        case _:
            yield Finding("bad_value", f"{subject(path)}: {error.message[:200]}", path)


def _title_behind(rule: Mapping[str, Any]) -> str | None:
    if "$ref" not in rule:
        return None
    behind = mapping_schema()["$defs"][str(rule["$ref"]).rpartition("/")[2]]
    title = behind.get("title")
    return title if isinstance(title, str) else None


def _requests(value: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any], tuple[str, ...]]]:
    """Yield every request with its place and the names that it may refer to."""
    for resource in ("orders", "deployments"):
        for name in ("place", "cancel", "create", "stop", "get", "find", "list", "fills"):
            request = value.get(resource, {}).get(name)
            if request is not None:
                yield (resource, name), request, (*NAMES.get((resource, name), ()), *EVERYWHERE)
    for name, further in value.get("commands", {}).items():
        yield ("commands", name, "perform"), further["perform"], ("clientId", "payload", *EVERYWHERE)
        yield ("commands", name, "find"), further["find"], ("clientId", *EVERYWHERE)
    for name in ("portfolio", "quote"):
        if name in value:
            yield (name,), value[name], (*NAMES.get((name, ""), ()), *EVERYWHERE)


def _reference_findings(value: Mapping[str, Any], suggester: Suggester) -> Iterator[Finding]:
    yield from _header_findings(value, (), EVERYWHERE, suggester)
    for path, request, names in _requests(value):
        for name in _BRACES.findall(request["path"]):
            yield from _known(name, (*path, "path"), names, suggester)
        yield from _header_findings(request, path, names, suggester)
        for field in ("query", "body"):
            if field in request:
                yield from _template(request[field], (*path, field), names, suggester)
    for path, record in _records(value):
        owner = record.get("owner", {})
        for field in ("is", "begins"):
            if field in owner:
                yield from _template(owner[field], (*path, "owner", field), EVERYWHERE, suggester)
        for name, pick in record.items():
            if name not in ("owner", "detail") and isinstance(pick, dict) and "after" in pick:
                yield from _template(pick["after"], (*path, name, "after"), EVERYWHERE, suggester)


def _header_findings(
    value: Mapping[str, Any], path: Path, names: tuple[str, ...], suggester: Suggester
) -> Iterator[Finding]:
    for header, template in value.get("headers", {}).items():
        at = (*path, "headers", header)
        if header.lower() in OWN_HEADERS:
            yield Finding(
                "bad_value", f"the header {header} is the client's own; leave it out", at, at_key=True
            )
        yield from _template(template, at, names, suggester, secrets=True)


def _template(
    template: Any, path: Path, names: tuple[str, ...], suggester: Suggester, *, secrets: bool = False
) -> Iterator[Finding]:
    """Yield what is wrong with the references in a template; only headers may hold secrets."""
    if isinstance(template, list):
        for position, item in enumerate(template):
            yield from _template(item, (*path, position), names, suggester, secrets=secrets)
        return
    if not isinstance(template, dict):
        return
    form = next((name for name in template if name in FORMS), None)
    if form is None:
        for name, item in template.items():
            yield from _template(item, (*path, name), names, suggester, secrets=secrets)
        return
    for name in template.keys() - ({"from", "map", "as", "step"} if form == "from" else {form}):
        message = f"a reference with `{form}` takes no {quoted(name)}"
        hint = "write {literal: ...} for a plain map"
        yield Finding("unknown_field", message, (*path, name), hint, at_key=True)
    if form in ("env", "file"):
        yield from _secret(template[form], (*path, form), allowed=secrets)
    elif form == "join":
        if not isinstance(template["join"], list):
            yield Finding("wrong_type", "`join` must be a list of texts and references", (*path, "join"))
        yield from _template(template["join"], (*path, "join"), names, suggester, secrets=secrets)
    elif form == "from":
        yield from _known(template["from"], (*path, "from"), names, suggester)
        yield from _options(template, path)


def _secret(name: object, path: Path, *, allowed: bool) -> Iterator[Finding]:
    if not allowed:
        yield Finding("bad_reference", "a secret may stand in headers only", path, "send it as a header")
    if not isinstance(name, str) or not name:
        yield Finding("wrong_type", f"`{path[-1]}` must be a name", path)


def _options(template: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    if "map" in template and not isinstance(template["map"], dict):
        yield Finding("wrong_type", "`map` must be a map from our words to the provider's", (*path, "map"))
    if template.get("as", "string") not in ("string", "number"):
        yield Finding("bad_value", "`as` must be 'string' or 'number'", (*path, "as"))
    step = template.get("step", "1")
    if not isinstance(step, str) or _STEP.fullmatch(step) is None or not Decimal(step):
        message = '`step` must be a decimal in quotes, greater than zero, such as "0.01"'
        yield Finding("bad_value", message, (*path, "step"))


def _known(name: object, path: Path, names: tuple[str, ...], suggester: Suggester) -> Iterator[Finding]:
    if not isinstance(name, str):
        yield Finding("wrong_type", f"a reference is a name; this is {kind_of(name)}", path)
        return
    root, *members = name.split(".")
    if root not in names:
        hint = suggester.hint(root, names) or f"known here are {', '.join(names)}"
        yield Finding("bad_reference", f"there is no {quoted(name)} here", path, hint)
    elif members and root not in ("parameters", "payload"):
        yield Finding("bad_reference", f"{quoted(root)} has no members", path)


def _records(value: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for resource in ("orders", "deployments"):
        described = value.get(resource)
        if described is not None:
            yield (resource, "record"), described["record"]
            for position, order in enumerate(described.get("fills", {}).get("orders", ())):
                yield (resource, "fills", "orders", position), order
    for name, further in value.get("commands", {}).items():
        yield ("commands", name), {key: further[key] for key in ("clientId", "owner") if key in further}


def _meaning_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    if not value.keys() & {"orders", "deployments", "commands"}:
        yield Finding("missing_field", "the document has none of `orders`, `deployments` and `commands`", ())
    for path, record in _records(value):
        yield from _owner_findings(value, record, path)
        for name, pick in record.items():
            if name not in ("owner", "detail"):
                yield from _pick_findings(pick, (*path, name), f"{path[0]}.{name}")
    if "orders" in value:
        record = value["orders"]["record"]
        if ("quantity" in record) == ("remaining" in record):
            message = "an order's record has exactly one of `quantity` and `remaining`"
            yield Finding("bad_value", message, ("orders", "record"))
        if "fills" in value["orders"] and ("filled" in record or "averagePrice" in record):
            message = "with `fills` an order's record has neither `filled` nor `averagePrice`"
            yield Finding("bad_value", message, ("orders", "record"))
    yield from _effect_findings(value)
    yield from _rule_findings(value, ())
    yield from _symbol_findings(value)
    yield from _duration_findings(value)
    yield from _url_findings(value)


def _effect_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    effects: list[tuple[Path, Mapping[str, Any], tuple[str, ...]]] = []
    for (resource, name), needed in PASSED_ON.items():
        effect = value.get(resource, {}).get(name)
        if effect is not None:
            symbol = ("symbol",) if name == "place" and "symbols" not in value else ()
            effects.append(((resource, name), effect, (*needed, *symbol)))
    for name, further in value.get("commands", {}).items():
        for fault in kind_faults(further_kind(name, further)):
            yield fault._replace(path=("commands", name, *fault.path))
        effects.append((("commands", name, "perform"), further["perform"], ("clientId",)))
    for path, effect, needed in effects:
        yield from _rule_findings(effect, path)
        for missing in sorted(set(needed) - passes(effect)):
            message = f"the request does not pass on `{missing}`"
            yield Finding("missing_field", message, path, f"write {{from: {missing}}} where it belongs")


def _owner_findings(value: Mapping[str, Any], record: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    owner = record.get("owner")
    if owner is None and "tenant" not in value:
        message = "nothing says whose these records are, so that one tenant would see another's"
        hint = "name the account's `tenant`, or the `owner` of a record"
        yield Finding("missing_field", message, path, hint)
    if owner is not None and ("is" in owner) == ("begins" in owner):
        yield Finding("bad_value", "`owner` has exactly one of `is` and `begins`", (*path, "owner"))


def _pick_findings(pick: Any, path: Path, name: str) -> Iterator[Finding]:
    if isinstance(pick, str):
        pick = {"at": pick}
    if ("at" in pick) == ("const" in pick):
        yield Finding("bad_value", f"{subject(path)} has exactly one of `at` and `const`", path)
    elif "const" in pick and len(pick) > 1:
        yield Finding("bad_value", "beside `const` nothing else may stand", path)
    words = _WORDS.get(name.replace(".orders.", "."))
    if words is None:
        return
    told = [*pick.get("map", {}).values(), *(pick[key] for key in ("otherwise", "const") if key in pick)]
    if not told and "at" in pick:
        message = f"{subject(path)} needs a `map` to {', '.join(words)}"
        yield Finding("missing_field", message, path)
    for word in told:
        if word not in words:
            message = f"{quoted(word)} is none of {', '.join(words)}"
            yield Finding("bad_value", message, path)


def _rule_findings(value: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    for position, rule in enumerate(value.get("errors", ())):
        where = (*path, "errors", position)
        tests = ("is" in rule) + ("begins" in rule)
        if tests > 1 or (tests == 1) != ("at" in rule):
            yield Finding("bad_value", "a test of the body is `at` with one of `is` and `begins`", where)
        if rule.get("outcome", "rejected") != "rejected" and ("code" in rule or rule.get("duplicate")):
            yield Finding("bad_value", "only what is rejected has a `code` or is a `duplicate`", where)


def _symbol_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    taken: dict[str, str] = {}
    for ours, theirs in value.get("symbols", {}).items():
        if theirs in taken:
            message = f"{quoted(theirs)} is {quoted(taken[theirs])} already; what is read could be either"
            yield Finding("bad_value", message, ("symbols", ours))
        taken.setdefault(theirs, ours)


def _duration_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    told: list[tuple[Path, Any]] = [(("processingDeadline",), value["processingDeadline"])]
    told += [(("timeouts", name), text) for name, text in value.get("timeouts", {}).items()]
    told += [((*path, "timeout"), one["timeout"]) for path, one, _ in _requests(value) if "timeout" in one]
    for path, text in told:
        try:
            duration_us(text)
        except ValueError as error:
            yield Finding("out_of_range", f"{subject(path)} {error}", path)


def _url_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    fault = bad_base_url(value["baseUrl"], has_secrets=bool(list(secrets_of(value))))
    if fault is not None:
        yield Finding("bad_value", fault, ("baseUrl",))


def bad_base_url(url: str, *, has_secrets: bool) -> str | None:
    """Return what is wrong with a base URL, None when nothing is."""
    if re.fullmatch(mapping_schema()["properties"]["baseUrl"]["pattern"].strip("^$"), url) is None:
        return (
            f"{quoted(url)} is not a URL such as https://api.example.org/v2, without user, query or fragment"
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        return f"{quoted(url)} is not a URL: {error}"
    if parts.scheme == "http" and has_secrets and not _is_local(host):
        return "secrets are sent over https only, or to this machine"
    return None


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def secrets_of(value: Any) -> Iterator[tuple[str, str]]:
    """Yield `env` or `file` and the name of every secret that headers of a mapping refer to."""
    headers = [value.get("headers", {}), *(one.get("headers", {}) for _, one, _ in _requests(value))]
    pending: list[Any] = [template for some in headers for template in some.values()]
    while pending:
        template = pending.pop()
        if isinstance(template, list):
            pending += template
        elif isinstance(template, dict):
            yield from ((form, template[form]) for form in ("env", "file") if form in template)
            pending += [template["join"]] if "join" in template else []
