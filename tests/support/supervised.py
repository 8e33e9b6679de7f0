"""The processes behind an executor: its supervisor, which a guard stands above, see `sovrun.sandbox.reaper`."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.watch import descendants

_PR_SET_CHILD_SUBREAPER = 36


def guard_of(executor: SandboxExecutor) -> int:
    """Return the process that waits for the end of an executor's supervisor."""
    assert executor._link is not None
    return executor._link._process.pid


def supervisor_of(executor: SandboxExecutor) -> int:
    """Return the process that runs an executor's steps."""
    [supervisor] = [pid for pid in descendants(guard_of(executor)) if _parent_of(pid) == guard_of(executor)]
    return supervisor


def _parent_of(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


@contextmanager
def launchers() -> Iterator[Callable[[], list[int]]]:
    """Give a function that returns the living processes of bubblewrap which were started since, orphans too.

    Orphans come to this process meanwhile, and are ended with it.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = set(_launchers())
    try:
        yield lambda: [pid for pid in _launchers() if pid not in before]
    finally:
        for pid in _launchers():
            if pid not in before:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _launchers() -> list[int]:
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):  # it has ended meanwhile
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"bwrap\0"):
                found.append(pid)
    return found
