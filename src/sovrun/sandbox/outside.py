"""What the host sees of a process in a sandbox that must not be. The inside's own word is not asked.

Owns: the reading of `/proc/PID/status`. Standard library only: the supervisor uses it.
"""

from __future__ import annotations

import os
from pathlib import Path


def status_of(pid: int) -> dict[str, str]:
    """Return what the kernel says about a process, by the names that `/proc/PID/status` uses. Raises: OSError."""
    text = Path(f"/proc/{pid}/status").read_text()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in text.splitlines())}


def user_problems(status: dict[str, str], uid: int | None) -> list[str]:
    """Return where a process is not the host user and group that it must be, and no other.

    Args:
        uid: the id of both; None where the supervisor is an ordinary user, who can leave no group.
    """
    user, group = (os.getuid(), os.getgid()) if uid is None else (uid, uid)
    problems = []
    if set(status["Uid"].split()) != {str(user)} or user == 0:
        problems.append(f"its host user ids are {status['Uid'].split()}")
    if set(status["Gid"].split()) != {str(group)}:
        problems.append(f"its host group ids are {status['Gid'].split()}")
    if uid is not None and status["Groups"]:
        problems.append(f"it is in the host's groups {status['Groups'].split()}")
    return problems


def power_problems(status: dict[str, str], filters: int = 0) -> list[str]:
    """Return what a process may do that nothing inside may.

    Args:
        filters: how many filters of system calls it has from its template, beside one of its own.
    """
    problems = [f"its {name} is {status[name]}" for name in ("CapEff", "CapBnd") if int(status[name], 16)]
    if status["Seccomp"] != "2" or filters_of(status) <= filters:
        problems.append("it has no filter of system calls of its own")
    return problems


def filters_of(status: dict[str, str]) -> int:
    """Return how many filters of system calls a process has; 1 where the kernel, before 5.9, does not count them."""
    return int(status.get("Seccomp_filters", 1))
