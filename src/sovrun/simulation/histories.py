"""Recorded histories as the checker reads them, and what it says when one breaks a rule.

Owns: `Entry`, `History`, `Violation`, and the ways from recorded events and from exported NDJSON to them.
Must not touch: what the entries mean (`checker.py`); how the engine makes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson

from sovrun.core.events import Event
from sovrun.core.spec.model import DagSpec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Entry(NamedTuple):
    """One recorded event; `canonical` is False when its data was not in the canonical form."""

    tenant: str
    run: str
    sequence: int
    time_us: int
    actor: str
    type: str
    step: str | None
    data: Mapping[str, Any]
    canonical: bool = True


@dataclass(frozen=True, slots=True)
class History:
    """One run as it was recorded.

    Args:
        chain_head: what the store or a face says the head of the hash chain is; None when nobody said.
    """

    spec: DagSpec
    entries: Sequence[Entry]
    chain_head: str | None = None


class Violation(NamedTuple):
    """A rule that a history breaks: its name, the run, the sequence of the event (0: the run as a whole), and why."""

    rule: str
    run: str
    sequence: int
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: run {self.run} event {self.sequence}: {self.text}"


def entry_of(event: Event) -> Entry:
    """Return an event as a store gives it."""
    data = orjson.loads(event.data)
    same = orjson.dumps(data, option=orjson.OPT_SORT_KEYS) == event.data.encode()
    return Entry(
        event.tenant,
        event.run,
        event.sequence,
        event.time_us,
        event.actor,
        event.type,
        event.step,
        data,
        same,
    )


def entry_of_line(line: str) -> Entry:
    """Return an event as `sovrun events --json` prints it. Raises: ValueError, KeyError when it is none."""
    shown = json.loads(line)
    return Entry(
        shown["tenant"],
        shown["runId"],
        shown["sequence"],
        instant_us(shown["time"]),
        shown["actor"],
        shown["type"],
        shown["stepId"],
        shown["data"],
    )


def instant_us(text: str) -> int:
    """Return a recorded instant in microseconds. Raises: ValueError unless it is of the one fixed form."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    if len(text) != 27:
        raise ValueError(f"{text} is not of the fixed width of recorded times")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def histories_of(entries: Iterable[Entry], specs: Mapping[str, DagSpec]) -> list[History]:
    """Return entries of several runs, in any order of the runs, as histories in the order of their first times.

    Args:
        specs: by DAG version, as `run.received` names it.
    Raises: KeyError when a version is not among `specs` or a run does not begin with `run.received`.
    """
    by_run: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        by_run.setdefault((entry.tenant, entry.run), []).append(entry)
    ordered = sorted(by_run.values(), key=lambda of_run: of_run[0].time_us)
    return [History(specs[of_run[0].data["dagVersion"]], of_run) for of_run in ordered]
