"""The SQLite store: calls become requests, and one commit answers all that came in since the last.

Owns: `SqliteStore`. Batches form by themselves: what arrives while a commit is under way, or within one turn of the
event loop, is the next batch. No timer gathers them.
Must not touch: SQL (`rows.py`), decisions (`core.run`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sovrun.core.errors import SovrunError, StoreUnavailable
from sovrun.core.ids import WorkerId
from sovrun.ports import Clock
from sovrun.store.protocol import Committed, Lease, Registration, Report, Submission, Submitted
from sovrun.stores.sqlite.owner import Answer, Claim, Commit, Owner, Recover, Request
from sovrun.stores.sqlite.reader import SqliteReader
from sovrun.stores.sqlite.schema import OwnerLock, connect_owner, connect_reader


@dataclass(slots=True)
class _Parked:
    """A claim that found nothing and waits."""

    claim: Claim
    answer: asyncio.Future[list[Lease]]


class SqliteStore(SqliteReader):
    """The owner of a store's file. One event loop uses it; reads go through a connection of their own."""

    def __init__(self, path: Path, clock: Clock, lock: OwnerLock, owner: sqlite3.Connection) -> None:
        super().__init__(connect_reader(path))
        self._path = path
        self._clock = clock
        self._lock = lock
        self._writing = owner
        self._owner = Owner(owner)
        self._requests: list[tuple[Request, asyncio.Future[Any]]] = []
        self._parked: list[_Parked] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    def open_owner(cls, path: Path, clock: Clock) -> SqliteStore:
        """Open a store's file for writing, making or upgrading it as needed.

        Raises: StoreOwned when another process owns it; StoreUnavailable; StoreVersion.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(
                f"{path.parent}: {error}", hint="name a directory that can be written"
            ) from error
        lock = OwnerLock(path)
        try:
            return cls(path, clock, lock, connect_owner(path))
        except BaseException:
            lock.release()
            raise

    # --- writes -----------------------------------------------------------------------------------------------------

    async def register(self, registration: Registration) -> bool:
        """See `Store.register`."""
        return cast("bool", await self._ask(registration))

    async def submit(self, submission: Submission) -> Submitted:
        """See `Store.submit`."""
        return cast("Submitted", await self._ask(submission))

    async def commit(self, reports: Sequence[Report], *, worker: WorkerId, slots: int = 0) -> Committed:
        """See `Store.commit`."""
        return cast("Committed", await self._ask(Commit(reports, worker, slots)))

    async def recover(self) -> int:
        """See `Store.recover`."""
        return cast("int", await self._ask(Recover()))

    async def claim(self, worker: WorkerId, slots: int, *, patience_us: int = 0) -> Sequence[Lease]:
        """See `Store.claim`."""
        claim = Claim(worker, slots)
        leases = cast("list[Lease]", await self._ask(claim))
        if leases or not patience_us or self._closed:
            return leases
        parked = _Parked(claim, asyncio.get_running_loop().create_future())
        self._parked.append(parked)
        self._set_alarm()
        try:
            await asyncio.wait([parked.answer], timeout=patience_us / 1e6)
        finally:
            if parked in self._parked:
                self._parked.remove(parked)
        return parked.answer.result() if parked.answer.done() else []

    def _ask(self, request: Request) -> asyncio.Future[Any]:
        """Put a request into the next commit and return the future of its answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self._closed:
            answer.set_exception(StoreUnavailable(f"{self._path} is closed"))
            return answer
        if not self._requests:
            loop.call_soon(self._commit)
        self._requests.append((request, answer))
        return answer

    def _commit(self) -> None:
        """Carry out all that came in, and offer what became ready to the claims that wait."""
        asked = [(request, answer) for request, answer in map(_still_wanted, self._requests) if request]
        self._requests = []
        parked, self._parked = self._parked, []
        if self._closed or not (asked or parked):
            return
        requests = [request for request, _ in asked] + [waiting.claim for waiting in parked]
        try:
            answers = self._owner.commit(requests, self._clock.now_us())
        except Exception as error:  # noqa: BLE001 -- whatever it was, every caller must learn of it, or it hangs
            self._parked = parked
            failure = self._failure(error)
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(failure)
            self._set_alarm(retry=True)
            return
        for (_, future), result in zip(asked, answers, strict=False):
            _resolve(future, result)
        for waiting, leases in zip(parked, answers[len(asked) :], strict=True):
            if leases:
                waiting.answer.set_result(cast("list[Lease]", leases))
            else:
                self._parked.append(waiting)
        if self._parked:
            self._set_alarm()

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error):
            return StoreUnavailable(
                f"{self._path}: {error}",
                hint="free space or restore access, then resume; nothing recorded is lost",
            )
        return error

    def _set_alarm(self, *, retry: bool = False) -> None:
        """Wake up when the next wait ends, or after a failed commit, for the claims that are parked."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        due_us = self._owner.next_due_us
        if not self._parked or (due_us is None and not retry):
            return
        delay_us = 1_000_000 if retry or due_us is None else max(0, due_us - self._clock.now_us())
        self._alarm = asyncio.get_running_loop().call_later(delay_us / 1e6, self._commit)

    async def close(self) -> None:
        """See `Store.close`."""
        if self._closed:
            return
        self._commit()
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        for waiting in self._parked:
            waiting.answer.set_result([])
        self._parked.clear()
        await super().close()
        self._writing.close()
        self._lock.release()


def _still_wanted(
    asked: tuple[Request, asyncio.Future[Any]],
) -> tuple[Request | None, asyncio.Future[Any]]:
    """Return what is left of a request: a caller who went away is given no leases, for nobody would use them."""
    request, answer = asked
    if answer.cancelled():
        if isinstance(request, Claim):
            return None, answer
        if isinstance(request, Commit):
            return Commit(request.reports, request.worker, slots=0), answer
    return request, answer


def _resolve(future: asyncio.Future[Any], answer: Answer) -> None:
    if future.done():
        return
    if isinstance(answer, SovrunError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
