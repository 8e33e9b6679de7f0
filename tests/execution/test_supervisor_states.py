"""What supervisord's words mean, held against supervisord's own tables."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
from supervisor import states
from supervisor.xmlrpc import Faults

from sovrun.execution.adapters.supervisor_rpc import FaultCode
from sovrun.execution.adapters.supervisor_states import (
    NO_POLICY,
    PRECEDENCE,
    STATES,
    Policy,
    Process,
    process_of,
    raw_status,
    status_of,
    status_together,
)
from sovrun.execution.port import LIVE, DeploymentStatus, OutcomeUnknown
from support.markdown import DOCS, section

QUEUED, RUNNING, STOPPING = DeploymentStatus.QUEUED, DeploymentStatus.RUNNING, DeploymentStatus.STOPPING
STOPPED, FAILED = DeploymentStatus.STOPPED, DeploymentStatus.FAILED
STARTS = Policy(starts=True, restart="unexpected", exit_codes=frozenset({0, 3}))


def process(state: str, exit_status: int | None = None, *, started: bool = True) -> Process:
    return Process("g", "p", state, started, 7, exit_status, "")


def policy(restart: str) -> Policy:
    return Policy(starts=True, restart=restart, exit_codes=frozenset({0, 3}))


def numbers(table: type) -> dict[str, int]:
    return {name: value for name, value in vars(table).items() if not name.startswith("_")}


def test_every_state_of_supervisords_is_mapped_and_no_other() -> None:
    assert set(STATES) == set(numbers(states.ProcessStates))


def test_the_faults_are_supervisords() -> None:
    assert {fault.name: fault.value for fault in FaultCode} == numbers(Faults)


def test_what_supervisord_still_runs_is_live_and_what_it_does_not_is_over() -> None:
    by_number = {number: name for name, number in numbers(states.ProcessStates).items()}
    for number in states.RUNNING_STATES:
        assert STATES[by_number[number]] in LIVE
    for number in states.STOPPED_STATES:
        assert STATES[by_number[number]] not in LIVE


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("STARTING", QUEUED),
        ("RUNNING", RUNNING),
        ("BACKOFF", QUEUED),
        ("STOPPING", STOPPING),
        ("STOPPED", STOPPED),
        ("FATAL", FAILED),
        ("UNKNOWN", FAILED),
    ],
)
def test_a_process_is_what_the_table_says(state: str, status: DeploymentStatus) -> None:
    assert status_of(process(state), STARTS) is status


def test_what_was_just_added_is_queued_unless_it_is_to_stay_stopped() -> None:
    assert status_of(process("STOPPED", started=False), STARTS) is QUEUED
    assert status_of(process("STOPPED", started=False), NO_POLICY) is STOPPED


@pytest.mark.parametrize(
    ("restart", "exit_status", "status"),
    [
        ("never", 0, STOPPED),
        ("never", 3, STOPPED),
        ("never", 1, FAILED),
        ("never", -1, FAILED),
        ("unexpected", 3, STOPPED),
        ("unexpected", 1, QUEUED),
        ("always", 0, QUEUED),
        ("always", 1, QUEUED),
    ],
)
def test_an_exit_is_the_end_only_when_supervisord_does_not_start_it_again(
    restart: str, exit_status: int, status: DeploymentStatus
) -> None:
    assert status_of(process("EXITED", exit_status), policy(restart)) is status


def test_a_state_that_supervisord_did_not_have_before_is_never_guessed_at() -> None:
    with pytest.raises(OutcomeUnknown) as unknown:
        status_of(process("PAUSED"), STARTS)
    assert unknown.value.reason == "bad_answer"


def test_a_deployment_has_ended_only_when_all_its_processes_have() -> None:
    for pair in product(STATES, repeat=2):
        both = [process(state, 0 if state == "EXITED" else None) for state in pair]
        each = {status_of(one, STARTS) for one in both}
        together = status_together(both, STARTS)
        assert together in each
        assert (together in LIVE) == bool(each & LIVE)
        if each == {STOPPED, FAILED}:
            assert together is FAILED
    assert set(PRECEDENCE) == set(STATES.values())


def test_the_words_of_all_processes_are_kept() -> None:
    assert raw_status([process("RUNNING"), process("FATAL"), process("RUNNING")]) == "FATAL,RUNNING"


@pytest.mark.parametrize(
    "info", [None, 7, {}, {"group": "g", "name": "p", "statename": "RUNNING", "start": "x", "pid": 1}]
)
def test_a_process_that_makes_no_sense_is_a_bad_answer(info: Any) -> None:
    with pytest.raises(OutcomeUnknown) as unknown:
        process_of(info)
    assert unknown.value.reason == "bad_answer"


def test_the_guide_has_the_same_table() -> None:
    page = section((DOCS / "guides" / "commands.md").read_text(), "Processes under supervisord")
    told = re.findall(r"^\| `([A-Z]+)` \| `([a-z]+)` \|$", page, flags=re.MULTILINE)
    assert dict(told) == {state: status.value for state, status in STATES.items()}
    assert len(told) == len(STATES)
