"""What goes into requests and comes out of answers: templates, picks, and numbers that stay exact.

Owns: filling a template from the names of a call, picking from an answer by JSON Pointer, JSON with decimals of any
length. References are data: nothing is computed but texts joined and words mapped.
Must not touch: connections, and what an outcome means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Final, NoReturn, TypeAlias

import orjson

from sovrun.core.commands.model import decimal_text
from sovrun.execution.port import OutcomeUnknown

Scope: TypeAlias = Mapping[str, Any]
"""What the names in a template stand for; None for what a call does not have."""
Pointer: TypeAlias = tuple[str, ...]

FORMS: Final = frozenset({"from", "join", "literal", "env", "file"})
"""Keys that make a map of a template stand for a value."""

_DECIMAL: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?", re.ASCII)
_NUMBER_MAX: Final = 80
_EXPONENT_MAX: Final = 60
_IDENTIFIER: Final = re.compile(r"[!-~]{1,128}", re.ASCII)
_ABSENT: Final = object()
"""What a template without a value is filled to; its member or item is left out."""


class UnfitError(Exception):
    """The provider cannot be asked this, so nothing is sent; `code` is that of the refusal."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Numbers:
    """How decimals are written.

    Args:
        form: `string` or `number`, in JSON.
        digits: significant digits that survive at the provider, None for all. What has more is not sent, and what
            is read is rounded to as many, so that 0.19999999999999998 is the 0.2 that the provider was given.
    """

    form: str = "string"
    digits: int | None = None

    def told(self, value: Decimal) -> Decimal:
        """Return a decimal that the provider tells as it was meant."""
        return value if self.digits is None else Context(prec=self.digits).plus(value)

    def require_exact(self, value: Decimal, name: str, step: str | None) -> None:
        """Raise UnfitError when a decimal would not survive."""
        if self.digits is not None and len(value.normalize().as_tuple().digits) > self.digits:
            raise UnfitError(
                "precision_not_supported",
                f"{name} {decimal_text(value)} has more than the {self.digits} digits that the provider keeps",
            )
        if step is not None and Context(prec=80).remainder(value, Decimal(step)) != 0:
            raise UnfitError(
                "precision_not_supported", f"{name} {decimal_text(value)} is no multiple of {step}"
            )


def referred(template: Any) -> Iterator[str]:
    """Yield the names that a template refers to, without their members."""
    if isinstance(template, list):
        for item in template:
            yield from referred(item)
    elif isinstance(template, Mapping) and "literal" not in template:
        if "from" in template:
            yield str(template["from"]).partition(".")[0]
            return
        for item in template.values():
            yield from referred(item)


