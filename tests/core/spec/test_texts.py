"""Whatever the bytes are: a value, or one clear mistake at its place, in bounded time and without recursion."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.errors import InvalidSpec, Mistake
from sovrun.core.spec.document import parse_dag
from sovrun.core.spec.json_document import JSON_BYTES_MAX, VALUES_MAX, read_json
from sovrun.core.spec.yaml_document import YAML_BYTES_MAX, YAML_NODES_MAX, read_yaml

DATA = Path(__file__).parents[2] / "data"
HEAD = "apiVersion: sovrun/v1\nkind: Dag\nmetadata: {id: d}\n"
STEPS = "steps: [{id: a, python: m:f}]\n"
JSON_HEAD = '{"apiVersion": "sovrun/v1", "kind": "Dag", "metadata": {"id": "d"}, "steps": [{"id": "a", "python": "m:f"%s}]}'
FEW = settings(max_examples=300, deadline=None)


def mistakes(data: bytes | str) -> tuple[Mistake, ...]:
    with pytest.raises(InvalidSpec) as caught:
        parse_dag(data.encode() if isinstance(data, str) else data, name="d")
    assert all(mistake.message.isprintable() for mistake in caught.value.mistakes)
    return caught.value.mistakes


def only(data: bytes | str) -> Mistake:
    found = mistakes(data)
    assert len(found) == 1, found
    return found[0]


def marked(text: str) -> tuple[str, int, int]:
    """Return a text without its mark, and line and column of the mark."""
    before, _, after = text.rpartition("§")
    return before + after, before.count("\n") + 1, len(before) - before.rfind("\n")


# --- bytes that are not a document ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"", "empty_document", "empty"),
        (b" \n\t\n", "empty_document", "empty"),
        (b"# only a comment\n", "empty_document", "empty"),
        (b"\xef\xbb\xbf" + (HEAD + STEPS).encode(), "byte_order_mark", "UTF-8 without one"),
        ((HEAD + STEPS).encode("utf-16"), "bad_encoding", "UTF-16"),
        ((HEAD + STEPS).encode("utf-16-be"), "bad_encoding", "not a text"),
        (b"\x7fELF\x02\x01\x01\0\0\0", "bad_encoding", "not a text"),
        (gzip.compress(HEAD.encode(), mtime=0), "bad_encoding", "not"),
        (b"a: b\nc: \xff", "bad_encoding", "byte 8 is 0xff"),
        (b"a: \x07", "bad_yaml", "not YAML"),
        (b"---\n", "wrong_type", "a map"),
        (b"- a\n", "wrong_type", "a map"),
        (b"just words", "wrong_type", "a map"),
        (b"{", "bad_json", "line 1, column 2"),
        (b"{a: 1}", "bad_json", "line 1, column 2"),
        (b'{"a": 1} x', "bad_json", "Extra data"),
    ],
)
def test_bytes_that_are_no_document_give_one_clear_mistake(data: bytes, code: str, says: str) -> None:
    mistake = only(data)
    assert mistake.code == code
    assert says in mistake.message


def test_a_byte_that_is_not_utf8_has_line_and_column() -> None:
    mistake = only("a: b\nä: ".encode() + b"\xff")
    assert (mistake.line, mistake.column) == (2, 4)


# --- YAML: the subset -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (HEAD + "steps: [{id: a, python: m:f, with: §&x {v: 1}}]", "yaml_anchor"),
        (HEAD + "steps: [{id: a, python: m:f, with: §*x}]", "yaml_alias"),
        (HEAD + "steps: [{id: a, python: m:f, with: §!!map {v: 1}}]", "yaml_tag"),
        (HEAD + "steps: [{id: a, python: m:f, with: {v: §!mine 1}}]", "yaml_tag"),
        (HEAD + "steps: [{id: a, python: m:f, with: {§<<: {v: 1}}}]", "yaml_merge"),
        (HEAD + "steps: [{id: a, python: m:f, with: {v: 1, §v: 2}}]", "duplicate_key"),
        (HEAD + "steps: [{id: a, python: m:f, with: {§1: 1}}]", "bad_key"),
        (HEAD + "steps: [{id: a, python: m:f, with: {§true: 1}}]", "bad_key"),
        (HEAD + "steps: [{id: a, python: m:f, with: {? §[a, {b: c}] : 1, w: 2}}]", "bad_key"),
        (HEAD + "steps: [{id: a, python: m:f, with: {? §{b: [c]} : [1, {v: 2}], w: 2}}]", "bad_key"),
        (HEAD + STEPS + "§---\na: 1\n", "several_documents"),
        ("%YAML 1.1\n§---\n" + HEAD + STEPS, "yaml_directive"),
        (HEAD + "steps: [{id: a, python: m:f, with: {v: §.inf}}]", "bad_number"),
        (HEAD + "steps: [{id: a, python: m:f, with: {v: §.NaN}}]", "bad_number"),
        (HEAD + "steps: [{id: a, python: m:f, with: {v: §9007199254740992}}]", "bad_number"),
        (HEAD + "steps: [{id: a, python: m:f, with: {v: §1e400}}]", "bad_number"),
        (HEAD + 'steps: [{id: a, python: m:f, with: {v: §"\\ud800"}}]', "lone_surrogate"),
        (HEAD + "steps: [{id: a, python: m:f}§", "bad_yaml"),
        (HEAD + "steps:\n\t§- id: a", "bad_yaml"),
        (HEAD + 'steps: "§\\UFFFFFFFF"', "bad_yaml"),
    ],
)
def test_what_yaml_has_and_json_has_not_is_refused_where_it_stands(text: str, code: str) -> None:
    text, line, column = marked(text)
    found = mistakes(text)
    assert code in [mistake.code for mistake in found]
    mistake = next(mistake for mistake in found if mistake.code == code)
    assert len(found) == 1
    if code != "bad_yaml":
        assert (mistake.line, mistake.column) == (line, column)
    else:
        assert mistake.line >= line - 1 > 0


def test_all_that_is_refused_in_yaml_is_refused_at_once_with_the_rest() -> None:
    text = HEAD + "steps: [{id: a, python: m:f, with: &x {v: 1, v: 2}, need: [b]}, {id: 3, argv: *x}]"
    codes = [mistake.code for mistake in mistakes(text)]
    assert codes == ["yaml_anchor", "duplicate_key", "unknown_field", "wrong_type", "yaml_alias"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("~", None), ("null", None), ("", None), ("true", True), ("False", False), ("yes", "yes"), ("no", "no"),
        ("on", "on"), ("y", "y"), ("12", 12), ("+12", 12), ("-0", 0), ("010", 10), ("0o10", 8), ("0x1F", 31),
        ("1_000", "1_000"), ("1:30", "1:30"), ("2026-11-21", "2026-11-21"), ("1e3", 1000.0), ("1.", 1.0), (".5", 0.5),
        ("1.5e-3", 0.0015), ("'12'", "12"), ('"null"', "null"), ("'~'", "~"), ("=", "="), ("1.2.3", "1.2.3"),
        ("0b1", "0b1"), ("+", "+"), (".", "."), ("|-\n  12", "12"), ("'<<'", "<<"),
    ],
)  # fmt: skip
def test_plain_words_mean_what_the_core_schema_of_yaml_1_2_says(written: str, value: object) -> None:
    document = read_yaml(f"a: {written}\n")
    assert not document.findings
    assert document.value == {"a": value}
    assert type(document.value["a"]) is type(value)


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufeff\ufffe\uffff"), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc <:'\"", max_size=4), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=1_000, deadline=None)
@given(YAML_VALUES)
def test_json_read_as_yaml_is_the_same_value(value: object) -> None:
    document = read_yaml(json.dumps(value, ensure_ascii=False))
    assert not document.findings
    assert document.value == value


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (HEAD.encode() + b"#" * YAML_BYTES_MAX, "1 MiB"),
        (HEAD.encode() + b"steps:\n" + b"- {id: a}\n" * (YAML_NODES_MAX // 3), f"{YAML_NODES_MAX:,}"),
        (b"{" + b" " * JSON_BYTES_MAX, "32 MiB"),
        (b'{"a": [' + b"[]," * (VALUES_MAX // 2) + b"0]}", str(VALUES_MAX)),
    ],
)
def test_a_document_that_is_too_large_is_refused_before_it_is_read(data: bytes, limit: str) -> None:
    mistake = only(data)
    assert mistake.code == "too_large"
    assert limit in mistake.message


def test_a_byte_that_is_no_text_stands_where_it_is() -> None:
    for byte in (b"\0", b"\xff"):
        mistake = only(HEAD.encode() + "# ä".encode() + byte)
        assert (mistake.line, mistake.column) == (HEAD.count("\n") + 1, 4)


def test_commas_in_texts_are_not_values() -> None:
    text = '{"a": "' + "," * (VALUES_MAX + 1) + '"}'
    assert read_json(text.encode(), text).findings == ()


def test_more_than_100000_steps_are_refused_with_the_limit_named() -> None:
    text = '{"apiVersion": "sovrun/v1", "steps": [' + ",".join(["{}"] * 100_001) + "]}"
    mistake = only(text)
    assert mistake.code == "too_many_steps"
    assert "100000" in mistake.message


def deep_json(levels: int) -> str:
    return JSON_HEAD % (', "with": {"v": ' + "[" * levels + "]" * levels + "}")


def deep_yaml(levels: int) -> str:
    return HEAD + "steps: [{id: a, python: m:f, with: {v: " + "[" * levels + "]" * levels + "}}]"


@pytest.mark.parametrize("form", [deep_json, deep_yaml])
def test_nesting_ends_at_64_levels(form: Callable[[int], str]) -> None:
    room = 64 - 4  # the document, its steps, the step, its arguments
    parse_dag(form(room).encode(), name="d")
    mistake = only(form(room + 1))
    assert (mistake.code, mistake.message) == ("too_deep", "nested deeper than 64 levels")
    assert mistake.line > 0
    assert mistake.path[:4] == ("steps", 0, "with", "v")


@pytest.mark.parametrize(
    "text",
    [
        deep_json(10_000), deep_yaml(10_000), "[" * 10_000, "{" * 10_000, '{"a":' * 10_000, "a: {" * 10_000,
        "- " * 10_000, "? " * 10_000, "".join(f"{' ' * place}a:\n" for place in range(1_000)), '{"a":[' * 10_000,
    ],
    ids=range(10),
)  # fmt: skip
def test_thousands_of_levels_give_a_mistake_and_no_recursion(text: str) -> None:
    assert mistakes(text)[-1].code in ("too_deep", "bad_json", "bad_yaml")


# --- damaged texts --------------------------------------------------------------------------------------------------

SOUND = (
    HEAD
    + """\
