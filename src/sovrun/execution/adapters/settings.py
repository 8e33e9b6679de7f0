"""How the settings of adapters are read: strictly, with the place, and what to change.

Owns: `SettingsOf`, which refuses what an adapter does not know or cannot use.
Must not touch: what a setting means.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final, NoReturn

from sovrun.core.errors import InvalidSetting

_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?", re.ASCII)


class SettingsOf:
    """Reads the settings of one adapter; every refusal is an InvalidSetting that begins with the adapter's name."""

    def __init__(self, adapter: str) -> None:
        self.adapter = adapter

    def refuse(self, where: str, what: str, hint: str) -> NoReturn:
        """Raise InvalidSetting for the member at `where`, dotted from the adapter's settings; "" for all of them."""
        place = f"adapter {self.adapter}: {where}" if where else f"adapter {self.adapter}"
        raise InvalidSetting(f"{place}: {what}", hint=hint, adapter=self.adapter, setting=where)

    def members(self, value: object, where: str, known: Collection[str] | None = None) -> Mapping[str, Any]:
        """Return a map, after refusing names that are not text or, given `known`, not among them."""
        if not isinstance(value, Mapping):
            self.refuse(where, f"{_kind(value)} is not a map", "write it as NAME: VALUE pairs")
        for name in value:
            if not isinstance(name, str):
                self.refuse(where, f"the name {name!r:.80} is not a text", 'put it in quotes, "..."')
            if known is not None and name not in known:
                near = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
                self.refuse(where, f"there is no setting {name!r:.80}", hint)
        return value

    def decimal(self, value: object, where: str, *, zero: bool = False) -> Decimal:
        """Return a positive decimal, or zero where that is allowed; written as a text, because numbers may be rounded."""
        if not isinstance(value, str):
            self.refuse(where, f"{_kind(value)} is not a decimal in quotes", 'write for example "10.50"')
        if _DECIMAL.fullmatch(value) is None or not (zero or Decimal(value)):
            at_least = "not negative" if zero else "greater than zero"
            self.refuse(
                where,
                f"{value!r:.80} is not a decimal {at_least}",
                'write for example "10.50": up to 18 digits before and after the point, no sign, no exponent',
            )
        return Decimal(value)

    def boolean(self, value: object, where: str) -> bool:
        """Return true or false."""
        if not isinstance(value, bool):
            self.refuse(where, f"{_kind(value)} is neither true nor false", "write true or false")
        return value

    def text(self, value: object, where: str, pattern: str, rule: str) -> str:
        """Return a text that a regular expression matches whole; `rule` says in words what it asks for."""
        if not isinstance(value, str) or re.fullmatch(pattern, value, re.ASCII) is None:
            self.refuse(where, f"{value!r:.80} does not fit", f"write {rule}")
        return value

    def items(self, value: object, where: str) -> list[Any]:
        """Return a list."""
        if not isinstance(value, list | tuple):
            self.refuse(where, f"{_kind(value)} is not a list", "write it as a list, [...]")
        return list(value)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value!r:.80}"
        case str():
            return f"the text {value!r:.80}"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a map"
        case _:
            return f"a value of type {type(value).__name__}"
