"""A run is run again without doing again what is unchanged; and what is tried again is what the step declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from sovrun.core.canonical import sha256_hex
from sovrun.core.errors import IdempotencyKeyConflict, IllegalTransition, NotAllowed, NotFound
from sovrun.core.ids import Actor, RunId, StepId, Tenant
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import Confirmation, Kind, Retry, StepSpec
from sovrun.core.step import Step
from sovrun.sandbox.in_process import InProcessExecutor
from sovrun.step import DoNotRetry
from sovrun.stores.sqlite.store import SqliteStore
from support import dags
from support.engines import Started, calls
from support.requests import ACTOR, TENANT

QUICK = Retry(max_attempts=3, max_failures=3, base_us=0, cap_us=0)


class Counted:
    """A function that remembers its calls; the first `failures` of them raise."""

    def __init__(self, failures: int = 0, error: Callable[[], BaseException] = ConnectionError) -> None:
        self.calls: list[Any] = []
        self._failures, self._error = failures, error

    def __call__(self, **arguments: Any) -> Any:
        self.calls.append(arguments)
        if len(self.calls) <= self._failures:
            raise self._error()
        return arguments


CHAIN = dags.dag(
    calls("a", "work", n=1),
    calls("b", "work", "a", n="from steps.a.n"),
    calls("c", "work", "b", was="from steps.b"),
)


async def test_a_re_run_takes_over_what_is_unchanged_without_an_attempt(start: Started) -> None:
    work = Counted()
    async with start(work=work) as bench:
        first = await bench.submit(CHAIN)
        before = (await bench.ended(first)).head
        again = await bench.engine.desk.rerun(TENANT, first, ACTOR, from_step=None, note="once more")
        record = await bench.ended(again.run)
        assert len(work.calls) == 3
        assert await bench.attempts(again.run) == [0, 0, 0]
        assert (record.head.parent, record.head.outcome) == (first, before.outcome)
        assert await bench.outputs(again.run) == await bench.outputs(first)
        reused = [
            event
            for event in await bench.store.events(TENANT, again.run)
            if f'"reusedFrom":"{first}"' in event.data
        ]
        assert [event.step for event in reused] == ["a", "b", "c"]


async def test_a_re_run_from_a_step_executes_it_and_what_follows(start: Started) -> None:
    work = Counted()
    async with start(work=work) as bench:
        first = await bench.submit(CHAIN)
        await bench.ended(first)
        again = await bench.engine.desk.rerun(TENANT, first, ACTOR, from_step=StepId("b"), note=None)
        await bench.ended(again.run)
        assert await bench.attempts(again.run) == [0, 1, 1]
        third = await bench.engine.desk.rerun(TENANT, again.run, ACTOR, from_step=None, note=None)
        await bench.ended(third.run)
        assert await bench.attempts(third.run) == [0, 0, 0], "what was reused can be reused"
        with pytest.raises(NotFound):
            await bench.engine.desk.rerun(TENANT, first, ACTOR, from_step=StepId("x"), note=None)


async def test_a_failed_run_is_run_again_from_where_it_failed(start: Started) -> None:
    flaky = Counted(failures=1)
    work = Counted()
    spec = dags.dag(calls("a", "work"), calls("b", "flaky", "a"), calls("c", "work", "b"))
    async with start(work=work, flaky=flaky) as bench:
        first = await bench.submit(spec)
        assert (await bench.ended(first)).head.state is State.FAILED
        again = await bench.engine.desk.rerun(TENANT, first, ACTOR, from_step=None, note=None)
        assert (await bench.ended(again.run)).head.state is State.COMPLETED
        assert await bench.attempts(again.run) == [0, 1, 1]


async def test_a_step_whose_input_came_out_otherwise_is_executed_again(start: Started) -> None:
    """The step hash decides, not the name: what `b` is given differs, so its old output says nothing."""
    numbers = iter((1, 2))
    spec = dags.dag(
        calls("a", "next"), calls("b", "work", "a", n="from steps.a"), calls("beside", "work", "a")
    )
    async with start(work=Counted(), next=lambda: next(numbers)) as bench:
        first = await bench.submit(spec)
        await bench.ended(first)
        again = await bench.engine.desk.rerun(TENANT, first, ACTOR, from_step=StepId("a"), note=None)
        await bench.ended(again.run)
        assert (await bench.outputs(again.run))["b"] == {"n": 2}
    assert list(numbers) == []


@pytest.mark.parametrize("kind", ["sqlite"])  # a store in memory ends with its process
async def test_another_environment_reuses_nothing(start: Started, kind: str, tmp_path: Any) -> None:
    work = Counted()
    async with start(work=work) as bench:
        first = await bench.submit(CHAIN)
        await bench.ended(first)
    upgraded = InProcessExecutor(functions={"plugin:work": work}, spool=tmp_path / "files" / "spool")
    upgraded.environment = sha256_hex(b"another interpreter")
    async with start(executor=upgraded) as bench:
        again = await bench.engine.desk.rerun(TENANT, first, ACTOR, from_step=None, note=None)
        await bench.ended(again.run)
        assert await bench.attempts(again.run) == [1, 1, 1]
        assert len(work.calls) == 6


@pytest.mark.parametrize("barred", [True, False])
async def test_who_approved_and_then_asks_for_a_re_run_has_to_have_it_approved_by_another(
    start: Started,
    barred: bool,  # noqa: FBT001 -- a case
) -> None:
    """An approval stands for a re-run, of a re-run, too, unless its decider asks for it and may not decide."""
    confirm = StepSpec(StepId("go"), Kind.CONFIRM, Confirmation(show=1, bar_requester=barred))
    spec = dags.dag(confirm, calls("a", "work", "go"))
    carol, bob = Actor("local:carol"), Actor("local:bob")
    async with start(work=Counted()) as bench:
        desk = bench.engine.desk

        async def approve(run: RunId, who: Actor) -> None:
            shown = (await bench.wait_of(run)).wait.shown
            assert shown is not None
            await desk.decide(
                *(TENANT, run, StepId("go"), who),
                roles=frozenset(),
                approve=True,
                shown=shown,
                rationale=None,
            )
            assert (await bench.ended(run)).head.state is State.COMPLETED

        first = await bench.submit(spec, actor=ACTOR)
        await approve(first, bob)
        by_carol = (await desk.rerun(TENANT, first, carol, from_step=None, note=None)).run
        assert (await bench.ended(by_carol)).head.state is State.COMPLETED, "bob's approval stands for carol"
        by_bob = (await desk.rerun(TENANT, by_carol, bob, from_step=None, note=None)).run
        if not barred:
            assert (await bench.ended(by_bob)).head.state is State.COMPLETED
            return
        with pytest.raises(NotAllowed):
            await approve(by_bob, bob)
        await approve(by_bob, carol)
        assert await bench.attempts(by_bob) == [0, 0], (
            "the rest is taken over: the decision came out the same"
        )


@pytest.mark.parametrize("kind", ["sqlite"])  # a store in memory ends with its process
async def test_a_tool_is_asked_again_when_the_question_is_another(
    start: Started, kind: str, tmp_path: Any
) -> None:
    """The step hash decides: a tool's answer belongs to no environment, yet what it was asked came out otherwise."""
    questions = iter(("how much?", "how much?", "how many?"))
    functions = {"plugin:ask": lambda: next(questions)}
    ask = replace(dags.tool("tool", "a"), arguments=calls("x", "ask", question="from steps.a").arguments)
    run = None
    for number, asked in enumerate((True, False, True)):
        executor = InProcessExecutor(functions=functions, spool=tmp_path / "files" / "spool")
        executor.environment = sha256_hex(f"interpreter {number}".encode())
        async with start(executor=executor) as bench:
            if run is None:
                run = await bench.submit(dags.dag(calls("a", "ask"), ask))
            else:
                run = (await bench.engine.desk.rerun(TENANT, run, ACTOR, from_step=None, note=None)).run
            if asked:
                await bench.wait_of(run)
                await bench.engine.desk.answer(TENANT, run, StepId("tool"), ACTOR, output=number)
            await bench.ended(run)
            assert await bench.attempts(run) == [1, 0]
            assert (await bench.outputs(run))["tool"] == (0 if number < 2 else 2)


