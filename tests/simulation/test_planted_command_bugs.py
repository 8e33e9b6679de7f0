"""Bugs planted at the command boundary on purpose: the simulator finds every one of them.

Each test takes one rule out of the real code while worlds run, and says which rules of the checker may notice.
`docs/testing/simulation.md` lists how many seeds it took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import sovrun.execution.layer
import sovrun.execution.sightings
import sovrun.store.memory_journal
from sovrun.core.canonical import canonical, decode
from sovrun.core.commands.journal import Command, CommandState, Intention
from sovrun.core.commands.resolution import Deny, Resend, Sighting, after_looking
from sovrun.execution.layer import CommandLayer
from sovrun.execution.port import OutcomeUnknown, Rejected
from sovrun.execution.sightings import Seen, look_for
from sovrun.simulation.command_campaign import command_campaign
from sovrun.simulation.command_world import CommandSettings
from sovrun.store.memory_journal import MemoryJournal

SEED = 1_000
NEARER = {"looked_at_the_end": 1_055}
"""Where the rarest worlds are: a test need not walk all the way, which `docs/testing/simulation.md` tells."""
COMMANDS_MAX = 6_000
Plant = Callable[[pytest.MonkeyPatch], None]


def sent_again_at_once(patch: pytest.MonkeyPatch) -> None:
    """What is not found is sent again at once."""

    def hasty(command: Any, sighting: Any, rules: Any, now_us: int) -> Any:
        if sighting is Sighting.ABSENT:
            return Resend()
        return after_looking(command, sighting, rules, now_us)

    patch.setattr(sovrun.execution.layer, "after_looking", hasty)
    patch.setattr(CommandLayer, "_left_us", lambda *_: 0)


def absence_is_refusal(patch: pytest.MonkeyPatch) -> None:
    """What is not found counts as refused."""

    def sure(command: Any, sighting: Any, rules: Any, now_us: int) -> Any:
        verdict = after_looking(command, sighting, rules, now_us)
        return Deny() if sighting is Sighting.ABSENT else verdict

    patch.setattr(sovrun.execution.layer, "after_looking", sure)


def client_id_from_attempt(patch: pytest.MonkeyPatch) -> None:
    """Every send has a client id of its own."""
    call = CommandLayer._call

    def renamed(self: CommandLayer, command: Command) -> Any:
        made = call(self, command)
        return replace(made, client_id=f"{command.sends:02}{command.id[2:]}") if command.sends > 1 else made

    patch.setattr(CommandLayer, "_call", renamed)


def journalled_after_sending(patch: pytest.MonkeyPatch) -> None:
    """The entry of a send is made once the adapter has answered."""
    admit = CommandLayer._admit

    async def late(self: CommandLayer, command: Command) -> Any:
        wanted = command.intention
        adapter = sovrun.execution.layer.effects_of(self.adapters, wanted.tenant, wanted.adapter)
        payload = await self._payload(command)
        effect = sovrun.execution.layer._effect
        with_answer = await asyncio.gather(
            effect(adapter, self._call(command), wanted.kind, payload), return_exceptions=True
        )

        async def answered(*_: Any) -> Any:
            patch.setattr(sovrun.execution.layer, "_effect", effect)
            if isinstance(with_answer[0], BaseException):
                raise with_answer[0]
            return with_answer[0]

        admitted = await admit(self, command)
        if admitted[0].state is CommandState.SENT:
            patch.setattr(sovrun.execution.layer, "_effect", answered)
        return admitted

    patch.setattr(CommandLayer, "_admit", late)


def gates_count_outside_the_write(patch: pytest.MonkeyPatch) -> None:
    """What the gates look at is read before the write that they decide about."""
    admit, facts = MemoryJournal.admit, MemoryJournal._facts

    async def racing(self: MemoryJournal, tenant: Any, command: Any, **more: Any) -> Any:
        before = facts(self, self._command(tenant, command).command.intention)
        await asyncio.sleep(0.02)
        with patch.context() as inner:
            inner.setattr(MemoryJournal, "_facts", lambda *_: before)
            return await admit(self, tenant, command, **more)

    patch.setattr(MemoryJournal, "admit", racing)


def adopted_without_checking(patch: pytest.MonkeyPatch) -> None:
    """Whatever has the client id is taken for the effect."""

    async def trusting(*given: Any) -> Seen:
        seen = await look_for(*given)
        strange = seen.sighting is Sighting.CONTRADICTORY and seen.resource is not None
        return Seen(Sighting.FOUND, seen.resource) if strange else seen

    patch.setattr(sovrun.execution.layer, "look_for", trusting)


def prices_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    """An order at another price is taken for ours."""
    pairs = sovrun.execution.sightings._pairs

    def priceless(*given: Any) -> Any:
        return (pair for pair in pairs(*given) if pair[0] != "price")

    patch.setattr(sovrun.execution.sightings, "_pairs", priceless)


def timeout_is_refusal(patch: pytest.MonkeyPatch) -> None:
    """A time-out counts as the provider's no."""
    effect = sovrun.execution.layer._effect

    async def sure(*given: Any) -> Any:
        try:
            return await effect(*given)
        except OutcomeUnknown as unknown:
            if unknown.reason != "timeout":
                raise
            return Rejected("timeout", "no answer")

    patch.setattr(sovrun.execution.layer, "_effect", sure)


