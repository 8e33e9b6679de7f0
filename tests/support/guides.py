"""Following a guide word by word: its files are written, its commands run, its output compared with what is shown."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from support.cli import environment
from support.markdown import Block, Command, blocks, commands, name_of, pattern_of


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


def follow(page: Path, tmp_path: Path, *, beside: Path | None = None) -> list[tuple[Command, int, str]]:
    """Follow a guide in an empty directory, or in a copy of `beside`; return each command, its exit code and its output."""
    work, tools = tmp_path / "work", tmp_path / "tools"
    if beside is None:
        work.mkdir()
    else:
        shutil.copytree(beside, work, ignore=shutil.ignore_patterns("__pycache__"))
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


def require_as_told(page: Path, followed: list[tuple[Command, int, str]]) -> None:
    """Fail with the place in the guide where a command did something else than is shown."""
    assert followed
    for command, code, printed in followed:
        where = f"{name_of(page)}:{command.line}: $ {command.text}\nprinted:\n{printed}"
        assert code == command.code, f"{where}\nexit code {code}, not {command.code}"
        if command.shown:
            text = printed.rstrip("\n") + "\n"
            assert pattern_of(command.shown).fullmatch(text), f"{where}\nshown:\n{command.shown}"
