"""What happens to the world at large: restarts, suspicion of the living, clocks that are set.

Owns: `Chaos`, and the keeper that takes back the leases of the silent, as the real engine does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from sovrun.core.errors import StoreUnavailable
from sovrun.core.lanes import Limits, LimitsChange
from sovrun.simulation.callers import OPERATOR
from sovrun.simulation.clock import SECOND_US
from sovrun.simulation.faults import Died, Fault
from sovrun.store.protocol import Governance

if TYPE_CHECKING:
    from sovrun.simulation.world import World

SILENT_US = 60 * SECOND_US
KEEP_US = 30 * SECOND_US


class Chaos:
    """Plans what befalls a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self) -> None:
        """Start the keeper and plan the blows."""
        world = self._world
        world.schedule.after(KEEP_US, self._keep)
        blows: tuple[tuple[Fault, float, Callable[[], Awaitable[None]]], ...] = (
            (Fault.RESTART, 0.35, self._restart),
            (Fault.CLOCK_FORWARD, 0.2, self._forward),
            (Fault.CLOCK_BACK, 0.1, self._back),
            (Fault.FALSE_SUSPICION, 0.2, self._suspect),
            (Fault.NAMESAKE, 0.1, self._namesake),
            (Fault.GOVERNED, 0.15, self._govern),
        )
        for fault, probability, blow in blows:
            if world.chance.happens(fault, probability):
                world.schedule.after(world.rng.randint(SECOND_US, 90 * SECOND_US), blow, alone=True)

    async def _keep(self) -> None:
        """Take back the leases of workers that are silent."""
        with suppress(StoreUnavailable, Died):  # another keeper comes
            await self._world.link.call(lambda store: store.take_back(SILENT_US))
        self._world.schedule.after(KEEP_US, self._keep)

    async def _restart(self) -> None:
        """Kill the store's process, and mostly the workers in it; recover, perhaps killed again on the way."""
        world = self._world
        await world.reopen()
        if world.rng.random() < 0.3:
            return  # the workers are processes of their own, and go on
        world.kill_workers()
        while world.chance.happens(Fault.RESTART_IN_RECOVERY, 0.3):
            if world.rng.random() < 0.5:
                await world.backend.store.recover()
            await world.reopen()
        await world.backend.store.recover()
        world.hire()

    async def _forward(self) -> None:
        self._world.clock.jump(self._world.rng.choice((1, 60, 3_600, 86_400)) * SECOND_US)

    async def _back(self) -> None:
        self._world.clock.jump(-self._world.rng.choice((1, 60, 3_600)) * SECOND_US)

    async def _suspect(self) -> None:
        """Take every lease from workers that are well."""
        await self._world.backend.store.take_back(0)

    async def _govern(self) -> None:
        """Pause or limit a tenant or one of its DAGs, and set it free again later."""
        world = self._world
        dag = world.rng.choice(world.known)
        name = None if world.rng.random() < 0.4 else dag.spec.id
        paused = world.rng.random() < 0.5
        limits = Limits(
            paused=paused,
            runs_max=None if paused else world.rng.choice((None, 1, 2)),
            steps_max=None if paused else world.rng.choice((None, 1, 2)),
            weight=world.rng.choice((1, 3)),
        )
        await world.backend.store.govern(Governance(dag.tenant, name, LimitsChange.to(limits), OPERATOR))

        async def free() -> None:
            await world.backend.store.govern(
                Governance(dag.tenant, name, LimitsChange.to(Limits()), OPERATOR)
            )

        world.schedule.after(world.rng.randint(1, 300) * SECOND_US, free)

    async def _namesake(self) -> None:
        self._world.hire_namesake()
