"""An `argv` step without a sandbox: a plain child process in a temporary directory.

Owns: `run_program`. The same convention of inputs and outputs as in the sandbox; wall clock and log are limited, the
rest is not: the operator chose to trust the code.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from sovrun.core.canonical import decode
from sovrun.ports import Task, Usage
from sovrun.sandbox.capture import STDERR, STDOUT, Log
from sovrun.sandbox.collect import Refused, Spool, collect_outputs
from sovrun.sandbox.exchange import SECRETS_DIR, fixed_environment, program_of, write_arguments
from sovrun.sandbox.redaction import Redaction
from sovrun.sandbox.verdicts import StepNotFound, failure, failure_of

_CHUNK: Final = 1 << 16
_POLL_S: Final = 0.2
"""How long a thread waits for its program before it looks whether it is to stop."""


class ProgramRun:
    """One program from start to end.

    `told` is how it failed, or None; `output` and `log` are what it left.
    """

    def __init__(self, task: Task, work: Path, spool: Spool) -> None:
        self.told: dict[str, Any] | None = None
        self.output = b""
        self.log = Log(task.resources.log, task.log, redaction_of(task))
        self.usage = Usage()
        self._task = task
        self._work = work
        self._spool = spool

    def run(self) -> None:
        """Run it to its end; whatever ends this call early also kills the program and its group."""
        code = "" if self._task.code is None else str(self._task.code)
        began = time.monotonic()
        try:
            process = self._start(code)
        except (StepNotFound, OSError, ValueError) as error:
            known = isinstance(error, StepNotFound)
            self.told = failure_of(
                error if known else StepNotFound(f"the program cannot be started: {error}"), ""
            )
            return
        try:
            self._watch(process, began + self._task.resources.wall_us / 1e6)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            self.log.close()
        wall_us = round((time.monotonic() - began) * 1e6)
        self.usage = Usage(round((used.ru_utime + used.ru_stime) * 1e6), wall_us, used.ru_maxrss * 1024)
        if self.told is None:
            self._judge(process.returncode)

    def _start(self, code: str) -> subprocess.Popen[bytes]:
        task = self._task
        write_arguments(str(self._work), decode(task.arguments), task.files)
        program = program_of(task.entry[0], code)
        home = str(self._work)
        with ExitStack() as held:
            return subprocess.Popen(  # noqa: S603 -- running the step's program is the purpose
                [program, *task.entry[1:]],
                cwd=home,
                env=fixed_environment(task.epoch, home=home, tmp=home, python_path=code),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=_show_secrets(self._work, task.secret_values or {}, held),
            )

    def _watch(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        """Read what it prints until it has ended, or has gone beyond a limit."""
        pidfd = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(pidfd, selectors.EVENT_READ)
                for name, stream in ((STDOUT, process.stdout), (STDERR, process.stderr)):
                    if stream is not None:
                        os.set_blocking(stream.fileno(), False)
                        selector.register(stream.fileno(), selectors.EVENT_READ, name)
                self._loop(selector, pidfd, deadline)
        finally:
            os.close(pidfd)

    def _loop(self, selector: selectors.BaseSelector, pidfd: int, deadline: float) -> None:
        ended = False
        while self.told is None:
            ready = {key.fd: key.data for key, _ in selector.select(0 if ended else _POLL_S)}
            for descriptor, name in ready.items():
                if descriptor != pidfd and not self._read(descriptor, name):
                    selector.unregister(descriptor)
            # After its end, what its own pipes still hold is read, but no child of it is waited for.
            if ended and not any(descriptor != pidfd for descriptor in ready):
                return
            ended = ended or pidfd in ready
            if time.monotonic() > deadline:
                text = f"the step ran longer than {self._task.resources.wall_us / 1e6:g} s (resources.wallSeconds)"
                self.told = failure("wall_limit", text)

    def _read(self, descriptor: int, name: str) -> bool:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return True
        if not self.log.take(name, data):
            cap = self._task.resources.log
            self.told = failure("log_limit", f"the step printed more than {cap} bytes (resources.log)")
        return bool(data)

    def _judge(self, code: int) -> None:
        last = self.log.last_words()
        if code < 0:
            text = f"the step was killed by {signal.Signals(-code).name}. {last}"
            self.told = failure("killed_by_signal", text.rstrip(" ."))
        elif code > 0:
            self.told = failure("exit_nonzero", f"exit status {code}. {last}".rstrip(" ."))
        else:
            self._collect()

    def _collect(self) -> None:
        work = os.open(self._work, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.output = collect_outputs(work, self._spool, self._task.resources.output)
        except Refused as refused:
            self.told = failure(refused.reason, str(refused))
        finally:
            os.close(work)


def redaction_of(task: Task) -> Redaction | None:
    """Return what takes a task's secrets out of what it prints."""
    return Redaction.of(task.secret_values.values()) if task.secret_values else None


def _show_secrets(work: Path, secrets: Mapping[str, bytes], held: ExitStack) -> list[int]:
    """Make `secrets/NAME` for each secret: links to memory that only this program inherits, since the disk would keep it."""
    if secrets:
        (work / SECRETS_DIR).mkdir(mode=0o700)
    descriptors = []
    for name, value in secrets.items():
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        held.callback(os.close, descriptor)
        os.write(descriptor, value)
        (work / SECRETS_DIR / name).symlink_to(f"/proc/self/fd/{descriptor}")
        descriptors.append(descriptor)
    return descriptors
