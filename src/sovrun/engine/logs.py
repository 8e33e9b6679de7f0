"""What the attempts of steps have printed, as far as they have come.

Owns: `Logs`, the reading of log files by tenant, run, step and attempt. `sovrun.sandbox.capture` writes them.
Must not touch: the record. A log is there to be read, nothing is decided by it, and its absence is no error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from sovrun.core.errors import NotFound
from sovrun.core.ids import Digest, RunId, StepId, Tenant
from sovrun.core.lifecycle import TERMINAL, State
from sovrun.core.step import Step
from sovrun.core.times import time_text
from sovrun.engine.views import plan_of_run
from sovrun.ports import Files
from sovrun.store.protocol import Reads

PAGE_BYTES: Final = 1 << 20
"""Bytes of a file that are read at once; no piece is as long."""
SUFFIX: Final = ".ndjson"


class Piece(NamedTuple):
    """Something that was printed at once: when, in microseconds since the epoch, where (`stdout`, `stderr`), and what."""

    time_us: int
    stream: str
    text: str


class Page(NamedTuple):
    """A part of the log of one attempt.

    Args:
        attempt: whose it is; 0 when no attempt has printed anything.
        attempts: those that have printed something, ascending.
        next: from where to read on.
        is_over: nothing more will be printed by this attempt.
        is_last: no other attempt will follow.
    """

    attempt: int
    attempts: tuple[int, ...]
    pieces: Sequence[Piece]
    next: int
    is_over: bool
    is_last: bool


class Logs:
    """Reads logs beside whoever writes them."""

    def __init__(self, store: Reads, files: Files) -> None:
        self._store = store
        self._files = files
        self._orders: dict[Digest, Mapping[str, int]] = {}

    async def look(self, tenant: Tenant, run: RunId) -> RunLogs:
        """Return the logs of a run as things stand now. Raises: NotFound."""
        record = await self._store.run(tenant, run)
        version = record.head.version
        if version not in self._orders:
            plan = await plan_of_run(self._store, record)
            self._orders[version] = {step.id: position for position, step in enumerate(plan.steps)}
        steps = await self._store.steps(tenant, run)
        return RunLogs(self._files, tenant, run, self._orders[version], steps)


class RunLogs:
    """The logs of one run, and how far its steps had come when that was asked; what is read is as new as can be."""

    def __init__(
        self, files: Files, tenant: Tenant, run: RunId, order: Mapping[str, int], steps: Sequence[Step]
    ) -> None:
        self._files = files
        self._name = (tenant, run)
        self._order = order
        self._steps = steps
        self.is_over = all(step.state in TERMINAL for step in steps)
        """Whether no step of the run will print anything more."""

    def steps(self) -> list[str]:
        """Return the steps that have printed something, in plan order."""
        found = _names(Path(self._files.log(*self._name, StepId("any"), 1)).parents[1])
        return sorted(found & self._order.keys(), key=self._order.__getitem__)

    def page(self, step: str, *, attempt: int | None = None, after: int = 0) -> Page:
        """Return a part of what an attempt has printed; its latest by default.

        Args:
            after: `Page.next` of the part before.
        Raises: NotFound when the run has no such step, or the step has not begun that attempt.
        """
        position = self._order.get(step)
        if position is None:
            raise NotFound(f"the run has no step {step!r:.140}", hint="`sovrun show` lists its steps")
        state = self._steps[position]
        if attempt is not None and not 1 <= attempt <= state.attempts:
            raise NotFound(f"the step {step} has no attempt {attempt}; it has begun {state.attempts}")
        attempts = self._attempts(StepId(step))
        chosen = attempt or max(attempts, default=0)
        is_over = state.state is not State.EXECUTING or chosen < state.attempts
        pieces, following = _read(self._files.log(*self._name, StepId(step), chosen), after)
        return Page(chosen, attempts, pieces, following, is_over, state.state in TERMINAL)

    def _attempts(self, step: StepId) -> tuple[int, ...]:
        found = _names(Path(self._files.log(*self._name, step, 1)).parent)
        return tuple(
            sorted(int(number) for name in found if (number := name.removesuffix(SUFFIX)).isdecimal())
        )


def _names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()


def piece_json(piece: Piece) -> dict[str, Any]:
    """Return a piece as the object that programs see."""
    return {"at": time_text(piece.time_us), "stream": piece.stream, "text": piece.text}


def _read(path: str, after: int) -> tuple[list[Piece], int]:
    """Return the whole pieces of a file from a place on, up to `PAGE_BYTES` of them, and where the next one begins."""
    try:
        with Path(path).open("rb") as file:
            file.seek(after)
            data = file.read(PAGE_BYTES)
    except FileNotFoundError:
        return [], after
    whole = data[: data.rfind(b"\n") + 1]
    pieces = []
    for line in whole.splitlines():
        with suppress(ValueError, KeyError, TypeError):  # torn by a full disk; the rest can still be read
            piece = json.loads(line)
            pieces.append(Piece(int(piece["timeUs"]), str(piece["stream"]), str(piece["text"])))
    return pieces, after + len(whole)
