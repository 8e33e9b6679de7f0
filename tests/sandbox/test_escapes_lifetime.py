"""Escapes, second part: outliving the step. Everything of it dies with the first process of its process namespace."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest

from support.attacker import Attacker, living
from support.supervised import launchers

AMPLE_US = 600_000_000


def marker(attacker: Attacker, name: str) -> str:
    return f"marker-{os.getpid()}-{attacker.uid}-{name}"


def eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_ignores_every_request_to_end_is_killed_by_the_wall_clock_with_its_sessions(
    attacker: Attacker,
) -> None:
    sign = marker(attacker, "linger")
    found = attacker.run("linger", marker=sign, children=20, wall_us=600_000, grace_us=100_000)
    assert (found["reason"], found["log"]) == ("wall_limit", len("started\n"))
    assert living(sign) == []


def test_what_is_told_to_end_may_end_in_order_but_its_children_do_not_outlive_it(attacker: Attacker) -> None:
    sign = marker(attacker, "tidy")
    found = attacker.run("tidy", marker=sign, children=5, wall_us=2_000_000, grace_us=AMPLE_US)
    assert (found["reason"], found["log"]) == ("wall_limit", len("started\ntidied\n"))
    assert living(sign) == []


def test_a_program_itself_is_told_to_end_and_not_what_stands_around_it(attacker: Attacker) -> None:
    script = "trap 'echo tidied; exit 0' TERM; echo started; while :; do sleep 0.01; done"
    found = attacker.run(["/bin/sh", "-c", script], wall_us=2_000_000, grace_us=AMPLE_US)
    assert (found["reason"], found["log"]) == ("wall_limit", len("started\ntidied\n"))


def test_other_limits_leave_no_time_to_end(attacker: Attacker) -> None:
    script = "trap 'echo tidied; exit 0' TERM; for one in 1 2 3; do (while :; do :; done) & done; wait"
    found = attacker.run(["/bin/sh", "-c", script], cpu_us=2_000_000, grace_us=AMPLE_US)
    assert (found["reason"], found["log"]) == ("cpu_limit", 0)


def test_a_process_that_forked_twice_dies_with_its_step(attacker: Attacker) -> None:
    sign = marker(attacker, "daemon")
    assert attacker.value("daemon", marker=sign) > 0
    assert living(sign) == []


def test_when_the_supervisor_is_killed_nothing_of_its_steps_lives_on(attacker: Attacker) -> None:
    sign = marker(attacker, "supervisor")
    running = attacker.start("linger", marker=sign, children=3)
    eventually(lambda: len(living(sign)) >= 3)
    attacker.kill("supervisor")
    assert attacker.result(running)["reason"] == "sandbox_error"
    eventually(lambda: not living(sign))
    assert attacker.value("hello") == "hello"


@pytest.mark.parametrize("whom", ["supervisor", "guard"])
def test_whoever_is_killed_at_any_moment_of_a_start_leaves_nothing(attacker: Attacker, whom: str) -> None:
    """What asks the kernel for death with its parent can only do so after it was made."""
    moments = random.Random(20261121)
    with launchers() as started:
        other = Attacker(attacker.uid, attacker.warm)
        for _ in range(12):
            assert other.value(["/bin/true"]) is not None  # its supervisor is there
            running = [other.start("linger", marker="-", children=1) for _ in range(3)]
            time.sleep(moments.uniform(0.0, 0.04))
            other.kill(whom)
            assert [other.result(one)["reason"] for one in running] == ["sandbox_error"] * 3
            assert started() == []
        other.close()


def test_when_the_engine_is_killed_while_steps_start_nothing_lives_on(attacker: Attacker) -> None:
    moments = random.Random(20261122)
    with launchers() as started:
        for _ in range(4):
            other = Attacker(attacker.uid, attacker.warm)
            assert other.value(["/bin/true"]) is not None
            for _ in range(3):
                other.start("linger", marker="-", children=1)
            time.sleep(moments.uniform(0.0, 0.04))
            other.kill_engine()
            other.close()
            eventually(lambda: not started())
