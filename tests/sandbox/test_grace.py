"""Who is cancelled is told to end, has its grace time, and is killed when that is over."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovrun.sandbox.caps import parse_cap
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.settings import SandboxSettings
from support.attacker import living
from support.endpoints import all_of, declaring, sandbox_allowing, server
from support.tasks import failure_of, require_bubblewrap, task, value_of

Code = Callable[..., Path]
AMPLE_US = 600_000_000
PATIENCE_S = 120

WORK = """
import os, signal, subprocess, sys, time

def _say(text):
    os.write(1, text.encode() + b"\\n")  # a handler may come into the middle of a print

def _child(marker):
    subprocess.Popen(["/bin/sh", "-c", "trap '' TERM HUP; sleep 1000; : " + marker], start_new_session=True)

def _wait():
    _say("begun")
    time.sleep(1000)

def tidy(marker):
    def end(*_):
        _say("tidying")
        time.sleep(0.2)
        _say("tidied")
        sys.exit()
    signal.signal(signal.SIGTERM, end)
    _child(marker)
    _wait()

def stubborn(marker):
    signal.signal(signal.SIGTERM, lambda *_: _say("no"))
    _child(marker)
    _say("begun")
    while True:
        time.sleep(1000)

def returns(marker):
    class Told(Exception): pass
    def end(*_): raise Told
    signal.signal(signal.SIGTERM, end)
    try:
        _wait()
    except Told:
        _say("told")
        return 1

def floods(marker):
    def end(*_):
        while True:
            _say("x" * 1000)
    signal.signal(signal.SIGTERM, end)
    _wait()

def waits(marker):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    _say("begun")
    signal.sigwait([signal.SIGTERM])
    _say("told")

def plain(marker):
    _wait()

def disposition():
    return signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
"""
PROGRAM = """
#!/bin/sh
trap 'echo tidied; exit 0' TERM
echo begun
while :; do sleep 0.01; done
"""


def marker(name: str) -> str:
    return f"marker-{os.getpid()}-grace-{name}"


def said(log: Path) -> str:
    """Return what a step has printed, out of its log file; a torn end is no piece."""
    lines = log.read_bytes().splitlines(keepends=True) if log.exists() else []
    return "".join(json.loads(line)["text"] for line in lines if line.endswith(b"\n"))


class Running:
    """A step that has begun, and its log."""

    def __init__(self, executor: SandboxExecutor, given: Any, log: Path) -> None:
        self.log = log
        self.call = asyncio.create_task(executor.execute(replace(given, log=str(log))))

    async def begun(self) -> Running:
        async with asyncio.timeout(PATIENCE_S):
            while "begun" not in said(self.log):  # noqa: ASYNC110 -- another process's log has no event to wait for
                await asyncio.sleep(0.01)
        return self

    async def gone(self) -> str:
        """Wait for the end of a cancelled call; return what the step has printed."""
        await asyncio.wait({self.call}, timeout=PATIENCE_S)  # not `timeout`, which would cancel it once more
        assert self.call.cancelled()
        return said(self.log)


@pytest.fixture
def start(sandbox: SandboxExecutor, code: Code, tmp_path: Path) -> Callable[..., Any]:
    """Begin a step of `WORK` or the program, with a marker by its name and the given limits."""

    async def begin(name: str, **limits: int) -> Running:
        entry: Any = ("program", marker(name)) if name == "program" else f"work:{name}"
        more = {} if name == "program" else {"marker": marker(name)}
        given = task(entry, code=code(work=WORK, program=PROGRAM), **more, **limits)
        return await Running(sandbox, given, tmp_path / "log.ndjson").begun()

    return begin


@pytest.mark.parametrize(
    ("name", "last"), [("tidy", "tidying\ntidied\n"), ("waits", "told\n"), ("program", "tidied\n")]
)
async def test_a_cancelled_step_may_end_in_order_and_what_it_prints_is_kept(
    start, name: str, last: str
) -> None:
    step = await start(name, grace_us=AMPLE_US)
    step.call.cancel()
    assert await step.gone() == f"begun\n{last}"
    assert living(marker(name)) == []


async def test_who_has_no_handler_dies_at_once(start) -> None:
    step = await start("plain", grace_us=AMPLE_US)
    step.call.cancel()
    assert await step.gone() == "begun\n"


async def test_a_step_starts_with_the_usual_answer_to_the_word(sandbox: SandboxExecutor, code: Code) -> None:
    assert value_of(await sandbox.execute(task("work:disposition", code=code(work=WORK)))) is True


async def test_who_will_not_end_is_killed_with_its_children_after_its_grace_time(start) -> None:
    step = await start("stubborn", grace_us=3_000_000)
    assert living(marker("stubborn"))
    step.call.cancel()
    assert await step.gone() == "begun\nno\n"
    assert living(marker("stubborn")) == []


async def test_a_step_without_grace_time_is_not_told(start) -> None:
    step = await start("tidy", grace_us=0)
    step.call.cancel()
    assert await step.gone() == "begun\n"
    assert living(marker("tidy")) == []


async def test_cancelling_a_second_time_kills_at_once(start) -> None:
    step = await start("stubborn", grace_us=AMPLE_US)
    step.call.cancel()
    async with asyncio.timeout(PATIENCE_S):
        while "no" not in said(step.log):  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)
    step.call.cancel()
    assert await step.gone() == "begun\nno\n"
    assert living(marker("stubborn")) == []


async def test_a_step_that_prints_too_much_while_it_ends_is_killed_at_once(start) -> None:
    step = await start("floods", grace_us=AMPLE_US, log=1 << 16)
    step.call.cancel()
    assert len(await step.gone()) == 1 << 16


async def test_what_a_step_returns_while_it_ends_is_no_result(start) -> None:
    step = await start("returns", grace_us=AMPLE_US, wall_us=3_000_000)
    failed = failure_of(await step.call)
    assert (failed.reason, failed.log) == ("wall_limit", b"begun\ntold\n")


LEAVES = """
import signal, socket, sys, time
def leave(host, port):
    made = socket.create_connection((host, port))
    def end(*_):
        made.sendall(b"bye")
        made.close()
        sys.exit()
    signal.signal(signal.SIGTERM, end)
    made.sendall(b"hello ")
    time.sleep(1000)
"""


async def test_what_a_step_says_to_its_endpoints_while_it_ends_arrives(code: Code, tmp_path: Path) -> None:
    with server(all_of) as far:
        name = f"a.test:{far.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1") as executor:
            more = {"host": "a.test", "port": far.port, "wall_us": 3_000_000, "grace_us": AMPLE_US}
            outcome = await executor.execute(declaring(name, "work:leave", code=code(work=LEAVES), **more))
        assert far.results(1) == [b"hello bye"]
    assert failure_of(outcome).reason == "wall_limit"
    assert [(one.end, one.sent) for one in outcome.connections] == [("closed", 9)]


async def test_the_operator_caps_the_grace_time(code: Code, tmp_path: Path) -> None:
    require_bubblewrap()
    settings = SandboxSettings(caps=(parse_cap("graceSeconds=0.3"),))
    executor = await SandboxExecutor.open(tmp_path / "spool", settings)
    given = task("work:stubborn", code=code(work=WORK), marker=marker("capped"), grace_us=AMPLE_US)
    step = await Running(executor, given, tmp_path / "log.ndjson").begun()
    step.call.cancel()
    assert (await step.gone()).startswith("begun\n")
    await executor.close()
