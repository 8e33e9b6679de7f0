"""Recorded workflows become DAGs with the same tasks, edges, times and files, or say why not."""

from __future__ import annotations

import copy
import gzip
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.canonical import canonical, digest_of
from sovrun.core.errors import InvalidSetting, InvalidSpec, Mistake
from sovrun.core.ids import NAME
from sovrun.core.plan import plan_of
from sovrun.core.spec.document import parse_dag
from sovrun.core.spec.json_document import JSON_BYTES_MAX
from sovrun.core.spec.model import DagSpec, Reference, Resources
from sovrun.core.wfformat import import_wfformat, step_name

INSTANCES = Path(__file__).parents[1] / "data" / "wfinstances"
RECORDED = [
    ("montage-chameleon-2mass-005d-001.json", 58, 114, 8),
    ("airrflow-dirt02-001.json", 212, 327, 25),
    ("bwa-chameleon-large-001.json.gz", 1004, 4000, 3),
]

SMALL: dict[str, Any] = {
    "name": "small one",
    "schemaVersion": "1.5",
    "workflow": {
        "specification": {
            "tasks": [
                {"name": "a", "id": "a.1", "parents": [], "children": ["b#2"], "outputFiles": ["f"]},
                {"name": "b", "id": "b#2", "parents": ["a.1"], "children": [], "inputFiles": ["f", "g"]},
            ],
            "files": [{"id": "f", "sizeInBytes": 7}],
        },
        "execution": {
            "tasks": [
                {"id": "a.1", "runtimeInSeconds": 1.5, "command": {"program": "make-a", "arguments": ["x"]}},
                {"id": "b#2", "runtimeInSeconds": 7200},
            ]
        },
    },
}


def read(name: str) -> bytes:
    data = (INSTANCES / name).read_bytes()
    return gzip.decompress(data) if name.endswith(".gz") else data


def imported(document: Any, time_scale: float = 1.0) -> tuple[dict[str, Any], DagSpec]:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    made = import_wfformat(data, name="w.json", time_scale=time_scale)
    return made, parse_dag(canonical(made), name="w.json")


def mistakes(document: Any) -> tuple[Mistake, ...]:
    with pytest.raises(InvalidSpec) as caught:
        imported(document)
    assert all(mistake.message.isprintable() for mistake in caught.value.mistakes)
    return caught.value.mistakes


def depth_of(spec: DagSpec) -> int:
    levels: dict[str, int] = {}
    for step in spec.steps:
        levels[step.id] = 1 + max((levels[need] for need in step.needs), default=0)
    return max(levels.values())


@pytest.mark.parametrize(("name", "tasks", "edges", "depth"), RECORDED)
def test_a_recorded_workflow_becomes_a_dag_with_its_tasks_and_edges(
    name: str, tasks: int, edges: int, depth: int
) -> None:
    published, data = (INSTANCES / name).read_bytes(), read(name)
    _, spec = imported(published, 0.01)
    plan = plan_of(spec)
    assert (plan.size, sum(map(len, plan.needs)), depth_of(spec)) == (tasks, edges, depth)
    recorded = {task["id"]: task for task in json.loads(data)["workflow"]["specification"]["tasks"]}
    assert {step.id for step in spec.steps} == set(map(step_name, recorded))
    for task in recorded.values():
        step = plan.steps[plan.index[step_name(task["id"])]]
        assert set(step.needs) == set(map(step_name, task["parents"]))


def test_a_step_is_given_what_was_recorded_and_what_flows_in() -> None:
    made, spec = imported(SMALL, 0.5)
    first, second = spec.steps
    assert (spec.id, spec.code) == ("small_one", ())
    assert (first.id, second.id, second.needs) == ("a_1", "b_2", ("a_1",))
    assert first.entry == second.entry == "sovrun.replica:run_task"
    assert (first.arguments["program"], first.arguments["runtimeUs"]) == ("make-a", 750_000)
    assert (second.arguments["program"], second.arguments["runtimeUs"]) == ("", 3_600_000_000)
    known = {"name": "f", "size": 7, "digest": digest_of("sovrun.wfformat.file", 1, {"name": "f", "size": 7})}
    assert first.arguments["outputs"] == [known]
    assert made["steps"][1]["with"]["inputs"] == [
        known,
        {"name": "g", "size": 0, "digest": digest_of("sovrun.wfformat.file", 1, {"name": "g", "size": 0})},
    ]
    assert second.arguments["upstream"] == {"a_1": Reference(first.id, ("digest",))}
    assert first.resources == Resources()
    assert second.resources.wall_us == second.resources.cpu_us == 7_200_000_000


def test_the_time_scale_only_changes_run_times() -> None:
    slow, fast = imported(SMALL, 1)[0], imported(SMALL, 0)[0]
    assert [step["with"].pop("runtimeUs") for step in slow["steps"]] == [1_500_000, 7_200_000_000]
    assert [step["with"].pop("runtimeUs") for step in fast["steps"]] == [0, 0]
    assert [step["with"] for step in slow["steps"]] == [step["with"] for step in fast["steps"]]


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_a_time_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(InvalidSetting, match="time scale"):
        imported(SMALL, scale)


def test_a_workflow_without_execution_record_takes_no_time() -> None:
    document = copy.deepcopy(SMALL)
    del document["workflow"]["execution"]
    assert [step.arguments["runtimeUs"] for step in imported(document)[1].steps] == [0, 0]


@pytest.mark.parametrize(
    ("recorded", "mapped"),
    [("a.b#c", "a_b_c"), ("1st", "_1st"), ("-x", "_-x"), ("é", "_"), ("ok-1_2", "ok-1_2")],
)
def test_names_are_mapped_to_the_alphabet_of_step_ids(recorded: str, mapped: str) -> None:
    assert step_name(recorded) == mapped


