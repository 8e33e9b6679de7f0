"""A step in warm mode as its supervisor sees it: an attempt whose processes a template makes.

Owns: `WarmAttempt`: what it is given, how the supervisor learns who it is, how it ends. All else is as in `Attempt`.
Must not touch: what is inside.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from sovrun.sandbox import launch, outside, watch
from sovrun.sandbox.attempt import Attempt
from sovrun.sandbox.detached import detached
from sovrun.sandbox.ending import oom_kills
from sovrun.sandbox.exchange import CODE, INPUTS
from sovrun.sandbox.hub import Hub
from sovrun.sandbox.listeners import hosts_file
from sovrun.sandbox.standby import Standby
from sovrun.sandbox.templates import Template, Templates

_WORD_S: Final = 30.0
"""How long a template may take to tell the end of a step that was killed; one that does not is no longer trusted."""


class WarmAttempt(Attempt):
    """One attempt whose processes a template makes; all else is as in `Attempt`."""

    is_warm = True

    def __init__(
        self,
        hub: Hub,
        ident: int,
        task: Mapping[str, Any],
        parts: list[bytes],
        templates: Templates,
    ) -> None:
        super().__init__(hub, ident, task, parts, None)
        self._templates = templates
        self._template: Template | None = None
        self._standby: Standby | None = None
        self._is_gone = False
        self._word_until: float | None = None

    def start(self) -> None:
        """Have it made. Raises: OSError when this machine has no room for it, or shows it no code."""
        task = self._task
        limits = task["limits"]
        self._template = self._templates.of(task["tenant"])
        self.uid = self._template.uid
        shown = self._shown()
        mounts = detached(list(shown.values()))
        with ExitStack() as theirs, ExitStack() as ours:
            for descriptor in mounts:
                theirs.callback(os.close, descriptor)
            numbers = self._open_warm(theirs, ours)
            standby = self._standby = self._template.standby()
            self._group = self._hub.groups.make(
                standby.group_name,
                {"memory": limits["memory"], "processes": limits["processes"]},
            )
            ours.pop_all()
            theirs.pop_all()
        self._watch_streams()
        self.deadline = time.monotonic() + self._hub.handshake_s
        hosts = hosts_file(task["network"]).decode() if task["network"] else None
        rooms = [
            [room.inside, room.size, room.files, room.mode]
            for room in launch.rooms_of(limits["disk"], task["files_max"])
        ]
        order = {
            "epoch": task["epoch"],
            "rooms": rooms,
            "mounts": list(shown),
            "hosts": hosts,
        }
        standby.take(self, order, [*numbers, *mounts])
        # What follows the clone does not wait for.
        self._oom_kills = oom_kills()
        folders = [inside for inside, source in shown.items() if Path(source).is_dir()]
        frame = self._hub.frame
        folders += [inside for source, inside in frame["binds"] if Path(source).is_dir()]
        setup = {
            "limits": self._limits_inside(),
            "read_only": ["/", "/dev", *folders],
            "landlock": self._hub.landlock,
            "reproducible": False,
        }
        site = {
            "paths": [],
            "prefix": frame["site"]["prefix"],
            "run": False,
        }  # the template has them
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
        near, far = socket.socketpair()
        self._streams["control"] = near.detach()
        ours.callback(os.close, self._streams["control"])
        numbers.append(far.detach())
        theirs.callback(os.close, numbers[-1])
        return numbers

    def on_process(self, pid: int, pidfd: int) -> None:
        """Take over the first process."""
        self._init, self._init_pidfd = pid, pidfd
        if self._verdict is not None:  # it was stopped meanwhile
            self._kill_processes()

    def _outside_problems(self) -> list[str]:
        problems = super()._outside_problems()
        template = self._template
        if template is None:
            return [*problems, "it has no template"]
        problems += [
            f"its {space} namespace is that of its template"
            for space in watch.shared_spaces(self._init, template.process)
        ]
        for pid in watch.descendants(self._init):
            problems += outside.power_problems(outside.status_of(pid), template.filters)
        return problems

    def _said(self) -> str:
        said = super()._said()
        if not (
            said or self._started or self._template is None
        ):  # its clone failed before it had this step's streams
            said = self._template.last_words()
        if not self._started:  # the inside knows no path of the host
            for inside, source in self._shown().items():
                said = said.replace(f"source path of {inside} ", f"source path {source} ")
        return said

    # --- ending -------------------------------------------------------------------------------------------------------

    def _kill_processes(self) -> None:
        if self._init_pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_pidfd, signal.SIGKILL)
            if not self._is_gone:
                self._expect_word(time.monotonic())
        elif self._template is not None and self._standby is not None:
            if self._template.drop(self._standby.ident):
                self._end(signal.SIGKILL)
            else:  # it is about to say which process it is, or that it has none
                self._standby.stop()

    def _expect_word(self, now: float) -> None:
        if self._word_until is None:
            self._word_until = now + _WORD_S
        elif now >= self._word_until and self._template is not None:
            self._template.distrust("the template does not tell the end of a step that was killed")
            return
        self.deadline = self._word_until

    def on_last(self, status: int, cpu_s: float, memory: int) -> None:
        """Conclude before its first process has ended, which is killed: whoever said this, nothing outlives it."""
        if not self._is_gone:
            self._kill_processes()
            self._take(status, cpu_s, memory)

    def on_gone(self, status: int, cpu_s: float, memory: int) -> None:
        """Take how its first process ended; all others have ended with it."""
        if self._is_gone:
            if self._group is not None:
                self._group.remove()  # it was not empty before
        else:
            self._take(status, cpu_s, memory)

    def _take(self, status: int, cpu_s: float, memory: int) -> None:
        self._cpu_s = max(self._cpu_s, float(cpu_s))
        self._memory = max(self._memory, int(memory))
        self._end(status)

    def on_template_gone(self, reason: str, message: str) -> None:
        """Fail for want of a template, unless it has ended before."""
        if self._is_gone:
            self.on_gone(signal.SIGKILL, 0.0, 0)
            return
        self.kill(reason, message)
        self._end(signal.SIGKILL)

    def _end(self, status: int) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._status = status
            self._all_dead()
