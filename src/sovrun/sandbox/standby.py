"""A clone of a template before it has a step: it has its namespaces and its groups, and waits.

Owns: `Standby`: how the supervisor learns from the kernel which process it is, and hands it a step. What takes the kernel
longest lies before the step is known.
Must not touch: what is inside.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from contextlib import suppress
from typing import Any, Final, Protocol

from sovrun.sandbox.cgroups import Group
from sovrun.sandbox.hub import Hub

_CHUNK: Final = 1 << 10
_CREDENTIALS: Final = struct.Struct("3i")
_STATUS_MAX: Final = 0xFFFF
_CPU_S_MAX: Final = 1e12
_MEMORY_MAX: Final = 1 << 62
_UNLIMITED: Final = {"memory": 1 << 50, "processes": 1 << 15}
"""Until the step's own limits are known, which is before anything of it runs."""


class Taker(Protocol):
    """The attempt that a clone is for."""

    def on_process(self, pid: int, pidfd: int) -> None:
        """The first process of the step is known, and in its groups; the descriptor is the attempt's."""

    def on_last(self, status: int, cpu_s: float, memory: int) -> None:
        """The step has ended and left nothing behind, says its first process, which is about to end, too."""

    def on_gone(self, status: int, cpu_s: float, memory: int) -> None:
        """Its first process has ended, and all others with it; `status` is as of `waitpid`."""

    def on_template_gone(self, reason: str, message: str) -> None:
        """Its template has ended, or could not begin."""

    def kill(self, reason: str, message: str) -> None:
        """Kill every process of the attempt; the first reason stands."""


class Standby:
    """One clone. Raises: OSError when this machine has no room for it.

    Args:
        ident: the template's number for it.
    """

    def __init__(self, hub: Hub, ident: int) -> None:
        self.ident = ident
        self.group_name = f"warm-{ident}"
        self.is_free = True
        self._hub = hub
        self._group: Group | None = hub.groups.make(self.group_name, _UNLIMITED)
        self._taker: Taker | None = None
        self._order: tuple[bytes, list[int]] | None = None
        self._pid = self._pidfd = -1
        self._is_entered = self._is_stopped = False
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        near.settimeout(0)
        self._beside: socket.socket | None = near
        hub.watch(near.fileno(), self._on_first)
        self.end = far.detach()
        """What the template is to give it: the other end."""

    def take(self, taker: Taker, order: dict[str, Any], descriptors: list[int]) -> None:
        """Hand it a step as soon as it can be; the descriptors are its own from now on."""
        self._taker = taker
        self._order = json.dumps(order).encode(), descriptors
        self._hand_over()

    def stop(self) -> None:
        """Kill it, now or as soon as it is known."""
        self._is_stopped = True
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _on_first(self) -> None:
        if self._beside is None:
            return
        try:
            _, said, _, _ = self._beside.recvmsg(64, socket.CMSG_SPACE(_CREDENTIALS.size))
        except OSError:
            said = []
        self._hub.unwatch(self._beside.fileno())
        for level, kind, data in said:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                self._pid, _, _ = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
        with suppress(OSError):  # what a preloaded module says it is need not exist
            self._pidfd = os.pidfd_open(self._pid) if self._pid > 0 else -1
        if self._pidfd < 0:  # it has ended before it could speak, which the template will tell
            return
        if self._is_stopped:
            self.stop()
        if self._group is None:
            self._on_entered()
        else:
            mover = os.pidfd_open(self._group.begin_entering((self._pid,)))
            self._hub.watch(mover, lambda: self._on_moved(mover))

    def _on_moved(self, mover: int) -> None:
        self._hub.unwatch(mover)
        os.close(mover)
        if self._group is not None:
            self._group.finish_entering(())
        self._on_entered()

    def _on_entered(self) -> None:
        self._is_entered = True
        if self._beside is not None:
            with suppress(OSError):  # it has gone, which is about to be noticed
                self._beside.send(b"g")
        self._hand_over()

    def _hand_over(self) -> None:
        if not self._is_entered or self._order is None or self._taker is None or self._beside is None:
            return
        (message, descriptors), self._order = self._order, None
        pidfd, self._pidfd = self._pidfd, -1
        self._group = None
        self._taker.on_process(self._pid, pidfd)
        with suppress(OSError):  # it has gone, which is about to be noticed
            socket.send_fds(self._beside, [message], descriptors)
        close_all(descriptors)
        self._hub.watch(self._beside.fileno(), self._on_end)

    def _on_end(self) -> None:
        """Take what its first process says of the step's end, when nothing else of the step is left."""
        if self._beside is None:
            return
        try:
            said = self._beside.recv(_CHUNK)
        except OSError:
            said = b""
        self._hub.unwatch(self._beside.fileno())
        self._beside.close()
        self._beside = None
        if not said or self._taker is None:
            return
        try:
            status, cpu_s, memory = end_of(said_in(said))
        except ValueError as error:
            self._taker.kill("sandbox_error", f"what the step's first process says of its end is {error}")
        else:
            self._taker.on_last(status, cpu_s, memory)

    # --- what the template tells ----------------------------------------------------------------------------------------

    def on_gone(self, status: int, cpu_s: float, memory: int) -> None:
        """Its first process has ended, and all others with it."""
        self.close()
        if self._taker is not None:
            self._taker.on_gone(status, cpu_s, memory)

    def on_template_gone(self, reason: str, message: str) -> None:
        """There is no template, or none any more."""
        self.close()
        if self._taker is not None:
            self._taker.on_template_gone(reason, message)

    def close(self) -> None:
        """Leave nothing behind of one that never had a step."""
        self.is_free = False
        if self._order is not None:
            close_all(self._order[1])
            self._order = None
        if self._beside is not None:
            with suppress(KeyError):  # between its first word and its step nobody listens
                self._hub.unwatch(self._beside.fileno())
            self._beside.close()
            self._beside = None
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._group is not None:
            self._group.remove()
            self._group = None


def said_in(message: bytes) -> dict[str, Any]:
    """Return a message of a template or a clone. What a preloaded module may have written is not believed to be one.

    Raises: ValueError.
    """
    try:
        found: dict[str, Any] = {**json.loads(message)}
    except (ValueError, TypeError, RecursionError):
        raise ValueError("not understood") from None
    return found


def end_of(said: dict[str, Any]) -> tuple[int, float, int]:
    """Return the status, the seconds of processor time and the bytes of memory of a step's end. Raises: ValueError."""
    status, cpu_s, memory = (said.get(name) for name in ("status", "cpu_s", "memory"))
    if type(status) is not int or not 0 <= status <= _STATUS_MAX:
        raise ValueError("no status of a process")
    if not isinstance(cpu_s, int | float) or not 0 <= cpu_s <= _CPU_S_MAX:
        raise ValueError("no time")
    if type(memory) is not int or not 0 <= memory <= _MEMORY_MAX:
        raise ValueError("no amount of memory")
    return status, float(cpu_s), memory


def close_all(descriptors: list[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)
