"""A step in warm mode as its supervisor sees it: an attempt whose processes a template makes.

Owns: `WarmAttempt`: what it is given, how the supervisor learns who it is, how it ends. All else is as in `Attempt`.
Must not touch: what is inside.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from sovrun.sandbox import launch, watch
from sovrun.sandbox.attempt import Attempt
from sovrun.sandbox.detached import detached
from sovrun.sandbox.ending import oom_kills
from sovrun.sandbox.exchange import CODE, INPUTS
from sovrun.sandbox.hub import Hub
from sovrun.sandbox.listeners import hosts_file
from sovrun.sandbox.templates import Template, Templates

_CREDENTIALS: Final = struct.Struct("3i")


class WarmAttempt(Attempt):
    """One attempt whose processes a template makes; all else is as in `Attempt`."""

    is_warm = True

    def __init__(
        self, hub: Hub, ident: int, task: Mapping[str, Any], parts: list[bytes], templates: Templates
    ) -> None:
        super().__init__(hub, ident, task, parts, None)
        self._templates = templates
        self._template: Template | None = None
        self._beside: socket.socket | None = None
        self._is_gone = False

    def start(self) -> None:
        """Have it made. Raises: OSError when this machine has no room for it, or shows it no code."""
        task = self._task
        limits = task["limits"]
        self._template = self._templates.of(task["tenant"])
        self.uid = self._template.uid
        self._group = self._hub.groups.make(
            str(self.ident), {"memory": limits["memory"], "processes": limits["processes"]}
        )
        self._oom_kills = oom_kills()
        shown = self._shown()
        mounts = detached(list(shown.values()))
        with ExitStack() as theirs, ExitStack() as ours:
            for descriptor in mounts:
                theirs.callback(os.close, descriptor)
            numbers = self._open_warm(theirs, ours)
            ours.pop_all()
            theirs.pop_all()
        self._watch_warm()
        self.deadline = time.monotonic() + self._hub.handshake_s
        hosts = hosts_file(task["network"]).decode() if task["network"] else None
        rooms = [
            [room.inside, room.size, room.files, room.mode]
            for room in launch.rooms_of(limits["disk"], task["files_max"])
        ]
        order = {"epoch": task["epoch"], "rooms": rooms, "mounts": list(shown), "hosts": hosts}
        self._template.spawn(self, order, [*numbers, *mounts])
        folders = [inside for inside, source in shown.items() if Path(source).is_dir()]
        frame = self._hub.frame
        folders += [inside for source, inside in frame["binds"] if Path(source).is_dir()]
        setup = {
            "limits": self._limits_inside(),
            "read_only": ["/", "/dev", *folders],
            "landlock": self._hub.landlock,
            "reproducible": False,
        }
        site = {"paths": [], "prefix": frame["site"]["prefix"], "run": False}  # the template has them
        self._send({**setup, **launch.call_numbers(), "site": site})

    def _shown(self) -> dict[str, str]:
        """Return what the step is shown: of each path inside the one on the host."""
        task = self._task
        shown = {} if task["code"] is None else {CODE: task["code"]}
        shown |= {f"{INPUTS}/{digest}": source for digest, source in sorted(task["files"].items())}
        return shown | {source: source for source in task["trusted"]}

    def _open_warm(self, theirs: ExitStack, ours: ExitStack) -> list[int]:
        """Open what the step is given, and our ends of it."""
        numbers = []
        for name in ("stdout", "stderr"):
            reading, writing = os.pipe()
            ours.callback(os.close, reading)
            theirs.callback(os.close, writing)
            self._streams[name] = reading
            numbers.append(writing)
        for name, kind in (("control", socket.SOCK_STREAM), ("info", socket.SOCK_SEQPACKET)):
            near, far = socket.socketpair(socket.AF_UNIX, kind)
            if name == "info":
                near.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                self._beside = near
                ours.callback(near.close)
            else:
                descriptor = near.detach()
                ours.callback(os.close, descriptor)
                self._streams[name] = descriptor
            given = far.detach()
            theirs.callback(os.close, given)
            numbers.append(given)
        return numbers

    def _watch_warm(self) -> None:
        self._watch_streams()
        if self._beside is not None:
            self._beside.settimeout(0)
            self._hub.watch(self._beside.fileno(), self._on_first)

    def _on_first(self) -> None:
        """Learn from the kernel which process is the first inside, put it into its groups, and let it go on."""
        if self._beside is None:
            return
        try:
            _, said, _, _ = self._beside.recvmsg(64, socket.CMSG_SPACE(_CREDENTIALS.size))
        except OSError:
            said = []
        for level, kind, data in said:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                self._init, _, _ = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
        if self._init <= 0:
            self._close_beside()
            return
        self._hub.unwatch(self._beside.fileno())
        with suppress(ProcessLookupError):
            self._init_pidfd = os.pidfd_open(self._init)
        if self._verdict is not None:  # it was stopped before it was known
            self._kill_processes()
        elif self._group is None:
            self._let_go_on()
        else:
            mover = os.pidfd_open(self._group.begin_entering((self._init,)))
            self._hub.watch(mover, lambda: self._on_moved(mover))

    def _on_moved(self, mover: int) -> None:
        self._hub.unwatch(mover)
        os.close(mover)
        self._let_go_on()

    def _let_go_on(self) -> None:
        """Let the first process make another: both are where they must be."""
        if self._beside is not None:
            with suppress(OSError):  # it has gone, which is about to be noticed
                self._beside.send(b"g")
            self._beside.close()
            self._beside = None

    def _close_beside(self) -> None:
        if self._beside is not None:
            with suppress(KeyError):  # once it has spoken
                self._hub.unwatch(self._beside.fileno())
            self._beside.close()
            self._beside = None

    def _processes(self) -> list[int]:
        return watch.descendants(self._init)

    def _outside_problems(self) -> list[str]:
        problems = super()._outside_problems()
        template = -1 if self._template is None else self._template.process
        problems += [
            f"its {space} namespace is that of its template"
            for space in watch.shared_spaces(self._init, template)
        ]
        return problems

    def _said(self) -> str:
        said = super()._said()
        if not self._started:  # the inside knows no path of the host
            for inside, source in self._shown().items():
                said = said.replace(f"source path of {inside} ", f"source path {source} ")
        return said

    # --- ending -------------------------------------------------------------------------------------------------------

    def _kill_processes(self) -> None:
        if self._init_pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_pidfd, signal.SIGKILL)
        elif self._template is not None and self._template.drop(self.ident):
            self._end(signal.SIGKILL)
        # else it is about to say which process it is, or that it has none

    def on_gone(self, status: int, cpu_s: float, memory: int) -> None:
        """Take how its first process ended; all others have ended with it."""
        self._cpu_s = max(self._cpu_s, float(cpu_s))
        self._memory = max(self._memory, int(memory))
        self._end(status)

    def on_template_gone(self, reason: str, message: str) -> None:
        """Fail for want of a template."""
        self.kill(reason, message)
        self._end(signal.SIGKILL)

    def _end(self, status: int) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._status = status
            self._close_beside()
            self._all_dead()