def pointer(text: str) -> Pointer:
    """Return the parts of a JSON Pointer (RFC 6901)."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:])


def at(value: Any, path: Pointer) -> Any:
    """Return what stands at a pointer, None when nothing does."""
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and re.fullmatch(r"0|[1-9][0-9]{0,8}", part, re.ASCII):
            value = value[int(part)] if int(part) < len(value) else None
        else:
            return None
    return value


def each(value: Any, path: Pointer, walked: str = "") -> Iterator[Any]:
    """Yield what stands at a pointer in which `*` stands for every member.

    Raises: OutcomeUnknown when a list or map on the way is not there: an answer of another form proves no absence.
    """
    for position, part in enumerate(path):
        if part != "*":
            value, walked = at(value, (part,)), f"{walked}/{part}"
            continue
        if not isinstance(value, Mapping | list):
            bad_answer(f"there is no list or map at {walked or 'its root'}")
        for member in value.values() if isinstance(value, Mapping) else value:
            yield from each(member, path[position + 1 :], f"{walked}/*")
        return
    if value is None:
        bad_answer(f"there is nothing at {walked or 'its root'}")
    yield value


def bad_answer(what: str) -> NoReturn:
    """Raise OutcomeUnknown for an answer that does not make sense."""
    raise OutcomeUnknown("bad_answer", f"the provider's answer is not as the mapping says: {what}")


def filled(template: Any, scope: Scope, numbers: Numbers) -> Any:
    """Return a template with its references replaced; decimals in `number` form are left as Decimal.

    Raises: UnfitError when a value has no counterpart at the provider.
    """
    value = _fill(template, scope, numbers)
    return None if value is _ABSENT else value


def filled_text(template: Any, scope: Scope, numbers: Numbers | None = None) -> str | None:
    """Return a template of a header, a query parameter or a comparison as text, None when it has no value."""
    value = _fill(template, scope, _as_texts(numbers or Numbers()))
    if value is _ABSENT or value is None:
        return None
    return value if isinstance(value, str) else dumps(value).decode()


def _fill(template: Any, scope: Scope, numbers: Numbers) -> Any:
    if isinstance(template, list):
        items = [_fill(item, scope, numbers) for item in template]
        return [item for item in items if item is not _ABSENT]
    if not isinstance(template, Mapping):
        return template
    if "literal" in template:
        return template["literal"]
    if "join" in template:
        parts = [_fill(part, scope, _as_texts(numbers)) for part in template["join"]]
        return _ABSENT if any(part is _ABSENT for part in parts) else "".join(map(str, parts))
    if "from" in template:
        return _referred(template, scope, numbers)
    members = {name: _fill(value, scope, numbers) for name, value in template.items()}
    return {name: value for name, value in members.items() if value is not _ABSENT}


def _as_texts(numbers: Numbers) -> Numbers:
    return Numbers("string", numbers.digits)


def _referred(template: Mapping[str, Any], scope: Scope, numbers: Numbers) -> Any:
    name = template["from"]
    root, *members = name.split(".")
    value = at(scope.get(root), tuple(members))
    if value is None:
        return _ABSENT
    if isinstance(value, Decimal):
        numbers.require_exact(value, name, template.get("step"))
        return value if template.get("as", numbers.form) == "number" else decimal_text(value)
    words = template.get("map")
    if words is None:
        return value
    if value not in words:
        raise UnfitError("not_supported", f"the provider knows no {name} {value!r:.80}")
    return words[value]


def picked(pick: Mapping[str, Any], record: Any, scope: Scope) -> Any:
    """Return what a pick finds in a record, None when nothing is there. Raises: OutcomeUnknown."""
    if "const" in pick:
        return pick["const"]
    value = at(record, pointer(pick["at"]))
    if value is None:
        return None
    if "after" in pick:
        begin = filled_text(pick["after"], scope)
        if not isinstance(value, str) or begin is None or not value.startswith(begin):
            return None
        value = value[len(begin) :]
    if "map" not in pick:
        return value
    word = word_of(value)
    mapped = pick["map"].get(word, pick.get("otherwise"))
    return mapped if mapped is not None else bad_answer(f"{pick['at']} is {word!r:.80}, which is not mapped")


def word_of(value: Any) -> str:
    """Return what stands in an answer as the word by which a map knows it."""
    return value if isinstance(value, str) else dumps(value).decode()


def text_of(value: Any, what: str) -> str:
    """Return a picked identifier as text, without spaces. Raises: OutcomeUnknown."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or _IDENTIFIER.fullmatch(text) is None:
        bad_answer(f"{value!r:.80} cannot be the {what}")
    return text


def decimal_of(value: Any, what: str, numbers: Numbers) -> Decimal:
    """Return a picked number or text as the decimal it is written as. Raises: OutcomeUnknown."""
    if isinstance(value, str) and len(value) <= _NUMBER_MAX and _DECIMAL.fullmatch(value):
        value = Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        bad_answer(f"{value!r:.80} cannot be the {what}")
    exact = Decimal(value)
    if not exact.is_finite() or (exact and abs(exact.adjusted()) > _EXPONENT_MAX):
        bad_answer(f"{str(value)[:80]} cannot be the {what}")
    return Decimal(decimal_text(numbers.told(exact)))


def plain(value: Any) -> Any:
    """Return a picked value as JSON of texts, whole numbers, true, false and null; other numbers become texts."""
    if isinstance(value, Mapping):
        return {name: plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Decimal) or (isinstance(value, int) and abs(value) > 2**53 - 1):
        return str(value)
    return value


def dumps(value: Any) -> bytes:
    """Return JSON in which decimals are numbers of exactly their digits."""
    return orjson.dumps(value, default=_number)


def _number(value: object) -> orjson.Fragment:
    if not isinstance(value, Decimal):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return orjson.Fragment(decimal_text(value))


def loads(data: bytes) -> Any:
    """Return the value of an answer, its fractions as Decimal. Raises: OutcomeUnknown."""
    try:
        return _READER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        bad_answer(f"it is no JSON ({str(error)[:120]})")


def _members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _fraction(text: str) -> Decimal:
    try:
        return Decimal(text if len(text) <= _NUMBER_MAX else "NaN")
    except InvalidOperation:
        return Decimal("NaN")


def _whole(text: str) -> int | Decimal:
    return int(text) if len(text) <= _NUMBER_MAX else Decimal("NaN")


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


_READER: Final = json.JSONDecoder(
    parse_float=_fraction, parse_int=_whole, parse_constant=_constant, object_pairs_hook=_members
)
