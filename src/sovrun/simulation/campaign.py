"""Many worlds, one after another: what was tried, what went wrong, and the shortest way to see it again.

Owns: `campaign`, `Report`, `Finding`, the vacuity check, and the search for a smaller world that breaks the same rule.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sovrun.simulation.faults import ALL_FAULTS, Fault
from sovrun.simulation.histories import History, Violation
from sovrun.simulation.world import Seen, Settings, World

_HOUR_US: Final = 3_600_000_000
_SHRINK_SEEDS: Final = 20
"""How many seeds near the failing one a smaller world is tried with: smaller settings make other worlds."""
_SHRINK_WORLDS: Final = {"memory": 1_500, "sqlite": 120}
"""How many worlds the search may try in all."""
_RUNS_FOR_VACUITY: Final = 1_200
"""Runs from which on every kind of fault and every end has to have come up."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule: in which world, and the shortest history found that breaks it."""

    seed: int
    settings: Settings
    violation: Violation
    history: History | None

    def command(self) -> str:
        """Return the command that shows it again."""
        settings = self.settings
        text = (
            f"sovrun simulate --seed {self.seed} --runs {settings.runs} --per-world {settings.runs} "
            f"--steps {settings.steps} --workers {settings.workers} --store {settings.store}"
        )
        if settings.faults != ALL_FAULTS:
            text += f" --faults {','.join(sorted(settings.faults)) or 'none'}"
        return text


