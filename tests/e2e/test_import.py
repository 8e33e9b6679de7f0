"""Real workflows come in, plan and run; what a command writes for its user appears whole or not at all."""

from pathlib import Path

import pytest

from support.cli import sovrun, write_dag

INSTANCES = Path(__file__).parents[1] / "data" / "wfinstances"
AIRRFLOW = INSTANCES / "airrflow-dirt02-001.json"
TASKS = {
    "airrflow-dirt02-001.json": 212,
    "bwa-chameleon-large-001.json.gz": 1_004,
    "montage-chameleon-2mass-005d-001.json": 58,
}


@pytest.mark.parametrize("name", TASKS)
def test_a_real_workflow_is_imported_planned_and_run(tmp_path: Path, name: str) -> None:
    made = sovrun(
        "import", "wfformat", INSTANCES / name, "-o", "dag.json", "--time-scale", "0", "--json", cwd=tmp_path
    )
    assert (made.code, made.json["steps"]) == (0, TASKS[name])
    planned = sovrun("plan", "dag.json", "--json", cwd=tmp_path).json
    assert len(planned["order"]) == TASKS[name]
    run = sovrun("run", "dag.json", "--store", "memory:", "--isolation", "in-process", "--json", cwd=tmp_path)
    assert (run.code, run.json["status"], run.json["reproducible"]) == (0, "completed", True)
    assert [step["id"] for step in run.json["steps"]] == planned["order"]
    assert {(step["state"], step["attempts"]) for step in run.json["steps"]} == {("completed", 1)}


@pytest.mark.parametrize("place", ["missing/dag.json", "/proc/dag.json", "directory", "file/dag.json"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    for more in ((), ("--json",)):
        done = sovrun("import", "wfformat", AIRRFLOW, "-o", place, *more, cwd=tmp_path)
        assert done.code == 2
        assert "file_unavailable" in done.out + done.err
        assert place in done.out + done.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["directory", "file"]


def test_what_is_written_over_keeps_its_permissions_and_a_link_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "real.json"
    target.write_text("before")
    target.chmod(0o640)
    (tmp_path / "link.json").symlink_to(target)
    before = target.stat().st_ino
    assert sovrun("import", "wfformat", AIRRFLOW, "-o", "link.json", cwd=tmp_path).code == 0
    assert (tmp_path / "link.json").is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert target.stat().st_ino != before  # another file took its name when it was whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "real.json"]


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    printed = sovrun("import", "wfformat", AIRRFLOW, cwd=tmp_path).out
    piped = sovrun("import", "wfformat", AIRRFLOW, "-o", "/dev/stdout", cwd=tmp_path).out
    assert piped.startswith(printed)


PAGE = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: page}
steps:
  - {id: one, python: "plug:page"}
  - {id: two, python: "plug:page"}
"""
PLUG = """
from sovrun.step import keep_file, work_dir

def page():
    path = work_dir() / "page"
    path.write_text("hello")
    return {"page": keep_file(path)}
"""


def test_a_directory_that_cannot_be_written_is_refused_before_there_is_a_run(tmp_path: Path) -> None:
    file = write_dag(tmp_path / "dag", PAGE, PLUG)
    (tmp_path / "file").touch()
    store = f"sqlite:{tmp_path / 'runs.db'}"
    options = ("--store", store, "--isolation", "in-process", "--json")
    for place in ("file", "file/within", "/proc/none"):
        done = sovrun("run", file, *options, "--save", place, cwd=tmp_path)
        assert (done.code, done.error["code"]) == (2, "file_unavailable")
    assert not (tmp_path / "runs.db").exists()


def test_files_that_cannot_be_saved_do_not_hide_what_the_run_came_to(tmp_path: Path) -> None:
    file = write_dag(tmp_path / "dag", PAGE, PLUG)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "two").touch()  # where the second step's directory belongs
    options = ("--store", "memory:", "--isolation", "in-process", "--save", "saved")
    shown = sovrun("run", file, *options, cwd=tmp_path)
    assert shown.code == 3
    assert "completed page: 2 of 2 steps" in shown.out
    assert shown.err.count("error [file_unavailable]") == 1
    told = sovrun("run", file, *options, "--json", cwd=tmp_path)
    assert (told.code, told.json["status"], told.error["code"]) == (3, "completed", "file_unavailable")
    assert told.json["saved"] == ["saved/one/page"]
    assert (tmp_path / "saved" / "one" / "page").read_text() == "hello"
