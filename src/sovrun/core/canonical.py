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

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"

INTEGER_MAX: Final = 2**53 - 1
DEPTH_MAX: Final = 64
"""Levels of nesting a value may have."""

_LONG_INTEGER: Final = re.compile(rb"\d{16}")


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 form of `value`.

    Args:
        value: built of dict (string keys), list, tuple, str, int, float, bool and None, at most `DEPTH_MAX` deep.
    Raises: InvalidValue with the field path for anything else, NaN, infinities, integers beyond 2^53-1 and lone
        surrogates.
    """
    if _is_plain(value, DEPTH_MAX):
        try:
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:  # a lone surrogate: say where
            pass
    require_json(value)
    return rfc8785.dumps(value)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether orjson with sorted keys gives the RFC 8785 form of `value`: no floats, only ASCII keys, exact types."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return -INTEGER_MAX <= value <= INTEGER_MAX
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
    """Raise `InvalidValue`, naming the field, unless `value` has a canonical form."""
    _require_json(value, ())


def _require_json(value: Any, path: tuple[str | int, ...]) -> None:  # noqa: C901 -- one branch per JSON type
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
    elif len(path) >= DEPTH_MAX and isinstance(value, Mapping | list | tuple):
        _refuse(f"nested deeper than {DEPTH_MAX} levels", path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                _refuse(f"a key that is not a string: {key!r}", path)
            _require_text(key, path)
            _require_json(item, (*path, key))
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _require_json(item, (*path, position))
    else:
        _refuse(f"a value of type {type(value).__name__}, which JSON does not have", path)


def _require_text(text: str, path: tuple[str | int, ...]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse("a lone surrogate in a string", path)


def _refuse(what: str, path: tuple[str | int, ...]) -> NoReturn:
    raise InvalidValue(f"{path_text(path)}: {what}", path=path_text(path))


def path_text(path: Iterable[str | int]) -> str:
    """Return a field path as text, `$` for the root: `$.steps[3].with.day`."""
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def parse(data: bytes | str) -> Json:
    """Return the value of a strict JSON text (RFC 8259, UTF-8).

    Raises: InvalidValue for anything that is not JSON, duplicate keys, NaN, infinities, integers beyond 2^53-1,
        lone surrogates, a byte order mark and nesting beyond `DEPTH_MAX`.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise InvalidValue(f"not UTF-8 at byte {error.start}", offset=error.start) from None
    try:
        value: Json = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_bounded_int, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        raise InvalidValue(
            f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}", line=error.lineno, column=error.colno
        ) from None
    except RecursionError:
        raise InvalidValue(f"nested deeper than {DEPTH_MAX} levels") from None
    require_json(value)
    return value


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


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidValue(f"the key {key!r} stands twice in one object", key=key)
            seen.add(key)
    return value


def _no_constant(text: str) -> NoReturn:
    raise InvalidValue(f"{text} has no JSON form")


def _bounded_int(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > INTEGER_MAX:
        raise InvalidValue(f"the integer {text[:24]} is beyond 2^53-1; write it as a string")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise InvalidValue(f"the number {text[:24]} is beyond what a double can hold")
    return value


def sha256_hex(data: bytes) -> Digest:
    """Return the SHA-256 of `data` as 64 lowercase hexadecimal digits."""
    return Digest(sha256(data).hexdigest())


def digest_of(kind: str, version: int, body: Mapping[str, Any]) -> Digest:
    """Return the digest of `body` as a canonical object that names its own kind and version.

    Args:
        kind: what the object is, for example `sovrun.run`; two kinds never share a digest.
        version: of the object's layout, from 1.
        body: the members; must not contain `kind` or `version`.
    """
    return sha256_hex(canonical({**body, "kind": kind, "version": version}))
