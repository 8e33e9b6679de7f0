"""Waits through the command line: nothing is alive between two commands, and only the right word ends a wait."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import termios
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.cli import command, environment, kill, start
from support.waits import AS_MANAGER, OTHER, RELEASE, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(scope="module")
def first_wait(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, str]:
    """A run that waits for a person, made once; tests work on copies."""
    site = Site(tmp_path_factory.mktemp("first"))
    return site, site.begun()


@pytest.fixture(scope="module")
def second_wait(first_wait: tuple[Site, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, str]:
    """The same run once it waits for the tool."""
    site, run = first_wait
    approved = site.copied(tmp_path_factory.mktemp("second"))
    approved.approved(run)
    assert approved.resumed(4) == ["awaiting_tool"]
    return approved, run


@pytest.fixture
def asked(first_wait: tuple[Site, str], tmp_path: Path) -> tuple[Site, str]:
    """A run that waits for a person, in a store of this test's own."""
    return first_wait[0].copied(tmp_path), first_wait[1]


@pytest.fixture
def scanning(second_wait: tuple[Site, str], tmp_path: Path) -> tuple[Site, str]:
    """A run that waits for a tool, in a store of this test's own."""
    return second_wait[0].copied(tmp_path), second_wait[1]


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_a_run_waits_for_approval_every_process_is_stopped_and_it_completes_once_approved(site: Site) -> None:
    run = site.begun()
    (wait,) = site.waits()
    assert (wait["runId"], wait["stepId"], wait["whom"]) == (run, "approve", "role release-manager")
    assert wait["shown"] == {"show": {"image": "app"}}
    assert wait["since"] < wait["until"]
    assert site.resumed(4) == ["awaiting_user_confirmation"], "a restart alone changes nothing"
    word = site.ask("approve", run, "approve", "--shown", wait["shownHash"], *AS_MANAGER)
    assert word == {"runId": run, "stepId": "approve", "changed": True, "status": "executing"}
    assert site.resumed(4) == ["awaiting_tool"]
    site.answered(run, findings=2)
    assert site.resumed(0) == ["completed"]
    assert site.waits() == []
    shown = site.ask("show", run)
    assert shown["reproducible"] is True
    assert all(step["until"] is None for step in shown["steps"])


def test_an_owner_that_is_killed_while_it_holds_the_wait_leaves_it_to_be_approved(
    asked: tuple[Site, str],
) -> None:
    site, run = asked
    # A run with a step that takes long keeps the owner alive until it is killed.
    slow = RELEASE.replace("id: release}", "id: slow}").replace("plug:propose", "plug:slow")
    other = Site(site.folder / "other", slow, "import time\ndef slow(image):\n    time.sleep(600)\n")
    process = start("run", other.file, "--store", site.store, "--isolation", "in-process", cwd=site.folder)
    while all(one["dagId"] != "slow" for one in site.ask("runs")["runs"]):
        assert process.poll() is None
    assert site.refusal("approve", run, "approve", "--yes", *AS_MANAGER, code=3) == "store_owned"
    assert [wait["runId"] for wait in site.waits()] == [run], "waits are read beside the owner"
    kill(process)
    site.approved(run)
    assert site.states(run)["approve"] == "completed"


def test_a_person_in_a_pipe_reads_what_is_waited_for_and_how_to_go_on(site: Site) -> None:
    done = site.tell("run", site.file, "--isolation", "in-process")
    assert done.code == 4
    assert "waits for role release-manager" in done.out
    assert "end the wait with: sovrun approve" in done.out
    assert f"go on with: sovrun resume --store {site.store} --isolation in-process" in done.out
    assert "outcome" not in done.out
    (line,) = (line for line in done.out.splitlines() if "sovrun approve" in line)
    assert site.tell(*line.partition("sovrun ")[2].split()[:-2]).code == 0, "the suggested command works"


# --- decisions --------------------------------------------------------------------------------------------------------


