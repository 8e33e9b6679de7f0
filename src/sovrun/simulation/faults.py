"""The faults there are, and the link between a caller and a store on which they happen.

Owns: `Fault`, `Chance`, `Link`. A call over the link may be lost, lose its answer, arrive late or twice, and its caller
may die before or after it.
Must not touch: what is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import StrEnum
from random import Random
from typing import Final, TypeVar

from sovrun.core.errors import SovrunError, StoreUnavailable
from sovrun.simulation.clock import SECOND_US, Schedule
from sovrun.store.protocol import Store

Answer = TypeVar("Answer")


class Fault(StrEnum):
    """What can go wrong."""

    CRASH_BEFORE = "crash_before"
    CRASH_AFTER = "crash_after"
    LOST_CALL = "lost_call"
    LOST_ANSWER = "lost_answer"
    LATE_CALL = "late_call"
    DUPLICATE = "duplicate"
    PAUSED_WORKER = "paused_worker"
    SLOW_STEP = "slow_step"
    NAMESAKE = "namesake"
    RESTART = "restart"
    RESTART_IN_RECOVERY = "restart_in_recovery"
    CLOCK_FORWARD = "clock_forward"
    CLOCK_BACK = "clock_back"
    CIRCUMSTANCE = "circumstance"
    FALSE_SUSPICION = "false_suspicion"
    CANCEL = "cancel"
    CONFLICT = "conflict"
    NO_ANSWER = "no_answer"
    WRONG_APPROVAL = "wrong_approval"
    SECOND_ANSWER = "second_answer"
    RERUN = "rerun"
    GOVERNED = "governed"


ALL_FAULTS: Final = frozenset(Fault)
ON_THE_LINK: Final = (
    Fault.CRASH_BEFORE,
    Fault.CRASH_AFTER,
    Fault.LOST_CALL,
    Fault.LOST_ANSWER,
    Fault.LATE_CALL,
    Fault.DUPLICATE,
)


class Died(Exception):
    """The caller died at a call; whether the call was carried out, nobody knows."""


class Chance:
    """Decides by the world's one random source which faults happen, and counts them."""

    def __init__(self, rng: Random, enabled: frozenset[Fault], rate: float) -> None:
        """Args: enabled: the faults that may happen; rate: how often a call goes wrong."""
        self.rng = rng
        self.fired: Counter[Fault] = Counter()
        self._enabled = enabled
        self._on_link = [fault for fault in ON_THE_LINK if fault in enabled]
        self._rate = rate

    def happens(self, fault: Fault, probability: float) -> bool:
        """Return whether a fault happens now."""
        if fault not in self._enabled or self.rng.random() >= probability:
            return False
        self.fired[fault] += 1
        return True

    def on_link(self) -> Fault | None:
        """Return what goes wrong with a call, None when it goes well."""
        if not self._on_link or self.rng.random() >= self._rate:
            return None
        fault = self.rng.choice(self._on_link)
        self.fired[fault] += 1
        return fault

    def end(self) -> None:
        """From now on nothing goes wrong."""
        self._enabled = frozenset()
        self._on_link = []


class Link:
    """Carries calls to the store that is there at the moment."""

    def __init__(self, chance: Chance, schedule: Schedule, store: Callable[[], Store]) -> None:
        self._chance = chance
        self._schedule = schedule
        self._store = store
        self._under_way: dict[int, Callable[[], Awaitable[None]]] = {}
        self._sent = 0

    async def call(
        self,
        verb: Callable[[Store], Awaitable[Answer]],
        again: Callable[[Store], Awaitable[object]] | None = None,
    ) -> Answer:
        """Make one call.

        Args:
            again: what arrives when the call arrives twice; None means the same.
        Raises: Died; StoreUnavailable when the answer did not come, whatever became of the call; what the store raises.
        """
        fault = self._chance.on_link()
        if fault is None:
            return await verb(self._store())
        if fault is Fault.CRASH_BEFORE:
            raise Died
        if fault is Fault.LOST_CALL:
            raise StoreUnavailable("the call was lost")
        if fault is Fault.LATE_CALL:
            self._later(verb)
            raise StoreUnavailable("no answer yet")
        answer = await verb(self._store())
        if fault is Fault.CRASH_AFTER:
            raise Died
        if fault is Fault.LOST_ANSWER:
            raise StoreUnavailable("the answer was lost")
        self._later(again or verb)
        return answer

    async def deliver(self) -> None:
        """Let all calls arrive that are still under way."""
        for number in sorted(self._under_way):
            await self._under_way[number]()

    def _later(self, verb: Callable[[Store], Awaitable[object]]) -> None:
        self._sent += 1
        number = self._sent

        async def arrive() -> None:
            if self._under_way.pop(number, None) is None:
                return
            with suppress(SovrunError):  # refused by then, and nobody is there to be told
                await verb(self._store())

        self._under_way[number] = arrive

        self._schedule.after(self._chance.rng.choice((1, 5, 60, 4_000)) * SECOND_US, arrive)
