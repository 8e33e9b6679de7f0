"""Tools and people answer a real engine; what they say is checked, kept and obeyed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from sovrun.core.canonical import sha256_hex
from sovrun.core.errors import (
    ConfirmationChanged,
    IllegalTransition,
    InvalidValue,
    NotAllowed,
    NotFound,
    PayloadTooLarge,
)
from sovrun.core.ids import Actor, StepId
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import Confirmation, DagSpec, Kind, Resources, StepSpec
from support import dags
from support.engines import Bench, Started, calls
from support.requests import ACTOR, TENANT, payload

ALICE, BOB = Actor("local:alice"), Actor("local:bob")
BOSS = frozenset({"boss"})
ASK = StepId("ask")
SCHEMA = {"type": "object", "required": ["value"], "properties": {"value": {"type": "integer"}}}


def echo(**arguments: Any) -> Any:
    return arguments


def asking(**more: Any) -> DagSpec:
    """Return a tool that is asked `question`, and a step that is given what it answers."""
    tool = replace(
        dags.tool("ask", **more), arguments=calls("x", "echo", question="from inputs.question").arguments
    )
    return dags.dag(tool, calls("use", "echo", "ask", answer="from steps.ask.value"))


def confirming(**entry: Any) -> DagSpec:
    show = calls("x", "echo", show="from steps.make.image").arguments["show"]
    ask = StepSpec(ASK, Kind.CONFIRM, Confirmation(show=show, **entry), needs=(StepId("make"),))
    return dags.dag(
        calls("make", "echo", image="from inputs.image"),
        ask,
        calls("use", "echo", "ask", got="from steps.ask"),
    )


async def test_a_tool_is_shown_its_arguments_and_its_answer_is_used(start: Started) -> None:
    async with start(echo=echo) as bench:
        run = await bench.submit(asking(), question="how much?")
        view = await bench.wait_of(run)
        assert (view.step, view.whom, view.shown) == (ASK, "tool scanner", {"question": "how much?"})
        acted = await bench.engine.desk.answer(TENANT, run, ASK, ALICE, output={"value": 7})
        assert acted.changed
        assert (await bench.ended(run)).head.state is State.COMPLETED
        assert await bench.outputs(run) == {"ask": {"value": 7}, "use": {"answer": 7}}
        assert await bench.attempts(run) == [0, 1]
        again = await bench.engine.desk.answer(TENANT, run, ASK, ALICE, output={"value": 7})
        assert not again.changed
        with pytest.raises(IllegalTransition):
            await bench.engine.desk.answer(TENANT, run, ASK, ALICE, output={"value": 8})


async def test_an_answer_that_does_not_fit_is_refused_and_the_tool_may_answer_again(start: Started) -> None:
    spec = asking(outputs=SCHEMA, resources=Resources(output=64))
    async with start(echo=echo) as bench:
        run = await bench.submit(spec, question=1)
        await bench.wait_of(run)
        desk = bench.engine.desk
        with pytest.raises(InvalidValue, match="value"):
            await desk.answer(TENANT, run, ASK, ALICE, output={"value": "seven"})
        with pytest.raises(PayloadTooLarge, match="64"):
            await desk.answer(TENANT, run, ASK, ALICE, output={"value": 1, "more": "x" * 64})
        with pytest.raises(NotFound):
            await desk.answer(TENANT, run, StepId("nothing"), ALICE, output={})
        with pytest.raises(IllegalTransition, match="python"):
            await desk.answer(TENANT, run, StepId("use"), ALICE, output={})
        await desk.answer(TENANT, run, ASK, ALICE, output={"value": 7})
        assert (await bench.ended(run)).head.state is State.COMPLETED


async def test_a_tool_that_cannot_fails_its_step_and_why_is_kept(start: Started) -> None:
    async with start(echo=echo) as bench:
        run = await bench.submit(asking(), question=1)
        await bench.wait_of(run)
        await bench.engine.desk.answer(TENANT, run, ASK, ALICE, failure="out of paper")
        record = await bench.ended(run)
        assert (record.head.state, record.head.reproducible) == (State.FAILED, True)
        [step, after] = await bench.store.steps(TENANT, run)
        assert (step.reason, after.reason) == ("tool_failed", "upstream_failed")
        assert step.error is not None
        assert (await bench.value(step.error))["message"] == "out of paper"


async def test_a_tool_chooses_the_way(start: Started) -> None:
    tool = dags.tool("ask", select=["left", "right"])
    spec = dags.dag(tool, calls("left", "echo", "ask"), calls("right", "echo", "ask"))
    async with start(echo=echo) as bench:
        run = await bench.submit(spec)
        await bench.wait_of(run)
        for wrong in ({"select": ["up"]}, {"select": "left"}, {}, 1):
            with pytest.raises(InvalidValue, match="select"):
                await bench.engine.desk.answer(TENANT, run, ASK, ALICE, output=wrong)
        await bench.engine.desk.answer(TENANT, run, ASK, ALICE, output={"select": ["right"]})
        await bench.ended(run)
        assert set(await bench.outputs(run)) == {"ask", "right"}


async def test_a_person_approves_exactly_what_is_shown(start: Started) -> None:
    async with start(echo=echo) as bench:
        run = await bench.submit(confirming(role="boss"), image="sha-1")
        view = await bench.wait_of(run)
        assert (view.whom, view.shown) == ("role boss", {"show": "sha-1"})
        assert view.wait.state is State.AWAITING_USER_CONFIRMATION
        shown = view.wait.shown
        with pytest.raises(NotAllowed, match="role boss"):
            await decided(bench, run, shown, roles=frozenset({"other"}))
        with pytest.raises(ConfirmationChanged):
            await decided(bench, run, payload("another image").digest)
        assert (await decided(bench, run, shown, rationale="checked twice")).changed
        assert (await bench.ended(run)).head.state is State.COMPLETED
        expected = {"decision": "approved", "shown": shown}
        assert await bench.outputs(run) == {
            "make": {"image": "sha-1"},
            "ask": expected,
            "use": {"got": expected},
        }
        [told] = [
            event for event in await bench.store.events(TENANT, run) if '"rationaleHash":"' in event.data
        ]
        kept = await bench.store.payload(TENANT, json.loads(told.data)["rationaleHash"])
        assert (told.actor, kept) == (ALICE, b"checked twice")


async def decided(bench: Bench, run: Any, shown: Any, **more: Any) -> Any:
    given = {"roles": BOSS, "approve": True, "rationale": None, "actor": ALICE} | more
    return await bench.engine.desk.decide(TENANT, run, ASK, shown=shown, **given)


async def test_a_rejection_ends_the_run_as_work(start: Started) -> None:
    async with start(echo=echo) as bench:
        run = await bench.submit(confirming(role="boss"), image="a")
        shown = (await bench.wait_of(run)).wait.shown
        await decided(bench, run, shown, approve=False, rationale="no")
        record = await bench.ended(run)
        assert (record.head.state, record.head.reproducible) == (State.FAILED, True)
        assert (await bench.store.steps(TENANT, run))[1].reason == "rejected"


async def test_who_is_named_may_decide_and_nobody_else(start: Started) -> None:
    async with start(echo=echo) as bench:
        run = await bench.submit(confirming(actor="local:alice"), image="a")
        shown = (await bench.wait_of(run)).wait.shown
        with pytest.raises(NotAllowed):
            await decided(bench, run, shown, actor=BOB)
        assert (await decided(bench, run, shown, actor=ALICE, roles=frozenset())).changed


async def test_who_asked_for_the_run_may_be_barred_from_approving_it(start: Started) -> None:
    async with start(echo=echo) as bench:
        barred = await bench.submit(confirming(role="boss", bar_requester=True), image="a")
        free = await bench.submit(confirming(role="boss"), image="a")
        shown = (await bench.wait_of(barred)).wait.shown
        await bench.wait_of(free)
        with pytest.raises(NotAllowed, match="asked for this run"):
            await decided(bench, barred, shown, actor=ACTOR)
        assert (await decided(bench, barred, shown, actor=ALICE)).changed
        assert (await decided(bench, free, shown, actor=ACTOR)).changed


async def test_what_cannot_be_asked_fails_at_once_and_says_why(start: Started) -> None:
    async with start(echo=echo) as bench:
        run = await bench.submit(asking(), other=1)
        assert (await bench.ended(run)).head.state is State.FAILED
        step = (await bench.store.steps(TENANT, run))[0]
        assert step.reason == "input_unresolved"
        assert "inputs.question does not exist" in (await bench.value(step.error))["message"]


@pytest.mark.parametrize("kind", ["sqlite"])  # a store in memory ends with its process
async def test_waits_survive_an_engine_that_is_stopped_and_started(start: Started, kind: str) -> None:
    async with start(echo=echo) as bench:
        asked = await bench.submit(asking(), question=1)
        shown = await bench.submit(confirming(role="boss"), image="a")
        digest = (await bench.wait_of(shown)).wait.shown
        await bench.wait_of(asked)
    async with start(echo=echo) as bench:
        assert bench.engine.resumed == 0, "a wait holds no lease"
        assert {view.wait.run for view in await bench.engine.desk.waiting(TENANT)} == {asked, shown}
        await bench.engine.desk.answer(TENANT, asked, ASK, ALICE, output={"value": 1})
        await decided(bench, shown, digest)
        assert {(await bench.ended(run)).head.state for run in (asked, shown)} == {State.COMPLETED}


async def test_a_thousand_waiting_runs_hold_no_slot(start: Started) -> None:
    async with start(echo=echo) as bench:
        spec = dags.dag(dags.tool("ask"))
        runs = await asyncio.gather(*(bench.submit(spec) for _ in range(1_003)))
        free = await bench.submit(dags.dag(calls("go", "echo"), name="free"))
        assert (await bench.ended(free)).head.state is State.COMPLETED
        await bench.wait_of(runs[-1])
        waiting = await bench.engine.desk.waiting(TENANT)
        assert len({view.wait.run for view in waiting}) == 1_003, "however many one read of the store returns"
        assert {depth.executing + depth.queued for depth in await bench.store.depths(TENANT)} == {0}


async def test_what_somebody_says_about_an_act_is_kept_whole_or_refused(start: Started) -> None:
    """Half a rationale may say the opposite."""
    long, fits = "é" * 8_193, "é" * 8_192
    async with start(echo=echo) as bench:
        desk = bench.engine.desk
        run = await bench.submit(confirming(role="boss"), image="a")
        shown = (await bench.wait_of(run)).wait.shown
        assert shown is not None
        asked = await bench.submit(dags.dag(dags.tool("ask"), name="tool"))
        await bench.wait_of(asked)
        word: dict[str, Any] = {"roles": frozenset({"boss"}), "approve": True, "shown": shown}
        says = [
            lambda text: desk.decide(TENANT, run, ASK, ALICE, rationale=text, **word),
            lambda text: desk.answer(TENANT, asked, ASK, ALICE, failure=text),
            lambda text: desk.cancel(TENANT, run, ALICE, text),
            lambda text: desk.rerun(TENANT, asked, ALICE, from_step=None, note=text),
        ]
        for say in says[:3]:
            with pytest.raises(PayloadTooLarge, match="16,386 bytes; the limit is 16,384"):
                await say(long)
        assert (await says[1](fits)).changed
        await bench.ended(asked)
        with pytest.raises(PayloadTooLarge):
            await says[3](long)
        assert (await says[0](fits)).changed
        assert await bench.store.payload(TENANT, sha256_hex(fits.encode())) == fits.encode()
