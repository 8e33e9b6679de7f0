"""Reproducible mode takes away what differs between executions, and running twice finds what still does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sovrun.ports import Failed, Succeeded, Task
from sovrun.sandbox.careful import CarefulExecutor
from sovrun.sandbox.exchange import THREAD_COUNTS
from sovrun.sandbox.in_process import InProcessExecutor
from sovrun.sandbox.secrets import SecretSources
from support.tasks import failure_of, task, value_of

RANDOMISED = Path("/proc/sys/kernel/randomize_va_space").read_text().strip() != "0"
STEPS = """
import ctypes, os, subprocess, sys
from pathlib import Path

class Thing:
    pass

def addresses():
    things = {Thing() for _ in range(2000)}
    stack = ctypes.addressof(ctypes.c_int())
    maps = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines()]
    order = [id(thing) for thing in things]
    child = subprocess.run([sys.executable, "-c", "print(id(object()))"], capture_output=True, text=True).stdout
    return [order, stack, maps, child]

def environment():
    return dict(os.environ)

def constant():
    print("said")
    return {"b": 1, "a": [2]}

def chance():
    return os.urandom(8).hex()

def order():
    turned = os.urandom(1)[0] % 2
    return {"a": 1, "b": 2} if turned else {"b": 2, "a": 1}

def file():
    from sovrun.step import keep_file, work_dir
    (work_dir() / "kept").write_text("same")
    return keep_file(work_dir() / "kept")

def other_file():
    from sovrun.step import keep_file, work_dir
    (work_dir() / "kept").write_text(os.urandom(8).hex())
    return keep_file(work_dir() / "kept")

def fails():
    raise ValueError("always")
"""


@pytest.fixture
def of(code: Callable[..., Path]) -> Callable[..., Task]:
    folder = code(work=STEPS)
    return lambda name, **more: replace(task(f"work:{name}", code=folder), **more)


async def twice(executor: CarefulExecutor, wanted: Task) -> list[object]:
    return [value_of(await executor.execute(wanted)) for _ in range(2)]


@pytest.fixture
def careful(sandbox) -> CarefulExecutor:
    return CarefulExecutor(sandbox, SecretSources())


async def test_addresses_are_the_same_each_time_in_reproducible_mode_only(careful, of) -> None:
    first, second = await twice(careful, of("addresses", reproducible=True))
    assert first == second
    usual = await twice(careful, of("addresses"))
    assert usual[0] != usual[1] or not RANDOMISED, "else nothing was shown"


async def test_the_environment_says_one_thread_in_reproducible_mode(careful, of) -> None:
    usual = value_of(await careful.execute(of("environment")))
    fixed = value_of(await careful.execute(of("environment", reproducible=True)))
    assert fixed == {**usual, **dict.fromkeys(THREAD_COUNTS, "1")}
    assert not set(THREAD_COUNTS) & set(usual)


@pytest.mark.parametrize("slots", [1, 2])
async def test_without_a_sandbox_there_is_no_reproducible_mode(of, slots) -> None:
    executor = CarefulExecutor(InProcessExecutor(slots=slots), SecretSources())
    failed = failure_of(await executor.execute(of("constant", reproducible=True)))
    assert (failed.reason, failed.circumstance, failed.retryable) == ("reproducible_unavailable", True, False)
    await executor.close()


class TestVerified:
    """Steps that are run twice, whatever runs them."""

    @pytest.fixture
    def run(self, executor, of, tmp_path) -> Callable[..., object]:
        careful = CarefulExecutor(executor, SecretSources())

        async def execute(name: str) -> Succeeded | Failed:
            return await careful.execute(of(name, verified=True, log=str(tmp_path / "logs" / "1.ndjson")))

        return execute

    async def test_what_is_the_same_twice_is_returned_once(self, run, tmp_path) -> None:
        outcome = await run("constant")
        assert value_of(outcome) == {"b": 1, "a": [2]}
        printed = (tmp_path / "logs" / "1.ndjson").read_text()
        assert printed.count("said") == 2, "it was really run twice"

    async def test_what_differs_fails_with_both_digests(self, run) -> None:
        failed = failure_of(await run("chance"))
        assert (failed.reason, failed.circumstance, failed.retryable) == ("not_reproducible", False, False)
        digests = [word for word in failed.message.split() if len(word) == 64]
        assert len(set(digests)) == 2

    async def test_the_order_of_members_is_no_difference(self, run) -> None:
        for _ in range(8):
            assert value_of(await run("order")) == {"a": 1, "b": 2}

    async def test_files_are_compared_and_the_kept_one_is_there_once(self, run, tmp_path) -> None:
        outcome = await run("file")
        assert isinstance(outcome, Succeeded), outcome
        (made,) = outcome.made
        assert made.path.read_text() == "same"
        assert _files(tmp_path / "spool") == [made.path]

    async def test_files_that_differ_are_found_and_none_is_left(self, run, tmp_path) -> None:
        assert failure_of(await run("other_file")).reason == "not_reproducible"
        assert _files(tmp_path / "spool") == []

    async def test_a_step_that_fails_is_not_run_again(self, run) -> None:
        failed = failure_of(await run("fails"))
        assert (failed.reason, failed.retryable) == ("step_raised", True)


def _files(spool: Path) -> list[Path]:
    names = ("frame-", "image", "filter")
    return [
        path
        for path in spool.rglob("*")
        if path.is_file() and not any(part.startswith(names) for part in path.relative_to(spool).parts)
    ]


async def test_a_second_run_that_fails_is_a_difference(of) -> None:
    class Second:
        isolation, inline, environment = "sandbox", False, None
        count = 0

        async def execute(self, task: Task) -> Succeeded | Failed:
            self.count += 1
            if self.count == 1:
                return Succeeded(b"1")
            return Failed("step_raised", "ValueError: not again", circumstance=task.step != "step")

        async def close(self) -> None:
            return None

    careful = CarefulExecutor(Second(), SecretSources())
    failed = failure_of(await careful.execute(of("constant", verified=True)))
    assert (failed.reason, failed.retryable) == ("not_reproducible", False)
    assert "not again" in failed.message
    careful = CarefulExecutor(Second(), SecretSources())
    lost = failure_of(await careful.execute(of("constant", verified=True, step="other")))
    assert (lost.reason, lost.retryable) == ("step_raised", True), (
        "a machine's fault shows nothing of the step"
    )
