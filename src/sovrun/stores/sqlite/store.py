"""The SQLite store: calls become requests, and one commit answers all that came in since the last.

Owns: `SqliteStore`. Batches form by themselves: what arrives while a commit is under way, or within one turn of the
event loop, is the next batch. No timer gathers them.
Must not touch: SQL (`rows.py`), decisions (`core.run`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from sovrun.core.actions import Action
from sovrun.core.errors import SovrunError, StoreUnavailable
from sovrun.core.ids import Digest, RunId, Tenant, WorkerId
from sovrun.core.lanes import Governed
from sovrun.ports import Clock
from sovrun.store.payload import Payload
from sovrun.store.protocol import (
    Acted,
    Committed,
    Governance,
    Lease,
    Pending,
    Registration,
    Report,
    Submission,
    Submitted,
)
from sovrun.stores.sqlite import rows
from sovrun.stores.sqlite.journal import JournalRequest
from sovrun.stores.sqlite.journal_store import JournalStore
from sovrun.stores.sqlite.owner import Act, Answer, Claim, Commit, GiveBack, Owner, Renew, Request, TakeBack
from sovrun.stores.sqlite.reader import SqliteReader
from sovrun.stores.sqlite.schema import OwnerLock, connect_owner, connect_reader

RETRY_US: Final = 1_000_000
"""How long after a failed commit the claims that wait are tried again."""
ALARM_MAX_US: Final = 3_600 * 1_000_000
"""The longest sleep before the clock is looked at again, since it may have been set."""


@dataclass(slots=True)
class _Parked:
    """A claim that found nothing and waits."""

    claim: Claim
    answer: asyncio.Future[list[Lease]]


class SqliteStore(JournalStore, SqliteReader):
    """The owner of a store's file. One event loop uses it; reads go through a connection of their own."""

    def __init__(self, path: Path, clock: Clock, lock: OwnerLock, owner: sqlite3.Connection) -> None:
        JournalStore.__init__(self)
        SqliteReader.__init__(self, connect_reader(path))
        self._path = path
        self._clock = clock
        self._lock = lock
        self._writing = owner
        self._owner = Owner(owner)
        self._requests: list[tuple[Request, asyncio.Future[Any]]] = []
        self._parked: list[_Parked] = []
        self._wanting: list[asyncio.Future[None]] = []
        self._heard: dict[WorkerId, int] = {}
        self._told: list[Callable[[RunId], None]] = []
        self._opened_us = clock.elapsed_us()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_us: int | None = None
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
        return cast("Submitted", await _within_the_turn(self._ask(submission)))

    async def commit(self, reports: Sequence[Report], *, worker: WorkerId, slots: int = 0) -> Committed:
        """See `Store.commit`."""
        self._heard[worker] = self._clock.elapsed_us()
        asked = self._ask(Commit(reports, worker, slots))
        try:
            return cast("Committed", await _within_the_turn(asked))
        except asyncio.CancelledError:
            if _is_answered(asked):
                self._give_back(asked.result().leases)
            raise

    async def recover(self) -> int:
        """See `Store.recover`."""
        return cast("Counter[WorkerId]", await self._ask(TakeBack(None))).total()

    async def take_back(
        self,
        silent_us: int,
        *,
        dead: Sequence[WorkerId] = (),
        told: Callable[[WorkerId, int], None] | None = None,
    ) -> int:
        """See `Store.take_back`."""
        now_us = self._clock.elapsed_us()
        silent = [
            w
            for w in self._owner.holders()
            if w in dead or now_us - self._heard.get(w, self._opened_us) >= silent_us
        ]
        for worker in silent:
            self._heard.pop(worker, None)
        if not silent:
            return 0
        taken = cast("Counter[WorkerId]", await self._ask(TakeBack(silent)))
        if told is not None:
            for worker in silent:
                told(worker, taken[worker])
        return taken.total()

    async def renew(self, worker: WorkerId, held: Sequence[Lease]) -> Sequence[Lease]:
        """See `Store.renew`."""
        self._heard[worker] = self._clock.elapsed_us()
        return cast("list[Lease]", await self._ask(Renew(worker, held)))

    async def act(self, action: Action, *, payloads: Sequence[Payload] = ()) -> Acted:
        """See `Store.act`."""
        return cast("Acted", await self._ask(Act(action, payloads)))

    async def govern(self, governance: Governance) -> Governed:
        """See `Store.govern`."""
        return cast("Governed", await self._ask(governance))

    async def pending(self, limit: int, *, patience_us: int = 0) -> Sequence[Pending]:
        """See `Store.pending`."""
        if not self._owner.pending and patience_us and not self._closed:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._wanting.append(waiting)
            await asyncio.wait([waiting], timeout=patience_us / 1e6)
            if waiting in self._wanting:
                self._wanting.remove(waiting)
        if self._closed or not self._owner.pending:
            return []
        found = self._read(rows.SELECT_PENDING, (limit,))
        return [
            Pending(
                Tenant(tenant), RunId(run), key, Digest(version), position, Digest(inputs), parent, from_step
            )
            for tenant, run, key, version, position, inputs, parent, from_step in found
        ]

    async def claim(self, worker: WorkerId, slots: int, *, patience_us: int = 0) -> Sequence[Lease]:
        """See `Store.claim`."""
        self._heard[worker] = self._clock.elapsed_us()
        claim = Claim(worker, slots)
        answer = self._ask(claim)
        try:
            leases = cast("list[Lease]", await answer)
            if leases or not patience_us or self._closed:
                return leases
            answer = self._park(claim)
            await asyncio.wait([answer], timeout=patience_us / 1e6)
        except asyncio.CancelledError:
            if _is_answered(answer):
                self._give_back(answer.result())
            raise
        finally:
            self._parked = [waiting for waiting in self._parked if waiting.answer is not answer]
        return answer.result() if answer.done() else []

    def _park(self, claim: Claim) -> asyncio.Future[list[Lease]]:
        parked = _Parked(claim, asyncio.get_running_loop().create_future())
        self._parked.append(parked)
        self._set_alarm()
        return parked.answer

    def _give_back(self, leases: Sequence[Lease]) -> None:
        """Have what was given to a caller taken back who has gone away in the very moment of the answer."""
        if leases and not self._closed:
            self._ask(GiveBack(leases)).add_done_callback(_told_nobody)

    def subscribe(self, told: Callable[[RunId], None]) -> None:
        """See `Store.subscribe`."""
        self._told.append(told)

    def _ask(self, request: Request | JournalRequest) -> asyncio.Future[Any]:
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

    def _commit(self, *, alarmed: bool = False) -> None:
        """Carry out all that came in, and offer what became ready to the claims that wait."""
        asked = [(request, answer) for request, answer in map(_still_wanted, self._requests) if request]
        self._requests = []
        parked, self._parked = self._parked, []
        if self._closed or not (asked or parked or alarmed):
            return
        requests = [request for request, _ in asked] + [waiting.claim for waiting in parked]
        try:
            answers = self._owner.commit(requests, self._clock.now_us())
        except Exception as error:  # noqa: BLE001 -- whatever it was, every caller must learn of it, or it hangs
            self._parked = parked
            failure = self._failure(error)
            self._tell_ended()
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
        self._tell_ended()
        if self._wanting and self._owner.pending:
            self._wake_wanting()
        if self._due_waiting and self._owner.journal.moved:
            self._owner.journal.moved = False
            self._wake_due()
        self._set_alarm()

    def _tell_ended(self) -> None:
        for run in self._owner.ended:
            for told in self._told:
                told(run)

    def _wake_wanting(self) -> None:
        wanting, self._wanting = self._wanting, []
        for waiting in wanting:
            waiting.set_result(None)

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error):
            return StoreUnavailable(
                f"{self._path}: {error}",
                hint="free space or restore access, then resume; nothing recorded is lost",
            )
        return error

    def _set_alarm(self, *, retry: bool = False) -> None:
        """Wake up when the next wait or timer ends, or after a failed commit, for the claims that are parked."""
        due_us = self._owner.next_due_us
        if due_us == self._alarm_us and not retry:
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_us = due_us
        if due_us is not None or (retry and self._parked):
            delay_us = RETRY_US if retry or due_us is None else max(0, due_us - self._clock.now_us())
            self._alarm = asyncio.get_running_loop().call_later(min(delay_us, ALARM_MAX_US) / 1e6, self._ring)

    def _ring(self) -> None:
        self._alarm_us = None
        self._commit(alarmed=True)

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
        self._wake_wanting()
        self._wake_due()
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


async def _within_the_turn(answer: asyncio.Future[Any]) -> Any:
    """Return an answer in the turn of the event loop in which it is given; a future wakes its waiter one turn later."""
    await asyncio.sleep(0)  # the commit was put into the loop's next turn earlier than this
    return await answer


def _is_answered(asked: asyncio.Future[Any]) -> bool:
    return asked.done() and not asked.cancelled() and asked.exception() is None


def _told_nobody(answer: asyncio.Future[Any]) -> None:
    """Take note of an answer that nobody waits for; a failed commit shows in everybody else's."""
    if not answer.cancelled():
        answer.exception()


def _resolve(future: asyncio.Future[Any], answer: Answer) -> None:
    if future.done():
        return
    if isinstance(answer, SovrunError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
