"""Who asks for commands directly: with keys, repeated by several at once, and sometimes for something else under the same key.

Owns: `CommandCallers`. A caller repeats its request until it has an answer, at whichever engine there is.
Must not touch: the truth, which is in the store and at the providers.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sovrun.core.canonical import canonical
from sovrun.core.errors import (
    IdempotencyKeyConflict,
    IdempotencyKeyInFlight,
    NotFound,
    StoreUnavailable,
)
from sovrun.core.ids import Actor, Tenant
from sovrun.execution.layer import CommandRequest
from sovrun.simulation.clock import SECOND_US
from sovrun.simulation.command_checker import Answer
from sovrun.simulation.command_dags import ENDING, OPENING, random_payload
from sovrun.simulation.command_faults import CommandFault
from sovrun.simulation.dags import TENANTS
from sovrun.simulation.histories import Violation

if TYPE_CHECKING:
    from sovrun.simulation.command_world import CommandWorld

CALLER = Actor("local:caller")
ASK_SECONDS = 90.0
"""How long a caller waits for an engine to say anything at all."""
PATIENCE_US = 4 * SECOND_US


@dataclass(frozen=True, slots=True)
class _Wish:
    tenant: Tenant
    kind: str
    adapter: str
    key: str
    payload: dict[str, Any]


class CommandCallers:
    """All the callers of a world.

    Attributes:
        answers: what they were told; open: how many have no answer yet; wrong: answers that no layer may give.
    """

    def __init__(self, world: CommandWorld) -> None:
        self._world = world
        self.answers: list[Answer] = []
        self.wrong: list[Violation] = []
        self.open = 0

    def begin(self, count: int) -> None:
        """Have so many commands asked for."""
        for number in range(count):
            self.open += 1
            self._world.start(self._ask_for(number))

    async def _ask_for(self, number: int) -> None:
        world, rng = self._world, self._world.rng
        try:
            await asyncio.sleep(rng.choice((rng.uniform(0, 5), rng.uniform(0, 900))))
            wish = await self._ending(number) if rng.random() < 0.25 else None
            wish = wish or self._opening(number)
            for _ in range(rng.choice((0, 0, 1, 2))):
                self._also(wish)
            if world.trouble.happens(CommandFault.CONFLICT, 0.1) and wish.kind not in _ENDINGS:
                other = random_payload(rng, wish.kind)
                self._also(_Wish(wish.tenant, wish.kind, wish.adapter, wish.key, other))
            await self._ask(wish)
        finally:
            self.open -= 1

    def _also(self, wish: _Wish) -> None:
        """Have somebody else ask for the same, at about the same time or later."""
        self.open += 1

        async def ask() -> None:
            try:
                await asyncio.sleep(self._world.rng.choice((0, 0, 0.3, 5, 200)))
                await self._ask(wish)
            finally:
                self.open -= 1

        self._world.start(ask())

    def _opening(self, number: int) -> _Wish:
        rng = self._world.rng
        kind = rng.choice(OPENING)
        key = f"key {number // 2}"  # two kinds, or two tenants, may share a key
        payload = random_payload(rng, kind)
        return _Wish(rng.choice(TENANTS), kind, rng.choice(list(self._world.providers)), key, payload)

    async def _ending(self, number: int) -> _Wish | None:
        """Wish for the end of something that a command has made, None where there is nothing."""
        world = self._world
        tenant = world.rng.choice(TENANTS)
        made = [one for one in await world.store.resources(tenant) if one.kind in ("order", "deployment")]
        if not made:
            return None
        one = world.rng.choice(made)
        kind, member = ENDING["order.place" if one.kind == "order" else "deployment.create"]
        return _Wish(tenant, kind, one.adapter, f"end {number}", {member: one.id})

    async def _ask(self, wish: _Wish) -> None:
        world = self._world
        request = CommandRequest(wish.tenant, wish.kind, wish.adapter, wish.payload, CALLER, key=wish.key)
        while True:
            engine = world.engine()
            if engine is not None:
                try:
                    async with asyncio.timeout(ASK_SECONDS):
                        answered = await engine.layer.execute(request, patience_us=PATIENCE_US)
                except IdempotencyKeyConflict:
                    self.answers.append(
                        Answer(wish.tenant, wish.kind, wish.key, canonical(wish.payload), None)
                    )
                    return
                except NotFound as error:
                    self.wrong.append(Violation("answers", wish.key, 0, f"{wish.kind}: {error}"))
                    return
                except (IdempotencyKeyInFlight, StoreUnavailable, TimeoutError):
                    pass
                else:
                    answer = Answer(wish.tenant, wish.kind, wish.key, canonical(wish.payload), answered.body)
                    self.answers.append(answer)
                    return
            with suppress(TimeoutError):
                await asyncio.sleep(world.rng.choice((1, 10, 60)))


_ENDINGS = {ending for ending, _ in ENDING.values()}