def sent_after_standing_still(patch: pytest.MonkeyPatch) -> None:
    """A process that has stood still sends what others may have taken over."""
    patch.setattr(sovrun.execution.layer, "SEND_WITHIN_US", 10**15)


def looked_at_the_end(patch: pytest.MonkeyPatch) -> None:
    """What a look did not see counts from when its answer came."""

    look = CommandLayer._look

    async def late(self: CommandLayer, command: Command) -> None:
        def judged(known: Any, sighting: Any, rules: Any, _: int) -> Any:
            return after_looking(known, sighting, rules, self._clock.now_us())

        patch.setattr(sovrun.execution.layer, "after_looking", judged)
        await look(self, command)

    patch.setattr(CommandLayer, "_left_us", lambda *_: 0)
    patch.setattr(CommandLayer, "_look", late)


def duplicate_is_refusal(patch: pytest.MonkeyPatch) -> None:
    """That a provider knows the client id counts as its no."""
    answered = CommandLayer._answered

    async def sure(self: CommandLayer, command: Command, wanted: Any, outcome: Any) -> None:
        plain = replace(outcome, duplicate=False) if isinstance(outcome, Rejected) else outcome
        await answered(self, command, wanted, plain)

    patch.setattr(CommandLayer, "_answered", sure)


def repeat_asks_the_provider_again(patch: pytest.MonkeyPatch) -> None:
    """A repeat is told what is known now, not what was recorded."""
    body = CommandLayer._body

    async def fresh(self: CommandLayer, tenant: Any, command: Command) -> bytes:
        return canonical(decode(await body(self, tenant, command)) | {"seen": self._clock.now_us()})

    patch.setattr(CommandLayer, "_body", fresh)


def conflict_is_a_repeat(patch: pytest.MonkeyPatch) -> None:
    """Another payload under a key is answered with the first one's answer."""
    patch.setattr(Intention, "fingerprint", property(lambda _: "0" * 64))


def step_forgets_its_command(patch: pytest.MonkeyPatch) -> None:
    """The move of a command that was unknown does not move its step."""
    follow = sovrun.store.memory_journal.follow

    def forgetful(write: Any, position: int, step: Any, command: Command) -> None:
        if command.looks < 1:
            follow(write, position, step, command)

    patch.setattr(sovrun.store.memory_journal, "follow", forgetful)


def nobody_is_asked(patch: pytest.MonkeyPatch) -> None:
    """What stays unclear is looked for no more, and nobody hears of it."""

    def silent(command: Any, sighting: Any, rules: Any, now_us: int) -> Any:
        verdict = after_looking(command, sighting, rules, now_us)
        if type(verdict).__name__ == "Park":
            return sovrun.execution.layer.LookAgain(now_us + 10**15)
        return verdict

    patch.setattr(sovrun.execution.layer, "after_looking", silent)


PLANTED: dict[Plant, set[str]] = {
    sent_again_at_once: {"resend", "one effect"},
    absence_is_refusal: {"unknown", "refused"},
    client_id_from_attempt: {"as intended", "confirmed"},
    journalled_after_sending: {"sent first"},
    gates_count_outside_the_write: {"gates"},
    adopted_without_checking: {"confirmed"},
    prices_are_not_compared: {"confirmed"},
    timeout_is_refusal: {"refused"},
    sent_after_standing_still: {"resend", "one effect"},
    looked_at_the_end: {"resend", "one effect"},
    duplicate_is_refusal: {"refused"},
    repeat_asks_the_provider_again: {"answers"},
    conflict_is_a_repeat: {"answers"},
    step_forgets_its_command: {"step", "progress"},
    nobody_is_asked: {"quiescence"},
}


@pytest.mark.parametrize(
    ("plant", "rules"), PLANTED.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_a_planted_bug_is_found(plant: Plant, rules: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    seed = NEARER.get(plant.__name__, SEED)
    report = command_campaign(seed, CommandSettings(), commands=COMMANDS_MAX, shrink=False)
    monkeypatch.undo()
    assert report.finding is not None, f"{plant.__doc__} was not found in {report.commands} commands"
    assert report.finding.violation.rule in rules, str(report.finding.violation)
