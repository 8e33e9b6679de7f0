"""What a cold sandbox is given open, by its numbers, and the ends of it that its supervisor holds.

Owns: `openings`.
Must not touch: what goes through them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from sovrun.sandbox import launch
from sovrun.sandbox.listeners import hosts_file
from sovrun.sandbox.seal import CONTROL


def openings(
    task: Mapping[str, Any], options: bytes, filtering: str, theirs: ExitStack, ours: ExitStack
) -> tuple[dict[int, int], dict[str, int]]:
    """Return of each number that bubblewrap shall have which descriptor it is, and our ends by their names.

    Args:
        options: of bubblewrap.
        filtering: path of the filter of system calls.
        theirs, ours: close the descriptors.
    """
    numbers: dict[int, int] = {}
    streams: dict[str, int] = {}

    def give(number: int, descriptor: int) -> None:
        theirs.callback(os.close, descriptor)
        numbers[number] = descriptor

    def hold(name: str, descriptor: int) -> None:
        ours.callback(os.close, descriptor)
        streams[name] = descriptor

    give(0, os.open(os.devnull, os.O_RDWR))
    for number, name in ((1, "stdout"), (2, "stderr"), (launch.INFO, "info")):
        reading, writing = os.pipe()
        hold(name, reading)
        give(number, writing)
    near, far = socket.socketpair()
    hold("control", near.detach())
    give(CONTROL, far.detach())
    give(launch.ARGUMENTS, launch.memory_file(options))
    if task["network"]:
        give(launch.HOSTS, launch.memory_file(hosts_file(task["network"])))
    give(launch.FILTER, os.open(filtering, os.O_RDONLY | os.O_CLOEXEC))
    return numbers, streams
