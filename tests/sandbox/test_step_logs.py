"""Whatever runs a step, what it prints can be read while it runs, stream by stream, and stays when it is killed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sovrun.sandbox.in_process import InProcessExecutor
from support.tasks import failure_of, task, value_of
from support.up import until

TALK = """
import subprocess, sys, time
def speak():
    print("to all")
    print("to some", file=sys.stderr)
    return 1
def wait():
    print("begun", flush=True)
    time.sleep(3600)
"""
PROGRAM = """
#!/bin/sh
echo to all
echo to some >&2
mkdir -p outputs
"""
WAITING = """
#!/bin/sh
echo begun
sleep 3600
"""


def texts(path: Path) -> dict[str, str]:
    """Return what lies in a log file, by stream; a torn end is no piece."""
    found: dict[str, str] = {}
    with suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                piece = json.loads(line)
                found[piece["stream"]] = found.get(piece["stream"], "") + piece["text"]
    return found


@pytest.mark.parametrize("entry", ["work:speak", ("work",)])
async def test_both_streams_are_kept_apart(executor, code: Callable[..., Path], tmp_path, entry) -> None:
    folder = code(work=TALK if isinstance(entry, str) else PROGRAM)
    log = tmp_path / "logs" / "1.ndjson"
    value_of(await executor.execute(replace(task(entry, code=folder), log=str(log))))
    assert texts(log) == {"stdout": "to all\n", "stderr": "to some\n"}


@pytest.mark.parametrize("entry", ["work:wait", ("work",)])
async def test_what_a_step_has_printed_can_be_read_while_it_runs_and_after_it_was_killed(
    sandbox, code: Callable[..., Path], tmp_path, entry
) -> None:
    folder = code(work=TALK if isinstance(entry, str) else WAITING)
    log = tmp_path / "logs" / "1.ndjson"
    running = asyncio.create_task(sandbox.execute(replace(task(entry, code=folder), log=str(log))))
    await asyncio.to_thread(until, lambda: texts(log) == {"stdout": "begun\n"}, "the first line")
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert texts(log) == {"stdout": "begun\n"}


async def test_what_a_step_in_process_has_printed_can_be_read_while_it_runs(tmp_path) -> None:
    goes_on = threading.Event()

    def step() -> str:
        print("begun")  # noqa: T201 -- what the step prints
        assert goes_on.wait(60)
        return "done"

    log = tmp_path / "logs" / "1.ndjson"
    executor = InProcessExecutor(slots=2, functions={"m:step": step})
    running = asyncio.create_task(executor.execute(replace(task("m:step"), log=str(log))))
    try:
        await asyncio.to_thread(until, lambda: texts(log) == {"stdout": "begun\n"}, "the first line")
        assert not running.done()
    finally:
        goes_on.set()
    assert value_of(await running) == "done"
    await executor.close()


async def test_the_last_words_of_a_program_are_in_its_log_and_its_failure(executor, code, tmp_path) -> None:
    folder = code(work="#!/bin/sh\necho printed\necho no disk >&2\nexit 3\n")
    log = tmp_path / "logs" / "1.ndjson"
    failed = failure_of(await executor.execute(replace(task(("work",), code=folder), log=str(log))))
    assert failed.message == "exit status 3. no disk"
    assert texts(log) == {"stdout": "printed\n", "stderr": "no disk\n"}
