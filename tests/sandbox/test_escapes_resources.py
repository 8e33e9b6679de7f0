"""Escapes, first part: using up what the machine has. Each is stopped by the limit that is named."""

# ruff: noqa: FBT001 -- a fixture is an argument by position
from __future__ import annotations

import pytest

from support.attacker import Attacker

MIB = 1 << 20
WALL_US = 120_000_000
"""For attacks that do not end by themselves, so that a missing wall fails the test."""


@pytest.fixture(params=[True, False], ids=["control groups", "no control groups"])
def groups(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_fork_bomb_stops_at_its_limit(attacker: Attacker, groups: bool) -> None:
    found = attacker.value("fork_bomb", processes=20, control_groups=groups)
    assert found == {"made": 18, "refused": "EAGAIN"}  # the sandbox's first process and the step itself count


def test_a_fork_bomb_that_is_not_caught_is_named(attacker: Attacker, groups: bool) -> None:
    assert (
        attacker.reason("uncaught_fork_bomb", wall_us=WALL_US, processes=12, control_groups=groups)
        == "process_limit"
    )


def test_two_fork_bombs_do_not_take_processes_from_each_other(attacker: Attacker, groups: bool) -> None:
    both = [attacker.start("fork_bomb", processes=20, hold=0.5, control_groups=groups) for _ in range(2)]
    assert [attacker.result(one)["output"]["made"] for one in both] == [18, 18]


def test_files_that_are_kept_open_stop_at_their_limit(attacker: Attacker) -> None:
    assert attacker.reason("uncaught_opening", wall_us=WALL_US, open_files=40) == "open_files_limit"


def test_one_process_gets_no_more_memory_than_its_limit(attacker: Attacker, groups: bool) -> None:
    assert attacker.value("memory_of_one", size=64 * MIB, memory=256 * MIB, control_groups=groups) == 64 * MIB
    reason = attacker.reason("memory_of_one", size=512 * MIB, memory=256 * MIB, control_groups=groups)
    assert reason == "memory_limit"


def test_many_processes_together_get_no_more_memory_than_the_limit(attacker: Attacker, groups: bool) -> None:
    """A control group stops them exactly; else they are seen within a tenth of a second, and the record says so."""
    found = attacker.run(
        "memory_of_many", wall_us=WALL_US, count=12, size=64 * MIB, memory=256 * MIB, control_groups=groups
    )
    hard = groups and attacker.memory_is_hard
    assert (found["reason"], found["walls"]["memory"]) == ("memory_limit", "hard" if hard else "best-effort")
    if hard:
        assert found["usage"] <= 256 * MIB


def test_memory_that_belongs_to_no_process_is_counted_or_denied(attacker: Attacker, groups: bool) -> None:
    given = {"size": 512 * MIB, "memory": 256 * MIB, "control_groups": groups}
    if groups and attacker.memory_is_hard:
        assert attacker.reason("memory_of_none", **given) == "memory_limit"
    else:  # by the filter
        assert attacker.value("memory_of_none", **given) == "EPERM"
        assert attacker.value("calls", control_groups=groups, wanted=[["shmget", 0, MIB, 0o1600]]) == {
            "shmget 0": "EPERM"
        }


def test_a_step_that_demands_hard_memory_is_refused_where_there_is_none(
    attacker: Attacker, groups: bool
) -> None:
    found = attacker.run("hello", memory_hard=True, control_groups=groups)
    if groups and attacker.memory_is_hard:
        assert (found["ok"], found["walls"]["memory"]) == (True, "hard")
    else:
        assert (found["reason"], found["message"][:8]) == ("memory_not_hard", "memory: ")


@pytest.mark.parametrize("folder", ["/work", "/tmp", "/dev/shm"])  # noqa: S108 -- inside
def test_no_place_holds_more_bytes_than_its_size(attacker: Attacker, folder: str) -> None:
    room = {"disk": 8 * MIB, "folder": folder}
    assert attacker.reason("fill", number=1, size=9 * MIB, **room) == "disk_limit"
    assert attacker.reason("fill", number=12, size=MIB, **room) == "disk_limit"
    assert attacker.value("fill", number=6, size=MIB, **room) == 6


@pytest.mark.parametrize("folder", ["/work", "/tmp", "/dev/shm"])  # noqa: S108 -- inside
def test_no_place_holds_more_files_than_its_number(attacker: Attacker, folder: str) -> None:
    """As root the file system has a number; else the files are counted ten times a second."""
    assert attacker.reason("fill_with_names", wall_us=WALL_US, folder=folder, files=200) == "disk_limit"
    assert attacker.value("fill", folder=folder, number=190, size=1, files=200) == 190


def test_endless_output_is_cut_off_and_kills(attacker: Attacker) -> None:
    found = attacker.run("print_for_ever", wall_us=WALL_US, log=MIB)
    assert (found["reason"], found["log"]) == ("log_limit", MIB)


def test_processor_time_is_that_of_all_processes(attacker: Attacker, groups: bool) -> None:
    """Each of four processes uses a fourth of what is too much for one."""
    found = attacker.run("burn", wall_us=WALL_US, number=4, cpu_us=1_000_000, control_groups=groups)
    assert found["reason"] == "cpu_limit"
    assert "all its processes" in found["message"]


def test_processor_time_is_also_that_of_children_whom_nobody_waits_for(
    attacker: Attacker, groups: bool
) -> None:
    found = attacker.run("burn_unwaited", wall_us=WALL_US, cpu_us=1_000_000, control_groups=groups)
    assert found["reason"] == "cpu_limit"


@pytest.mark.parametrize(
    ("attack", "more"), [("hide_shared", {"size": 96 * MIB}), ("fill_sockets", {})], ids=["shared", "sockets"]
)
def test_memory_that_is_in_no_resident_size_counts(
    attacker: Attacker, groups: bool, attack: str, more: dict[str, int]
) -> None:
    found = attacker.run(
        attack, wall_us=WALL_US, count=12, memory=256 * MIB, control_groups=groups, open_files=512, **more
    )
    assert found["reason"] == "memory_limit"


def test_sockets_and_shared_memory_of_an_honest_step_fit(attacker: Attacker, groups: bool) -> None:
    given = {"number": 30, "size": 100 * MIB, "memory": 256 * MIB, "control_groups": groups}
    assert attacker.value("use_sockets_and_shared_memory", **given) == 61


def test_limits_cannot_be_raised(attacker: Attacker, groups: bool) -> None:
    assert attacker.value("raise_limits", control_groups=groups) == []
