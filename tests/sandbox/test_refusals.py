"""No sandbox, no run: what is missing or false is refused by name, and an ordinary user walks the same path as root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sovrun.core.errors import IsolationUnavailable
from sovrun.sandbox import launch
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.settings import SandboxSettings
from support.facilities import lacking
from support.tasks import require_bubblewrap

REACHABLE = Path("/tmp")  # noqa: S108 -- pytest's own folder is closed to other users


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'bwrap: No permissions to create new namespace' >&2; exit 1",
            "making namespaces is forbidden",
        ),
        ('echo "bwrap: Can\'t mount proc on /newroot/proc" >&2; exit 1', "masks parts of /proc"),
        ("exit 0", "did not come up"),
        ("kill -9 $$", "did not come up"),
    ],
)
async def test_no_sandbox_no_run(tmp_path: Path, script, said) -> None:
    require_bubblewrap()
    fake = tmp_path / "bwrap"
    fake.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.8.0 && exit\n{script}\n')
    fake.chmod(0o755)
    reachable = REACHABLE / f"sovrun-test-bwrap-{os.getpid()}"
    shutil.copy(fake, reachable)
    try:
        with pytest.raises(IsolationUnavailable, match=said) as refused:
            await SandboxExecutor.open(tmp_path / "spool", SandboxSettings(bwrap=reachable))
    finally:
        reachable.unlink()
    assert refused.value.hint


async def test_a_launcher_that_makes_no_sandbox_at_all_is_caught_before_the_step(tmp_path: Path) -> None:
    require_bubblewrap()
    reachable = REACHABLE / f"sovrun-test-naked-{os.getpid()}"
    src = Path(launch.__file__).parents[2]
    reachable.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.8.0 && exit\n'
        f'echo "{{\\"child-pid\\": $$}}" >&4; exec 4>&- 5>&-\n'
        f"PYTHONPATH={src} exec /usr/bin/python3 -B -c 'from sovrun.sandbox.runner import main; main()'\n"
    )
    reachable.chmod(0o755)
    try:
        with pytest.raises(IsolationUnavailable, match="not as it must be"):
            await SandboxExecutor.open(tmp_path / "spool", SandboxSettings(bwrap=reachable))
    finally:
        reachable.unlink()


async def test_a_launcher_that_only_says_it_is_ready_is_caught_from_outside(tmp_path: Path) -> None:
    require_bubblewrap()
    reachable = REACHABLE / f"sovrun-test-liar-{os.getpid()}"
    src = Path(launch.__file__).parents[2]
    say = "from sovrun.sandbox import wire; wire.receive(3, body_max=0); wire.send(3, {'say': 'ready'}); import time; time.sleep(9)"
    reachable.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.8.0 && exit\n'
        f'echo "{{\\"child-pid\\": $$}}" >&4; exec 4>&- 5>&-\n'
        f'PYTHONPATH={src} exec /usr/bin/python3 -B -c "{say}"\n'
    )
    reachable.chmod(0o755)
    try:
        with pytest.raises(IsolationUnavailable, match="namespace is ours"):
            await SandboxExecutor.open(tmp_path / "spool", SandboxSettings(bwrap=reachable))
    finally:
        reachable.unlink()


async def test_a_missing_bubblewrap_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsolationUnavailable, match="bubblewrap is not installed") as refused:
        await SandboxExecutor.open(tmp_path / "spool", SandboxSettings(bwrap=tmp_path / "absent"))
    assert "install" in (refused.value.hint or "")


ORDINARY = """
import asyncio, json, os, sys, tempfile
from pathlib import Path
if os.getuid() == 0:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
sys.path[:0] = {paths!r}
from support.tasks import task
from sovrun.core.errors import IsolationUnavailable
from sovrun.sandbox.executor import SandboxExecutor
async def main():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        folder = Path(folder)
        (folder / "code").mkdir()
        (folder / "code" / "work.py").write_text({text!r})
        executor = await SandboxExecutor.open(folder / "spool")
        outcome = await executor.execute(task("work:run", code=folder / "code"))
        endless = await executor.execute(task("work:endless", code=folder / "code", wall_us=200_000))
        print(json.dumps([str(outcome.output), [made.path.read_text() for made in outcome.made], endless.reason]))
        await executor.close()
asyncio.run(main())
"""
ORDINARY_STEP = """
import os, time
from sovrun.step import keep_file, work_dir
def run():
    (work_dir() / "a").write_text("made by an ordinary user")
    return {"uid": os.getuid(), "kept": keep_file(work_dir() / "a")}
def endless():
    time.sleep(1000)
"""


def test_an_ordinary_user_runs_steps_by_the_same_path() -> None:
    require_bubblewrap()
    src, tests = Path(launch.__file__).parents[2], Path(__file__).parents[1]
    site = [path for path in sys.path if path.endswith("site-packages")]
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None or _version(python) != sys.version_info[:2]:
        python = sys.executable
    script = ORDINARY.format(paths=[str(src), str(tests), *site], text=ORDINARY_STEP)
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, cwd="/", check=False)
    if "PermissionError" in done.stderr or "Permission denied" in done.stderr:
        lacking("this interpreter or its packages cannot be read by an ordinary user")
    assert done.returncode == 0, done.stderr
    output, made, endless = json.loads(done.stdout)
    assert '"uid":1000' in output
    assert (made, endless) == (["made by an ordinary user"], "wall_limit")


def _version(python: str) -> tuple[int, ...]:
    said = subprocess.run(
        [python, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=True
    )
    return tuple(map(int, said.stdout.split()))