def test_an_approval_for_a_digest_that_is_not_current_is_refused_and_writes_nothing(
    asked: tuple[Site, str],
) -> None:
    site, run = asked
    before = site.events(run)
    assert site.refusal("approve", run, "approve", "--shown", OTHER, *AS_MANAGER) == "confirmation_changed"
    assert site.refusal("reject", run, "approve", "--shown", OTHER, *AS_MANAGER) == "confirmation_changed"
    assert site.events(run) == before
    assert site.states(run)["approve"] == "awaiting_user_confirmation"


def test_what_one_run_shows_does_not_approve_another(asked: tuple[Site, str]) -> None:
    site, _ = asked
    (old,) = site.waits()
    run = site.begun("--input", "image=new")
    assert (
        site.refusal("approve", run, "approve", "--shown", old["shownHash"], *AS_MANAGER)
        == "confirmation_changed"
    )


def test_only_the_role_that_is_named_may_decide(asked: tuple[Site, str]) -> None:
    site, run = asked
    assert site.refusal("approve", run, "approve", "--yes") == "not_allowed"
    assert site.refusal("reject", run, "approve", "--yes", "--role", "reader") == "not_allowed"
    site.ask("approve", run, "approve", "--yes", "--role", "reader", *AS_MANAGER)


def test_who_does_not_say_the_role_is_told_how(asked: tuple[Site, str]) -> None:
    site, run = asked
    done = site.tell("approve", run, "approve", "--yes")
    assert (done.code, "say so: --role release-manager" in done.err) == (2, True), done.err


def test_who_asked_and_may_not_decide_is_told_so_before_trying(tmp_path: Path) -> None:
    barring = RELEASE.replace(
        "show: {from: steps.propose}, expires: 14d",
        "show: {from: steps.propose}, expires: 14d, onExpiry: reject, barRequester: true",
    )
    site = Site(tmp_path, barring)
    run = site.begun()
    (wait,) = site.waits()
    assert (wait["role"], wait["actor"], wait["barRequester"]) == ("release-manager", None, True)
    assert wait["onExpiry"] == "reject"
    told = site.tell("waiting").out
    requester = site.ask("show", run)["actor"]
    assert f"{requester} asked for the run and may not decide" in told
    assert f"somebody else than you has to end the wait with: sovrun approve {run}" in told
    assert ", when it is rejected\n" in told
    assert site.refusal("approve", run, "approve", "--yes", *AS_MANAGER) == "not_allowed"


def test_a_wait_tells_what_its_expiry_comes_to(asked: tuple[Site, str], scanning: tuple[Site, str]) -> None:
    (wait,) = asked[0].waits()
    assert (wait["onExpiry"], wait["barRequester"]) == ("fail", False)
    told = asked[0].tell("waiting").out
    assert ", when it fails\n" in told
    assert "somebody else" not in told
    (wait,) = scanning[0].waits()
    assert (wait["onExpiry"], wait["role"]) == ("fail", None)


def test_who_decided_what_and_why_can_be_read(asked: tuple[Site, str]) -> None:
    site, run = asked
    site.ask("approve", run, "approve", "--yes", "--rationale", "seen and\x1b[2J good", *AS_MANAGER)
    shown = site.ask("show", run)
    step = {step["id"]: step for step in shown["steps"]}["approve"]
    assert (step["decision"], step["rationale"]) == ("approved", "seen and\x1b[2J good")
    assert step["decidedBy"] == shown["actor"], "the same person asked and approved"
    assert f"approve approved by {shown['actor']}: seen and\\u001b[2J good" in site.tell("show", run).out
    assert {step["decision"] for step in shown["steps"]} == {None, "approved"}


def test_the_same_decision_again_is_acknowledged_and_another_is_refused(asked: tuple[Site, str]) -> None:
    site, run = asked
    same = ("approve", run, "approve", "--yes", "--rationale", "seen", *AS_MANAGER)
    assert site.ask(*same)["changed"] is True
    before = site.events(run)
    assert site.ask(*same)["changed"] is False
    assert site.refusal("approve", run, "approve", "--yes", *AS_MANAGER) == "illegal_transition"
    assert site.refusal("reject", run, "approve", "--yes", *AS_MANAGER) == "illegal_transition"
    assert site.events(run) == before


