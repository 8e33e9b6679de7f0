"""Processor time of processes and of everything they start, counted by the kernel where no control group counts it.

Owns: `ProcessorTime`. What a process has used is otherwise known only while it lives, or once its parent has waited for it,
which a parent that ignores SIGCHLD never does.
Must not touch: what is to be done about it. Standard library only.
Source: Linux kernel, perf_event_open(2): a software clock, inherited by children, allowed for one's own processes where
`kernel.perf_event_paranoid` is at most 2.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from typing import Final

_CALL: Final = {"x86_64": 298, "aarch64": 241}
_ATTRIBUTES: Final = struct.Struct("=IIQQQQQ")
"""Of `struct perf_event_attr` the type, its own size, the event, and the flags as the last; the rest stays zero."""

_SIZE: Final = 112
_SOFTWARE: Final = 1
_TASK_CLOCK: Final = 1
_INHERIT_NO_KERNEL_NO_HYPERVISOR: Final = 1 << 1 | 1 << 5 | 1 << 6
_CLOSE_ON_EXEC: Final = 8
_NS_PER_US: Final = 1000
_libc: Final = ctypes.CDLL(None, use_errno=True)


class ProcessorTime:
    """The clocks of some processes. Close it."""

    def __init__(self, clocks: list[int]) -> None:
        self._clocks = clocks

    @classmethod
    def of(cls, pids: Iterable[int]) -> ProcessorTime | None:
        """Begin to count for processes and all that they start from now on; None where the kernel does not let us."""
        call = _CALL.get(os.uname().machine)
        if call is None:
            return None
        attributes = _ATTRIBUTES.pack(
            _SOFTWARE, _SIZE, _TASK_CLOCK, 0, 0, 0, _INHERIT_NO_KERNEL_NO_HYPERVISOR
        )
        attributes = attributes.ljust(_SIZE, b"\0")
        found = cls([])
        for pid in pids:
            clock = int(_libc.syscall(call, attributes, pid, -1, -1, _CLOSE_ON_EXEC))
            if clock < 0:
                found.close()
                return None
            found._clocks.append(clock)
        return found

    def us(self) -> int:
        """Return what they have used since, in microseconds, ended ones too."""
        return sum(int.from_bytes(os.read(clock, 8), "little") for clock in self._clocks) // _NS_PER_US

    def close(self) -> None:
        """Count no longer."""
        while self._clocks:
            os.close(self._clocks.pop())
