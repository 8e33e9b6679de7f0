"""Looking at a running step: who belongs to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from sovrun.sandbox import watch


@pytest.fixture
def family() -> Iterator[list[int]]:
    """Start a shell with a child of its own; return their process ids, the shell's first."""
    shell = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True
    )
    assert shell.stdout is not None
    child = int(shell.stdout.readline())
    yield [shell.pid, child]
    os.kill(child, 9)
    shell.kill()
    shell.communicate()


@pytest.mark.parametrize("lists", [True, False], ids=["children are listed", "parents are asked for"])
def test_all_that_descend_from_a_process_are_found(family: list[int], lists, monkeypatch) -> None:
    monkeypatch.setattr(watch, "LISTS_CHILDREN", lists and watch.LISTS_CHILDREN)
    assert sorted(watch.descendants(family[0])) == sorted(family)
    assert set(family) <= set(watch.descendants(os.getpid()))


def test_a_process_that_has_ended_has_used_nothing() -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    assert watch.descendants(gone.pid) == [gone.pid]
    assert (watch._resident(gone.pid), watch._proportional(gone.pid), watch._cpu_of(gone.pid)) == (0, 0, 0)


def test_what_this_process_uses_is_seen() -> None:
    assert 0 < watch._proportional(os.getpid()) <= 2 * watch._resident(os.getpid())
    assert watch._cpu_of(os.getpid()) > 0
