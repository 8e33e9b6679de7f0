"""The last that looks: a worker executes no step of a run that is recorded to be isolated otherwise."""

from __future__ import annotations

from sovrun.core.canonical import decode
from sovrun.core.identity import RunKey
from sovrun.core.lifecycle import Cause, State
from sovrun.engine.handler import RunRequest, known_dag, submission_of
from support import dags
from support.engines import Started, calls
from support.requests import ACTOR, TENANT


async def test_a_step_of_a_run_of_another_isolation_is_not_executed_and_says_why(start: Started) -> None:
    called: list[str] = []
    async with start(work=lambda: called.append("work")) as bench:
        (bench.folder / "code").mkdir()
        code = bench.files.take_code(bench.folder / "code", None, None).digest
        dag = known_dag(TENANT, dags.dag(calls("a", "work"), calls("b", "work", "a")), code)
        await bench.engine.register(dag, ACTOR)
        # Past the engine's own check, as a store may hold it that an engine of another isolation has left.
        submission, _ = submission_of(RunRequest(dag, {}, RunKey(caller="k"), ACTOR, "sandbox"))
        run = (await bench.store.submit(submission)).run
        record = await bench.ended(run)
        assert called == []
        assert (record.head.state, record.head.reproducible) == (State.FAILED, False)
        first, second = await bench.store.steps(TENANT, run)
        assert (first.reason, first.cause, first.attempts) == ("isolation_mismatch", Cause.CIRCUMSTANCE, 1)
        assert second.reason == "upstream_failed"
        assert first.error is not None
        document = await bench.value(first.error)
        assert "'sandbox'" in document["message"]
        assert f"sovrun rerun {run}" in document["message"]
        failed = [event for event in await bench.store.events(TENANT, run) if event.type == "step.failed"]
        assert [decode(event.data.encode())["failure"] for event in failed] == ["isolation_mismatch"]