async def test_what_a_person_decided_is_not_asked_again(start: Started) -> None:
    spec = dags.dag(dags.tool("ask"), calls("use", "work", "ask", got="from steps.ask"))
    async with start(work=Counted()) as bench:
        first = await bench.submit(spec)
        await bench.wait_of(first)
        with pytest.raises(IllegalTransition, match="terminal"):
            await bench.engine.desk.rerun(TENANT, first, ACTOR, from_step=None, note=None)
        await bench.engine.desk.answer(TENANT, first, StepId("ask"), ACTOR, output=5)
        await bench.ended(first)
        again = await bench.engine.desk.rerun(TENANT, first, ACTOR, from_step=StepId("use"), note=None)
        await bench.ended(again.run)
        assert await bench.outputs(again.run) == {"ask": 5, "use": {"got": 5}}


async def test_a_re_run_that_is_asked_for_again_under_its_key_is_made_once(start: Started) -> None:
    async with start(work=Counted()) as bench:
        first = await bench.submit(CHAIN)
        await bench.ended(first)
        rerun = partial(bench.engine.desk.rerun, TENANT, first, ACTOR, note=None)
        made = await rerun(from_step=None, key="again")
        assert made.created
        assert await rerun(from_step=None, key="again") == (made.run, False)
        with pytest.raises(IdempotencyKeyConflict):
            await rerun(from_step=StepId("b"), key="again")
        others = [await rerun(from_step=None, key=key) for key in (None, None, "and again")]
        assert len({made.run, *(other.run for other in others)}) == 4, "who wants another one gets it"
        assert await bench.store.reruns(TENANT, first) == 4


