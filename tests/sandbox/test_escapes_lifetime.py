"""Escapes, second part: outliving the step. Everything of it dies with the first process of its process namespace."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from support.attacker import Attacker, living


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
    found = attacker.run("linger", marker=sign, children=20, wall_us=600_000)
    assert (found["reason"], found["log"]) == ("wall_limit", len("started\n"))
    assert living(sign) == []


def test_a_process_that_forked_twice_dies_with_its_step(attacker: Attacker) -> None:
    sign = marker(attacker, "daemon")
    assert attacker.value("daemon", marker=sign) > 0
    assert living(sign) == []


def test_when_the_supervisor_is_killed_nothing_of_its_steps_lives_on(attacker: Attacker) -> None:
    sign = marker(attacker, "supervisor")
    running = attacker.start("linger", marker=sign, children=3)
    eventually(lambda: len(living(sign)) >= 3)
    attacker.kill_supervisor()
    assert attacker.result(running)["reason"] == "sandbox_error"
    eventually(lambda: not living(sign))
    assert attacker.value("hello") == "hello"
