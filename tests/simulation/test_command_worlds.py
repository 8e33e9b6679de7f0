"""Simulated worlds of commands: what a fixed set of seeds must show on every change, and that a seed decides everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from sovrun.execution.layer import CommandLayer
from sovrun.simulation.command_campaign import command_campaign, lines_of_command, simulate_commands
from sovrun.simulation.command_faults import ALL_COMMAND_FAULTS
from sovrun.simulation.command_world import CommandSettings
from support.cli import sovrun


def test_no_rule_is_broken_whatever_goes_wrong_around_a_command() -> None:
    report = command_campaign(1, CommandSettings(), commands=4_000)
    assert report.finding is None, (report.finding, list(lines_of_command(report.finding)))
    assert report.vacuous(CommandSettings()) == []


def test_where_nothing_goes_wrong_every_command_is_sent_once_and_answered() -> None:
    report = command_campaign(1, CommandSettings(faults=frozenset()), commands=300)
    assert report.finding is None, report.finding
    assert report.fired == {}
    assert report.ends["sent"] == report.commands
    assert report.ends["unknown"] == 0
    assert report.ends["confirmed (answered)"] + report.ends["refused (answered)"] == report.commands


def test_a_seed_decides_everything() -> None:
    first, again, other = (simulate_commands(seed, CommandSettings()) for seed in (7, 7, 8))
    assert first.histories == again.histories
    assert (first.fired, first.simulated_us) == (again.fired, again.simulated_us)
    assert first.histories != other.histories


def test_a_finding_comes_with_a_smaller_world_and_the_command_that_shows_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = CommandLayer._body

    async def forgetful(self: CommandLayer, *given: object) -> bytes:
        return await body(self, *given) + b" "  # type: ignore[arg-type]

    monkeypatch.setattr(CommandLayer, "_body", forgetful)
    finding = command_campaign(1, CommandSettings(), commands=100).finding
    assert finding is not None
    assert finding.violation.rule == "answers"
    assert (finding.settings.commands, finding.settings.runs) == (1, 0)
    assert finding.settings.faults == frozenset()
    assert (
        finding.command()
        == f"sovrun simulate --seed {finding.seed} --commands 1 --per-world 1 --runs 0 --faults none"
    )
    assert len(list(lines_of_command(finding))) == 3
    again = command_campaign(finding.seed, finding.settings, commands=1, shrink=False).finding
    assert again is not None
    assert again.violation == finding.violation


def test_a_campaign_of_commands_that_shows_too_little_says_so() -> None:
    report = command_campaign(1, CommandSettings(faults=frozenset()), commands=1)
    report.commands = 10_000
    missing = report.vacuous(CommandSettings())
    assert "the fault crash_in_call never fired" in missing
    assert "no command came to: parked" in missing
    assert len(missing) > len(ALL_COMMAND_FAULTS)


def test_the_command_line_simulates_commands_and_reports(tmp_path: Path) -> None:
    done = sovrun("simulate", "--seed", "1", "--commands", "30", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    figures = done.json
    assert (figures["commands"] >= 30, figures["finding"], figures["vacuous"]) == (True, None, [])
    assert sovrun("simulate", "--commands", "1", "--faults", "gremlins", cwd=tmp_path).code == 2
    assert sovrun("simulate", "--commands", "1", "--store", "sqlite", cwd=tmp_path).code == 2
