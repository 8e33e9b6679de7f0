"""A step follows its command in the same write, and its end never ends the command."""

from __future__ import annotations

import asyncio
import json

import pytest

from sovrun.core.actions import EnterCommand
from sovrun.core.commands.journal import (
    BecameUnknown,
    Command,
    CommandState,
    Confirmed,
    Looked,
    Parked,
    Refused,
    ResendWanted,
    Sent,
    UnknownReason,
    step_key,
)
from sovrun.core.errors import IllegalTransition
from sovrun.core.ids import RunId, StepId
from sovrun.core.lifecycle import State
from sovrun.store.protocol import Pending, Store
from support import dags
from support.acts import SHOWN, cancelled, decision
from support.clock import START_US, SetClock
from support.commands import HANDLER, MINUTE_US, ORDER, confirmed, intention, noted, refused
from support.folding import require_told_by_history, ways
from support.requests import TENANT, WORKER, drained, payload, submitted

SPEC = dags.dag(dags.command("buy"), dags.step("after", "buy"))
LOST = BecameUnknown(UnknownReason.TIMEOUT, START_US)


async def entered(store: Store, pending: Pending, **more: object) -> Command:
    """Take up a pending command step as the engine does; return its command."""
    step = StepId("buy")
    record = await store.run(pending.tenant, pending.run)
    wanted = intention(
        step_key(record.token, step), run=pending.run, step=step, position=pending.position, **more
    )
    action = EnterCommand(pending.tenant, pending.run, pending.position, SHOWN.digest, wanted)
    assert (await store.act(action, payloads=[ORDER])).changed
    return await store.command(pending.tenant, wanted.id)


async def waiting(store: Store, name: str = "1") -> tuple[RunId, Command]:
    """Make a run whose first step waits for its intended command."""
    run = await submitted(store, SPEC, name)
    [pending] = await store.pending(9)
    return run, await entered(store, pending)


async def admit(store: Store, command: Command) -> Command:
    return await store.admit(TENANT, command.id, handler=HANDLER, due_us=START_US + MINUTE_US)


async def way(store: Store, run: RunId) -> tuple[str, str]:
    """Return state and reason of the step, and check that the history tells them."""
    step = (await store.steps(TENANT, run))[0]
    await require_told_by_history(store, SPEC, run, TENANT)
    return str(step.state), str(step.reason)


async def test_a_step_and_its_command_begin_in_one_write(store: Store) -> None:
    run, command = await waiting(store)
    assert command.state is CommandState.INTENDED
    assert (command.intention.run, command.intention.step, command.intention.position) == (run, "buy", 0)
    assert await way(store, run) == ("awaiting_tool", "command")
    assert await store.unresolved(TENANT, run) == 0
    assert [one.id for _, one in await store.commands(TENANT, limit=9, run=run)] == [command.id]


async def test_a_sent_command_leaves_the_step_as_it_was(store: Store) -> None:
    run, command = await waiting(store)
    before = await store.events(TENANT, run)
    await admit(store, command)
    assert list(await store.events(TENANT, run)) == list(before)
    assert await store.unresolved(TENANT, run) == 1


async def test_a_confirmed_command_completes_its_step_with_the_recorded_answer(store: Store) -> None:
    run, command = await waiting(store)
    event, answer = confirmed(command)
    await noted(store, await admit(store, command), event, answer)
    step = (await store.steps(TENANT, run))[0]
    assert (step.state, step.output) == (State.COMPLETED, answer.digest)
    assert await store.unresolved(TENANT, run) == 0
    await drained(store)
    assert await ways(store, SPEC, run, TENANT) == {"buy": "completed", "after": "completed"}
    assert (await store.run(TENANT, run)).head.state is State.COMPLETED


async def test_a_refused_command_fails_its_step_with_the_recorded_answer(store: Store) -> None:
    run, command = await waiting(store)
    event, answer = refused(command)
    await noted(store, await admit(store, command), event, answer)
    step = (await store.steps(TENANT, run))[0]
    assert (step.state, step.reason, step.error) == (State.FAILED, "command_refused", answer.digest)
    assert (await store.run(TENANT, run)).head.state is State.FAILED
    await require_told_by_history(store, SPEC, run, TENANT)


async def test_an_unknown_outcome_is_awaited_and_never_told_as_failed(store: Store) -> None:
    run, command = await waiting(store)
    command = await noted(store, await admit(store, command), LOST)
    assert await way(store, run) == ("awaiting_tool", "command_unknown")
    events = len(await store.events(TENANT, run))
    command = await noted(store, command, Looked("absent", START_US + 9))
    assert len(await store.events(TENANT, run)) == events
    command = await noted(store, command, Sent("handler-2", START_US + 99))
    assert await way(store, run) == ("awaiting_tool", "command_unknown")
    assert await store.unresolved(TENANT, run) == 1
    event, answer = confirmed(command)
    await noted(store, command, event, answer)
    assert await way(store, run) == ("completed", "None")


@pytest.mark.parametrize("end", ["confirmed", "refused", "resend"])
async def test_a_parked_command_asks_a_person_and_goes_on_with_her_word(store: Store, end: str) -> None:
    run, command = await waiting(store)
    command = await noted(store, await admit(store, command), LOST)
    command = await noted(store, command, Parked("absent", START_US + 9))
    assert await way(store, run) == ("awaiting_user_confirmation", "command_unknown")
    assert (await store.run(TENANT, run)).head.state is State.AWAITING_USER_CONFIRMATION
    assert await store.unresolved(TENANT, run) == 1
    why = payload("why")
    if end == "confirmed":
        await noted(store, command, Confirmed("person", why.digest, None), why)
        assert await way(store, run) == ("completed", "None")
    elif end == "refused":
        await noted(store, command, Refused("person", "told_by_person", why.digest), why)
        assert await way(store, run) == ("failed", "command_refused")
    else:
        command = await noted(store, command, ResendWanted(why.digest), why)
        assert await way(store, run) == ("awaiting_tool", "command_unknown")
        command = await noted(store, command, Sent("handler-2", START_US + 99))
        event, answer = confirmed(command)
        await noted(store, command, event, answer)
        assert await way(store, run) == ("completed", "None")


