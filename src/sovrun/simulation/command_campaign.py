"""Many worlds of commands, one after another: what was tried, what went wrong, and the smallest world that shows it again.

Owns: `command_campaign`, `simulate_commands`, `CommandReport`, `CommandFinding`, the vacuity check.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sovrun.simulation.clock import SimulatedClock
from sovrun.simulation.command_checker import CommandHistory
from sovrun.simulation.command_faults import ALL_COMMAND_FAULTS, CommandFault
from sovrun.simulation.command_world import CommandSettings, CommandsSeen, CommandWorld
from sovrun.simulation.histories import Violation
from sovrun.simulation.virtual import run_simulated

_HOUR_US: Final = 3_600_000_000
_SHRINK_SEEDS: Final = 10
_SHRINK_WORLDS: Final = 300
_COMMANDS_FOR_VACUITY: Final = 4_000
"""Commands from which on every kind of fault and every way to an end has to have come up."""
_EXPECTED: Final = (
    "confirmed (answered)",
    "confirmed (found)",
    "confirmed (person)",
    "refused (answered)",
    "refused (cancelled)",
    "refused (gate)",
    "refused (person)",
    "unknown",
    "looked",
    "parked",
    "resend_wanted",
    "sent again",
)
_EXPECTED_OF_STEPS: Final = (
    "step.executing (confirmed)",
    "step.executing (refused)",
    "step.executing (unknown)",
    "step.executing (parked)",
    "step.executing (resumed)",
    "step.cancelled (run_cancelled)",
)


@dataclass(frozen=True, slots=True)
class CommandFinding:
    """A broken rule: in which world, and the history of the command that breaks it, when it is one's."""

    seed: int
    settings: CommandSettings
    violation: Violation
    history: CommandHistory | None

    def command(self) -> str:
        """Return the command line that shows it again."""
        settings = self.settings
        text = f"sovrun simulate --seed {self.seed} --commands 1"
        text += f" --per-world {settings.commands} --runs {settings.runs}"
        if settings.faults != ALL_COMMAND_FAULTS:
            text += f" --faults {','.join(sorted(settings.faults)) or 'none'}"
        return text


