"""A preloaded module that is not what the operator took it for: its template is ended by name, and nobody else notices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sovrun.sandbox import executor as executor_module
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.settings import SandboxSettings
from support.supervised import supervisor_of
from support.tasks import failure_of, require_bubblewrap, task, value_of

SAYING = "import os; os.write(3, {said!r})"
LATER = """
import json
from sovrun.sandbox import warm_child
class Words:
    loads = json.loads
    def dumps(said):
        return {said!r}
warm_child.json = Words
"""
ENDLESS = """
import json
from sovrun.sandbox import template
template.json = type("Words", (), {{"loads": json.loads, "dumps": lambda said: {said!r} if said["say"] == "gone" else json.dumps(said)}})
"""


def preloading(folder: Path, text: str) -> SandboxExecutor:
    """Return an executor whose templates import a module."""
    require_bubblewrap()
    executor = SandboxExecutor(folder / "spool", SandboxSettings(warm=True, warm_modules=("hostile",)))
    package = folder / "packages"
    package.mkdir()
    (package / "hostile.py").write_text(text)
    shown = (str(package), "/sovrun/packages")
    (executor._frame_folder / "sovrun" / "packages").mkdir()
    site = {**executor._frame.site, "paths": [*executor._frame.site["paths"], shown[1]]}
    object.__setattr__(executor._frame, "binds", (*executor._frame.binds, shown))
    object.__setattr__(executor._frame, "site", site)
    return executor


async def outcome_of_one(executor: SandboxExecutor, folder: Path):
    """Run a warm step; the supervisor outlives it."""
    assert value_of(await executor.execute(task(("/bin/true",)))) is not None
    supervisor = supervisor_of(executor)
    found = await executor.execute(task("work:run", code=folder, wall_us=5_000_000))
    assert value_of(await executor.execute(task(("/bin/true",)))) is not None
    assert supervisor_of(executor) == supervisor
    return found


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b"[1]",
        b"\xff\xfe",
        b"[" * 60_000,
        b"null",
        b'{"say": "gone", "id": 1}',
        b'{"say": "gone", "id": [1], "status": 0, "cpu_s": 1e999, "memory": 0}',
        b'{"say": "gone", "id": 1, "status": "0", "cpu_s": 0, "memory": 0}',
        b'{"say": "gone", "id": 1, "status": -1, "cpu_s": 0, "memory": 0}',
        b'{"say": "refused", "problems": 7}',
        b'{"say": "refused", "problems": ["' + b"x" * 50_000 + b'"]}',
    ],
)
async def test_what_a_template_says_is_not_believed(
    tmp_path: Path, code: Callable[..., Path], said: bytes
) -> None:
    executor = preloading(tmp_path, SAYING.format(said=said) + "; os._exit(1)")
    failed = failure_of(await outcome_of_one(executor, code(work="def run():\n    return 1\n")))
    assert failed.reason == "warm_unavailable"
    assert (
        "what the template says is" in failed.message
        or "the template refuses" in failed.message
        or "xxx" in failed.message
    )
    assert len(failed.message) < 5_000
    await executor.close()


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "[]",
        '{"status": 0}',
        '{"status": 0, "cpu_s": null, "memory": 0}',
        '{"status": 0, "cpu_s": 0, "memory": 1e300}',
    ],
)
async def test_what_a_clone_says_of_its_end_is_not_believed(
    tmp_path: Path, code: Callable[..., Path], said: str
) -> None:
    executor = preloading(tmp_path, LATER.format(said=said))
    failed = failure_of(await outcome_of_one(executor, code(work="def run():\n    return 1\n")))
    assert failed.reason == "sandbox_error"
    assert "what the step's first process says of its end is" in failed.message
    await executor.close()


SILENT = "from sovrun.sandbox import template\ntemplate._tell = lambda *given: None\n"


async def test_a_template_that_does_not_tell_the_end_of_a_killed_step_is_ended(
    tmp_path: Path, code: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from sovrun.sandbox import supervisor, warm; warm._WORD_S = 0.5; supervisor.main()"
    monkeypatch.setattr(executor_module, "SUPERVISOR", text)
    executor = preloading(tmp_path, SILENT)
    folder = code(work="import time\ndef run():\n    return 1\ndef wait():\n    time.sleep(1000)\n")
    endless = task("work:wait", code=folder, wall_us=300_000, grace_us=0)
    assert value_of(await outcome_of_one(executor, folder)) == 1  # its own first process tells that
    failed = failure_of(await executor.execute(endless))
    assert failed.reason == "wall_limit", failed.message
    assert value_of(await outcome_of_one(executor, folder)) == 1
    await executor.close()


async def test_what_a_template_says_of_a_clones_end_is_not_believed(
    tmp_path: Path, code: Callable[..., Path]
) -> None:
    executor = preloading(tmp_path, ENDLESS.format(said='{"say": "gone", "id": 1, "status": {}}'))
    left = "import os, time\ndef run():\n    if os.fork() == 0:\n        time.sleep(1000)\n    return 1\n"
    failed = failure_of(await outcome_of_one(executor, code(work=left)))
    assert failed.reason == "warm_unavailable"
    assert "what the template says is no status of a process" in failed.message
    await executor.close()
