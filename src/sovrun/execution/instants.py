"""Instants by both clocks of a machine, so that neither a clock that is set nor a machine that sleeps shortens a wait.

Owns: `Instant`, `instant_of`.
"""

from __future__ import annotations

from typing import NamedTuple

from sovrun.ports import Clock


class Instant(NamedTuple):
    """An instant by both clocks: the one that may be set, and the one that may stand still while the machine sleeps."""

    now_us: int
    elapsed_us: int

    def longest_since_us(self, later: Instant) -> int:
        """Return how much time has passed by the clock by which it was more."""
        return max(later.now_us - self.now_us, later.elapsed_us - self.elapsed_us)


def instant_of(clock: Clock) -> Instant:
    """Return what both clocks show."""
    return Instant(clock.now_us(), clock.elapsed_us())
