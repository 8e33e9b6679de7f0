"""The people who say what became of commands that nobody else can tell about.

Owns: `People`. They look at the provider's own books first, and are mostly right.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from sovrun.core.canonical import sha256_hex
from sovrun.core.commands.journal import (
    Command,
    CommandEvent,
    CommandState,
    Confirmed,
    Refused,
    ResendWanted,
    answer_document,
)
from sovrun.core.errors import CommandMoved
from sovrun.core.ids import Actor
from sovrun.simulation.clock import SECOND_US
from sovrun.simulation.command_faults import CommandFault
from sovrun.simulation.dags import TENANTS
from sovrun.store.payload import Payload

if TYPE_CHECKING:
    from sovrun.simulation.command_world import CommandWorld

BOSS = Actor("local:boss")
CALM_SECONDS = 400
"""How long nothing may have been sent before a person dares to say that nothing came of it."""


class People:
    """Looks for parked commands now and then. `absent`: nobody ever says anything."""

    def __init__(self, world: CommandWorld) -> None:
        self._world = world
        self.absent = world.rng.random() < 0.2

    async def watch(self) -> None:
        """Say something about what is parked, again and again."""
        world = self._world
        while not self.absent:
            await asyncio.sleep(world.rng.uniform(20, 200))
            for tenant in TENANTS:
                for _, command in await world.store.commands(
                    tenant, limit=1_000, states={CommandState.UNKNOWN}
                ):
                    if command.parked and world.rng.random() < 0.5:
                        await self._resolve(command)

    async def _resolve(self, command: Command) -> None:
        world, wanted = self._world, command.intention
        ledger = world.providers[wanted.adapter].ledger
        effects = [one for one in ledger.effects if one.client_id == command.id and not one.foreign]
        calls = [one for one in ledger.calls if one.client_id == command.id]
        now_us = world.clock.elapsed_us()
        if any(
            one.ended_us is None
            or one.ended_us > now_us - CALM_SECONDS * SECOND_US - ledger.profile.deadline_us
            for one in calls
        ):
            return  # something may still be on its way
        held = bool(effects)
        if world.trouble.happens(CommandFault.WRONG_VERDICT, 0.05):
            held = not held
        elif not held and world.rng.random() < 0.4 and command.reason != "contradictory":
            await self._note(command, ResendWanted(sha256_hex(b"it is not there")), ())
            return
        state = CommandState.CONFIRMED if held else CommandState.REFUSED
        body = answer_document(wanted, state, message="a person says so")
        response = sha256_hex(body)
        event: CommandEvent = (
            Confirmed("person", response, effects[0].resource if effects else None)
            if held
            else Refused("person", "not_done", response)
        )
        await self._note(command, event, (Payload(response, body),))

    async def _note(self, command: Command, event: CommandEvent, payloads: tuple[Payload, ...]) -> None:
        tenant = command.intention.tenant
        with suppress(CommandMoved):
            self._world.note_entry(
                await self._world.store.note(
                    tenant, command.id, command.revision, event, actor=BOSS, payloads=payloads
                )
            )
