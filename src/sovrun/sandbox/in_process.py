"""The executor that runs steps in this very process: the operator's choice, for code that is trusted.

Owns: `InProcessExecutor`. Nothing is isolated: log and wall clock are limited as far as Python can, results are the same
as in the sandbox.
Must not touch: the decision to use it; runs record it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter_ns
from types import FrameType
from typing import Any, Final

from sovrun import step
from sovrun.core.canonical import DEPTH_MAX, canonical, decode
from sovrun.core.errors import InvalidValue
from sovrun.core.ids import Digest
from sovrun.core.jsontext import depth_exceeds
from sovrun.core.spec.model import SECOND_US, Kind, Resources
from sovrun.ports import Failed, MadeFile, Succeeded, Task, Usage
from sovrun.sandbox.capture import Capture, LogLimit, Router, route, unroute
from sovrun.sandbox.collect import Refused, Spool, collect_made, may_name_files
from sovrun.sandbox.environment import environment_digest
from sovrun.sandbox.executor import failed_of
from sovrun.sandbox.modules import CodeModules, Stay
from sovrun.sandbox.pool import Interrupted, ThreadPool
from sovrun.sandbox.program import ProgramRun, redaction_of
from sovrun.sandbox.verdicts import failure, failure_of

WALL_DEFAULT_US: Final = Resources().wall_us


class WallLimit(BaseException):
    """The step's time is over."""


