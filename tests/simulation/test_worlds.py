"""Simulated worlds: what a fixed set of seeds must show on every change, and that a seed decides everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from sovrun.core import run as core_run
from sovrun.core.lifecycle import Tally, decide_received
from sovrun.simulation.campaign import campaign, lines_of
from sovrun.simulation.faults import ALL_FAULTS, Fault
from sovrun.simulation.histories import Violation
from sovrun.simulation.world import Settings, World
from support.cli import sovrun


def test_no_rule_is_broken_in_memory_whatever_goes_wrong() -> None:
    report = campaign(1, Settings(), runs=1_800)
    assert report.finding is None, list(lines_of(report.finding))
    assert report.vacuous(Settings()) == []


def test_no_rule_is_broken_on_a_file_whose_owner_is_killed() -> None:
    report = campaign(1, Settings(store="sqlite"), runs=300)
    assert report.finding is None, list(lines_of(report.finding))
    assert report.fired[Fault.RESTART] > 3
    assert report.moves["step.completed"] > report.runs


def test_no_rule_is_broken_where_nothing_goes_wrong_and_every_run_is_as_without_faults() -> None:
    settings = Settings(faults=frozenset())
    report = campaign(1, settings, runs=300)
    assert report.finding is None
    assert report.fired == {}
    assert report.late == 0
    assert report.states["cancelled"] == 0
    assert report.moves["step.awaiting_tool (lease_expired)"] == 0


async def test_a_seed_decides_everything() -> None:
    first, again = await World(7, Settings()).run(), await World(7, Settings()).run()
    assert [history.chain_head for history in first.histories] == [h.chain_head for h in again.histories]
    assert (first.fired, first.simulated_us) == (again.fired, again.simulated_us)
    other = await World(8, Settings()).run()
    assert [history.chain_head for history in first.histories] != [h.chain_head for h in other.histories]


@pytest.mark.parametrize("seed", [3, 4])
async def test_both_stores_come_to_the_same_histories_but_for_their_batches(seed: int) -> None:
    outcomes = []
    for store in ("memory", "sqlite"):
        seen = await World(seed, Settings(store=store, runs=4, workers=1, faults=frozenset())).run()
        assert seen.violations == []
        outcomes.append([(h.entries[0].run, h.entries[-1].data["outcomeHash"]) for h in seen.histories])
    assert sorted(outcomes[0]) == sorted(outcomes[1])


def test_a_finding_comes_with_a_smaller_world_and_the_command_that_shows_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def strict(tally: Tally, needs: int, *, join_any: bool) -> object:
        return decide_received(tally, needs, join_any=join_any and needs > 9)

    monkeypatch.setattr(core_run, "decide_received", strict)
    finding = campaign(1, Settings(), runs=1_200).finding
    assert finding is not None
    assert finding.violation.rule == "decisions"
    assert finding.settings.runs <= 2
    assert finding.settings.steps < Settings().steps
    assert len(finding.settings.faults) < len(ALL_FAULTS)
    lines = list(lines_of(finding))
    assert sum(line.startswith(">") for line in lines) == 1
    words = finding.command().split()
    again = campaign(finding.seed, finding.settings, runs=finding.settings.runs, shrink=False).finding
    assert words[:2] == ["sovrun", "simulate"]
    assert again is not None
    assert again.violation == finding.violation


def test_a_campaign_that_shows_too_little_says_so() -> None:
    report = campaign(1, Settings(faults=frozenset()), runs=1)
    report.runs = 10_000
    missing = report.vacuous(Settings())
    assert "the fault crash_before never fired" in missing
    assert "fewer than one run in a hundred cancelled" in missing
    assert "fewer steps completed than there were runs" in missing


def test_an_error_that_nobody_expects_is_a_finding_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(core_run.Write, "settle", explode)
    finding = campaign(5, Settings(), runs=12, shrink=False).finding
    assert finding is not None
    assert finding.seed == 5
    assert finding.violation == Violation("error", "", 0, finding.violation.text)
    assert finding.violation.text.startswith("ZeroDivisionError at test_worlds.py:")


def test_the_command_line_simulates_and_reports(tmp_path: Path) -> None:
    done = sovrun("simulate", "--seed", "1", "--runs", "24", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    figures = done.json
    assert (figures["runs"] >= 24, figures["finding"], figures["vacuous"]) == (True, None, [])
    assert sovrun("simulate", "--runs", "1", "--faults", "gremlins", cwd=tmp_path).code == 2
