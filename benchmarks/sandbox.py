"""What a sandboxed step costs, beside a bare process and a bare interpreter, in one shuffled loop. Prints JSON.

Read the ratios: every variant meets the same neighbours. `bareInterpreter` is the interpreter that steps run in,
started with `-I -c pass`. Exits with 1 when a variant costs more than its target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from sovrun.core.ids import RunId, StepId, Tenant
from sovrun.core.spec.model import Kind, Resources
from sovrun.ports import Succeeded, Task
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.settings import SandboxSettings

Variant = Callable[[], Awaitable[object]]

TARGETS = {"cold": 2.6, "coldWithControlGroups": 3.5, "warm": 0.6}
"""By variant the most that its median may be, in bare interpreters."""


def spawning(*command: str) -> Variant:
    """Start a process and wait for its end."""

    async def spawn() -> object:
        return subprocess.run(command, check=True)  # noqa: ASYNC221, S603 -- nothing else is to run beside it

    return spawn


def executing(executor: SandboxExecutor, code: Path) -> Variant:
    """Execute a step that returns at once."""
    task = Task(
        tenant=Tenant("bench"),
        run=RunId("0" * 32),
        step=StepId("bench"),
        attempt=1,
        kind=Kind.PYTHON,
        entry="work:run",
        arguments=b'{"n":1}',
        resources=Resources(),
        epoch=315_532_800,
        code=code,
    )

    async def execute() -> object:
        outcome = await executor.execute(task)
        if not isinstance(outcome, Succeeded):
            raise RuntimeError(outcome.message)  # noqa: TRY004 -- it failed
        return outcome

    return execute


def kinds(heavy: str) -> dict[str, SandboxSettings]:
    """Return the settings of each variant of a step."""
    return {
        "cold": SandboxSettings(control_groups=False),
        "coldWithControlGroups": SandboxSettings(),
        "warm": SandboxSettings(control_groups=False, warm=True),
        "warmWithControlGroups": SandboxSettings(warm=True),
        "warmHeavy": SandboxSettings(control_groups=False, warm=True, warm_modules=(heavy,)),
    }


async def measure(rounds: int, seed: int, heavy: str) -> dict[str, dict[str, float]]:
    """Return median, tenth and 99th percentile in milliseconds of each variant, and its ratios."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # noqa: ASYNC240 -- nothing else runs yet
        (folder / "work.py").write_text("def run(n):\n    return n\n")
        executors = {
            title: await SandboxExecutor.open(folder / title, settings)
            for title, settings in kinds(heavy).items()
        }
        variants: dict[str, Variant] = {
            "bareSpawn": spawning("/bin/true"),
            "bareInterpreter": spawning(sys.executable, "-I", "-c", "pass"),
            "bareInterpreterHeavy": spawning(sys.executable, "-I", "-c", f"import {heavy}"),
            **{title: executing(executor, folder) for title, executor in executors.items()},
        }
        times: dict[str, list[float]] = {title: [] for title in variants}
        order = [*variants, *variants] * rounds  # the first of each only warms up what is loaded once
        random.Random(seed).shuffle(order)  # noqa: S311 -- an order, no secret
        for title in [*variants, *order]:
            began = time.perf_counter()
            await variants[title]()
            times[title].append((time.perf_counter() - began) * 1000)
        for executor in executors.values():
            await executor.close()
    return figures({title: sorted(found[1:]) for title, found in times.items()})


def figures(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return the percentiles of sorted times, and ratios of medians."""
    spawn, interpreter = median(times["bareSpawn"]), median(times["bareInterpreter"])
    return {
        title: {
            "p10Ms": round(found[len(found) // 10], 2),
            "medianMs": round(median(found), 2),
            "p99Ms": round(found[len(found) * 99 // 100], 2),
            "timesBareSpawn": round(median(found) / spawn, 2),
            "p99TimesBareSpawn": round(found[len(found) * 99 // 100] / spawn, 2),
            "timesBareInterpreter": round(median(found) / interpreter, 2),
        }
        for title, found in times.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="half of how often each variant is timed")
    parser.add_argument("--seed", type=int, default=1, help="of the order")
    parser.add_argument("--heavy", default="pydantic", help="module that a template preloads")
    options = parser.parse_args()
    measured = asyncio.run(measure(options.rounds, options.seed, options.heavy))
    missed = [name for name, most in TARGETS.items() if measured[name]["timesBareInterpreter"] > most]
    print(json.dumps({"variants": measured, "targets": TARGETS, "missed": missed}, indent=2))
    sys.exit(1 if missed else 0)
