"""Every guide can be followed word by word: its files are written, its commands run, its output is what is shown."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.cli import environment
from support.markdown import DOCS, Block, Command, blocks, commands, name_of, pattern_of
from support.tasks import require_bubblewrap

GUIDES = sorted(page for page in (DOCS / "guides").glob("*.md") if "```console" in page.read_text())


def shell_of(guide: list[Block], folder: Path) -> tuple[str, list[Command]]:
    """Return a script that follows a guide and marks where each command's output begins and ends."""
    lines = ["exec 2>&1"]
    told: list[Command] = []
    for number, block in enumerate(guide):
        if "file" in block.attributes:
            kept = folder / f"block-{number}"
            kept.write_text(block.text)
            target = shlex.quote(block.attributes["file"])
            lines.append(f'mkdir -p "$(dirname {target})" && cat {kept} > {target}')
        elif block.language == "console":
            for command in commands(block):
                lines.append(f"printf '\\n@@%d\\n' {len(told)}\n{command.text}\nprintf '\\n@@=%d\\n' $?")
                told.append(command)
    return "\n".join(lines), told


def follow(page: Path, tmp_path: Path) -> list[tuple[Command, int, str]]:
    """Follow a guide in an empty directory and return of each command its exit code and what it printed."""
    work, tools = tmp_path / "work", tmp_path / "tools"
    work.mkdir()
    tools.mkdir()
    for name, call in (("sovrun", "-m sovrun"), ("python3", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {call} "$@"\n')
        (tools / name).chmod(0o755)
    script, told = shell_of(blocks(page.read_text()), tools)
    variables = {**environment(), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=work,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    outputs = done.stdout.split("\n@@")[1:]
    assert len(outputs) == 2 * len(told), done.stdout + done.stderr
    return [
        (command, int(end.partition("=")[2]), printed.partition("\n")[2])
        for command, printed, end in zip(told, outputs[::2], outputs[1::2], strict=True)
    ]


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_a_guide_can_be_followed_word_by_word(page: Path, tmp_path: Path) -> None:
    require_bubblewrap()
    followed = follow(page, tmp_path)
    assert followed
    for command, code, printed in followed:
        where = f"{name_of(page)}:{command.line}: $ {command.text}\nprinted:\n{printed}"
        assert code == command.code, f"{where}\nexit code {code}, not {command.code}"
        if command.shown:
            text = printed.rstrip("\n") + "\n"
            assert pattern_of(command.shown).fullmatch(text), f"{where}\nshown:\n{command.shown}"


def test_both_first_guides_are_followed() -> None:
    assert {"first-dag.md", "reading-a-run.md"} <= {page.name for page in GUIDES}


def test_an_output_that_is_not_what_a_guide_shows_is_noticed() -> None:
    assert pattern_of("a ... c\n...\nend").fullmatch("a b c\none\ntwo\nend\n")
    assert not pattern_of("a ... c\n...\nend").fullmatch("a b d\nend\n")
    assert not pattern_of("valid").fullmatch("valid\nand more\n")
