"""Warm mode: the same results as cold, from processes that a template clones; what it refuses; how it ends.

That its walls hold is shown with those of cold steps: every escape is tried in both.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from sovrun.cli.doctor import doctor
from sovrun.core.errors import InvalidSetting, IsolationUnavailable
from sovrun.core.ids import Tenant
from sovrun.sandbox.careful import CarefulExecutor
from sovrun.sandbox.environment import environment_digest
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.secrets import SecretSources
from sovrun.sandbox.settings import SandboxSettings, parse_warm
from sovrun.sandbox.watch import descendants
from support.attacker import living
from support.supervised import supervisor_of
from support.tasks import failure_of, require_bubblewrap, task, value_of

LOOK = """
    import os, sys

    def look(**given):
        names = {name: type(value).__name__ for name, value in given.items()}
        return [given, names, dict(os.environ), sys.argv, sys.path, sys.flags.hash_randomization,
                str(hash("text")), os.getcwd(), sorted(os.listdir("/proc/self/fd")), sorted(os.listdir("/dev")),
                os.getpid(), os.getppid(), os.getuid(), os.umask(0), sys.prefix, __import__("__main__").__name__,
                os.uname().nodename, sorted(os.listdir("/sovrun"))]

    def number():
        return os.stat("/proc/self/ns/user").st_ino

    def draw():
        import random, uuid
        return [random.random(), str(uuid.uuid4())]

    def linger(marker):
        import subprocess
        for _ in range(20):
            if os.fork() == 0:
                os.setsid()
                os.execv("/bin/sh", ["sh", "-c", f"trap '' TERM HUP; sleep 1000; : {marker}"])
        print("started", flush=True)
        os.wait()

    def mine():
        import csv
        return csv.TOKEN

    def address():
        return hash(object()) >> 16

    def opened():
        import pty
        return [len(pty.openpty()), os.stat("/dev/pts").st_dev]
