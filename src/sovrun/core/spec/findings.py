"""What a check finds in a document, before it is known where in the text that is.

Owns: `Finding`, the limits of what one report says, how names and fields are written in messages.
Must not touch: texts and values.
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Final, NamedTuple

from sovrun.core.errors import Mistake
from sovrun.core.jsontext import Path, Place

MISTAKES_MAX: Final = 1_000
"""Mistakes that one report names; a hostile document must not make a report larger than itself."""
_SCANS_MAX: Final = 2_000_000  # looking for similar names costs time: with both limits about a second in all
_COMPARISONS_MAX: Final = 200_000
_SHOWN: Final = 80


class Finding(NamedTuple):
    """One mistake, by its field path.

    Args:
        at_key: the key is meant, not the value.
        spoilt: the value could not be taken over, so nothing else that is found in it counts.
        place: where it stands, when the reader of the text knows already.
    """

    code: str
    message: str
    path: Path
    hint: str | None = None
    at_key: bool = False
    spoilt: bool = False
    place: Place | None = None

    def mistake(self, place: Place) -> Mistake:
        """Return the finding as it is reported, standing at `place`."""
        return Mistake(self.code, self.message, self.path, place.line, place.column, self.hint)


class UnreadableError(Exception):
    """The text has no value to look at; `mistakes` says why."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__(len(mistakes))
        self.mistakes = mistakes


def quoted(text: object) -> str:
    """Return `text` as it is shown in a message: printable, in quotes, not too long."""
    shown = text if isinstance(text, str) else str(text)
    return repr(shown) if len(shown) <= _SHOWN else repr(shown[:_SHOWN]) + "..."


def subject(path: Path) -> str:
    """Return how a message calls the field at `path`."""
    if not path:
        return "the document"
    if isinstance(path[-1], str):
        return f"`{path[-1]}`"
    names = [part for part in path if isinstance(part, str)]
    return f"an item of `{names[-1]}`" if names else "an item"


def kind_of(value: object) -> str:
    """Return what sort of JSON value `value` is."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "a map"


class Suggester:
    """Finds the name that was probably meant, as long as one document may spend time on that."""

    def __init__(self) -> None:
        self._scans_left = _SCANS_MAX
        self._comparisons_left = _COMPARISONS_MAX

    def nearest(self, name: str, candidates: Collection[str]) -> str | None:
        """Return the candidate most like `name`, if one is like it at all."""
        if len(name) > _SHOWN or len(candidates) > self._scans_left:
            return None
        self._scans_left -= len(candidates)
        near = [candidate for candidate in candidates if abs(len(candidate) - len(name)) <= 3]
        if len(near) > self._comparisons_left:
            return None
        self._comparisons_left -= len(near)
        matches = get_close_matches(name, sorted(near), n=1, cutoff=0.6)
        return matches[0] if matches else None

    def hint(self, name: str, candidates: Collection[str]) -> str | None:
        """Return the question whether the nearest candidate was meant."""
        nearest = self.nearest(name, candidates)
        return f"did you mean {quoted(nearest)}?" if nearest is not None else None
