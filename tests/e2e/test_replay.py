"""A replay says whether a recorded run would come out again, and where it first would not."""

from pathlib import Path

import pytest

from support.cli import PLUG, Done, sovrun, write_dag

RANDOM = """
import os

def collect(n):
    return {"items": list(range(n))}

def square(items):
    return {"items": [int.from_bytes(os.urandom(4)) for item in items]}

def add(left, right):
    return {"sum": sum(left) + sum(right)}
"""


def recorded(tmp_path: Path, plug: str = PLUG, isolation: str = "in-process") -> tuple[dict[str, str], str]:
    file = write_dag(tmp_path / "dag", plug=plug)
    store = f"sqlite:{tmp_path / 'runs.db'}"
    done = sovrun("run", file, "--store", store, "--isolation", isolation, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    return done.json, store


def replay(tmp_path: Path, name: str, store: str, *more: str) -> Done:
    return sovrun("replay", name, "--store", store, *more, cwd=tmp_path)


@pytest.mark.parametrize("isolation", ["in-process", "sandbox"])
@pytest.mark.parametrize("name", ["runId", "replayToken"])
def test_a_good_run_is_reproduced(tmp_path: Path, isolation: str, name: str) -> None:
    run, store = recorded(tmp_path, isolation=isolation)
    done = replay(tmp_path, run[name], store, "--json")
    assert done.code == 0
    assert done.json["verdict"] == "reproduced"
    assert done.json["outcomeHash"] == {"recorded": run["outcomeHash"], "replayed": run["outcomeHash"]}
    assert "reproduced" in replay(tmp_path, run[name], store).out


def test_a_changed_plugin_diverges_at_its_first_step_with_both_hashes(tmp_path: Path) -> None:
    run, store = recorded(tmp_path)
    write_dag(tmp_path / "dag", plug=PLUG.replace("item * item", "item + item"))
    done = replay(tmp_path, run["runId"], store, "--json")
    assert done.code == 1
    assert done.json["codeDiffers"] is True
    first = done.json["firstDivergence"]
    assert first["id"] == "left"
    assert first["outputHash"]["recorded"] != first["outputHash"]["replayed"]
    shown = replay(tmp_path, run["runId"], store)
    assert shown.code == 1
    assert first["outputHash"]["recorded"] in shown.out
    assert first["outputHash"]["replayed"] in shown.out


def test_the_kept_copy_of_the_code_still_reproduces(tmp_path: Path) -> None:
    run, store = recorded(tmp_path)
    write_dag(tmp_path / "dag", plug=PLUG.replace("item * item", "item + item"))
    assert replay(tmp_path, run["runId"], store, "--recorded-code").code == 0


def test_it_is_said_which_code_was_executed(tmp_path: Path) -> None:
    run, store = recorded(tmp_path)
    assert replay(tmp_path, run["runId"], store, "--json").json["code"] == "source"
    assert "kept copy" not in replay(tmp_path, run["runId"], store).out
    (tmp_path / "dag").rename(tmp_path / "gone")
    assert replay(tmp_path, run["runId"], store, "--json").json["code"] == "kept"
    shown = replay(tmp_path, run["runId"], store)
    assert shown.code == 0
    assert "the code where it came from is gone: executed the kept copy" in shown.out
    told = replay(tmp_path, run["runId"], store, "--recorded-code").out
    assert "gone" not in told  # for it was asked for


def test_a_step_that_fails_now_is_shown_with_its_code_and_message(tmp_path: Path) -> None:
    run, store = recorded(tmp_path)
    write_dag(tmp_path / "dag", plug=PLUG.replace("item * item", "item / 0"))
    shown = replay(tmp_path, run["runId"], store)
    assert shown.code == 1
    assert "None" not in shown.out
    assert "replayed - (failed)" in shown.out
    assert "[step_raised] ZeroDivisionError" in shown.out
    first = replay(tmp_path, run["runId"], store, "--json").json["firstDivergence"]
    assert first["failure"]["code"] == "step_raised"


def test_a_random_step_diverges(tmp_path: Path) -> None:
    run, store = recorded(tmp_path, plug=RANDOM)
    done = replay(tmp_path, run["runId"], store, "--json")
    assert done.code == 1
    assert done.json["codeDiffers"] is False
    assert done.json["firstDivergence"]["id"] == "left"


def test_a_token_that_does_not_agree_with_the_record_is_refused(tmp_path: Path) -> None:
    run, store = recorded(tmp_path)
    forged = run["replayToken"][:-1] + ("0" if run["replayToken"][-1] != "0" else "1")
    done = replay(tmp_path, forged, store, "--json")
    assert (done.code, done.error["code"]) == (2, "invalid_value")


def test_a_token_that_was_cut_off_is_called_that(tmp_path: Path) -> None:
    run, store = recorded(tmp_path)
    done = replay(tmp_path, run["replayToken"][:-1], store, "--json")
    assert (done.code, done.error["code"]) == (2, "invalid_identifier")


def test_a_replay_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    run, store = recorded(tmp_path)
    before = sovrun("events", run["runId"], "--store", store, "--json", cwd=tmp_path).out
    replay(tmp_path, run["runId"], store)
    assert sovrun("events", run["runId"], "--store", store, "--json", cwd=tmp_path).out == before
    assert len(sovrun("runs", "--store", store, "--json", cwd=tmp_path).json["runs"]) == 1