def test_a_rejection_fails_the_step_and_what_needs_it(asked: tuple[Site, str]) -> None:
    site, run = asked
    word = site.ask("reject", run, "approve", "--yes", "--rationale", "not now", *AS_MANAGER)
    assert word["status"] == "failed"
    shown = site.ask("show", run)
    reasons = {step["id"]: step["reason"] for step in shown["steps"]}
    assert reasons["approve"] == "rejected"
    assert reasons["release"] == "upstream_failed"
    assert shown["reproducible"] is True, "a rejection is an outside answer, not a circumstance"


def test_without_a_terminal_a_decision_names_what_it_is_about(asked: tuple[Site, str]) -> None:
    site, run = asked
    done = site.tell("approve", run, "approve", *AS_MANAGER, stdin=b"y\n")
    assert done.code == 2
    assert "--shown" in done.err
    assert site.states(run)["approve"] == "awaiting_user_confirmation"


def test_a_step_that_does_not_wait_has_nothing_to_decide_on(asked: tuple[Site, str]) -> None:
    site, run = asked
    assert site.refusal("approve", run, "propose", "--yes", *AS_MANAGER) == "illegal_transition"
    assert site.refusal("approve", run, "scan", "--yes", *AS_MANAGER) == "illegal_transition"
    assert site.refusal("approve", run, "nothing", "--yes", *AS_MANAGER) == "not_found"
    assert site.refusal("approve", "0" * 32, "approve", "--yes", *AS_MANAGER) == "not_found"
    assert site.refusal("approve", run, "approve", "--shown", "abc", *AS_MANAGER) == "invalid_identifier"


def test_no_decision_crosses_tenants(asked: tuple[Site, str]) -> None:
    site, run = asked
    assert site.refusal("approve", run, "approve", "--yes", "--tenant", "other", *AS_MANAGER) == "not_found"
    assert site.ask("waiting", "--tenant", "other") == {"commands": [], "waits": []}


# --- a terminal -------------------------------------------------------------------------------------------------------


