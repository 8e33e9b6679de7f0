"""Cancelling what executes: its process is gone with all its children, its slot is free, its report counts for nothing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import sovrun.engine.worker
from sovrun.core.errors import IllegalTransition
from sovrun.core.ids import StepId
from sovrun.core.lifecycle import State
from sovrun.core.spec.model import SECOND_US, Kind, Resources, StepSpec
from sovrun.sandbox.executor import SandboxExecutor
from support import dags
from support.acts import govern
from support.engines import Started, calls, until
from support.requests import ACTOR, TENANT
from support.tasks import require_bubblewrap


@pytest.fixture(autouse=True)
def quick_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sovrun.engine.worker, "BEAT_US", 20_000)


async def test_a_cancelled_step_on_a_thread_gives_its_slot_back(start: Started) -> None:
    began, never = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        while not never.wait(0.005):
            pass

    async with start(slots=2, hang=hang, work=lambda: 1) as bench:
        spec = dags.dag(calls("a", "hang"), calls("b", "work", "a"))
        run = await bench.submit(spec)
        await govern(bench.store, steps_max=1)

        async def has_begun() -> bool:
            return began.is_set()

        await until(has_begun)
        other = await bench.submit(dags.dag(calls("go", "work"), name="other"))
        acted = await bench.engine.desk.cancel(TENANT, run, ACTOR, "not wanted")
        assert acted == (True, State.CANCELLED)
        assert (await bench.engine.desk.cancel(TENANT, run, ACTOR, "not wanted")) == (False, State.CANCELLED)
        with pytest.raises(IllegalTransition):
            await bench.engine.desk.cancel(TENANT, run, ACTOR, "for another reason")
        assert (await bench.ended(other)).head.state is State.COMPLETED, (
            "the tenant may have one step at a time"
        )
        assert [step.reason for step in await bench.store.steps(TENANT, run)] == ["run_cancelled"] * 2


TIDY = """#!/bin/sh
trap 'echo tidied; exit 0' TERM
echo begun
while :; do sleep 0.01; done
"""


def told_in(log: Path) -> str:
    return log.read_text() if log.exists() else ""


async def test_a_cancelled_program_may_end_in_order_and_its_run_is_cancelled_all_the_same(
    start: Started, tmp_path: Path
) -> None:
    require_bubblewrap()
    code = tmp_path / "code"
    code.mkdir()
    (code / "tidy").write_text(TIDY)
    (code / "tidy").chmod(0o755)
    step = StepSpec(StepId("a"), Kind.ARGV, ("tidy",), resources=Resources(grace_us=600 * SECOND_US))
    executor: Any = await SandboxExecutor.open(tmp_path / "spool")
    async with start(executor=executor, slots=2) as bench:
        run = await bench.submit(dags.dag(step), code=code)
        log = Path(bench.files.log(TENANT, run, step.id, 1))

        async def has_begun() -> bool:
            return "begun" in told_in(log)

        async def is_free() -> bool:
            return (await bench.store.depths(TENANT))[0].executing == 0

        await until(has_begun)
        await bench.engine.desk.cancel(TENANT, run, ACTOR, None)
        told = [event.type for event in await bench.store.events(TENANT, run)]
        assert (await bench.engine.desk.cancel(TENANT, run, ACTOR, None)) == (False, State.CANCELLED)
        await until(is_free)
        assert "tidied" in told_in(log)
        assert told[-2:] == ["step.cancelled", "run.cancelled"]
        assert [event.type for event in await bench.store.events(TENANT, run)] == told


STUBBORN = """#!/usr/bin/python3
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
if len(sys.argv) == 2:
    for how in ({}, {"start_new_session": True}):
        subprocess.Popen([sys.executable, sys.argv[0], sys.argv[1], "child"], **how)
while True:
    time.sleep(60)
"""


def processes(marker: str) -> int:
    """Return how many processes of this machine have `marker` among their arguments, sandboxes' own ones left out."""
    found = 0
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                arguments = (place / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            found += marker.encode() in arguments and any(each.endswith(b"stubborn") for each in arguments)
    return found


async def test_a_cancelled_program_is_gone_with_its_children_even_when_it_ignores_every_word(
    start: Started, tmp_path: Path
) -> None:
    require_bubblewrap()
    code = tmp_path / "code"
    code.mkdir()
    (code / "stubborn").write_text(STUBBORN)
    (code / "stubborn").chmod(0o755)
    marker = f"marker-{tmp_path.name}-{id(code)}"
    step = StepSpec(StepId("a"), Kind.ARGV, ("stubborn", marker))
    executor: Any = await SandboxExecutor.open(tmp_path / "spool")
    async with start(executor=executor, slots=2) as bench:
        run = await bench.submit(dags.dag(step), code=code)

        async def all_there() -> bool:
            return processes(marker) >= 3

        async def all_gone() -> bool:
            return processes(marker) == 0 and (await bench.store.depths(TENANT))[0].executing == 0

        await until(all_there)
        await bench.engine.desk.cancel(TENANT, run, ACTOR, None)
        await until(all_gone)
        assert (await bench.store.run(TENANT, run)).head.state is State.CANCELLED