def test_long_names_stay_different_and_legal() -> None:
    names = {step_name(f"{lead}{'x' * 200}{tail}") for lead in ("", "1") for tail in "ab"}
    assert len(names) == 4
    assert all(NAME.fullmatch(name) for name in names)


def change(path: str, value: Any) -> dict[str, Any]:
    document: Any = copy.deepcopy(SMALL)
    *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    inner = document
    for part in way:
        inner = inner[part]
    inner[last] = value
    return dict(document)


TASKS = "workflow/specification/tasks"


@pytest.mark.parametrize(
    ("document", "code", "says"),
    [
        (b"", "bad_json", "not JSON"),
        (b"\xff", "bad_json", "UTF-8"),
        (b"[1, 1e999]", "bad_json", "double"),
        ([], "unknown_version", "no schemaVersion"),
        ({}, "unknown_version", "no schemaVersion"),
        (change("schemaVersion", "1.4"), "unknown_version", "'1.4'"),
        (change("schemaVersion", [1]), "unknown_version", "schemaVersion"),
        (change("workflow", 3), "wrong_type", "`workflow` must be a map"),
        (change("workflow/specification", []), "wrong_type", "`specification` must be a map"),
        (change(TASKS, {}), "wrong_type", "`tasks` must be a list"),
        (change(TASKS, []), "bad_length", "1 to 100000 tasks"),
        (change(f"{TASKS}/0", 7), "wrong_type", "must be a map"),
        (change(f"{TASKS}/0/id", 7), "wrong_type", "`id` must be a text"),
        (change(f"{TASKS}/0/id", ""), "wrong_type", "`id` must be a text"),
        (change(f"{TASKS}/0/id", "b_2"), "id_collision", "'b#2' and 'b_2' would both be the step 'b_2'"),
        (change(f"{TASKS}/0/id", "b#2"), "duplicate_step", "stands twice"),
        (change(f"{TASKS}/1/parents/0", "a.2"), "unknown_need", "no task 'a.2'"),
        (change(f"{TASKS}/1/parents/0", 2), "wrong_type", "must be a text"),
        (change(f"{TASKS}/0/parents", ["b#2"]), "cycle", "a.1 -> b#2 -> a.1"),
        (change(f"{TASKS}/0/parents", ["a.1"]), "cycle", "a.1 -> a.1"),
        (change("workflow/specification/files/0/sizeInBytes", -1), "out_of_range", "sizeInBytes"),
        (change("workflow/specification/files/0", None), "wrong_type", "must be a map"),
        (change("workflow/execution/tasks/0/runtimeInSeconds", "1"), "out_of_range", "runtimeInSeconds"),
        (change("workflow/execution/tasks/0/runtimeInSeconds", 1e9), "out_of_range", "runtimeInSeconds"),
        (change("workflow/execution", None), "wrong_type", "`execution` must be a map"),
    ],
)
def test_a_file_that_is_no_workflow_gives_mistakes(document: Any, code: str, says: str) -> None:
    found = mistakes(document)
    assert code in [mistake.code for mistake in found]
    mistake = next(mistake for mistake in found if mistake.code == code)
    assert says in mistake.message
    if mistake.path:
        assert mistake.line == 1
        assert mistake.column > 1


def test_all_mistakes_come_together() -> None:
    document = change(f"{TASKS}/1/parents/0", "a.2")
    document["workflow"]["execution"]["tasks"][0]["runtimeInSeconds"] = -1
    document["workflow"]["specification"]["files"][0]["id"] = None
    assert [mistake.code for mistake in mistakes(document)] == ["unknown_need", "wrong_type", "out_of_range"]


def test_a_gzipped_workflow_is_the_same_workflow() -> None:
    whole = json.dumps(SMALL).encode()
    packed = gzip.compress(whole)
    assert imported(packed) == imported(whole)
    assert imported(gzip.compress(whole[:100]) + gzip.compress(whole[100:])) == imported(whole), "two members"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (gzip.compress(b" " * (JSON_BYTES_MAX + 1)), "too_large"),
        (gzip.compress(b" " * (20 << 20)) * 4, "too_large"),
        (gzip.compress(b" " * JSON_BYTES_MAX), "bad_json"),
        (gzip.compress(b"{}")[:-3], "bad_gzip"),
        (gzip.compress(b"{}") + b"more", "bad_gzip"),
        (b"\x1f\x8b", "bad_gzip"),
    ],
    ids=[
        "one byte too many",
        "many members",
        "as much as may be",
        "cut off",
        "more behind it",
        "nothing in it",
    ],
)
def test_a_gzipped_file_is_never_inflated_beyond_what_is_read(data: bytes, code: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        imported(data)
    assert [mistake.code for mistake in refused.value.mistakes] == [code]


def test_what_inflates_to_much_more_takes_no_more_memory_than_what_is_read() -> None:
    bomb = gzip.compress(b" " * (8 * JSON_BYTES_MAX), 1)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidSpec):
            imported(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * JSON_BYTES_MAX


def test_a_damaged_workflow_gives_a_dag_or_mistakes() -> None:
    rng = random.Random(7)
    whole = json.dumps(SMALL).encode()
    outcomes = set()
    for _ in range(1_000):
        data = bytearray(whole)
        place = rng.randrange(len(data))
        data[place : place + rng.randrange(4)] = bytes(rng.choices(b'{}[]",:10ab.#\xff', k=rng.randrange(3)))
        try:
            imported(bytes(data))
        except InvalidSpec:
            outcomes.add("refused")
        else:
            outcomes.add("a DAG")
    assert outcomes == {"refused", "a DAG"}
