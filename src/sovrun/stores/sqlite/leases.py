"""Leases in the file: who holds which steps, and how they are taken back.

Owns: `Leases`, the part of the owner that ends leases other than by a report.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence

from sovrun.core.events import ENGINE
from sovrun.core.ids import WorkerId
from sovrun.core.lifecycle import State
from sovrun.core.run import Write
from sovrun.core.step import LoseLease
from sovrun.store.protocol import Lease
from sovrun.stores.sqlite import rows
from sovrun.stores.sqlite.batch import Batch
from sovrun.stores.sqlite.queue import Queue
from sovrun.stores.sqlite.runs import Runs


class Leases:
    """The leases of one file, within the owner's transactions."""

    def __init__(self, connection: sqlite3.Connection, runs: Runs, queue: Queue) -> None:
        self._connection = connection
        self._runs = runs
        self._queue = queue

    def holders(self) -> list[WorkerId]:
        """Return the workers that hold leases, or held some that ended without them."""
        held = {step.worker for _, _, step in self._runs.executing() if step.worker is not None}
        return sorted(held.union(WorkerId(w) for (w,) in self._connection.execute(rows.SELECT_LINGERERS)))

    def let_go(self, write: Write, lease: Lease) -> None:
        """Free the slot of a lease that had ended without its worker: the late report shows that the process is done."""
        ended = (lease.position, lease.fence, lease.worker)
        if ended in write.lingering:  # in this very batch, so the file does not say so yet
            write.lingering.remove(ended)
            self._queue.held(self._runs.hot[lease.run_key].lane, -1)
        row = (lease.run_key, lease.position, lease.fence)
        for (key,) in self._connection.execute(rows.DELETE_LINGERING, row).fetchall():
            self._queue.held(self._queue.lanes[key], -1)

    def take_back(self, batch: Batch, workers: Sequence[WorkerId] | None) -> Counter[WorkerId]:
        """Take back the leases of workers that are lost. Returns: how many each of them had."""
        lost = [
            (key, position, step.fence)
            for key, position, step in self._runs.executing()
            if workers is None or step.worker in workers
        ]
        if workers is None:
            self._connection.execute(rows.DELETE_ALL_LINGERING)
        for worker in workers or ():
            for (key,) in self._connection.execute(rows.DELETE_LINGERING_OF, (worker,)).fetchall():
                self._queue.held(self._queue.lanes[key], -1)
        taken = self.lose(batch, lost)
        if workers is None:
            for lane in self._queue.lanes:
                self._queue.held(lane, -lane.executing)
        return taken

    def lose(self, batch: Batch, lost: Iterable[tuple[int, int, int]]) -> Counter[WorkerId]:
        """Take back leases by run key, position and fence. Returns: by worker, how many of them there still were."""
        taken: Counter[WorkerId] = Counter()
        for key, position, fence in sorted(lost):
            write = self._runs.write(batch, key)
            step = self._runs.step(write, position)
            # Else it was reported in this batch, which the file does not say yet.
            if step.state is State.EXECUTING and step.fence == fence and step.worker is not None:
                taken[step.worker] += 1
                write.move(position, step, LoseLease(), ENGINE)
                self._queue.held(self._runs.hot[key].lane, -1)
        return taken

    def renew(self, batch: Batch, worker: WorkerId, held: Sequence[Lease]) -> list[Lease]:
        """Take back what the worker does not know of, and return what it holds that is over."""
        known = {(lease.run_key, lease.position, lease.fence) for lease in held}
        live = {
            (key, position, step.fence)
            for key, position, step in self._runs.executing()
            if step.worker == worker
        }
        self.lose(batch, live - known)
        for row in self._connection.execute(rows.SELECT_LINGERING_OF, (worker,)).fetchall():
            if row not in known:
                (key,) = self._connection.execute(rows.DELETE_LINGERING, row).fetchone()
                self._queue.held(self._queue.lanes[key], -1)
        for (
            key,
            write,
        ) in batch.writes.items():  # what ended in this very batch, so the file does not say so yet
            for position, fence, holder in list(write.lingering):
                if holder == worker and (key, position, fence) not in known:
                    write.lingering.remove((position, fence, holder))
                    self._queue.held(self._runs.hot[key].lane, -1)
        return [lease for lease in held if not _is_live(batch, lease, live)]


def _is_live(batch: Batch, lease: Lease, live: set[tuple[int, int, int]]) -> bool:
    """Return whether a lease is one of the `live` ones in the file, and did not end in this very batch."""
    write = batch.writes.get(lease.run_key)
    step = None if write is None else write.steps.get(lease.position)
    if step is not None and (step.state, step.fence) != (State.EXECUTING, lease.fence):
        return False
    return (lease.run_key, lease.position, lease.fence) in live
