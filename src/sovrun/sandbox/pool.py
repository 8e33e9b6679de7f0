"""Threads for steps that run in this process, several at a time.

Owns: `ThreadPool`: its threads never keep the interpreter alive, and one that a step does not give back is replaced.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

T = TypeVar("T")
GRACE_S: Final = 1.0
"""How long an interrupted step may take to end before its thread is given up."""


class Interrupted(BaseException):
    """Raised inside a step whose time is over or that was cancelled."""


class _Job(Generic[T]):
    """One call, its future, and the thread it runs on while it runs."""

    def __init__(self, call: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self.call = call
        self.loop = loop
        self.future: asyncio.Future[T] = loop.create_future()
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._dropped = False

    def run(self) -> None:
        with self._lock:
            if self._dropped:
                return
            self._thread = threading.get_ident()
        try:
            result = self.call()
        except BaseException as error:  # noqa: BLE001 -- handed to whoever waits
            self._finish(partial(self.future.set_exception, error))
        else:
            self._finish(partial(self.future.set_result, result))

    def _finish(self, settle: Callable[[], None]) -> None:
        with self._lock:
            self._thread = None
            _raise_in(threading.get_ident(), None)  # what came too late must not hit the next job
        with suppress(RuntimeError):  # the loop was closed while the step ran
            self.loop.call_soon_threadsafe(lambda: None if self.future.done() else settle())

    def interrupt(self) -> None:
        with self._lock:
            self._dropped = True
            if self._thread is not None:
                _raise_in(self._thread, Interrupted)


def _see(future: asyncio.Future[T]) -> None:
    """Look at how it ended, so that nobody warns that it was not."""
    if not future.cancelled():
        future.exception()


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    target = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), target)


class ThreadPool:
    """A fixed number of threads."""

    def __init__(self, size: int) -> None:
        self._jobs: SimpleQueue[_Job[object] | None] = SimpleQueue()
        self._size = size
        for _ in range(size):
            self._start_thread()

    async def run(self, call: Callable[[], T], wall_s: float) -> T | None:
        """Run `call` on a thread; return None when it did not end in time.

        Cancelling interrupts it. Python cannot end a thread that is inside foreign code: such a thread is left
        behind, and replaced.
        """
        job: _Job[T] = _Job(call, asyncio.get_running_loop())
        self._jobs.put(job)  # type: ignore[arg-type]  # a queue of jobs of every type
        try:
            done, _ = await asyncio.wait({job.future}, timeout=wall_s)
        except asyncio.CancelledError:
            await self._stop(job)
            raise
        if done:
            return job.future.result()
        await self._stop(job)
        return None

    async def _stop(self, job: _Job[T]) -> None:
        job.interrupt()
        job.future.add_done_callback(_see)
        try:
            await asyncio.wait({job.future}, timeout=GRACE_S)
        finally:  # a second word may break this off
            if not job.future.done():
                job.future.cancel()
                self._start_thread()

    def close(self) -> None:
        """Let the threads end when they are free."""
        for _ in range(self._size):
            self._jobs.put(None)

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, name="sovrun-step", daemon=True).start()

    def _work(self) -> None:
        while True:
            with suppress(Interrupted):
                job = self._jobs.get()
                if job is None:
                    return
                job.run()
