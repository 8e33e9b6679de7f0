"""Tasks for executors, and what came of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sovrun.core.canonical import canonical
from sovrun.core.ids import RunId, StepId, Tenant
from sovrun.core.spec.model import Kind, Resources
from sovrun.ports import Failed, Succeeded, Task
from sovrun.sandbox.settings import SandboxSettings
from support.facilities import lacking


def require_bubblewrap() -> None:
    """Skip by name on a laptop without bubblewrap; in CI its absence is a failure."""
    if SandboxSettings().bubblewrap() is None:
        lacking("bubblewrap is not installed")


def task(entry: str | tuple[str, ...], *, code: Path | None = None, **more: Any) -> Task:
    """A task whose arguments and limits are given by name; the rest does not matter."""
    limits = {name: more.pop(name) for name in list(more) if name in Resources.__slots__}
    files = more.pop("input_files", {})
    return Task(
        tenant=Tenant("acme"),
        run=RunId("0" * 32),
        step=StepId("step"),
        attempt=1,
        kind=Kind.PYTHON if isinstance(entry, str) else Kind.ARGV,
        entry=entry,
        arguments=canonical(more),
        resources=replace(Resources(), **limits),
        epoch=315_532_800,
        code=code,
        files=files,
    )


def value_of(outcome: Succeeded | Failed) -> Any:
    assert isinstance(outcome, Succeeded), outcome
    return json.loads(outcome.output)


def failure_of(outcome: Succeeded | Failed) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome
