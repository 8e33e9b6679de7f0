"""The values of the store's protocol as JSON and back, by their declared types.

Owns: `to_json`, `from_json`. Where a type is one of several classes the JSON names which (`"class"`). What comes in is
checked against the declared types, so a wrong peer gets a refusal and never a half-made value.
"""

from __future__ import annotations

import base64
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from sovrun.core.commands.journal import CommandId
from sovrun.core.errors import InvalidIdentifier, InvalidValue
from sovrun.core.ids import (
    Actor,
    DagId,
    Digest,
    RunId,
    StepId,
    Tenant,
    WorkerId,
    actor,
    digest,
    require_name,
    run_id,
)


def to_json(value: Any) -> Any:
    """Return a protocol value as JSON."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, frozenset):
        return sorted(to_json(item) for item in value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: to_json(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return [[to_json(key), to_json(item)] for key, item in value.items()]
    if isinstance(value, Sequence):
        return [to_json(item) for item in value]
    raise TypeError(f"{type(value).__name__} is no value of the protocol")


def from_json(kind: Any, value: Any) -> Any:
    """Return the protocol value of type `kind` that a JSON value stands for. Raises: InvalidValue."""
    try:
        return _read(kind, value)
    except (KeyError, TypeError, ValueError, AttributeError, InvalidIdentifier, RecursionError) as error:
        raise InvalidValue(f"not a {getattr(kind, '__name__', kind)}: {error}") from error


def _read(kind: Any, value: Any) -> Any:  # noqa: C901 -- one row per form of type
    if isinstance(kind, typing.NewType):
        return _named(kind, _read(kind.__supertype__, value))
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _read_one_of(arguments, value)
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return tuple(_read(arguments[0], item) for item in _list(value))
    if origin is tuple:
        return tuple(_read(each, item) for each, item in zip(arguments, _list(value), strict=True))
    if origin in (list, Sequence):
        return [_read(arguments[0], item) for item in _list(value)]
    if origin in (dict, Mapping):
        return {_read(arguments[0], key): _read(arguments[1], item) for key, item in _list(value)}
    if origin is frozenset:
        return frozenset(_read(arguments[0], item) for item in _list(value))
    if kind is Decimal:
        return Decimal(_read(str, value))
    if kind is bytes:
        return base64.b64decode(value, validate=True)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        hints = _hints(kind)
        return kind(**{name: _read(hints[name], item) for name, item in value.items() if name != "class"})
    if (
        kind in (str, int, bool, float)
        and isinstance(value, kind)
        and not (kind is int and (isinstance(value, bool) or value < 0))
    ):
        return value
    if kind in (None, type(None)) and value is None:
        return None
    raise TypeError(f"{value!r:.60} is no {kind}")


def _read_one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in kinds:
        return None
    named = value.get("class") if isinstance(value, dict) else None
    for kind in kinds:
        if named is not None and getattr(kind, "__name__", None) == named:
            return _read(kind, value)
    rest = [kind for kind in kinds if kind is not type(None)]
    if named is not None and any(dataclasses.is_dataclass(kind) for kind in rest):
        raise TypeError(f"{named} is none of them")
    return _read(rest[0], value)


def _named(kind: Any, text: str) -> str:
    """Return a name or digest that is of the form that its type promises."""
    if kind in (Tenant, DagId, StepId):
        return require_name(text, kind.__name__)
    if kind is Digest:
        return digest(text)
    if kind in (RunId, CommandId):  # both are 32 hexadecimal digits
        return run_id(text)
    if kind in (Actor, WorkerId) and actor(text) != text:
        raise ValueError(f"{text!r:.60} is no {kind.__name__}")
    return text


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.60} is no list")
    return value


@lru_cache(maxsize=256)
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