inputs: {type: object, properties: {day: {type: string}}}   # what a run is given
steps:
  - id: a
    python: m:f
    with: {day: {from: inputs.day}, text: "q\\u00e4 \\"x\\"", more: 'it''s'}
    retry: {base: 2s, retryOn: [ValueError]}
  - id: b
    argv: [bin/x, --flag, two words]
    needs: [a]
    description: |-
      several
      lines
  - {id: c, confirm: {role: r, show: {from: steps.a.x}}, needs: [a, b]}
"""
)


def test_the_sound_document_is_sound() -> None:
    assert [step.id for step in parse_dag(SOUND.encode(), name="d").steps] == ["a", "b", "c"]


def survives(data: bytes) -> bool:
    try:
        parse_dag(data, name="d")
    except InvalidSpec:
        return False
    return True


def test_a_document_cut_anywhere_gives_a_dag_or_mistakes() -> None:
    whole = SOUND.encode()
    outcomes = [survives(whole[:length]) for length in range(len(whole) + 1)]
    assert outcomes[-1]
    assert not outcomes[0]


def test_a_damaged_document_gives_a_dag_or_mistakes() -> None:
    rng = random.Random(12)
    marks = b"&*!|>%@`'\"{}[],:#?-<\\\n\t\x85\xe2\x80\xa8\x00\xff~0"
    whole = SOUND.encode()
    outcomes = set()
    for _ in range(1_500):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.randrange(3)] = bytes(rng.choices(marks, k=rng.randrange(3)))
        outcomes.add(survives(bytes(data)))
    assert outcomes == {True, False}


@FEW
@given(st.text("ab:-?{}[]&*!|>'\"%#,\n\t \\0x~.@`", max_size=60))
def test_arbitrary_yaml_gives_mistakes(text: str) -> None:
    assert not survives(text.encode())


@FEW
@given(st.binary(max_size=80))
def test_arbitrary_bytes_give_mistakes(data: bytes) -> None:
    assert not survives(data)


@pytest.mark.parametrize("path", sorted((DATA / "jcs" / "input").glob("*.json")), ids=lambda path: path.name)
def test_json_that_is_no_dag_gives_mistakes(path: Path) -> None:
    assert not survives(path.read_bytes())


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        (', "with": {"v": 1, §"v": 2}', "duplicate_key"),
        (', "with": {"v": §NaN}', "bad_number"),
        (', "with": {"v": §1e999}', "bad_number"),
        (', "with": {"v": §-9007199254740992}', "bad_number"),
        (', "with": {"v": [0, §"\\udc00"]}', "lone_surrogate"),
    ],
)
def test_json_that_is_not_strict_is_refused_where_it_stands(extra: str, code: str) -> None:
    text, line, column = marked(JSON_HEAD % extra)
    mistake = only(text)
    assert (mistake.code, mistake.line, mistake.column) == (code, line, column)


def test_what_is_not_strict_in_json_is_told_together_with_the_rest() -> None:
    text = (
        JSON_HEAD
        % ', "with": {"v": 1, "v": 2, "w": Infinity}, "need": ["b"], "retry": {"maxAttempts": 1e999}'
    )
    assert [mistake.code for mistake in mistakes(text)] == [
        "duplicate_key",
        "bad_number",
        "unknown_field",
        "bad_number",
    ]


@pytest.mark.parametrize("last", ['"\\ud800"', "[" * 70 + "]" * 70])
def test_a_fault_behind_a_thousand_others_does_no_harm(last: str) -> None:
    text = '{"steps": [' + '{"a": 1, "a": 2},' * 1_500 + last + "]}"
    assert "duplicate_key" in [mistake.code for mistake in mistakes(text)]


def test_a_text_after_blank_lines_may_be_json() -> None:
    assert survives(b"\n \t\r\n" + (JSON_HEAD % "").encode())


# --- values where nobody expects them -------------------------------------------------------------------------------

WHOLE: dict[str, Any] = {
    "apiVersion": "sovrun/v1", "kind": "Dag",
    "metadata": {"id": "d", "description": "x", "labels": {"a": "b"}},
    "inputs": {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]},
    "failFast": True, "code": ["lib"], "sourceDateEpoch": {"from": "inputs.day"}, "timeout": "9d", "failureBudget": 9,
    "steps": [
        {"id": "a", "python": "m:f", "with": {"day": {"from": "inputs.day"}, "l": [{"literal": 1}]}, "select": ["c"],
         "outputs": {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "number"}}}}},
        {"id": "b", "argv": ["bin/x", "1"], "needs": ["a"], "join": "any", "retry": {"base": "1s", "retryOn": ["E"]},
         "resources": {"memory": "1Mi", "files": 3}},
        {"id": "c", "confirm": {"show": {"from": "steps.a.x.0"}, "expires": "1d", "actor": "a"}, "needs": ["a", "b"]},
        {"id": "e", "tool": {"name": "t", "deadline": 60}, "with": {"d": {"from": "steps.c.shown"}}, "needs": ["c"], "timeout": 1},
    ],
}  # fmt: skip
ODD: list[Any] = [
    None, True, 0, -1, 1.5, 1e20, 2**53 - 1, "", "a", "steps.b", "a/b", "1s", [], [[]], ["a"], [3], {}, {"from": 3},
    {"from": "steps.c"}, {"id": "a"}, {"type": 3}, {"$ref": "#"}, {"": {}}, {"literal": {"from": 1}}, "\n", "é\u2028",
]  # fmt: skip


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Return every place within a value, as its container and its key there."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [spot for key in keys for spot in spots(value[key])]


def test_any_value_anywhere_gives_a_dag_or_mistakes_and_yaml_and_json_agree() -> None:
    rng = random.Random(3)
    assert not found_in(json.dumps(WHOLE))
    outcomes = set()
    for _ in range(1_500):
        document = copy.deepcopy(WHOLE)
        for _ in range(rng.randrange(1, 4)):
            container, key = rng.choice(spots(document))
            if rng.random() < 0.2:
                del container[key]
            elif isinstance(container, dict) and rng.random() < 0.3:
                container[rng.choice(["from", "literal", "type", "id", "x y", "$ref"])] = rng.choice(ODD)
            else:
                container[key] = copy.deepcopy(rng.choice(ODD))
        text = json.dumps(document)
        codes = [found_in(text), found_in("---\n" + text)]
        assert codes[0] == codes[1], text
        outcomes.add(not codes[0])
    assert outcomes == {True, False}


def found_in(text: str) -> list[tuple[str, tuple[str, ...]]]:
    try:
        parse_dag(text.encode(), name="d")
    except InvalidSpec as error:
        return sorted((mistake.code, tuple(map(str, mistake.path))) for mistake in error.mistakes)
    return []
