"""Executors, and steps to run in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.in_process import InProcessExecutor
from sovrun.sandbox.settings import SandboxSettings
from support.attacker import Attacker, users
from support.tasks import require_bubblewrap


@pytest.fixture(params=[False, True], ids=["cold", "warm"])
async def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SandboxExecutor]:
    require_bubblewrap()
    executor = await SandboxExecutor.open(tmp_path / "spool", SandboxSettings(warm=request.param))
    yield executor
    await executor.close()


@pytest.fixture(params=["sandbox", "warm", "in-process", "in-process-threads"])
async def executor(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[SandboxExecutor | InProcessExecutor]:
    chosen: SandboxExecutor | InProcessExecutor
    if request.param in ("sandbox", "warm"):
        require_bubblewrap()
        chosen = await SandboxExecutor.open(tmp_path / "spool", SandboxSettings(warm=request.param == "warm"))
    else:
        slots = 1 if request.param == "in-process" else 2
        chosen = InProcessExecutor(slots=slots, spool=tmp_path / "spool")
    yield chosen
    await chosen.close()


@pytest.fixture
def code(tmp_path: Path) -> Callable[..., Path]:
    """Write modules or programs to a code directory of its own and return it."""
    made = 0

    def write(**texts: str) -> Path:
        nonlocal made
        made += 1
        folder = tmp_path / f"code-{made}"
        folder.mkdir()
        for name, text in texts.items():
            is_program = text.lstrip().startswith("#!")
            path = folder / (name if is_program else f"{name}.py")
            path.write_text(dedent(text).lstrip())
            path.chmod(0o755 if is_program else 0o644)
        return folder

    return write


@pytest.fixture(
    scope="session",
    params=[(uid, warm) for uid in users() for warm in (False, True)],
    ids=lambda found: f"user{found[0]}{'-warm' * found[1]}",
)
def attacker(request: pytest.FixtureRequest) -> Iterator[Attacker]:
    """Run hostile steps as root, if the suite is, and as an ordinary user, each cold and warm."""
    made = Attacker(*request.param)
    yield made
    made.close()
