"""The page about the command line has the commands, options and members that the program has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sovrun.cli.main import app
from sovrun.cli.output import Exit
from sovrun.engine.replay import Verdict
from support.cli import sovrun, write_dag
from support.markdown import DOCS, first_cells, rows, section

PAGE = (DOCS / "reference" / "cli.md").read_text()


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for part, below in command.commands.items():
            yield from _leaves(below, f"{name} {part}")
    else:
        yield name, command


COMMANDS = dict(_leaves(typer.main.get_command(app), "sovrun"))


def test_every_command_has_its_section() -> None:
    assert re.findall(r"^### `(sovrun [^`]*)`$", PAGE, re.MULTILINE) == sorted(
        COMMANDS, key=lambda name: PAGE.find(f"### `{name}`\n")
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_and_none_that_does_not_exist(name: str) -> None:
    explained = {
        option
        for cell in first_cells(section(PAGE, f"`{name}`"))
        for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", cell)
    }
    options = {
        option
        for parameter in COMMANDS[name].params
        for option in parameter.opts
        if option.startswith("-") and not getattr(parameter, "hidden", False)
    } - {"--help", "-h"}
    assert explained == options


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_those_of_the_program(name: str) -> None:
    told = {
        option: default[0]
        for cell, _, *default in rows(section(PAGE, f"`{name}`"))
        for option in re.findall(r"--[a-z-]+", cell)
        if default and default[0]
    }
    defaults = {
        parameter.opts[-1 if parameter.opts[-1].startswith("--") else 0]: parameter.default
        for parameter in COMMANDS[name].params
        if parameter.default not in (None, False)
    }
    assert {option: told.get(option) for option in defaults} == {
        option: str(value) for option, value in defaults.items()
    }


def test_every_exit_code_is_explained() -> None:
    assert first_cells(section(PAGE, "Exit codes")) == [*(str(int(code)) for code in Exit), "130", "143"]


def test_runs_and_replays_have_the_members_of_the_page(tmp_path: Path) -> None:
    file = write_dag(tmp_path / "dag")
    store = f"sqlite:{tmp_path / 'runs.db'}"
    run = sovrun("run", file, "--store", store, "--isolation", "in-process", "--json", cwd=tmp_path).json
    assert set(run) == set(first_cells(section(PAGE, "A run as JSON")))
    assert {name for step in run["steps"] for name in step} == set(
        first_cells(section(PAGE, "A step as JSON"))
    )
    replay = sovrun("replay", run["runId"], "--store", store, "--json", cwd=tmp_path).json
    assert set(replay) == set(first_cells(section(PAGE, "A replay as JSON")))
    assert set(replay["steps"][0]) == {"id", "verdict", "why", "state", "stepHash", "outputHash", "failure"}
    assert all(f"`{verdict}`" in section(PAGE, "A replay as JSON") for verdict in Verdict)


def test_plans_have_the_members_of_the_page(tmp_path: Path) -> None:
    file = write_dag(tmp_path / "dag")
    for name in ("validate", "plan"):
        shown = sovrun(name, file, "--json", cwd=tmp_path).json
        told = re.search(r"`\{([^}]*)\}`", section(PAGE, f"`sovrun {name}`"))
        assert told
        assert set(told[1].split(", ")) == set(shown)
