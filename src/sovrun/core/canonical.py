"""The one byte form of a value (RFC 8785 JSON), strict parsing, and digests.

Owns: `canonical`, `parse`, `digest_of`. Everything that is hashed goes through here.
Must not touch: what the values mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final, NoReturn, TypeAlias

import orjson
import rfc8785

from sovrun.core.errors import InvalidValue
from sovrun.core.ids import Digest
from sovrun.core.jsontext import INTEGER_MAX, depth_exceeds, faults, line_columns, number_fault

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

DEPTH_MAX: Final = 64
"""Levels of nesting a text or a value may have where it comes in."""
COMPOSED_DEPTH_MAX: Final = 2 * DEPTH_MAX + 16
"""Levels of nesting of what Sovrun puts together itself: an output within an argument within a recorded object."""

_LONG_INTEGER: Final = re.compile(rb"(?:^|[:,\[-])\d{16}")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*", re.ASCII)
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 form of `value`.

    Args:
        value: built of dict (string keys), list, tuple, str, int, float, bool and None, at most `COMPOSED_DEPTH_MAX`
            deep.
    Raises: InvalidValue with the field path for anything else, NaN, infinities, integers beyond 2^53-1 and lone
        surrogates.
    """
    if _is_plain(value, COMPOSED_DEPTH_MAX):
        try:
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:  # a lone surrogate: say where
            pass
    _require_json(value, (), COMPOSED_DEPTH_MAX)
    return rfc8785.dumps(value)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether orjson with sorted keys gives the RFC 8785 form of `value`: no floats, only ASCII keys, exact types."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        in_range: bool = -INTEGER_MAX <= value <= INTEGER_MAX
        return in_range
    if depth == 0:
        return False
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not key.isascii() or not _is_plain(item, depth - 1):
                return False
        return True
    if kind is list or kind is tuple:
        return all(_is_plain(item, depth - 1) for item in value)
    return False


def require_json(value: Any) -> None:
    """Raise `InvalidValue`, naming the field, unless `value` has a canonical form and at most `DEPTH_MAX` levels."""
    _require_json(value, (), DEPTH_MAX)


def _require_json(value: Any, path: tuple[str | int, ...], depth_max: int) -> None:  # noqa: C901 -- one branch per type
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _require_text(value, path)
    elif isinstance(value, int):
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            _refuse("an integer beyond 2^53-1; write it as a string", path)
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 -- NaN is what differs from itself
            _refuse("NaN and infinities have no JSON form", path)
    elif not isinstance(value, dict | list | tuple):
        _refuse(f"a value of type {type(value).__name__}, which JSON does not have", path)
    elif len(path) >= depth_max:
        _refuse(f"nested deeper than {depth_max} levels", path)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                _refuse(f"a key that is not a string: {key!r:.80}", path)
            _require_text(key, path)
            _require_json(item, (*path, key), depth_max)
    else:
        for position, item in enumerate(value):
            _require_json(item, (*path, position), depth_max)


def _require_text(text: str, path: tuple[str | int, ...]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse("a lone surrogate in a string", path)


def _refuse(what: str, path: tuple[str | int, ...]) -> NoReturn:
    raise InvalidValue(f"{path_text(path)}: {what}", path=path_text(path))


def path_text(path: Iterable[str | int]) -> str:
    """Return a field path as printable text, `$` for the root: `$.steps[3].with.day`, `$["a b"]`."""
    return "$" + "".join(map(_part_text, path))


def _part_text(part: str | int) -> str:
    if isinstance(part, str) and _PLAIN_NAME.fullmatch(part):
        return f".{part}"
    return f"[{json.dumps(part)}]"


def parse(data: bytes | str) -> Json:
    """Return the value of a strict JSON text (RFC 8259, UTF-8).

    Raises: InvalidValue for anything that is not JSON, duplicate keys, NaN, infinities, integers beyond 2^53-1,
        lone surrogates, a byte order mark and nesting beyond `DEPTH_MAX`. `facts` has `path` where there is one.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise InvalidValue(f"not UTF-8 at byte {error.start}", offset=error.start) from None
    if text.startswith("\ufeff"):
        raise InvalidValue("not JSON: it begins with a byte order mark; save it as UTF-8 without one")
    try:
        value: Json = _STRICT.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidValue(
            f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}",
            line=error.lineno,
            column=error.colno,
        ) from None
    except (_NotStrictError, RecursionError):
        _refuse_first_fault(text)
    if text.count("[") + text.count("{") > DEPTH_MAX and depth_exceeds(text, DEPTH_MAX):
        _refuse_first_fault(text)
    if isinstance(data, str) or _SURROGATE_ESCAPE.search(text):  # UTF-8 has no other way to write one
        require_json(value)
    return value


def _refuse_syntax(error: json.JSONDecodeError) -> NoReturn:
    line, column = error.lineno, error.colno
    raise InvalidValue(
        f"not JSON at line {line}, column {column}: {error.msg}", line=line, column=column
    ) from None


def _refuse_first_fault(text: str) -> NoReturn:
    """Find the fault that the fast pass saw, at the price of a slow one, and say where it is."""
    require_syntax(text)
    fault = next(faults(text, depth_max=DEPTH_MAX))
    place = line_columns(text, [fault.offset])[fault.offset]
    where = path_text(fault.path)
    raise InvalidValue(
        f"{where}: {fault.message} (line {place.line}, column {place.column})",
        path=where,
        line=place.line,
        column=place.column,
    )


def require_syntax(text: str) -> None:
    """Raise `InvalidValue` where `text` stops being JSON; what comes after thousands of levels is not looked at."""
    try:
        _LENIENT.decode(text)
    except json.JSONDecodeError as error:
        _refuse_syntax(error)
    except RecursionError:
        return


def decode(data: bytes) -> Any:
    """Return the value of a canonical text that Sovrun itself wrote; it is trusted, not checked.

    A double of 2^53 or more has only digits in its canonical form and comes back as the double it was.
    """
    if _LONG_INTEGER.search(data):
        return json.loads(data, parse_int=_int_or_double)
    return orjson.loads(data)


def _int_or_double(text: str) -> int | float:
    value = int(text)
    return value if -INTEGER_MAX <= value <= INTEGER_MAX else float(text)


class _NotStrictError(Exception):
    """JSON, but not in the strict sense; a second pass says what and where."""


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _NotStrictError
    return value


def _no_constant(_: str) -> NoReturn:
    raise _NotStrictError


def _bounded_int(text: str) -> int:
    if number_fault(text) is not None:
        raise _NotStrictError
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _NotStrictError
    return value


_LENIENT: Final = json.JSONDecoder(parse_constant=str, parse_int=str, parse_float=str)
_STRICT: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_bounded_int, parse_float=_finite
)


def sha256_hex(data: bytes) -> Digest:
    """Return the SHA-256 of `data` as 64 lowercase hexadecimal digits."""
    return Digest(sha256(data).hexdigest())


def digest_of(kind: str, version: int, body: Mapping[str, Any]) -> Digest:
    """Return the digest of `body` as a canonical object that names its own kind and version.

    Args:
        kind: what the object is, for example `sovrun.run`; two kinds never share a digest.
        version: of the object's layout, from 1.
        body: the members; must not contain `kind` or `version`.
    Raises: ValueError when it does: the member would be lost, and with it a difference.
    """
    if "kind" in body or "version" in body:
        raise ValueError(f"a body of {kind} must name its members otherwise than kind and version")
    return sha256_hex(canonical({**body, "kind": kind, "version": version}))