"""


@asynccontextmanager
async def warm(folder: Path, **more: Any) -> AsyncIterator[SandboxExecutor]:
    require_bubblewrap()
    executor = SandboxExecutor(folder, SandboxSettings(warm=True, **more))
    try:
        yield executor
    finally:
        await executor.close()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 -- another process's life has no event to wait for
            await asyncio.sleep(0.01)


def templates_of(executor: SandboxExecutor) -> list[int]:
    """Return the templates below an executor's supervisor; a clone's parent is one of them, not bubblewrap."""
    return [pid for pid in interpreters_of(executor) if words_of(parent_of(pid))[0] == b"bwrap"]


def interpreters_of(executor: SandboxExecutor) -> list[int]:
    """Return templates and clones, those that stand by too."""
    link = executor._link
    assert link is not None
    below = descendants(link._process.pid)
    return [
        pid for pid in below if words_of(pid)[:1] != [b"bwrap"] and b"/sovrun/template.pyc" in words_of(pid)
    ]


def words_of(pid: int) -> list[bytes]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return [b""]


def parent_of(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


@pytest.fixture
def look(code: Callable[..., Path]) -> Path:
    return code(look=LOOK, csv="TOKEN = 'of the step'\n")


async def test_a_step_finds_what_it_finds_cold_and_returns_the_same(tmp_path: Path, look: Path) -> None:
    given = task("look:look", code=look, n=1, text="é", nested=[1.5, None])
    cold = SandboxExecutor(tmp_path / "cold", SandboxSettings())
    async with warm(tmp_path / "warm") as executor:
        found, expected = await executor.execute(given), await cold.execute(given)
    await cold.close()
    ours, theirs = value_of(found), value_of(expected)
    assert ours[-1].pop(ours[-1].index("template.pyc")) == "template.pyc"
    assert ours == theirs
    assert (found.walls.warm, expected.walls.warm) == (True, False)
    assert executor.environment == cold.environment == environment_digest()


async def test_every_step_is_a_clone_with_namespaces_of_its_own_and_none_starts_an_interpreter(
    tmp_path: Path, look: Path
) -> None:
    async with warm(tmp_path / "warm") as executor:
        numbers = [value_of(await executor.execute(task("look:number", code=look))) for _ in range(3)]
        at_once = await asyncio.gather(*(executor.execute(task("look:number", code=look)) for _ in range(8)))
        numbers += map(value_of, at_once)
        assert len(templates_of(executor)) == 1
        await eventually(lambda: len(interpreters_of(executor)) == 3)  # one clone stands by, of two processes
    assert len(set(numbers[3:])) == 8


async def test_random_numbers_differ_from_clone_to_clone(tmp_path: Path, look: Path) -> None:
    async with warm(tmp_path / "warm") as executor:
        drawn = [value_of(await executor.execute(task("look:draw", code=look))) for _ in range(3)]
    assert len({str(one) for one in drawn}) == 3


async def test_a_module_of_the_step_goes_before_one_of_that_name_which_the_template_has(
    tmp_path: Path, look: Path
) -> None:
    async with warm(tmp_path / "warm") as executor:
        assert value_of(await executor.execute(task("look:mine", code=look))) == "of the step"


async def test_a_step_has_terminals_of_its_own(tmp_path: Path, look: Path) -> None:
    async with warm(tmp_path / "warm") as executor:
        number, device = value_of(await executor.execute(task("look:opened", code=look)))
        shared = os.stat(f"/proc/{templates_of(executor)[0]}/root/dev/pts")  # noqa: PTH116 -- of a process
    assert (number, device != shared.st_dev) == (2, True)


async def test_programs_and_reproducible_steps_are_cold_and_say_so(tmp_path: Path, look: Path) -> None:
    program = task(("/bin/sh", "-c", "true"), code=look)
    fixed = task("look:number", code=look)
    object.__setattr__(fixed, "reproducible", True)
    async with warm(tmp_path / "warm") as executor:
        outcomes = [await executor.execute(one) for one in (program, fixed, task("look:number", code=look))]
    assert [outcome.walls.warm for outcome in outcomes] == [False, False, True]


async def test_a_step_that_runs_twice_is_cold_as_two_clones_would_agree(tmp_path: Path, look: Path) -> None:
    wanted = replace(task("look:address", code=look), verified=True)
    async with warm(tmp_path / "warm") as executor:
        outcome = failure_of(await CarefulExecutor(executor, SecretSources()).execute(wanted))
        clones = [value_of(await executor.execute(replace(wanted, verified=False))) for _ in range(2)]
    assert outcome.reason == "not_reproducible"
    assert clones[0] == clones[1]


async def test_each_tenant_has_a_template_and_a_user_of_its_own(tmp_path: Path, look: Path) -> None:
    mine, other = task("look:number", code=look), task("look:number", code=look)
    object.__setattr__(other, "tenant", Tenant("other"))
    async with warm(tmp_path / "warm") as executor:
        for one in (mine, other, mine, other):
            value_of(await executor.execute(one))
        pids = templates_of(executor)
        users = {os.stat(f"/proc/{pid}").st_uid for pid in pids}  # noqa: PTH116 -- of a process
    assert len(pids) == 2
    assert len(users) == (2 if os.getuid() == 0 else 1)
    assert 0 not in users


async def test_a_template_is_replaced_after_its_number_of_steps(tmp_path: Path, look: Path) -> None:
    seen = []
    async with warm(tmp_path / "warm", warm_steps=2) as executor:
        for _ in range(4):
            value_of(await executor.execute(task("look:number", code=look)))
            seen.append(max(templates_of(executor)))
        await eventually(lambda: len(templates_of(executor)) == 1)
    assert seen[0] == seen[1] != seen[2] == seen[3]


async def test_a_template_is_replaced_after_its_time(tmp_path: Path, look: Path) -> None:
    async with warm(tmp_path / "warm", warm_us=0) as executor:
        for _ in range(3):
            value_of(await executor.execute(task("look:number", code=look)))
        await eventually(lambda: len(templates_of(executor)) == 1)


async def test_when_a_template_is_killed_its_steps_die_and_are_tried_again(
    tmp_path: Path, look: Path
) -> None:
    marker = f"marker-{os.getpid()}-template"
    async with warm(tmp_path / "warm") as executor:
        running = [
            asyncio.create_task(executor.execute(task("look:linger", code=look, marker=marker)))
            for _ in range(2)
        ]
        await eventually(lambda: len(living(marker)) == 40)
        os.kill(templates_of(executor)[0], signal.SIGKILL)
        for one in running:
            failed = failure_of(await one)
            assert (failed.reason, failed.circumstance, failed.retryable) == ("sandbox_error", True, True)
        assert living(marker) == []
        assert value_of(await executor.execute(task("look:number", code=look)))


async def test_twenty_sessions_are_gone_when_a_step_is_cancelled(tmp_path: Path, look: Path) -> None:
    marker = f"marker-{os.getpid()}-sessions"
    async with warm(tmp_path / "warm") as executor:
        running = asyncio.create_task(executor.execute(task("look:linger", code=look, marker=marker)))
        await eventually(lambda: len(living(marker)) == 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert living(marker) == []


async def test_steps_that_are_cancelled_at_any_time_leave_nothing(tmp_path: Path, look: Path) -> None:
    async with warm(tmp_path / "warm") as executor:
        value_of(await executor.execute(task(("/bin/true",), code=look)))  # the supervisor is there
        for pause in range(20):  # the first ones before there is a template
            running = asyncio.create_task(executor.execute(task("look:number", code=look)))
            await asyncio.sleep(pause * 0.003)
            running.cancel()
            await asyncio.wait({running})
        assert value_of(await executor.execute(task("look:number", code=look)))
        await eventually(lambda: len(templates_of(executor)) == 1)


async def test_a_module_that_does_not_exist_is_named(tmp_path: Path, look: Path) -> None:
    async with warm(tmp_path / "warm", warm_modules=("there_is_none",)) as executor:
        failed = failure_of(await executor.execute(task("look:number", code=look)))
    assert (failed.reason, failed.circumstance, failed.retryable) == ("warm_unavailable", True, False)
    assert "there_is_none cannot be preloaded: ModuleNotFoundError" in failed.message


THREADED = "import threading, time; threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"


async def test_a_template_with_threads_is_refused(tmp_path: Path, look: Path) -> None:
    async with warm(tmp_path / "warm", warm_modules=("threaded",)) as executor:
        package = tmp_path / "packages"
        package.mkdir()
        (package / "threaded.py").write_text(THREADED)
        shown = (str(package), "/sovrun/packages")
        (executor._frame_folder / "sovrun" / "packages").mkdir()
        site = {**executor._frame.site, "paths": [*executor._frame.site["paths"], shown[1]]}
        object.__setattr__(executor._frame, "binds", (*executor._frame.binds, shown))
        object.__setattr__(executor._frame, "site", site)
        failed = failure_of(await executor.execute(task("look:number", code=look)))
    assert failed.reason == "warm_unavailable"
    assert "2 threads after importing threaded" in failed.message
    assert "SOVRUN_WARM_MODULES" in failed.message


async def test_no_module_of_a_step_can_be_preloaded_as_its_code_is_not_there(
    tmp_path: Path, code: Callable[..., Path]
) -> None:
    folder = code(
        patching="from sovrun.sandbox import seal\nseal.seal = lambda setup: []\n\ndef run():\n    return 1\n"
    )
    async with warm(tmp_path / "warm", warm_modules=("patching",)) as executor:
        failed = failure_of(await executor.execute(task("patching:run", code=folder)))
    assert "the module patching cannot be preloaded: ModuleNotFoundError" in failed.message


async def test_the_probe_goes_the_warm_way(tmp_path: Path) -> None:
    require_bubblewrap()
    with pytest.raises(IsolationUnavailable, match="there_is_none"):
        await SandboxExecutor.open(tmp_path, SandboxSettings(warm=True, warm_modules=("there_is_none",)))


def test_the_operators_words() -> None:
    assert parse_warm({}) == (False, ())
    assert parse_warm({"SOVRUN_WARM": "0"}) == (False, ())
    assert parse_warm({"SOVRUN_WARM": "1", "SOVRUN_WARM_MODULES": "numpy  a.b"}) == (True, ("numpy", "a.b"))
    for variables in (
        {"SOVRUN_WARM": "yes"},
        {"SOVRUN_WARM": "1", "SOVRUN_WARM_MODULES": "os;"},
        {"SOVRUN_WARM_MODULES": "numpy"},
    ):
        with pytest.raises(InvalidSetting):
            parse_warm(variables)


def test_doctor_tries_warm_mode_where_it_is_switched_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_bubblewrap()
    for word in ("1", "0"):
        monkeypatch.setenv("SOVRUN_WARM", word)
        with suppress(typer.Exit):
            doctor(store="memory:", as_json=True)
        items = json.loads(capsys.readouterr().out)["isolation"]["items"]
        [found] = [item["detail"] for item in items if item["name"] == "step in a sandbox"]
        assert found.endswith(", warm") == (word == "1")


ALONE = """
import os, signal
from sovrun.sandbox.warm_child import _is_alone

def said():
    return "alone" if _is_alone() else "not alone"

print(said())
lasting = os.fork()
if lasting == 0:
    signal.pause()
short = os.fork()
if short == 0:
    os._exit(0)
os.waitid(os.P_PID, short, os.WEXITED | os.WNOWAIT)
print(said())
os.kill(lasting, signal.SIGKILL)
os.waitid(os.P_PID, lasting, os.WEXITED | os.WNOWAIT)
print(said())
"""


def test_a_first_process_is_alone_only_when_all_that_it_could_wait_for_have_ended() -> None:
    found = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[:-1] == ["alone", "not alone", "alone"]


def groups_of(executor: SandboxExecutor) -> list[Path]:
    """Return the directories of its steps' control groups; this machine may have none for it."""
    return list(Path("/sys/fs/cgroup").glob(f"*/sovrun-{supervisor_of(executor)}"))


async def test_the_control_groups_of_ended_steps_are_removed(tmp_path: Path, look: Path) -> None:
    async with warm(tmp_path) as executor:
        for _ in range(4):
            value_of(await executor.execute(task("look:number", code=look)))
        bases = groups_of(executor)
        await eventually(lambda: all(len(list(base.glob("warm-*"))) <= 1 for base in bases))  # one stands by
