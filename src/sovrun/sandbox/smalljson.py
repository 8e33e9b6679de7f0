"""JSON by the interpreter's C scanner and encoder alone: the package `json` costs the start of every step 6 ms.

Owns: `loads`, `dumps`. Strict: no NaN, no infinities, no blanks around the value.
Standard library only: this is also imported inside the sandbox.
"""

from __future__ import annotations

from _json import encode_basestring, make_encoder, make_scanner  # the parts of `json` that are written in C

TYPE_CHECKING = False  # importing what follows would slow the start of every step
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} has no JSON form")


class _Reading:
    """What the scanner asks for; the fields are those of `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_constant = staticmethod(_no_constant)

    def __init__(self, parse_int: Callable[[str], Any]) -> None:
        self.parse_int = parse_int
        self.memo: dict[str, str] = {}


def loads(data: bytes, parse_int: Callable[[str], Any] = int) -> Any:
    """Return the value of a JSON text in UTF-8.

    Args:
        parse_int: what becomes of the text of an integer.
    Raises: ValueError when it is no JSON, or there is more than one value; RecursionError.
    """
    text = data.decode()
    try:
        value, end = make_scanner(_Reading(parse_int))(text, 0)  # type: ignore[arg-type]  # asks for these fields only
    except StopIteration as stop:
        raise ValueError(f"no JSON value at character {stop.value}") from None
    if end != len(text):
        raise ValueError(f"more than one JSON value: the first ends at character {end}")
    return value


def dumps(value: Any) -> str:
    """Return `value` as JSON without blanks, other characters than ASCII as they are.

    Raises: ValueError for NaN and infinities, TypeError for types that JSON does not have.
    """
    encode = make_encoder(None, _no_type, encode_basestring, None, ":", ",", False, False, False)  # noqa: FBT003
    return "".join(encode(value, 0))


def _no_type(value: Any) -> Any:
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")
