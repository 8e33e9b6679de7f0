"""What can go wrong around a command: at the store, in the engine, on the network and at the provider.

Owns: `CommandFault`, `Trouble`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from random import Random
from typing import Final


class CommandFault(StrEnum):
    """What can go wrong."""

    CRASH_BEFORE_INTENT = "crash_before_intent"
    CRASH_AFTER_INTENT = "crash_after_intent"
    CRASH_BEFORE_SENT = "crash_before_sent"
    CRASH_AFTER_SENT = "crash_after_sent"
    CRASH_IN_CALL = "crash_in_call"
    CRASH_BEFORE_RESULT = "crash_before_result"
    CRASH_AFTER_RESULT = "crash_after_result"
    CRASH_BEFORE_LOOK = "crash_before_look"
    CRASH_AFTER_LOOK = "crash_after_look"
    STORE_LOST_CALL = "store_lost_call"
    STORE_LOST_ANSWER = "store_lost_answer"
    STORE_LATE_CALL = "store_late_call"
    STORE_SLOW_ANSWER = "store_slow_answer"
    REQUEST_LOST = "request_lost"
    REQUEST_LATE = "request_late"
    ANSWER_LOST = "answer_lost"
    ANSWER_SLOW = "answer_slow"
    BAD_ANSWER = "bad_answer"
    SERVER_ERROR = "server_error"
    DUPLICATED = "duplicated"
    INVISIBLE = "invisible"
    FOREIGN = "foreign"
    SLOW_READ = "slow_read"
    UNREACHABLE = "unreachable"
    PROVIDER_RESTART = "provider_restart"
    SECOND_LAYER = "second_layer"
    ZOMBIE = "zombie"
    CLOCK_FORWARD = "clock_forward"
    CLOCK_BACK = "clock_back"
    KILL_SWITCH = "kill_switch"
    LIMITED = "limited"
    CONFLICT = "conflict"
    CANCEL = "cancel"
    WRONG_VERDICT = "wrong_verdict"


ALL_COMMAND_FAULTS: Final = frozenset(CommandFault)
AT_THE_STORE: Final = (
    CommandFault.STORE_LOST_CALL,
    CommandFault.STORE_LOST_ANSWER,
    CommandFault.STORE_LATE_CALL,
    CommandFault.STORE_SLOW_ANSWER,
)
IN_THE_EXCHANGE: Final = (
    CommandFault.CRASH_IN_CALL,
    CommandFault.REQUEST_LOST,
    CommandFault.REQUEST_LATE,
    CommandFault.ANSWER_LOST,
    CommandFault.ANSWER_SLOW,
    CommandFault.BAD_ANSWER,
    CommandFault.SERVER_ERROR,
    CommandFault.DUPLICATED,
    CommandFault.INVISIBLE,
    CommandFault.FOREIGN,
)


class Trouble:
    """Decides by the world's one random source what goes wrong, and counts it.

    Args:
        rate: how often a call to the store goes wrong, and a tenth of how often an exchange does.
    """

    def __init__(self, rng: Random, enabled: frozenset[CommandFault], rate: float) -> None:
        self.rng = rng
        self.rate = rate
        self.fired: Counter[CommandFault] = Counter()
        self._enabled = enabled

    def happens(self, fault: CommandFault, probability: float) -> bool:
        """Return whether a fault happens now."""
        if fault not in self._enabled or self.rng.random() >= probability:
            return False
        self.fired[fault] += 1
        return True

    def one_of(self, faults: Sequence[CommandFault], probability: float) -> CommandFault | None:
        """Return which of some faults happens now, None when none does."""
        if self.rng.random() >= probability:
            return None
        fault = self.rng.choice(faults)
        if fault not in self._enabled:
            return None
        self.fired[fault] += 1
        return fault

    def end(self) -> None:
        """From now on nothing goes wrong."""
        self._enabled = frozenset()
