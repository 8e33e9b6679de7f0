"""What the in-process executor promises beyond the results it shares with the sandbox."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from sovrun.core.ids import Digest
from sovrun.sandbox.in_process import InProcessExecutor
from support.tasks import failure_of, task, value_of


@pytest.fixture
async def inline(tmp_path: Path):
    executor = InProcessExecutor(spool=tmp_path / "spool")
    yield executor
    await executor.close()


@pytest.fixture
async def threads(tmp_path: Path):
    executor = InProcessExecutor(slots=3, spool=tmp_path / "spool")
    yield executor
    await executor.close()


async def test_one_slot_never_waits_and_runs_on_the_callers_thread() -> None:
    executor = InProcessExecutor(functions={"m:thread": threading.get_ident})
    assert executor.inline
    call = executor.execute(task("m:thread"))
    with pytest.raises(StopIteration) as ended:
        call.send(None)
    assert value_of(ended.value.value) == threading.get_ident()
    await executor.close()


async def test_given_callables_need_no_module() -> None:
    executor = InProcessExecutor(functions={"any:name": lambda a: a + 1})
    assert value_of(await executor.execute(task("any:name", a=1))) == 2
    await executor.close()


async def test_the_traceback_of_a_given_callable_leaves_out_our_own_frames() -> None:
    def broken() -> None:
        raise KeyError("x")

    executor = InProcessExecutor(functions={"any:name": broken})
    failed = failure_of(await executor.execute(task("any:name")))
    assert failed.traceback is not None
    assert "in broken" in failed.traceback
    assert "sandbox/in_process.py" not in failed.traceback.replace("tests/sandbox/test_in_process.py", "")
    await executor.close()


@pytest.mark.parametrize("slots", [1, 3])
async def test_modules_of_the_same_name_in_two_code_directories_stay_apart(code, slots) -> None:
    text = "import helper\ndef run():\n    import late\n    return [helper.NAME, late.NAME]\n"
    folders = [code(work=text, helper=f"NAME = {n}\n", late=f"NAME = {n * 10}\n") for n in (1, 2)]
    executor = InProcessExecutor(slots=slots)
    wanted = [1, 2, 1, 2, 2, 1]
    outcomes = await asyncio.gather(
        *(executor.execute(task("work:run", code=folders[n - 1])) for n in wanted)
    )
    assert [value_of(outcome) for outcome in outcomes] == [[n, n * 10] for n in wanted]
    await executor.close()
    assert not {"work", "helper", "late"} & set(sys.modules)
    assert not {str(folder) for folder in folders} & set(sys.path)


async def test_a_module_keeps_its_state_while_another_code_directory_is_on_stage(inline, code) -> None:
    counting = code(
        state="seen = []\n",
        work="def run():\n    import state\n    state.seen.append(1)\n    return len(state.seen)\n",
    )
    other = code(work="def run():\n    return None\n")
    folders = (counting, other, counting)
    counts = [value_of(await inline.execute(task("work:run", code=folder))) for folder in folders]
    assert counts == [1, None, 2]


async def test_code_that_changed_under_the_same_path_is_not_taken_for_the_old(inline, code) -> None:
    folder = code(work="def run():\n    return 'old'\n")
    given = replace(task("work:run", code=folder), code_digest=Digest("a" * 64))
    assert value_of(await inline.execute(given)) == "old"
    (folder / "work.py").write_text("def run():\n    return 'quite new'\n")
    assert value_of(await inline.execute(replace(given, code_digest=Digest("b" * 64)))) == "quite new"


async def test_a_step_leaves_standard_output_as_it_was(inline, threads, code) -> None:
    folder = code(work="import sys\ndef run():\n    print('a'); print('b', file=sys.stderr)\n")
    before = (sys.stdout, sys.stderr)
    for executor in (inline, threads):
        assert (await executor.execute(task("work:run", code=folder))).log == b"a\nb\n"
        await executor.close()
    assert (sys.stdout, sys.stderr) == before


async def test_swallowing_the_log_limit_does_not_help(inline, code) -> None:
    folder = code(
        work="""
        def run():
            try:
                print("x" * 1000)
            except BaseException:
                return "swallowed"
        """
    )
    assert failure_of(await inline.execute(task("work:run", code=folder, log=10))).reason == "log_limit"


async def test_an_interrupt_from_the_keyboard_is_not_the_steps_failure() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    executor = InProcessExecutor(functions={"m:f": interrupted})
    with pytest.raises(KeyboardInterrupt):
        await executor.execute(task("m:f"))
    await executor.close()


async def test_the_work_directory_is_gone_after_the_step(inline, threads, code) -> None:
    folder = code(work="from sovrun.step import work_dir\ndef run():\n    return str(work_dir())\n")
    for executor in (inline, threads):
        assert not os.path.exists(value_of(await executor.execute(task("work:run", code=folder))))  # noqa: ASYNC240, PTH110 -- a test may block


async def test_threads_run_side_by_side_and_keep_their_logs_apart(threads) -> None:
    barrier = threading.Barrier(3, timeout=30)

    def meet(name: str) -> str:
        print(name)  # noqa: T201 -- what a step prints is the subject
        barrier.wait()
        return name

    executor = InProcessExecutor(slots=3, functions={"m:meet": meet})
    outcomes = await asyncio.gather(*(executor.execute(task("m:meet", name=name)) for name in "abc"))
    assert [(value_of(one), one.log) for one in outcomes] == [("a", b"a\n"), ("b", b"b\n"), ("c", b"c\n")]
    await executor.close()


async def test_cancelling_a_thread_interrupts_its_step_and_frees_the_slot() -> None:
    started, ended = threading.Event(), threading.Event()

    def endless() -> None:
        started.set()
        try:
            while True:
                ended.wait(0.01)
        finally:
            ended.set()

    executor = InProcessExecutor(slots=2, functions={"m:endless": endless, "m:quick": lambda: 1})
    running = asyncio.create_task(executor.execute(task("m:endless")))
    await asyncio.to_thread(started.wait, 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()
    assert [value_of(await executor.execute(task("m:quick"))) for _ in range(3)] == [1, 1, 1]
    await executor.close()


async def test_a_thread_that_cannot_be_interrupted_is_replaced(monkeypatch) -> None:
    monkeypatch.setattr("sovrun.sandbox.pool.GRACE_S", 0.05)
    release = threading.Event()
    executor = InProcessExecutor(
        slots=2, functions={"m:stuck": lambda: release.wait(60), "m:quick": lambda: 1}
    )
    stuck = [executor.execute(task("m:stuck", wall_us=10_000)) for _ in range(2)]
    assert {failure_of(one).reason for one in await asyncio.gather(*stuck)} == {"wall_limit"}
    async with asyncio.timeout(20):
        assert value_of(await executor.execute(task("m:quick"))) == 1
    release.set()
    await executor.close()


async def test_cancelling_a_program_kills_it(threads, code, tmp_path: Path) -> None:
    folder = code(
        prog=f"#!/bin/sh\necho $$ > {tmp_path}/pid.part\nmv {tmp_path}/pid.part {tmp_path}/pid\nsleep 1000\n"
    )
    running = asyncio.create_task(threads.execute(task(("prog",), code=folder)))
    async with asyncio.timeout(30):
        while not (tmp_path / "pid").exists():  # noqa: ASYNC110 -- another process's life has no event to wait for
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
