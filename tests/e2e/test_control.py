"""An operator's word through the command line: cancel, run again, pause, limit, and what the queue says."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.waits import AS_MANAGER, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(scope="module")
def first_wait(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, str]:
    """A run that waits for a person, made once; tests work on copies."""
    site = Site(tmp_path_factory.mktemp("first"))
    return site, site.begun()


@pytest.fixture
def asked(first_wait: tuple[Site, str], tmp_path: Path) -> tuple[Site, str]:
    """A run that waits for a person, in a store of this test's own."""
    return first_wait[0].copied(tmp_path), first_wait[1]


# Every execution of a step is written down outside of Sovrun, so that a reused step is seen not to execute.
COUNTING_PLUG = """
import pathlib
def _seen(name):
    with open({ledger!r}, "a") as ledger:
        ledger.write(name + "\\n")
def first():
    _seen("first")
    return {{"n": 1}}
def second(n):
    _seen("second")
    if not pathlib.Path({ready!r}).exists():
        raise ValueError("not ready")
    return {{"n": n + 1}}
"""
COUNTING = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: counting}
steps:
  - {id: first, python: "plug:first"}
  - id: second
    python: plug:second
    needs: [first]
    with: {n: {from: steps.first.n}}
    retry: {maxAttempts: 1}
"""


def counting(folder: Path) -> tuple[Site, Path, Path]:
    """Return a DAG whose second step fails until the file `ready` exists, and the ledger of what was executed."""
    ledger, ready = folder / "ledger", folder / "ready"
    plug = COUNTING_PLUG.format(ledger=str(ledger), ready=str(ready))
    return Site(folder / "site", COUNTING, plug), ledger, ready


# --- cancel -----------------------------------------------------------------------------------------------------------


def test_cancelling_a_waiting_run_ends_it_and_twice_is_harmless(asked: tuple[Site, str]) -> None:
    site, run = asked
    assert site.ask("cancel", run[:8], "--note", "wrong image") == {
        "runId": run,
        "changed": True,
        "status": "cancelled",
        "effectsUnresolved": 0,
    }
    before = site.events(run)
    assert site.ask("cancel", run, "--note", "wrong image")["changed"] is False
    assert site.refusal("cancel", run, "--note", "another reason") == "illegal_transition"
    assert site.refusal("approve", run, "approve", "--yes", *AS_MANAGER) == "illegal_transition"
    assert site.events(run) == before
    assert site.waits() == []
    assert {*site.states(run).values()} == {"completed", "cancelled"}


def test_who_cancelled_a_run_and_why_can_be_read(asked: tuple[Site, str]) -> None:
    site, run = asked
    before = site.ask("show", run)
    assert (before["cancelledBy"], before["cancelReason"]) == (None, None)
    site.ask("cancel", run, "--note", "wrong image")
    shown = site.ask("show", run)
    assert (shown["cancelledBy"], shown["cancelReason"], shown["note"]) == (
        shown["actor"],
        "wrong image",
        None,
    )
    told = site.tell("show", run).out
    assert f"cancelledBy   {shown['actor']}\n" in told
    assert "cancelReason  wrong image\n" in told


def test_a_run_that_is_over_cannot_be_cancelled(tmp_path: Path) -> None:
    site, _, _ = counting(tmp_path)
    run = site.begun(code=1)
    assert site.refusal("cancel", run) == "illegal_transition"
    assert site.refusal("cancel", "0" * 32) == "not_found"
    assert site.refusal("cancel", run, "--tenant", "other") == "not_found"


def test_a_note_that_is_too_long_is_refused_and_not_cut_off(asked: tuple[Site, str]) -> None:
    site, run = asked
    assert site.refusal("cancel", run, "--note", "x" * 16_385) == "payload_too_large"
    assert site.states(run)["approve"] == "awaiting_user_confirmation"


def test_a_store_that_is_not_there_is_not_made_by_an_act(site: Site) -> None:
    assert site.refusal("cancel", "0" * 32, code=3) == "store_unavailable"
    assert site.refusal("pause", code=3) == "store_unavailable"
    assert not (site.folder / "runs.db").exists()


# --- rerun ------------------------------------------------------------------------------------------------------------


def test_a_rerun_executes_what_failed_and_reuses_what_is_unchanged(tmp_path: Path) -> None:
    site, ledger, ready = counting(tmp_path)
    parent = site.begun(code=1)
    assert ledger.read_text().split() == ["first", "second"]
    ready.touch()
    again = site.ask("rerun", parent, "--note", "ready now")
    assert (again["status"], again["parent"], again["note"]) == ("completed", parent, "ready now")
    assert again["runId"] != parent
    steps = {step["id"]: step for step in again["steps"]}
    assert (steps["first"]["attempts"], steps["first"]["reusedFrom"]) == (0, parent)
    assert (steps["second"]["attempts"], steps["second"]["reusedFrom"]) == (1, None)
    assert ledger.read_text().split() == ["first", "second", "second"]


def test_a_rerun_from_a_step_executes_it_and_all_that_follow(tmp_path: Path) -> None:
    site, ledger, ready = counting(tmp_path)
    ready.touch()
    parent = site.begun(code=0)
    done = site.tell("rerun", parent)
    assert f"reused from {parent}: first, second" in done.out
    assert ledger.read_text().split() == ["first", "second"]
    again = site.ask("rerun", parent, "--from", "first")
    assert again["fromStep"] == "first"
    assert ledger.read_text().split() == ["first", "second"] * 2
    assert again["outcomeHash"] == site.ask("show", parent)["outcomeHash"]
    assert "reused" in site.tell("show", done.err.split()[1]).out


def test_a_detached_rerun_is_made_and_left_to_resume(tmp_path: Path) -> None:
    site, ledger, ready = counting(tmp_path)
    parent = site.begun(code=1)
    ready.touch()
    again = site.ask("rerun", parent, "--detach")
    assert (again["parent"], again["endedAt"]) == (parent, None)
    assert ledger.read_text().split() == ["first", "second"]
    assert site.resumed(0) == ["completed"]
    assert ledger.read_text().split() == ["first", "second", "second"]


def test_a_rerun_asked_for_again_under_its_key_is_the_same_run(tmp_path: Path) -> None:
    site, _, ready = counting(tmp_path)
    parent = site.begun(code=1)
    ready.touch()
    first, again = (site.ask("rerun", parent, "--key", "once", "--detach") for _ in range(2))
    assert (first["created"], again["created"]) == (True, False)
    assert first["runId"] == again["runId"]
    refused = site.refusal("rerun", parent, "--key", "once", "--from", "first", "--detach")
    assert refused == "idempotency_key_conflict"


def test_a_rerun_of_a_run_that_is_not_over_or_from_no_step_of_it_is_refused(asked: tuple[Site, str]) -> None:
    site, run = asked
    assert site.refusal("rerun", run) == "illegal_transition"
    site.ask("cancel", run)
    assert site.refusal("rerun", run, "--from", "nothing") == "not_found"
    assert [one["runId"] for one in site.ask("runs")["runs"]] == [run]


# --- pause and limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dag", "reason"), [(("release",), "dag_paused"), ((), "tenant_paused")])
def test_a_run_of_what_is_paused_waits_as_received_and_goes_on_afterwards(
    asked: tuple[Site, str], dag: tuple[str, ...], reason: str
) -> None:
    site, _ = asked
    assert site.ask("pause", *dag, "--note", "maintenance")["changed"] is True
    assert site.ask("pause", *dag)["changed"] is False
    late = site.ask("run", site.file, "--isolation", "in-process", code=4)
    assert (late["status"], late["reason"]) == ("received", reason)
    shown = site.tell("resume", "--isolation", "in-process")
    assert shown.code == 4
    assert f"end the pause with: sovrun unpause{''.join(f' {name}' for name in dag)} --store" in shown.out
    assert site.ask("unpause", *dag)["limits"]["paused"] is False
    assert site.resumed(4) == ["awaiting_user_confirmation"] * 2


def test_a_paused_run_that_has_begun_is_left_waiting_and_resume_ends(asked: tuple[Site, str]) -> None:
    site, run = asked
    site.ask("pause", "release")
    site.approved(run)
    site.resumed(4)
    site.answered(run)
    assert site.resumed(4) == ["executing"], "the last step is ready and must not start"
    assert site.states(run)["release"] == "queued"
    (queue,) = site.ask("queue")["queues"]
    assert (queue["queued"], queue["paused"]) == (1, True)
    shown = site.ask("queue")
    assert (shown["queued"], shown["executing"], shown["oldest"]) == (1, 0, queue["oldest"])
    assert f"steps: 1 queued since {queue['oldest'][:19]}Z, 0 executing" in site.tell("queue").out
    site.ask("unpause", "release")
    assert site.resumed(0) == ["completed"]


def test_runs_beyond_a_limit_wait_and_are_admitted_when_there_is_room(asked: tuple[Site, str]) -> None:
    site, first = asked
    assert site.ask("limit", "release", "--runs", "1", "--steps", "3")["limits"]["stepsMax"] == 3
    second = site.ask("run", site.file, "--isolation", "in-process", code=4)
    assert (second["status"], second["reason"]) == ("received", "run_limit")
    shown = site.ask("queue")
    waiting = {"count": 1, "oldest": second["createdAt"], "reasons": {"run_limit": 1}}
    for counted in (shown, *shown["queues"]):
        assert (counted["runs"], counted["waitingRuns"]) == (1, waiting)
    told = site.tell("queue").out
    assert f"1 waiting to be admitted since {second['createdAt'][:19]}Z: run_limit 1" in told
    site.ask("cancel", first)
    assert site.resumed(4) == ["awaiting_user_confirmation"]
    limits = site.ask("limit", "release", "--runs", "none")["limits"]
    assert (limits["runsMax"], limits["stepsMax"]) == (None, 3), "what is not named stays as it is"


def test_a_tenants_weight_and_limits_are_kept_and_shown(asked: tuple[Site, str]) -> None:
    site, _ = asked
    site.ask("limit", "--runs", "7", "--weight", "3")
    shown = site.ask("queue")
    assert shown["limits"] == {"paused": False, "runsMax": 7, "stepsMax": None, "weight": 3}
    assert "runs at most 7, weight 3" in site.tell("queue").out
    assert site.ask("queue", "--tenant", "other")["limits"]["weight"] == 1


def test_limits_that_mean_nothing_are_refused(asked: tuple[Site, str]) -> None:
    site, _ = asked
    assert site.refusal("limit") == "invalid_setting"
    assert site.refusal("limit", "release", "--weight", "2") == "invalid_setting"
    for text in ("0", "many", "1000001"):
        assert site.refusal("limit", f"--runs={text}") == "invalid_setting"
    assert site.refusal("pause", "no-such-dag") == "not_found"
    assert site.ask("queue")["limits"]["runsMax"] is None