@dataclass(slots=True)
class Report:
    """What a campaign came to.

    Args:
        runs: simulated; compared: reproducible runs held against a faultless one; late: reports refused as late.
    """

    seed: int
    worlds: int = 0
    runs: int = 0
    reproducible: int = 0
    compared: int = 0
    late: int = 0
    simulated_us: int = 0
    seconds: float = 0.0
    fired: Counter[Fault] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    finding: Finding | None = None

    def add(self, seen: Seen) -> None:
        """Count a world."""
        self.worlds += 1
        self.runs += seen.runs
        self.reproducible += seen.reproducible
        self.compared += seen.compared
        self.late += seen.late
        self.simulated_us += seen.simulated_us
        self.fired.update(seen.fired)
        self.states.update(seen.states)
        self.moves.update(seen.moves)

    def vacuous(self, settings: Settings) -> list[str]:
        """Return what a campaign of this size should have come upon and did not."""
        if self.runs < _RUNS_FOR_VACUITY:
            return []
        missing = [f"the fault {fault} never fired" for fault in sorted(settings.faults - self.fired.keys())]
        ends = ("completed", "failed") + (("cancelled",) if Fault.CANCEL in settings.faults else ())
        missing += [
            f"fewer than one run in a hundred {end}" for end in ends if self.states[end] * 100 < self.runs
        ]
        if self.reproducible * 2 < self.runs:
            missing.append("fewer than half of the runs were reproducible")
        if self.compared * 10 < self.reproducible * 9:
            missing.append("too few reproducible runs could be held against a faultless one")
        if self.moves["step.completed"] < self.runs:
            missing.append("fewer steps completed than there were runs")
        return missing

    def plain(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        return {
            "seed": self.seed,
            "worlds": self.worlds,
            "runs": self.runs,
            "runsPerSecond": round(self.runs / self.seconds, 1) if self.seconds else None,
            "seconds": round(self.seconds, 1),
            "simulatedHours": round(self.simulated_us / _HOUR_US, 1),
            "reproducible": self.reproducible,
            "comparedWithFaultless": self.compared,
            "lateReportsRefused": self.late,
            "faults": {str(fault): count for fault, count in sorted(self.fired.items())},
            "runStates": dict(sorted(self.states.items())),
            "moves": dict(sorted(self.moves.items())),
        }


def campaign(
    seed: int,
    settings: Settings,
    *,
    runs: int | None = None,
    seconds: float | None = None,
    told: Callable[[Report], None] | None = None,
    shrink: bool = True,
) -> Report:
    """Simulate worlds of the seeds from `seed` on until one breaks a rule, or all is done.

    Args:
        runs: how many to simulate at least; None means no bound. seconds: how long to go on; None means no bound.
        told: is given the figures after every world.
        shrink: whether to look for a smaller world that breaks the same rule.
    Raises: ValueError when neither bound is given.
    """
    if runs is None and seconds is None:
        raise ValueError("a campaign needs an end: a number of runs or of seconds")
    return asyncio.run(_campaign(seed, settings, runs, seconds, told or (lambda _: None), shrink=shrink))


async def _campaign(
    seed: int,
    settings: Settings,
    runs: int | None,
    seconds: float | None,
    told: Callable[[Report], None],
    *,
    shrink: bool,
) -> Report:
    report = Report(seed)
    begun = time.monotonic()
    while (runs is None or report.runs < runs) and (seconds is None or report.seconds < seconds):
        number = seed + report.worlds
        fitting = (
            settings
            if runs is None
            else replace(settings, runs=min(settings.runs, max(1, runs - report.runs)))
        )
        seen = await World(number, fitting).run()
        report.add(seen)
        report.seconds = time.monotonic() - begun
        told(report)
        if seen.violations:
            finding = _finding(number, fitting, seen)
            report.finding = await _shortest(finding) if shrink else finding
            return report
    return report


def _finding(seed: int, settings: Settings, seen: Seen, rule: str | None = None) -> Finding:
    """Return the first violation of a world, or the first of one rule."""
    violation = next(one for one in seen.violations if rule in (None, one.rule))
    histories = (history for history in seen.histories if history.entries[0].run == violation.run)
    return Finding(seed, settings, violation, next(histories, None))


async def _shortest(finding: Finding) -> Finding:
    """Return the same rule broken in the smallest world found: fewer runs, steps, workers and kinds of fault."""
    smaller = True
    budget = _SHRINK_WORLDS[finding.settings.store]
    while smaller:
        smaller = False
        for settings in _reduced(finding.settings):
            if budget <= 0:
                return finding
            found, tried = await _again(finding, settings)
            budget -= tried
            if found is not None:
                finding, smaller = found, True
                break
    return finding


async def _again(finding: Finding, settings: Settings) -> tuple[Finding | None, int]:
    """Return the finding in a world of other settings, None when it is in none of them, and how many were tried."""
    rule = finding.violation.rule
    for tried in range(1, _SHRINK_SEEDS + 1):
        seed = finding.seed + tried - 1
        seen = await World(seed, settings).run()
        if any(violation.rule == rule for violation in seen.violations):
            return _finding(seed, settings, seen, rule), tried
    return None, _SHRINK_SEEDS


def _reduced(settings: Settings) -> Iterator[Settings]:
    """Yield smaller settings, the boldest first."""
    for runs in sorted({1, settings.runs // 2, settings.runs - 1}):
        if 0 < runs < settings.runs:
            yield replace(settings, runs=runs)
    for steps in sorted({1, settings.steps // 2, settings.steps - 1}):
        if 0 < steps < settings.steps:
            yield replace(settings, steps=steps)
    if settings.workers > 1:
        yield replace(settings, workers=settings.workers - 1)
    if settings.faults:
        yield replace(settings, faults=frozenset())
    for fault in sorted(settings.faults):
        yield replace(settings, faults=settings.faults - {fault})


def lines_of(finding: Finding) -> Iterator[str]:
    """Yield the history of a finding, one event a line and digests shortened, for a person."""
    entries = () if finding.history is None else finding.history.entries
    for entry in entries:
        mark = ">" if entry.sequence == finding.violation.sequence else " "
        seconds = (entry.time_us - entries[0].time_us) / 1e6
        shown = " ".join(
            f"{name}={_short(value)}"
            for name, value in entry.data.items()
            if name not in ("environment", "errorHash")
        )
        yield f"{mark}{entry.sequence:4} {seconds:11.6f} {entry.type:32} {entry.step or '':5} {entry.actor:18} {shown}"


def _short(value: Any) -> Any:
    return value[:8] if isinstance(value, str) and len(value) == 64 else value
