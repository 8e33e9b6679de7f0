"""Values of a step: its arguments out of their canonical text, what it returned into JSON text or a refusal.

Owns: `decode`, `encode`. Standard library only: this is also imported inside the sandbox, where the fast encoders are not.
"""

from __future__ import annotations

from sovrun.sandbox import smalljson

TYPE_CHECKING = False  # importing what follows would slow the start of every step
if TYPE_CHECKING:
    from typing import Any, Final

INTEGER_MAX: Final = 2**53 - 1
DEPTH_MAX: Final = 64

_DIGITS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_INTEGER: Final = b"0" * 16


class NotJson(ValueError):
    """The value has no JSON form; the text names the place and the type."""


def decode(data: bytes) -> Any:
    """Return the value of a canonical text, exactly as `core.canonical.decode` does outside the sandbox."""
    if _LONG_INTEGER in data.translate(
        _DIGITS
    ):  # as a search for 16 digits, without the cost of importing `re`
        return smalljson.loads(data, _integer_or_double)
    return smalljson.loads(data)


def _integer_or_double(text: str) -> int | float:
    value = int(text)
    return value if -INTEGER_MAX <= value <= INTEGER_MAX else float(text)


def encode(value: Any) -> bytes:
    """Return `value` as JSON text in UTF-8.

    Raises: NotJson for types that JSON does not have, keys that are not strings (never silently turned into
        some), NaN, infinities, integers beyond 2^53-1, lone surrogates and nesting beyond `DEPTH_MAX`.
    """
    _check(value, "$", 0)
    try:
        return smalljson.dumps(value).encode()
    except UnicodeEncodeError:
        raise NotJson("$: a string holds a lone surrogate") from None


def _check(value: Any, path: str, depth: int) -> None:
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise NotJson(f"{path}: an integer beyond 2^53-1; return it as a string")
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 -- NaN differs from itself
            raise NotJson(f"{path}: NaN and infinities have no JSON form")
    elif not isinstance(value, dict | list | tuple):
        raise NotJson(f"{path}: a value of type {type(value).__name__}, which JSON does not have")
    elif depth >= DEPTH_MAX:
        raise NotJson(f"{path}: nested deeper than {DEPTH_MAX} levels")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise NotJson(f"{path}: a key of type {type(key).__name__}; JSON has only strings as keys")
            _check(item, f"{path}.{key}", depth + 1)
    else:
        for position, item in enumerate(value):
            _check(item, f"{path}[{position}]", depth + 1)
