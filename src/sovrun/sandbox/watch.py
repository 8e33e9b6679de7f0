"""Limits of a running step that no single call can set: looked at while it runs.

Owns: `Watch`: processor time over all processes, memory where no control group counts it, files where the file system's
own limit could not be set. Each look that finds too much names the limit.
Must not touch: the step's processes; who asks kills them. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from sovrun.sandbox import unseen
from sovrun.sandbox.cgroups import Group
from sovrun.sandbox.processor_time import ProcessorTime
from sovrun.sandbox.unseen import text_of
from sovrun.sandbox.verdicts import failure

INTERVAL_S: Final = 0.1
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICK_US: Final = 1_000_000 // os.sysconf("SC_CLK_TCK")
_CORES: Final = os.cpu_count() or 1
_SECOND_US: Final = 1_000_000
LISTS_CHILDREN: Final = Path(f"/proc/self/task/{os.getpid()}/children").exists()
"""Whether the kernel lists the children of a process (CONFIG_PROC_CHILDREN); else every process is asked for its parent."""


class Watch:
    """Looks at one running step.

    Args:
        limits: `memory`, `cpu_seconds`, `files`.
        group: its control group, or None.
        memory_is_counted: the group limits its memory, so that nobody has to look.
        init: the sandbox's first process; all others of the step descend from it.
        places: descriptors of directories in file systems whose number of files has no limit of its own.
        now: monotonic time in seconds.
    """

    def __init__(
        self,
        limits: Mapping[str, int],
        group: Group | None,
        *,
        memory_is_counted: bool,
        init: int,
        places: tuple[int, ...],
        now: float,
    ) -> None:
        self._limits = limits
        self._group = group
        self._memory_is_counted = memory_is_counted
        self._init = init
        self._places = places
        self._sums_processes = group is None or group.cpu_us() is None
        self._clock = ProcessorTime.of(descendants(init)) if self._sums_processes else None
        self.memory_peak = 0
        self.next_at = now + self._pause(0)

    def _pause(self, cpu_us: int) -> float:
        """Return how long nothing can have happened that would have to be seen."""
        if self._sums_processes or not self._memory_is_counted or self._places:
            return INTERVAL_S
        left_us = self._limits["cpu_seconds"] * _SECOND_US - cpu_us
        return max(INTERVAL_S, left_us / _SECOND_US / _CORES)

    def look(self, now: float) -> dict[str, Any] | None:
        """Return how the step has gone beyond a limit, or None; and say in `next_at` when to look again."""
        processes = descendants(self._init) if self._sums_processes or not self._memory_is_counted else []
        cpu_us = self._cpu_us(processes)
        self.next_at = now + self._pause(cpu_us)
        return self._cpu_verdict(cpu_us) or self._memory_verdict(processes) or self._files_verdict()

    def _cpu_us(self, processes: list[int]) -> int:
        counted = None if self._group is None else self._group.cpu_us()
        if counted is None and self._clock is not None:
            counted = self._clock.us()
        return sum(map(_cpu_of, processes)) if counted is None else counted

    def close(self) -> None:
        """Look no more."""
        if self._clock is not None:
            self._clock.close()

    def _cpu_verdict(self, cpu_us: int) -> dict[str, Any] | None:
        limit = self._limits["cpu_seconds"]
        if cpu_us <= limit * _SECOND_US:
            return None
        text = (
            f"the step used more than {limit} s of processor time in all its processes (resources.cpuSeconds)"
        )
        return failure("cpu_limit", text)

    def _memory_verdict(self, processes: list[int]) -> dict[str, Any] | None:
        if self._memory_is_counted:
            return None
        limit = self._limits["memory"]
        shared, waiting = unseen.shared_bytes(processes), unseen.socket_bytes(self._init)
        used = sum(map(_resident, processes)) + shared + waiting
        if used > limit:  # pages that several processes share were counted for each
            hidden = max(0, shared - unseen.shown_bytes(processes)) if shared else 0
            used = sum(map(_proportional, processes)) + hidden + waiting
        self.memory_peak = max(self.memory_peak, used)
        if used <= limit:
            return None
        text = f"the step's processes together had more than {limit} bytes of memory (resources.memory)"
        return failure("memory_limit", text)

    def _files_verdict(self) -> dict[str, Any] | None:
        limit = self._limits["files"]
        for place in self._places:
            found = os.fstatvfs(place)
            if found.f_files - found.f_ffree > limit:
                return failure("disk_limit", f"the step made more than {limit} files (resources.files)")
        return None


def descendants(first: int) -> list[int]:
    """Return a process and all that descend from it; within a pid namespace orphans come to its first process."""
    children_of = _children if LISTS_CHILDREN else partial(_children_by_parent, _parents())
    found, pending = [], [first]
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending += children_of(pid)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 -- looked at ten times a second
            found += map(int, text_of(f"/proc/{pid}/task/{task}/children").split())
    return found


def _parents() -> dict[int, int]:
    """Return the parent of every process."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 -- as above
    stats = {pid: text_of(f"/proc/{pid}/stat").rpartition(")")[2].split() for pid in pids}
    return {pid: int(fields[1]) for pid, fields in stats.items() if fields}


def _children_by_parent(parents: Mapping[int, int], pid: int) -> list[int]:
    return [child for child, parent in parents.items() if parent == pid]


def _cpu_of(pid: int) -> int:
    """Return a process's processor time with that of the children it has waited for, in microseconds."""
    fields = text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * _TICK_US


def _resident(pid: int) -> int:
    fields = text_of(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE if fields else 0


def _proportional(pid: int) -> int:
    for line in text_of(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)


SPACES: Final = ("user", "mnt", "pid", "net", "ipc", "uts")


def shared_spaces(one: int, other: int | str) -> list[str]:
    """Return in which namespaces two processes both are. Raises: OSError."""
    return [
        space
        for space in SPACES
        if os.stat(f"/proc/{one}/ns/{space}").st_ino == os.stat(f"/proc/{other}/ns/{space}").st_ino  # noqa: PTH116
    ]


def held(process: str, paths: tuple[str, ...]) -> tuple[int, ...]:
    """Return descriptors of directories as a process inside sees them. Raises: OSError."""
    root = Path(process, "root")
    return tuple(os.open(f"{root}{path}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in paths)
