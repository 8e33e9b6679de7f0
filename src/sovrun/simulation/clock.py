"""Simulated time: what happens when, and what the store's clock says.

Owns: `SimulatedClock`, `Schedule`. Nothing here ever waits: time jumps to the next thing that happens.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

START_US: Final = 1_700_000_000_000_000
SECOND_US: Final = 1_000_000

Happening: TypeAlias = Callable[[], Awaitable[None]]


class SimulatedClock:
    """The store's clock. It moves on by a microsecond whenever it is read, so that no two writes have one time."""

    def __init__(self) -> None:
        self._elapsed_us = 0
        self._skew_us = 0

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        self._elapsed_us += 1
        return START_US + self._elapsed_us + self._skew_us

    def elapsed_us(self) -> int:
        """See `Clock.elapsed_us`."""
        return self._elapsed_us

    def advance_to(self, elapsed_us: int) -> None:
        """Let time pass up to an instant; one that has passed changes nothing."""
        self._elapsed_us = max(self._elapsed_us, elapsed_us)

    def jump(self, by_us: int) -> None:
        """Set the clock forward or, by a negative step, back; no time passes."""
        self._skew_us += by_us


class Schedule:
    """What is to happen, in the order of time; what falls on one instant happens in the order it was planned."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self._planned: list[tuple[int, int, Happening, bool]] = []
        self._number = 0

    def after(self, delay_us: int, happening: Happening, *, alone: bool = False) -> None:
        """Plan something; what happens `alone` cannot fall together with anything else."""
        self._number += 1
        heapq.heappush(self._planned, (self._clock.elapsed_us() + delay_us, self._number, happening, alone))

    def next(self) -> Happening | None:
        """Let time pass up to the next happening and return it; None when nothing is planned."""
        if not self._planned:
            return None
        at_us, _, happening, _ = heapq.heappop(self._planned)
        self._clock.advance_to(at_us)
        return happening

    def next_is_alone(self) -> bool:
        """Return whether what is next cannot fall together with anything else."""
        return not self._planned or self._planned[0][3]
