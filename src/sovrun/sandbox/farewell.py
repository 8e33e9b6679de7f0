"""The word by which a step is told to end, and whether it would hear it.

Owns: `StepProcess`. Standard library only: the supervisor uses it.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Final

from sovrun.sandbox.outside import status_of

_BIT: Final = 1 << (signal.SIGTERM - 1)
_HEEDED: Final = ("SigCgt", "SigIgn", "SigBlk")


class StepProcess:
    """The process that becomes the step, known before any code of the step runs. Raises: OSError.

    The first process of a namespace is another, from which the kernel keeps such a word; and what the step started is the
    step's to end.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)

    def will_hear(self) -> bool:
        """Return whether it has made an arrangement for the word; else it may simply die of it."""
        try:
            status = status_of(self._pid)
        except OSError:  # it has ended
            return False
        return any(int(status.get(name, "0"), 16) & _BIT for name in _HEEDED)

    def tell(self) -> None:
        """Tell it to end."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._pidfd)
