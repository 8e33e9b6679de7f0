"""Memory of a step that is in no process's resident size, where no control group counts it.

Owns: `shared_bytes`, `socket_bytes`: upper bounds where the kernel tells nobody the exact figure. Shared memory without a
file counts as it was reserved, for its pages stay when nobody shows them any more. Also `text_of`, by which /proc is read.
Must not touch: what is to be done about it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

SOCKETS_FREE: Final = 64
"""How many local sockets of one step count nothing: event loops and queues have a few each, and leave them empty."""

_SHARED: Final = "/dev/zero (deleted)"


def shared_bytes(pids: Iterable[int]) -> int:
    """Return the size of all shared memory without a file that these processes show, each counted once."""
    sizes: dict[str, int] = {}
    for pid in pids:
        for line in text_of(f"/proc/{pid}/maps").splitlines():
            if line.endswith(_SHARED):
                span, _, offset, _, inode, _ = line.split(None, 5)
                first, last = (int(end, 16) for end in span.split("-"))
                sizes[inode] = max(sizes.get(inode, 0), int(offset, 16) + last - first)
    return sum(sizes.values())


def shown_bytes(pids: Iterable[int]) -> int:
    """Return how much of that shared memory is in these processes' proportional sizes."""
    shown = 0
    for pid in pids:
        is_shared = False
        for line in text_of(f"/proc/{pid}/smaps").splitlines():
            name = line.split(" ", 1)[0]
            if not name.endswith(":"):
                is_shared = line.endswith(_SHARED)
            elif is_shared and name == "Pss:":
                shown += int(line.split()[1]) * 1024
    return shown


def socket_bytes(pid: int) -> int:
    """Return what waits in the internet sockets of a process's network, and what may wait in the local ones.

    Where there are no more than `SOCKETS_FREE` of any kind, nothing counts. Nobody tells how much waits in a local
    socket, so that each beyond these counts with the most that may.
    """
    statistics = text_of(f"/proc/{pid}/net/sockstat")
    if _count(statistics, "sockets: used") <= SOCKETS_FREE:
        return 0
    found = 0
    for kind in ("tcp", "tcp6", "udp", "udp6"):  # to list them takes long where the machine has many
        if _count(statistics + text_of(f"/proc/{pid}/net/sockstat6"), f"{kind.upper()}: inuse"):
            queues = (line.split()[4] for line in text_of(f"/proc/{pid}/net/{kind}").splitlines()[1:])
            found += sum(int(part, 16) for both in queues for part in both.split(":"))
    beyond = text_of(f"/proc/{pid}/net/unix").count("\n") - 1 - SOCKETS_FREE
    return found + (beyond * int(text_of("/proc/sys/net/core/wmem_max") or 0) if beyond > 0 else 0)


def _count(statistics: str, name: str) -> int:
    for line in statistics.splitlines():
        if line.startswith(name):
            return int(line[len(name) :].split()[0])
    return 0


def text_of(path: str) -> str:
    """Return what the kernel says in a file, nothing when whom it is about has ended meanwhile."""
    try:
        with open(path) as source:  # noqa: PTH123 -- looked at ten times a second
            return source.read()
    except OSError:
        return ""
