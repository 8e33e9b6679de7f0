"""What a simulated provider writes down of the truth, as the checker reads it.

Owns: `Ledger`, `Effect`, `Called`, `Profile`. Every effect that ever came about stands there, and every call of an adapter.
Must not touch: what the engine believes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Profile:
    """What kind of provider it is.

    Args:
        deadline_us: how long after a send an effect may still come about or come to be seen.
        duplicates: what it does with a client id that it knows: `reject`s it, `replay`s its first answer, rejects it while
            the resource is `open`, or does it again (`repeat`).
        forgets: what is over is not found any more.
    """

    deadline_us: int
    duplicates: str
    forgets: bool


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that came about. `foreign`: by somebody else, who used the same client id."""

    at_us: int
    client_id: str
    tenant: str
    kind: str
    payload: Mapping[str, Any]
    resource: str | None
    foreign: bool = False


@dataclass(slots=True)
class Called:
    """One call of an effect by an adapter; `ended_us` is None while it is under way, `sent` False where nothing was sent."""

    client_id: str
    began_us: int
    ended_us: int | None = None
    sent: bool = True


@dataclass(slots=True)
class Ledger:
    """The books of a provider; `over_us`: by resource, when it was stopped, cancelled or failed."""

    profile: Profile
    effects: list[Effect] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    over_us: dict[str, int] = field(default_factory=dict)
