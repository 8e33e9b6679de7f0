"""Where things stand in a JSON text, for the messages about it.

Owns: the second, slower pass over a text that the fast parser refused, or in which some field has to be shown.
Must not touch: the good path, which never comes here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

Path: TypeAlias = tuple[str | int, ...]

INTEGER_MAX: Final = 2**53 - 1
_INTEGER_DIGITS: Final = 17  # of 2^53-1 with its sign
_SHOWN: Final = 24

_NO_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{},"'))
_ONE_BRACKET: Final = bytes.maketrans(b"{}", b"[]")

_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]|[^\s\[\]{},:"]+', re.DOTALL)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_INTEGER: Final = re.compile(r"-?[0-9]+")


class Place(NamedTuple):
    """A place in a text: line and column from 1, in characters."""

    line: int
    column: int


class Fault(NamedTuple):
    """Something that JSON's grammar allows and the canonical form does not.

    Args:
        code: stable public code of the kind of mistake.
        offset: in characters from 0.
    """

    code: str
    message: str
    path: Path
    offset: int


class _Event(Enum):
    KEY = "key"
    OPEN = "open"
    CLOSE = "close"
    SCALAR = "scalar"


class _Step(NamedTuple):
    event: _Event
    token: str
    offset: int
    trail: list[str | int]
    """Path of the value; the walker goes on using it, so copy what is kept."""


def _walk(  # noqa: C901 -- one branch per sort of token
    text: str, enter: Callable[[list[str | int]], bool] | None = None
) -> Iterator[_Step]:
    """Go through a JSON text, right up to where it stops being JSON; what comes after that is not to be relied on.

    Args:
        enter: whether to go into the list or map at a path; without it all are gone into.
    """
    trail: list[str | int] = []
    in_object: list[bool] = []
    at_key = False
    tokens = _TOKEN.finditer(text)
    for match in tokens:
        token, offset = match.group(), match.start()
        first = token[0]
        if first in "{[":
            yield _Step(_Event.OPEN, token, offset, trail)
            if enter is not None and not enter(trail):
                _pass_over(tokens)
                at_key = False
                continue
            in_object.append(first == "{")
            at_key = in_object[-1]
            if not at_key:
                trail.append(0)
        elif first in "}]":
            if not in_object:
                return
            if not (in_object.pop() and at_key):  # an empty object has no key to leave
                trail.pop()
            at_key = False
            yield _Step(_Event.CLOSE, token, offset, trail)
        elif first == ",":
            if not in_object or not trail:
                return
            if in_object[-1]:
                trail.pop()
                at_key = True
            else:
                trail[-1] = int(trail[-1]) + 1
        elif at_key:
            trail.append(str(json.loads(token, strict=False)))
            at_key = False
            yield _Step(_Event.KEY, token, offset, trail)
        elif first != ":":
            yield _Step(_Event.SCALAR, token, offset, trail)


def _pass_over(tokens: Iterator[re.Match[str]]) -> None:
    """Go to the end of the list or map that has just been opened."""
    depth = 1
    for match in tokens:
        first = match.group()[0]
        if first in "{[":
            depth += 1
        elif first in "}]":
            depth -= 1
            if depth == 0:
                return


def faults(text: str, *, depth_max: int) -> Iterator[Fault]:
    """Yield what the canonical form refuses in a JSON text, in the order of the text.

    Args:
        text: JSON at least as far as the caller goes on asking.
        depth_max: levels of nesting allowed; the first deeper one is the last fault.
    """
    seen: list[set[str]] = []
    for event, token, offset, trail in _walk(text):
        if event is _Event.OPEN:
            if len(seen) >= depth_max:
                yield Fault("too_deep", f"nested deeper than {depth_max} levels", tuple(trail), offset)
                return
            seen.append(set())
        elif event is _Event.CLOSE:
            seen.pop()
        elif event is _Event.KEY:
            key = str(trail[-1])
            if _SURROGATE.search(key):
                yield Fault("lone_surrogate", "a lone surrogate in a key", tuple(trail[:-1]), offset)
            elif key in seen[-1]:
                yield Fault(
                    "duplicate_key",
                    f"the key {_shown(key)} stands twice in one object",
                    tuple(trail[:-1]),
                    offset,
                )
            seen[-1].add(key)
        elif (found := _scalar_fault(token)) is not None:
            yield Fault(*found, tuple(trail), offset)


def _shown(key: str) -> str:
    return json.dumps(key if len(key) <= 4 * _SHOWN else key[: 4 * _SHOWN] + "...")


def _scalar_fault(token: str) -> tuple[str, str] | None:
    if token[0] == '"':
        if "\\u" in token and _SURROGATE.search(json.loads(token, strict=False)):
            return "lone_surrogate", "a lone surrogate in a string"
        return None
    return number_fault(token)


def number_fault(token: str) -> tuple[str, str] | None:
    """Return code and message of what is wrong with a number as it is written, None when it has a canonical form."""
    if token in ("NaN", "Infinity", "-Infinity"):
        return "bad_number", f"{token} has no JSON form"
    if _INTEGER.fullmatch(token):
        if len(token) > _INTEGER_DIGITS or abs(int(token)) > INTEGER_MAX:
            return "bad_number", f"the integer {token[:_SHOWN]} is beyond 2^53-1; write it as a string"
    elif token[-1].isdigit() and abs(float(token)) == float("inf"):
        return "bad_number", f"the number {token[:_SHOWN]} is beyond what a double can hold"
    return None


def skeleton(text: str) -> bytes:
    """Return the brackets, all as `[` and `]`, and the commas of a JSON text, without what stands in strings.

    Linear and without Python loops, so that a text can be judged before anything is built of it. Of a text that is
    not JSON it is right up to where a parser would stop.
    """
    data = text.encode(errors="replace")
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    data = data.translate(_ONE_BRACKET, _NO_STRUCTURE)
    data = data.replace(b'""', b"")  # an empty string, or the border of two: what is inside stays inside
    return b"".join(data.split(b'"')[::2])


def depth_exceeds(text: str, limit: int) -> bool:
    """Whether a JSON text is nested deeper than `limit` levels; never deep in the stack itself."""
    brackets = skeleton(text).translate(None, b",")
    for _ in range(limit):
        if not brackets:
            return False
        brackets = brackets.replace(
            b"[]", b""
        )  # the innermost level: replacing does not look at what it joined
    return bool(brackets)


class Where(NamedTuple):
    """Offsets of a value and of the key it belongs to; a list's item and the root are their own key."""

    value: int
    key: int


def offsets(text: str, wanted: Collection[Path]) -> Mapping[Path, Where]:
    """Return where the values at `wanted` begin in a JSON text; a path that is not there is left out."""
    left = set(wanted)
    lengths = {len(path) for path in left}
    above = {path[:length] for path in left for length in range(len(path))}
    found: dict[Path, Where] = {}
    key_offset = 0
    for event, _, offset, trail in _walk(text, lambda trail: tuple(trail) in above):
        if event is _Event.CLOSE or len(trail) not in lengths:
            continue
        if event is _Event.KEY:
            key_offset = offset
            continue
        path = tuple(trail)
        if path in left:
            found[path] = Where(offset, key_offset if path and isinstance(path[-1], str) else offset)
            left.discard(path)
            if not left:
                break
    return found


def line_columns(text: str, at: Iterable[int]) -> Mapping[int, Place]:
    """Return line and column of each offset, in one pass over the text."""
    places: dict[int, Place] = {}
    line, begin = 1, 0
    for offset in sorted(set(at)):
        newlines = text.count("\n", begin, offset)
        if newlines:
            line += newlines
            begin = text.rfind("\n", begin, offset) + 1
        places[offset] = Place(line, offset - begin + 1)
    return places