async def test_an_approval_is_no_verdict_about_a_parked_command(store: Store) -> None:
    """Else the step would be completed with nothing known of its effect."""
    run, command = await waiting(store)
    command = await noted(store, await admit(store, command), LOST)
    await noted(store, command, Parked("absent", START_US + 9))
    shown = (await store.steps(TENANT, run))[0].shown
    assert shown is not None
    for approve in (True, False):
        with pytest.raises(IllegalTransition):
            await store.act(decision(run, shown=shown, approve=approve), payloads=[SHOWN])
    assert await way(store, run) == ("awaiting_user_confirmation", "command_unknown")


# --- the end of a step is not the end of its command --------------------------------------------------------------------


async def test_a_command_whose_step_was_cancelled_before_is_never_sent(store: Store) -> None:
    run, command = await waiting(store)
    await cancelled(store, run)
    ended = await admit(store, command)
    assert (ended.state, ended.reason, ended.gate, ended.sends) == (
        CommandState.REFUSED,
        "step_ended",
        None,
        0,
    )
    assert ended.response is not None
    body = await store.payload(TENANT, ended.response)
    assert body is not None
    assert (json.loads(body)["status"], json.loads(body)["code"]) == ("refused", "step_ended")
    assert await way(store, run) == ("cancelled", "run_cancelled")
    assert await store.unresolved(TENANT, run) == 0


async def test_cancelling_what_was_sent_leaves_the_command_open(store: Store) -> None:
    run, command = await waiting(store)
    sent = await admit(store, command)
    await cancelled(store, run)
    assert await way(store, run) == ("cancelled", "run_cancelled")
    assert (await store.run(TENANT, run)).head.state is State.CANCELLED
    assert await store.unresolved(TENANT, run) == 1
    told = await store.events(TENANT, run)
    lost = await noted(store, sent, LOST)
    assert await store.unresolved(TENANT, run) == 1
    assert [due.id for due in await store.due_commands(9)] == [command.id]
    event, answer = confirmed(lost)
    done = await noted(store, lost, event, answer)
    assert done.state is CommandState.CONFIRMED
    assert await store.unresolved(TENANT, run) == 0
    assert list(await store.events(TENANT, run)) == list(told)


async def test_a_step_whose_time_is_over_leaves_the_command_open(store: Store, clock: SetClock) -> None:
    spec = dags.dag(dags.command("buy", timeout_us=1_000_000))
    run = await submitted(store, spec, "timed")
    [pending] = await store.pending(9)
    command = await entered(store, pending)
    sent = await admit(store, command)
    clock.advance(1_000_000)
    await store.claim(WORKER, 1)  # whoever asks next lets the timers strike
    assert (await store.steps(TENANT, run))[0].state is State.FAILED
    assert await store.unresolved(TENANT, run) == 1
    event, answer = confirmed(sent)
    await noted(store, sent, event, answer)
    assert await store.unresolved(TENANT, run) == 0
    assert (await store.steps(TENANT, run))[0].state is State.FAILED


async def test_cancelling_and_confirming_at_once_come_to_one_of_two_ends(store: Store) -> None:
    ends = set()
    for number in range(10):
        run, command = await waiting(store, f"race-{number}")
        sent = await admit(store, command)
        event, answer = confirmed(sent)
        both = [cancelled(store, run), noted(store, sent, event, answer)]
        order = both if number % 2 else both[::-1]
        await asyncio.gather(*order)
        await drained(store)
        ends.add(await way(store, run))
        assert (await store.command(TENANT, command.id)).state is CommandState.CONFIRMED
    assert ends <= {("completed", "None"), ("cancelled", "run_cancelled")}


# --- what else may be under the key -------------------------------------------------------------------------------------


async def test_a_step_whose_key_somebody_else_has_used_fails_and_sends_nothing(store: Store) -> None:
    run = await submitted(store, SPEC)
    [pending] = await store.pending(9)
    key = step_key((await store.run(TENANT, run)).token, StepId("buy"))
    theirs = (await store.intend(intention(key, payload=payload("theirs").digest))).command
    wanted = intention(key, run=run, step=StepId("buy"), position=0)
    await store.act(EnterCommand(TENANT, run, pending.position, SHOWN.digest, wanted), payloads=[ORDER])
    assert await way(store, run) == ("failed", "idempotency_key_conflict")
    assert await store.command(TENANT, theirs.id) == theirs


async def test_two_runs_of_one_dag_are_two_commands(store: Store) -> None:
    commands = [(await waiting(store, name))[1] for name in ("1", "2")]
    assert len({command.id for command in commands}) == 2


async def test_unresolved_counts_the_commands_of_one_run(store: Store) -> None:
    runs = [await waiting(store, name) for name in ("1", "2")]
    for _, command in runs:
        await admit(store, command)
    await noted(
        store, await admit(store, (await store.intend(intention("else"), payloads=[ORDER])).command), LOST
    )
    assert [await store.unresolved(TENANT, run) for run, _ in runs] == [1, 1]
