"""The system call filters that ship with Sovrun, as bytes that bubblewrap loads.

Owns: which file belongs to which machine. What the filters hold is decided, and written, by
`tools/assemble_filters.py`; nothing is assembled where Sovrun runs.
Standard library only: the supervisor uses it too.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

FOLDER: Final = Path(__file__).parent / "bpf"


class Filter(NamedTuple):
    """One filter.

    Args:
        path: of its bytes.
        digest: SHA-256 of its bytes, which a step's record names.
        instructions: how many it has.
    """

    path: Path
    digest: str
    instructions: int


def filter_of(machine: str, *, memory_is_counted: bool) -> Filter | None:
    """Return the filter for an architecture as `uname` names it, or None when none was made for it.

    Args:
        memory_is_counted: a control group counts all memory of the step; if not, the filter also denies what would
            give it memory that belongs to no process, and that no limit of a process covers (memfd_create, shmget).
    """
    return _shipped(f"{machine}-{'counted' if memory_is_counted else 'uncounted'}")


def template_filter_of(machine: str) -> Filter | None:
    """Return the filter of a template, which may make namespaces and mounts; else as `filter_of`."""
    return _shipped(f"{machine}-template")


def _shipped(name: str) -> Filter | None:
    path = FOLDER / f"{name}.bpf"
    if not path.is_file():
        return None
    program = path.read_bytes()
    return Filter(path, sha256(program).hexdigest(), len(program) // 8)


def own_filter(*, memory_is_counted: bool) -> Filter | None:
    """Return the filter for this machine, or None when none was made for its architecture."""
    return filter_of(os.uname().machine, memory_is_counted=memory_is_counted)