class InProcessExecutor:
    """Runs steps on the caller's thread (`slots` 1), or on threads of its own.

    Args:
        slots: how many steps at once. With one, `execute` never waits, and the wall clock is limited only on the main
            thread and only when the limit is below the default.
        functions: entry points that need no import, by their name.
        spool: directory for files that steps keep; None means a temporary one that `close` removes.
    """

    isolation = "in-process"

    def __init__(
        self,
        *,
        slots: int = 1,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        spool: Path | None = None,
    ) -> None:
        self.inline = slots == 1
        self.environment = environment_digest()
        self._functions = dict(functions or {})
        self._modules = CodeModules()
        self._capture = Capture()
        self._spool = spool
        self._own_spool: Path | None = None
        self._serial = 0
        self._pool = None if self.inline else ThreadPool(slots)

    async def execute(self, task: Task) -> Succeeded | Failed:
        """Run one attempt to its end."""
        if self._pool is None:
            return self._execute_here(task)
        stays: list[Stay] = []
        wall_us = task.resources.wall_us
        try:
            outcome = await self._pool.run(partial(self._execute_beside, task, stays), wall_us / SECOND_US)
        finally:
            for stay in stays:  # also of a thread that was left behind
                self._modules.leave(stay)
        if outcome is not None:
            return outcome
        return failed_of(_wall_limit(wall_us), b"", Usage(wall_us=wall_us))

    async def close(self) -> None:
        """Leave the interpreter as it was found."""
        if self._pool is not None:
            self._pool.close()
            unroute()
        self._modules.close()
        if self._own_spool is not None:
            shutil.rmtree(self._own_spool, ignore_errors=True)

    # --- on the caller's thread ---------------------------------------------------------------------------------------

    def _execute_here(self, task: Task) -> Succeeded | Failed:
        if task.kind is Kind.ARGV:
            return self._run_program(task)
        capture = self._capture
        capture.begin(
            task.resources.log, task.log, None if task.secret_values is None else redaction_of(task)
        )
        stdout, stderr = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = capture.stdout, capture.stderr
        try:
            if task.entry not in self._functions:
                self._modules.enter(_code_key(task))
            if (
                task.resources.wall_us < WALL_DEFAULT_US
                and threading.current_thread() is threading.main_thread()
            ):
                return self._run_timed(task, capture)
            return self._run_function(task, capture)
        except BaseException:
            capture.close()
            raise
        finally:
            sys.stdout, sys.stderr = stdout, stderr

    def _run_timed(self, task: Task, capture: Capture) -> Succeeded | Failed:
        wall_us = task.resources.wall_us
        try:
            with _alarm(wall_us / SECOND_US):
                return self._run_function(task, capture)
        except WallLimit:
            return failed_of(_wall_limit(wall_us), capture.end(), Usage(wall_us=wall_us))

    # --- on a thread of the pool --------------------------------------------------------------------------------------

    def _execute_beside(self, task: Task, stays: list[Stay]) -> Succeeded | Failed:
        if task.kind is Kind.ARGV:
            return self._run_program(task)
        capture = Capture()
        capture.begin(
            task.resources.log, task.log, None if task.secret_values is None else redaction_of(task)
        )
        if task.entry not in self._functions:
            stays.append(self._modules.join(_code_key(task)))
        route()
        Router.to(capture)
        try:
            return self._run_function(task, capture)
        except BaseException:
            capture.close()
            raise
        finally:
            Router.to(None)

    # --- a function ---------------------------------------------------------------------------------------------------

    def _run_function(self, task: Task, capture: Capture) -> Succeeded | Failed:
        context = step.StepContext(task.files, secrets=task.secret_values)
        began = perf_counter_ns()
        token = step.enter(context)
        try:
            told, output = self._call(task, capture)
            if told is None and context.work is None and not may_name_files(output):
                return Succeeded(output, (), capture.end(), Usage(0, (perf_counter_ns() - began) // 1000))
            made: tuple[MadeFile, ...] = ()
            if told is None:
                told, made = self._take_made(task, context, output)
        finally:
            step.leave(token)
            if context.work is not None:
                shutil.rmtree(context.work, ignore_errors=True)
        usage = Usage(wall_us=(perf_counter_ns() - began) // 1000)
        if told is not None:
            return failed_of(told, capture.end(), usage)
        return Succeeded(output, made, capture.end(), usage)

    def _call(self, task: Task, capture: Capture) -> tuple[dict[str, Any] | None, bytes]:
        """Return how the function failed, or None and what it returned."""
        entry = str(task.entry)
        code = ""
        try:
            function = self._functions.get(entry)
            if function is None:
                code = str(task.code or "")
                function = self._modules.function(_code_key(task), entry)
            value = function(**decode(task.arguments))
        except (KeyboardInterrupt, WallLimit, Interrupted):
            raise
        except BaseException as error:  # noqa: BLE001 -- whatever the step raises, SystemExit too, is its answer
            if capture.exceeded or isinstance(error, LogLimit):
                return _log_limit(task), b""
            return failure_of(error, code), b""
        if capture.exceeded:  # the step swallowed what told it so
            return _log_limit(task), b""
        try:
            output = canonical(value)
        except InvalidValue as error:
            return failure("output_not_json", f"the returned value: {error.detail}"), b""
        if output.count(b"[") + output.count(b"{") > DEPTH_MAX and depth_exceeds(output.decode(), DEPTH_MAX):
            return failure(
                "output_not_json", f"the returned value: nested deeper than {DEPTH_MAX} levels"
            ), b""
        if len(output) > task.resources.output:
            text = f"the step returned {len(output)} bytes; resources.output allows {task.resources.output}"
            return failure("output_too_large", text), b""
        return None, output

    def _take_made(
        self, task: Task, context: step.StepContext, output: bytes
    ) -> tuple[dict[str, Any] | None, tuple[MadeFile, ...]]:
        spool = self._new_spool(task)
        work = os.open(context.work_dir(), os.O_RDONLY | os.O_DIRECTORY)
        try:
            collect_made(work, output, frozenset(task.files), spool)
        except Refused as refused:
            _clear(spool)
            return failure(refused.reason, str(refused)), ()
        finally:
            os.close(work)
        return None, _made(spool)

    # --- a program ----------------------------------------------------------------------------------------------------

    def _run_program(self, task: Task) -> Succeeded | Failed:
        work = Path(mkdtemp(prefix="sovrun-step-"))
        spool = self._new_spool(task)
        run = ProgramRun(task, work, spool)
        try:
            run.run()
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if run.told is not None:
            _clear(spool)
            return failed_of(run.told, run.log.taken(), run.usage)
        return Succeeded(run.output, _made(spool), run.log.taken(), run.usage)

    def _new_spool(self, task: Task) -> Spool:
        folder = self._spool
        if folder is None:
            if self._own_spool is None:
                self._own_spool = Path(mkdtemp(prefix="sovrun-made-"))
            folder = self._own_spool
        folder.mkdir(parents=True, exist_ok=True)
        self._serial += 1
        prefix = f"{os.getpid()}-{self._serial}-{threading.get_ident()}"
        return Spool(folder, prefix, task.resources.disk, task.resources.files)


def _code_key(task: Task) -> tuple[str, str | None]:
    return ("" if task.code is None else str(task.code), task.code_digest)


def _made(spool: Spool) -> tuple[MadeFile, ...]:
    return tuple(MadeFile(Digest(digest), size, spool.path(digest)) for digest, size in spool.made.items())


def _clear(spool: Spool) -> None:
    for path in spool.folder.glob(f"{spool.prefix}-*"):
        path.unlink()


def _wall_limit(wall_us: int) -> dict[str, Any]:
    return failure(
        "wall_limit", f"the step ran longer than {wall_us / SECOND_US:g} s (resources.wallSeconds)"
    )


def _log_limit(task: Task) -> dict[str, Any]:
    return failure("log_limit", f"the step printed more than {task.resources.log} bytes (resources.log)")


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `WallLimit` in the main thread after `seconds`, unless the block has ended."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise WallLimit

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
