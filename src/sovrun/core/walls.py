"""What an attempt ran behind, as it is recorded: a reader can tell a hard limit from a hope years later.

Owns: `Walls` and its recorded form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sovrun.core.ids import Digest

HARD: Final = "hard"
BEST_EFFORT: Final = "best-effort"


@dataclass(frozen=True, slots=True)
class Walls:
    """The parts of a sandbox that differ from machine to machine.

    Args:
        filter: SHA-256 of the filter of system calls.
        landlock: version of Landlock that was used, 0 when the kernel has none.
        memory: `hard` when a control group limited all memory of the attempt together; `best-effort` when each
            process was limited and all together were looked at from time to time.
        warm: it was cloned from a template, which shares its interpreter's memory with other attempts of the tenant.
    Raises: ValueError for another word for memory.
    """

    filter: Digest
    landlock: int
    memory: str
    warm: bool = False

    def __post_init__(self) -> None:
        if self.memory not in (HARD, BEST_EFFORT):
            raise ValueError(f"no limit of memory is called {self.memory!r}")


def walls_member(walls: Walls | None) -> str:
    """Return the last member of an event's JSON object, with a comma before it; empty when there is nothing to tell."""
    if walls is None:
        return ""
    warm = ',"warm":true' if walls.warm else ""
    return (
        f',"walls":{{"filter":"{walls.filter}","landlock":{walls.landlock},"memory":"{walls.memory}"{warm}}}'
    )
