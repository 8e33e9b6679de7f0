"""Memory of a step that is in no process's resident size, where no control group counts it.

Owns: `shared_bytes`, `socket_bytes`: upper bounds, as the kernel tells nobody the exact figure. Shared memory without a file
counts as it was reserved, for its pages stay when nobody shows them any more; a socket counts with all that may wait in it.
Must not touch: what is to be done about it. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

SOCKETS_FREE: Final = 64
"""How many sockets of one step count nothing: event loops and queues have a few each, and leave them empty."""

_SHARED: Final = "/dev/zero (deleted)"
_FEW: Final = 16


def shared_bytes(pids: Iterable[int]) -> int:
    """Return the size of all shared memory without a file that these processes show, each counted once."""
    sizes: dict[str, int] = {}
    for pid in pids:
        for line in _text(f"/proc/{pid}/maps").splitlines():
            if line.endswith(_SHARED):
                span, _, offset, _, inode, _ = line.split(None, 5)
                first, last = (int(end, 16) for end in span.split("-"))
                sizes[inode] = max(sizes.get(inode, 0), int(offset, 16) + last - first)
    return sum(sizes.values())


def shown_bytes(pids: Iterable[int]) -> int:
    """Return how much of that shared memory is in these processes' resident sizes, counted as often as it is there."""
    shown = 0
    for pid in pids:
        is_shared = False
        for line in _text(f"/proc/{pid}/smaps").splitlines():
            name = line.split(" ", 1)[0]
            if not name.endswith(":"):
                is_shared = line.endswith(_SHARED)
            elif is_shared and name == "Pss:":
                shown += int(line.split()[1]) * 1024
    return shown


def socket_bytes(pids: Iterable[int]) -> int:
    """Return what may wait in the sockets of these processes beyond the first `SOCKETS_FREE`, each counted once."""
    sockets: set[str] = set()
    for pid in pids:
        with suppress(OSError):  # it has ended meanwhile
            folder = f"/proc/{pid}/fd"
            names = os.listdir(folder)  # noqa: PTH208 -- looked at ten times a second
            if len(names) > _FEW:
                sockets.update(
                    link for name in names if (link := _link(f"{folder}/{name}")).startswith("socket:")
                )
    beyond = max(0, len(sockets) - SOCKETS_FREE)
    return beyond * int(_text("/proc/sys/net/core/wmem_max") or 0) if beyond else 0


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 -- as above
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        with open(path) as source:  # noqa: PTH123 -- as above
            return source.read()
    except OSError:
        return ""
