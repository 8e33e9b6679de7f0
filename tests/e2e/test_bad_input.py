"""Bad input gets one clear error with a stable code and exit code 2: no traceback, no hang, nothing stored."""

import random
from pathlib import Path

import pytest

from support.cli import DIAMOND, sovrun, write_dag

DATA = Path(__file__).parents[1] / "data" / "jcs"

CYCLE = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: cycle}
steps:
  - {id: a, python: "plug:collect", needs: [c]}
  - {id: b, python: "plug:collect", needs: [a]}
  - {id: c, python: "plug:collect", needs: [b]}
"""
DEEP = "[" * 10_000 + "]" * 10_000


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"\x00\x01\x02\xff\xfe" * 100, None),
        (DIAMOND.encode()[:-40] + b"{", None),
        (DIAMOND.encode("utf-16"), None),
        (DEEP.encode(), None),
        (b'{"steps": ' + DEEP.encode() + b"}", None),
        (CYCLE.encode(), "cycle"),
        (b"just a text", None),
        (b"a: &x 1\nb: *x\n", None),
        (b"x" * (1 << 20) + b"\n", None),
    ],
)
def test_a_bad_document_is_refused(tmp_path: Path, content: bytes, expected: str | None) -> None:
    file = tmp_path / "dag.yaml"
    file.write_bytes(content)
    for command in ("validate", "plan"):
        done = sovrun(command, file, "--json", cwd=tmp_path, timeout=30)
        assert (done.code, done.error["code"]) == (2, "invalid_spec")
        assert done.error["mistakes"]
        shown = sovrun(command, file, cwd=tmp_path, timeout=30)
        assert shown.code == 2
        assert "invalid_spec" in shown.err
    if expected is not None:
        assert expected in done.out


def test_a_cycle_is_shown_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "dag.yaml"
    file.write_text(CYCLE)
    assert "a -> " in sovrun("validate", file, cwd=tmp_path).err


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_missing_file_or_a_directory_is_refused(tmp_path: Path, name: str) -> None:
    for command in ("validate", "plan", "run"):
        done = sovrun(command, name, "--json", cwd=tmp_path)
        assert (done.code, done.error["code"]) == (2, "file_unavailable")


SPOILT = {
    "comma": "bad_json",
    "repeated": "duplicate_key",
    "nan": "bad_number",
    "control": "bad_json",
    "beyond": "bad_number",
    "surrogate": "lone_surrogate",
    "swapped": "bad_json",
    "infinite": "bad_number",
    "trailing": "bad_json",
}
"""How a JSON text is spoilt without leaving UTF-8, and the mistake that a document then has."""


def spoilt(text: str, way: str) -> str:
    first, last = text[0], text[-1]
    begun = first if first == "[" else '{"zz": '
    put_in = {
        "nan": "NaN",
        "infinite": "-Infinity",
        "beyond": str(2**53),
        "surrogate": '"\\ud800"',
        "control": '"\x01"',
    }
    match way:
        case "repeated":
            return f'{{"zz": {text}, "zz": 1}}'
        case "swapped":
            return text[:-1] + {"}": "]", "]": "}"}[last]
        case "trailing":
            return text + text
        case "comma":
            return text[:-1] + "," + last
        case _:
            return f"{begun}{put_in[way]}, {text[1:]}"


@pytest.mark.parametrize(
    ("place", "vector"), list(enumerate(sorted(p.name for p in (DATA / "input").iterdir())))
)
def test_vectors_spoilt_as_text_are_refused_as_documents_and_as_inputs(
    tmp_path: Path, place: int, vector: str
) -> None:
    dag = write_dag(tmp_path / "dag")
    text = (DATA / "input" / vector).read_text().strip()
    for way in list(SPOILT)[place % 3 :: 3]:
        file = tmp_path / f"{way}.json"
        file.write_text(spoilt(text, way))
        done = sovrun("validate", file, "--json", cwd=tmp_path)
        assert (way, done.code, done.error["code"]) == (way, 2, "invalid_spec")
        if file.read_text().startswith("{"):
            assert SPOILT[way] in {mistake["code"] for mistake in done.error["mistakes"]}
        run = sovrun(
            *("run", dag, "--inputs", file, "--store", "memory:", "--isolation", "in-process", "--json"),
            cwd=tmp_path,
        )
        assert (way, run.code, run.error["code"]) == (way, 2, "invalid_value")


@pytest.mark.parametrize("vector", sorted(path.name for path in (DATA / "input").iterdir()))
def test_mutated_vectors_as_documents_and_as_inputs_are_refused(tmp_path: Path, vector: str) -> None:
    whole = (DATA / "input" / vector).read_bytes()
    rng = random.Random(vector)
    dag = write_dag(tmp_path / "dag")
    for cut in sorted(rng.sample(range(len(whole)), 2)):
        mutated = bytearray(whole[:cut])
        mutated[rng.randrange(max(1, cut)) :] = b"\x80"
        file = tmp_path / "mutated.json"
        file.write_bytes(mutated)
        done = sovrun("validate", file, "--json", cwd=tmp_path)
        assert (done.code, done.error["code"]) == (2, "invalid_spec")
        run = sovrun(
            *("run", dag, "--inputs", file, "--store", "memory:", "--isolation", "in-process", "--json"),
            cwd=tmp_path,
        )
        assert (run.code, run.error["code"]) == (2, "invalid_value")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--input", "n=text"], "invalid_inputs"),
        (["--input", "n"], "invalid_setting"),
        (["--input", "n=1", "--input", "n=2"], "invalid_setting"),
        (["--input", "m=1"], "invalid_inputs"),
        (["--input-file", "m=dag/dag.yaml"], "invalid_inputs"),
        (["--input", "n=1", "--tenant", "../x"], "invalid_identifier"),
        (["--isolation", "none"], "invalid_setting"),
        (["--store", "mysql:x"], "invalid_setting"),
        (["--store", "memory:x"], "invalid_setting"),
        (["--idempotency-key", "\x07"], "invalid_identifier"),
        (["--input-file", "n=/does/not/exist"], "file_unavailable"),
        (["--input", "n=99999999999999999999"], "invalid_inputs"),
    ],
)
def test_bad_options_are_refused_by_name(tmp_path: Path, arguments: list[str], code: str) -> None:
    dag = write_dag(tmp_path / "dag")
    defaults = ["--store", "memory:", "--isolation", "in-process", "--json"]
    done = sovrun("run", dag, *defaults, *arguments, cwd=tmp_path)
    assert (done.code, done.error["code"]) == (2, code)


def test_a_misspelt_input_is_not_taken_for_another(tmp_path: Path) -> None:
    text = DIAMOND.replace("properties: {n:", "properties: {number: {type: integer, default: 1}, n:")
    dag = write_dag(tmp_path / "dag", text)
    base = ("run", dag, "--store", "memory:", "--isolation", "in-process", "--json")
    done = sovrun(*base, "--input", "nmber=3", cwd=tmp_path)
    assert "did you mean 'number'?" in done.error["hint"]
    (tmp_path / "inputs.json").write_text(
        '{"nmber": 3}'
    )  # the schema is silent on others, so a document may have them
    assert sovrun(*base, "--inputs", "inputs.json", cwd=tmp_path).code == 0
    (tmp_path / "dag" / "dag.yaml").write_text(
        text.replace("  properties:", "  additionalProperties: true\n  properties:")
    )
    assert sovrun(*base, "--input", "nmber=3", cwd=tmp_path).code == 0


def test_unknown_runs_and_stores_are_named(tmp_path: Path) -> None:
    dag = write_dag(tmp_path / "dag")
    store = f"sqlite:{tmp_path / 'runs.db'}"
    assert sovrun("run", dag, "--store", store, "--isolation", "in-process", cwd=tmp_path).code == 0
    for command in ("show", "events", "replay"):
        done = sovrun(command, "0" * 32, "--store", store, "--json", cwd=tmp_path)
        assert (done.code, done.error["code"]) == (2, "not_found")
        gone = sovrun(command, "0" * 32, "--store", f"sqlite:{tmp_path}/none.db", "--json", cwd=tmp_path)
        assert (gone.code, gone.error["code"]) == (3, "store_unavailable")
    other = sovrun("runs", "--store", store, "--tenant", "other", "--json", cwd=tmp_path)
    assert other.json["runs"] == []


def test_an_idempotency_key_is_bound_to_its_request(tmp_path: Path) -> None:
    dag = write_dag(tmp_path / "dag")
    store = f"sqlite:{tmp_path / 'runs.db'}"
    base = ("run", dag, "--store", store, "--isolation", "in-process", "--idempotency-key", "k", "--json")
    first = sovrun(*base, "--input", "n=3", cwd=tmp_path)
    assert sovrun(*base, "--input", "n=3", cwd=tmp_path).json == first.json
    other = sovrun(*base, "--input", "n=4", cwd=tmp_path)
    assert (other.code, other.error["code"]) == (2, "idempotency_key_conflict")
    assert len(sovrun("runs", "--store", store, "--json", cwd=tmp_path).json["runs"]) == 1