WIDE = dags.dag(*(calls(f"s{number}", "work", n=number) for number in range(40)))


async def test_a_wide_re_run_is_taken_over_at_once_and_its_parent_not_read_for_every_step(
    start: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(work=Counted()) as bench:
        first = await bench.submit(WIDE)
        await bench.ended(first)
        steps, reads = bench.store.steps, []

        async def counted(tenant: Tenant, run: RunId) -> Sequence[Step]:
            reads.append(run)
            return await steps(tenant, run)

        monkeypatch.setattr(bench.store, "steps", counted)
        again = (await bench.engine.desk.rerun(TENANT, first, ACTOR, from_step=None, note=None)).run
        await bench.ended(again)
        assert reads, "what the parent recorded was looked up"
        assert len(reads) < 4, "and not anew for every step"
        assert await bench.attempts(again) == [0] * 40
        if isinstance(bench.store, SqliteStore):  # the events of one commit have one time
            events = await bench.store.events(TENANT, again)
            assert len({event.time_us for event in events if event.type == "step.completed"}) == 1


# --- retries ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry_on", "error", "attempts"),
    [
        (None, ConnectionError, 3),
        (("ConnectionError",), ConnectionError, 3),
        (("OSError",), ConnectionError, 3),
        (("ValueError", "OSError"), TimeoutError, 3),
        (("ValueError",), ConnectionError, 1),
        ((), ConnectionError, 1),
        (None, DoNotRetry, 1),
        (("DoNotRetry",), DoNotRetry, 1),
    ],
)
async def test_an_error_is_tried_again_when_the_step_names_it_or_a_base_of_it(
    start: Started, retry_on: tuple[str, ...] | None, error: type[Exception], attempts: int
) -> None:
    work = Counted(failures=2, error=error)
    spec = dags.dag(calls("a", "work", more={"retry": replace(QUICK, retry_on=retry_on)}))
    async with start(work=work) as bench:
        record = await bench.ended(await bench.submit(spec))
        assert len(work.calls) == attempts
        assert record.head.state is (State.COMPLETED if attempts == 3 else State.FAILED)
        assert record.head.reproducible is True
