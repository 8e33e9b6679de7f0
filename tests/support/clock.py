"""A clock that is told the time."""

from __future__ import annotations

START_US = 1_700_000_000_000_000


class SetClock:
    """The `Clock` port for tests; it stands still until it is moved."""

    def __init__(self, now_us: int = START_US) -> None:
        self._now_us = now_us
        self._elapsed_us = 0

    def now_us(self) -> int:
        return self._now_us

    def elapsed_us(self) -> int:
        return self._elapsed_us

    def advance(self, by_us: int) -> None:
        """Move the clock; a negative step stands for a clock that was set back."""
        self._now_us += by_us
        self._elapsed_us += max(0, by_us)

    def jump(self, by_us: int) -> None:
        """Set the wall clock to another time; nothing elapses."""
        self._now_us += by_us
