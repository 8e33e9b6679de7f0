"""Simulated workers: they claim, take their time, report, and die.

Owns: `SimulatedWorker`. An attempt itself is carried out by the engine's own code.
Must not touch: the truth, which is in the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from sovrun.core.errors import StoreUnavailable
from sovrun.core.ids import WorkerId
from sovrun.simulation.clock import SECOND_US, Happening
from sovrun.simulation.faults import Died, Fault
from sovrun.store.protocol import Lease, Report

if TYPE_CHECKING:
    from sovrun.simulation.world import World

HOUR_US = 3_600 * SECOND_US
BEAT_US = 20 * SECOND_US


class SimulatedWorker:
    """One worker process, from birth to death."""

    def __init__(self, world: World, name: WorkerId, slots: int) -> None:
        """Args: name: under which it claims; two workers may have the same. slots: steps at a time."""
        self.name = name
        self._world = world
        self._slots = slots
        self._alive = True
        self._paused_until_us = 0
        self._held: list[Lease] = []
        self._outbox: list[Report] = []
        self._polls = 0

    def begin(self) -> None:
        """Take up work."""
        self._plan(self._turn, self._world.rng.randint(0, SECOND_US))
        self._plan(self._beat, BEAT_US)

    def kill(self) -> None:
        """Die: whatever is under way is lost."""
        self._alive = False

    def _plan(self, what: Happening, delay_us: int) -> None:
        async def happen() -> None:
            if not self._alive:
                return
            rest_us = self._paused_until_us - self._world.clock.elapsed_us()
            if rest_us > 0:
                self._plan(what, rest_us)
                return
            try:
                await what()
            except Died:
                self.kill()
                self._world.replace(self)

        self._world.schedule.after(delay_us, happen)

    async def _turn(self) -> None:
        """Report what is done, or else ask for work."""
        world = self._world
        if world.chance.happens(Fault.PAUSED_WORKER, 0.01):
            self._paused_until_us = world.clock.elapsed_us() + world.rng.choice((90, 600, 3_600)) * SECOND_US
        elif self._outbox:
            await self._report()
        elif len(self._held) < self._slots:
            await self._claim()
        busy = self._outbox or self._polls == 0
        self._plan(
            self._turn, SECOND_US // 5 if busy else world.rng.randint(1, SECOND_US << min(self._polls, 6))
        )

    async def _claim(self) -> None:
        free = self._slots - len(self._held)
        try:
            leases = await self._world.link.call(lambda store: store.claim(self.name, free))
        except StoreUnavailable:
            return  # there may be leases of this name that nobody knows of, until it says what it holds
        self._polls = 0 if leases else self._polls + 1
        self._take(leases)

    async def _report(self) -> None:
        reports, world = self._outbox, self._world
        slots = self._slots - len(self._held) if world.rng.random() < 0.7 else 0
        if slots and world.rng.random() < 0.1:
            slots = 0  # it drains
        try:
            committed = await world.link.call(
                lambda store: store.commit(reports, worker=self.name, slots=slots)
            )
        except StoreUnavailable:
            return
        self._outbox = []
        world.acknowledge(reports, committed)
        self._polls = 0
        self._take(committed.leases)

    def _take(self, leases: Sequence[Lease]) -> None:
        world = self._world
        for lease in leases:
            self._held.append(lease)

            async def finish(lease: Lease = lease) -> None:
                await self._finish(lease)

            slow = world.chance.happens(Fault.SLOW_STEP, 0.01)
            time_us = (
                world.rng.randint(HOUR_US // 60, 2 * HOUR_US) if slow else world.rng.randint(1, 4 * SECOND_US)
            )
            self._plan(finish, time_us)

    async def _finish(self, lease: Lease) -> None:
        if lease not in self._held:
            return  # it was taken away, and its process stopped
        report = await self._world.attempts.execute(lease)
        self._held.remove(lease)
        self._outbox.append(report)
        if len(self._outbox) == 1:
            self._polls = 0

    async def _beat(self) -> None:
        """Say what this worker holds, and let go of what was taken from it."""
        held = [*self._held, *(report.lease for report in self._outbox)]
        with suppress(StoreUnavailable):
            over = await self._world.link.call(lambda store: store.renew(self.name, held))
            await self._world.require_known(self.name, held)
            for lease in over:
                await self._finish(lease)  # its process is stopped; that it is gone has to be said
        self._plan(self._beat, BEAT_US)