def at_terminal(site: Site, *arguments: object, typed: bytes, after: bytes = b"") -> tuple[int, str]:
    """Run a command on a terminal of its own, type once it shows `after`, and return its exit code and what was shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*arguments, "--store", site.store),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=site.folder,
        env=environment(TERM="dumb"),
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),  # noqa: PLW1509 -- no threads
    )
    os.close(theirs)
    shown = b""
    while after not in shown:
        shown += os.read(ours, 65_536)
    os.write(ours, typed)
    while True:
        try:
            shown += os.read(ours, 65_536)
        except OSError:  # the terminal hangs up when the last process on it has ended
            break
    os.close(ours)
    return process.wait(), shown.decode()


def test_on_a_terminal_a_person_sees_what_is_shown_and_is_asked(asked: tuple[Site, str]) -> None:
    site, run = asked
    code, shown = at_terminal(site, "approve", run, "approve", *AS_MANAGER, typed=b"n\n")
    assert code == 1
    assert '"image": "app"' in shown
    assert site.states(run)["approve"] == "awaiting_user_confirmation"
    code, shown = at_terminal(site, "approve", run, "approve", *AS_MANAGER, typed=b"y\n")
    assert code == 0
    assert site.states(run)["approve"] == "completed"


@pytest.mark.parametrize(("typed", "expected"), [(b"\x03", 130), (b"\x04", 1)], ids=["interrupt", "end"])
def test_who_interrupts_the_question_decides_nothing(
    asked: tuple[Site, str], typed: bytes, expected: int
) -> None:
    site, run = asked
    asking = ("approve", run, "approve", *AS_MANAGER)
    code, shown = at_terminal(site, *asking, typed=typed, after=b"Approve this?")
    assert (code, "nothing was decided" in shown) == (expected, True), shown
    assert site.states(run)["approve"] == "awaiting_user_confirmation"


def test_what_is_shown_cannot_move_the_cursor_or_turn_the_direction_of_reading(site: Site) -> None:
    site.begun("--input", "image=safe\u202egpj\u009b2J")
    shown = site.tell("waiting").out
    assert "safe\\u202egpj\\u009b2J" in shown


# --- tools ------------------------------------------------------------------------------------------------------------


def test_an_answer_has_to_fit_the_declared_outputs(scanning: tuple[Site, str]) -> None:
    site, run = scanning
    assert site.refusal("answer", run, "scan", "--output", '{"findings": "none"}') == "invalid_value"
    assert site.refusal("answer", run, "scan", "--output", "{") == "invalid_value"
    assert site.refusal("answer", run, "scan") == "invalid_setting"
    assert site.refusal("answer", run, "scan", "--output", "1", "--failure", "x") == "invalid_setting"
    assert site.refusal("answer", run, "approve", "--output", "1") == "illegal_transition"
    assert site.states(run)["scan"] == "awaiting_tool"


def test_the_same_answer_again_is_acknowledged_and_another_is_refused(scanning: tuple[Site, str]) -> None:
    site, run = scanning
    (site.folder / "answer.json").write_text('{"findings": 3}')
    assert site.ask("answer", run, "scan", "--output-file", "answer.json")["changed"] is True
    assert (
        site.ask("answer", run, "scan", "--output-file", "-", stdin=b'{"findings": 3.0}')["changed"] is False
    )
    assert site.refusal("answer", run, "scan", "--output", '{"findings": 4}') == "illegal_transition"
    assert site.resumed(0) == ["completed"]


def test_a_tool_that_has_no_answer_fails_the_step_with_its_words(scanning: tuple[Site, str]) -> None:
    site, run = scanning
    assert site.ask("answer", run, "scan", "--failure", "no such image")["status"] == "failed"
    steps = {step["id"]: step for step in site.ask("show", run)["steps"]}
    assert steps["scan"]["reason"] == "tool_failed"
    assert steps["scan"]["error"]["message"] == "no such image"


def test_an_answer_before_the_tool_is_asked_is_refused(asked: tuple[Site, str]) -> None:
    site, run = asked
    assert site.refusal("answer", run, "scan", "--output", '{"findings": 0}') == "illegal_transition"


# --- too late ---------------------------------------------------------------------------------------------------------

HASTY = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: hasty}
steps:
  - {id: scan, tool: {name: scanner, deadline: 2s}}
  - {id: agree, confirm: {show: {question: really}, expires: 2s}}
  - {id: allow, confirm: {show: {question: really}, expires: 2s, onExpiry: reject}}
"""


def test_a_word_that_comes_after_its_time_is_told_when_that_was(tmp_path: Path) -> None:
    site = Site(tmp_path, HASTY)
    run = site.begun()
    waits = {wait["stepId"]: wait["until"] for wait in site.waits()}
    assert len(waits) == 3
    last = datetime.fromisoformat(max(waits.values()))
    time.sleep(max(0.0, (last - datetime.now(UTC)).total_seconds()))
    for step, reason, words in (
        ("scan", "tool_expired", ("answer", run, "scan", "--output", "1")),
        ("agree", "confirmation_expired", ("approve", run, "agree", "--yes")),
        ("allow", "rejected", ("reject", run, "allow", "--yes")),
    ):
        done = site.tell(*words)
        assert (done.code, "[illegal_transition]" in done.err) == (2, True), done.err
        late = f"step {step} of run {run} waited until {waits[step]}: its time was over, and it failed ({reason})"
        assert late in done.err
    code, shown = at_terminal(site, "approve", run, "agree", typed=b"")
    assert (code, "its time was over" in shown) == (2, True), shown


def test_a_word_after_a_persons_own_is_not_called_late(asked: tuple[Site, str]) -> None:
    site, run = asked
    site.ask("reject", run, "approve", "--yes", *AS_MANAGER)
    done = site.tell("approve", run, "approve", "--yes", *AS_MANAGER)
    assert (done.code, "its time was over" in done.err) == (2, False), done.err
