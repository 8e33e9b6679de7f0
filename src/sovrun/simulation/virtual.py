"""An event loop on simulated time: whoever sleeps or waits with a time-out is woken at the simulated instant, at once.

Owns: `run_simulated`. Where nothing is ready, time jumps to the next timer; nothing in such a loop does real input or output.
Must not touch: what happens in it.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from sovrun.simulation.clock import SECOND_US, SimulatedClock

Result = TypeVar("Result")


class _Jump(selectors.SelectSelector):
    """Lets time pass instead of waiting for files."""

    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulated world waits for what can never happen")
        if timeout > 0:
            self._clock.advance_to(self._clock.elapsed_us() + math.ceil(timeout * SECOND_US))
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__(_Jump(clock))
        self._simulated = clock

    def time(self) -> float:
        return self._simulated.elapsed_us() / SECOND_US


def run_simulated(clock: SimulatedClock, main: Coroutine[Any, Any, Result]) -> Result:
    """Run `main` and what it starts on the time of `clock`; what is left at its end is cancelled."""
    with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        return runner.run(main)
