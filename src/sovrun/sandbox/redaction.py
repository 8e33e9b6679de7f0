"""Taking secret values out of texts: by value, in the forms into which programs turn them, across any cutting into chunks.

Owns: `Redaction`, the forms of a value, `Stream`. Standard library only: the supervisor uses it, too.
Must not touch: where values come from.

It guards against accidents. A step that wants to give a secret away can spell it backwards.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import quote, quote_plus

MARK: Final = b"***"
VALUE_MIN: Final = 6
"""Bytes below which a value is no secret: it would be taken out of half of all words. Not less than `MARK` has."""
LINE_MIN: Final = 8
"""Bytes from which on a single line of a value of several lines is taken out, too."""
CUT: Final = " ... (cut)"
"""What a text ends with whose rest was left out."""
_FOLDS: Final = (64, 76)
"""Columns at which PEM and MIME, and the program `base64`, fold their lines."""
_FOUND_BY: Final = 8


def forms_of(value: bytes) -> frozenset[bytes]:
    """Return every text by which a value is known: itself, base64, hexadecimal, URL, JSON, HTML and Python forms."""
    forms = {value, *_base64_forms(value), value.hex().encode(), value.hex().upper().encode()}
    forms.add(repr(value)[2:-1].encode())
    percent = {quote(value, safe=safe) for safe in ("", "/", "/:@")} | {quote_plus(value)}
    forms |= {form.encode() for text in percent for form in (text, _lower_escapes(text))}
    with suppress(UnicodeDecodeError):
        text = value.decode()
        escaped = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        escaped |= {form.replace("/", "\\/") for form in escaped} | {repr(text)[1:-1]}
        escaped |= {html.escape(text), html.escape(text, quote=False)}
        forms |= {form.encode() for form in escaped}
    return frozenset(form for form in forms if len(form) >= VALUE_MIN)


def lines_of(value: bytes) -> frozenset[bytes]:
    """Return the lines of a value of several lines by which each of them is known, without the frame of a PEM text."""
    lines = value.splitlines()
    return frozenset(
        line for line in lines if len(lines) > 1 and len(line) >= LINE_MIN and not line.startswith(b"-----")
    )


def _base64_forms(value: bytes) -> Iterator[bytes]:
    """Yield what stands in base64 text wherever the value begins within a group of three bytes, and folded lines."""
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + value)
        # The characters at both ends also hold bits of what stands around the value.
        whole = encoded[-(-offset * 8 // 6) : (offset + len(value)) * 8 // 6]
        yield from (whole, whole.translate(_URL_SAFE))
    encoded = base64.b64encode(value)
    for columns in _FOLDS:
        if len(encoded) > columns:
            lines = (encoded[begin : begin + columns] for begin in range(0, len(encoded), columns))
            yield from (line for line in lines if len(line) >= LINE_MIN)


_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def _lower_escapes(text: str) -> str:
    """Return a URL-encoded text with its escapes in lower case, as some programs write them."""
    first, *rest = text.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in rest)])


class Redaction:
    """Finds some values, in all their forms, and takes them out. Its text form shows none of them."""

    def __init__(self, values: Iterable[bytes]) -> None:
        known = list(values)
        self._whole = tuple(sorted({form for value in known for form in forms_of(value)}))
        self._forms = tuple({*self._whole, *(line for value in known for line in lines_of(value))})
        self._longest = max(map(len, self._whole), default=0)

    @classmethod
    def of(cls, values: Iterable[bytes]) -> Redaction | None:
        """Return a redaction of some values, None when there are none."""
        known = list(values)
        return cls(known) if known else None

    def __repr__(self) -> str:
        return f"Redaction({len(self._forms)} forms)"

    def is_in(self, data: bytes) -> bool:
        """Return whether a whole value, in whatever form, is within `data`."""
        return any(form in data for form in self._whole)

    def is_in_chunks(self, chunks: Iterable[bytes]) -> bool:
        """Return whether a whole value is within what `chunks` are pieces of."""
        kept = b""
        for chunk in chunks:
            data = kept + chunk
            if self.is_in(data):
                return True
            kept = data[max(0, len(data) - self._longest + 1) :]
        return False

    def apply(self, data: bytes) -> bytes:
        """Return `data` with every value replaced by `MARK`; values that overlap become one."""
        return self.settle(data, len(data), 0)[0]

    def text(self, text: str) -> str:
        """Return a text without the values. In one that was cut off, what its end has of a value is taken out, too."""
        data = text.encode("utf-8", "surrogatepass")
        if not text.endswith(CUT):
            return self.apply(data).decode("utf-8", "surrogatepass")
        data = data[: -len(CUT)]
        end = self.unsettled(data)
        done, covered = self.settle(data, end, 0)
        mark = MARK if end + covered < len(data) else b""
        return (done + mark).decode("utf-8", "surrogatepass") + CUT

    def settle(self, data: bytes, end: int, covered: int) -> tuple[bytes, int]:
        """Return `data` up to `end` without values, and how many bytes from `end` on belong to one that was replaced.

        Args:
            covered: how many bytes at the beginning of `data` belong to a value that was replaced before.
        """
        done = []
        position = 0
        for begin, stop in self._found(data, end, covered):
            done.append(data[position:begin])
            if stop > covered and (begin > 0 or not covered):
                done.append(MARK)
            position = stop
        done.append(data[position:end])
        return b"".join(done), max(0, position - end)

    def _found(self, data: bytes, end: int, covered: int) -> Iterator[tuple[int, int]]:
        """Yield the places of values that begin before `end`, overlapping ones as one."""
        places = [(0, covered)] if covered else []
        for form in self._forms:
            at = data.find(form)
            while 0 <= at < end:
                places.append((at, at + len(form)))
                at = data.find(form, at + 1)
        places.sort()
        begin = stop = 0
        for first, last in places:
            if first >= stop and stop:
                yield begin, stop
            if first >= stop:
                begin = first
            stop = max(stop, last)
        if stop:
            yield begin, stop

    def unsettled(self, data: bytes) -> int:
        """Return where the longest end of `data` begins that more data could make a value of."""
        ends = tuple(data[at:] for at in range(max(0, len(data) - _FOUND_BY + 1), len(data)))
        return min((_begins(data, form, ends) for form in self._forms), default=len(data))


def _begins(data: bytes, form: bytes, ends: tuple[bytes, ...]) -> int:
    """Return where the longest end of `data` begins that `form` begins with, without being all of it.

    Args:
        ends: the ends of `data` that are shorter than what a form is looked for by, the longest first.
    """
    at = data.find(form[:_FOUND_BY], max(0, len(data) - len(form) + 1)) if len(form) > _FOUND_BY else -1
    while at >= 0:
        if form.startswith(data[at:]):
            return at
        at = data.find(form[:_FOUND_BY], at + 1)
    if not form.startswith(ends):  # one question instead of one for each; most forms are done with here
        return len(data)
    begun = (len(end) for end in ends if len(end) < len(form) and form.startswith(end))
    return len(data) - next(begun, 0)


class Stream:
    """Redacts data that comes in pieces: what may be the beginning of a value is held back until that is known."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._held = b""
        self._covered = 0

    def take(self, data: bytes) -> bytes:
        """Return what can be let go now that `data` has come."""
        data = self._held + data
        return self._let_go(data, self._redaction.unsettled(data))

    def rest(self) -> bytes:
        """Return what was held back, when nothing more will come."""
        return self._let_go(self._held, len(self._held))

    def _let_go(self, data: bytes, end: int) -> bytes:
        done, self._covered = self._redaction.settle(data, end, self._covered)
        self._held = data[end:]
        return done
