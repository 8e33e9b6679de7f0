"""How an attempt ended, from what its supervisor saw of it.

Owns: the reading of exit statuses, and how far a failure that the inside reports is believed.
Standard library only: the supervisor uses it.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovrun.sandbox.verdicts import FROM_INSIDE, TRACEBACK_MAX, cut, failure


@dataclass(frozen=True, slots=True)
class Ending:
    """What was seen.

    Args:
        code: as of `waitstatus_to_exitcode`, of bubblewrap, which hands on that of the step.
        cpu_s, cpu_limit: processor time used and allowed, in seconds.
        out_of_memory: the kernel killed a process for want of memory meanwhile.
        disk_is_full: nothing more could be written.
        said: the last lines of standard error.
    """

    code: int
    cpu_s: float
    cpu_limit: int
    out_of_memory: bool
    disk_is_full: bool
    said: str

    def verdict(self) -> dict[str, Any]:
        """Return how an attempt failed that left no result."""
        number = self.code - 128 if 128 < self.code <= 192 else 0
        if number == signal.SIGXCPU or (number == signal.SIGKILL and self.cpu_s >= self.cpu_limit):
            text = f"the step used more than {self.cpu_limit} s of processor time (resources.cpuSeconds)"
            return failure("cpu_limit", text)
        if self.out_of_memory and signal.SIGKILL in (number, -self.code):
            return failure(
                "memory_limit", "the kernel killed the step because memory ran out (resources.memory)"
            )
        if number == signal.SIGXFSZ or (self.code and self.disk_is_full):
            return failure("disk_limit", "the step ran out of disk space (resources.disk)")
        if self.code < 0:
            return failure("sandbox_error", f"bubblewrap was killed by signal {-self.code}")
        if number:
            text = f"the step was killed by {_signal_name(number)}. {self.said}"
            return failure("killed_by_signal", text.rstrip(" ."))
        if self.code == 0:
            return failure("output_not_json", "the step's process ended without a result")
        return failure("exit_nonzero", f"exit status {self.code}. {self.said}".rstrip(" ."))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def oom_kills() -> int:
    """Return how many processes this machine's kernel has killed for want of memory, 0 when it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def believable(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return a failure that the inside reports, in our own form: reasons it may give, texts of bounded length."""
    reason = head.get("reason")
    told = {name: str(head[name]) for name in ("error", "traceback") if isinstance(head.get(name), str)}
    lineage = head.get("lineage")
    return failure(
        reason if reason in FROM_INSIDE else "step_raised",
        str(head.get("message", "")),
        error=cut(told["error"], 256) if "error" in told else None,
        traceback=cut(told["traceback"], TRACEBACK_MAX) if told.get("traceback") else None,
        lineage=[cut(str(name), 256) for name in lineage[:32]] if isinstance(lineage, list) else [],
    )