@dataclass(slots=True)
class CommandReport:
    """What a campaign came to.

    Args:
        commands: journalled; effects: that came about at the providers; ends: entries by type, and what became of commands.
    """

    seed: int
    worlds: int = 0
    commands: int = 0
    effects: int = 0
    simulated_us: int = 0
    seconds: float = 0.0
    fired: Counter[CommandFault] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    finding: CommandFinding | None = None

    def add(self, seen: CommandsSeen) -> None:
        """Count a world."""
        self.worlds += 1
        self.commands += seen.commands
        self.effects += seen.effects
        self.simulated_us += seen.simulated_us
        self.fired.update(seen.fired)
        self.ends.update(seen.ends)
        self.steps.update(seen.steps)

    def vacuous(self, settings: CommandSettings) -> list[str]:
        """Return what a campaign of this size should have come upon and did not."""
        if self.commands < _COMMANDS_FOR_VACUITY:
            return []
        missing = [f"the fault {fault} never fired" for fault in sorted(settings.faults - self.fired.keys())]
        missing += [f"no command came to: {end}" for end in _EXPECTED if not self.ends[end]]
        missing += [f"no command step came to: {end}" for end in _EXPECTED_OF_STEPS if not self.steps[end]]
        if self.ends["confirmed"] * 2 < self.commands:
            missing.append("fewer than half of the commands were confirmed")
        if self.ends["unknown"] * 20 < self.commands:
            missing.append("fewer than one outcome in twenty was ever unknown")
        return missing

    def plain(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        return {
            "seed": self.seed,
            "worlds": self.worlds,
            "commands": self.commands,
            "commandsPerSecond": round(self.commands / self.seconds, 1) if self.seconds else None,
            "seconds": round(self.seconds, 1),
            "simulatedHours": round(self.simulated_us / _HOUR_US, 1),
            "effects": self.effects,
            "faults": {str(fault): count for fault, count in sorted(self.fired.items())},
            "entries": dict(sorted(self.ends.items())),
            "steps": dict(sorted(self.steps.items())),
        }


def simulate_commands(seed: int, settings: CommandSettings) -> CommandsSeen:
    """Let one world happen and return what it came to; the same seed and settings make the same world."""
    clock = SimulatedClock()
    return run_simulated(clock, CommandWorld(seed, settings, clock).run())


def command_campaign(
    seed: int,
    settings: CommandSettings,
    *,
    commands: int | None = None,
    seconds: float | None = None,
    told: Callable[[CommandReport], None] | None = None,
    shrink: bool = True,
) -> CommandReport:
    """Simulate worlds of the seeds from `seed` on until one breaks a rule, or all is done.

    Args:
        commands: how many to simulate at least; None means no bound. seconds: how long to go on; None means no bound.
        told: is given the figures after every world.
        shrink: whether to look for a smaller world that breaks the same rule.
    Raises: ValueError when neither bound is given.
    """
    if commands is None and seconds is None:
        raise ValueError("a campaign needs an end: a number of commands or of seconds")
    report = CommandReport(seed)
    begun = time.monotonic()
    while (commands is None or report.commands < commands) and (seconds is None or report.seconds < seconds):
        number = seed + report.worlds
        seen = simulate_commands(number, settings)
        report.add(seen)
        report.seconds = time.monotonic() - begun
        if told is not None:
            told(report)
        if seen.violations:
            finding = _finding(number, settings, seen, seen.violations[0].rule)
            report.finding = _smallest(finding) if shrink else finding
            return report
        if not seen.commands:
            raise ValueError("these worlds have no commands")
    return report


def _finding(seed: int, settings: CommandSettings, seen: CommandsSeen, rule: str) -> CommandFinding:
    violation = next(one for one in seen.violations if one.rule == rule)
    history = next((history for history in seen.histories if history.id == violation.run), None)
    return CommandFinding(seed, settings, violation, history)


def _smallest(finding: CommandFinding) -> CommandFinding:
    """Return the same rule broken in the smallest world found: fewer commands, runs and kinds of fault."""
    rule, budget, smaller = finding.violation.rule, _SHRINK_WORLDS, True
    while smaller:
        smaller = False
        for settings in _reduced(finding.settings):
            for seed in range(finding.seed, finding.seed + _SHRINK_SEEDS):
                if budget <= 0:
                    return finding
                budget -= 1
                seen = simulate_commands(seed, settings)
                if any(violation.rule == rule for violation in seen.violations):
                    finding, smaller = _finding(seed, settings, seen, rule), True
                    break
            if smaller:
                break
    return finding


def _reduced(settings: CommandSettings) -> Iterator[CommandSettings]:
    """Yield smaller settings, the boldest first."""
    for commands in sorted({1, settings.commands // 2, settings.commands - 1}):
        if 0 < commands < settings.commands:
            yield replace(settings, commands=commands)
    if settings.runs:
        yield replace(settings, runs=0)
    if settings.faults:
        yield replace(settings, faults=frozenset())
    for fault in sorted(settings.faults):
        yield replace(settings, faults=settings.faults - {fault})


def lines_of_command(finding: CommandFinding) -> Iterator[str]:
    """Yield the history of a finding's command, one entry a line and digests shortened, for a person."""
    entries = () if finding.history is None else finding.history.entries
    for entry in entries:
        mark = ">" if entry.sequence == finding.violation.sequence else " "
        seconds = (entry.time_us - entries[0].time_us) / 1e6
        shown = " ".join(f"{name}={_short(value)}" for name, value in entry.data.items())
        yield f"{mark}{entry.sequence:4} {seconds:11.6f} {entry.type:14} {entry.actor:18} {shown}"


def _short(value: Any) -> Any:
    return value[:8] if isinstance(value, str) and len(value) == 64 else value
