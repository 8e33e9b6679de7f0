"""Every value of a JSON text is found where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.jsontext import Path, faults, line_columns, offsets

MANY = settings(max_examples=1_000, deadline=None)

VALUES = st.recursive(
    st.none() | st.integers(-99, 99) | st.text('ab"\\{}[],: \n', max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('k"\\{[,:', max_size=3), inner, max_size=4)
    ),
    max_leaves=15,
)


def members(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from members(item, (*path, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from members(item, (*path, position))


@MANY
@given(VALUES, st.sampled_from([None, 1, "\t"]), st.data())
def test_each_path_leads_to_its_value_and_its_key(value: Any, indent: Any, data: st.DataObject) -> None:
    text = json.dumps(value, indent=indent)
    everything = dict(members(value))
    wanted = data.draw(st.sets(st.sampled_from(list(everything)), max_size=5))
    found = offsets(text, [*wanted, ("not", "there"), (99, 99)])
    assert set(found) == wanted
    decoder = json.JSONDecoder()
    for path, where in found.items():
        assert decoder.raw_decode(text, where.value)[0] == everything[path]
        if path and isinstance(path[-1], str):
            assert decoder.raw_decode(text, where.key)[0] == path[-1]
        else:
            assert where.key == where.value


@MANY
@given(VALUES, st.sampled_from([None, 1]))
def test_the_walk_leaves_out_nothing(value: Any, indent: Any) -> None:
    text = json.dumps(value, indent=indent).replace("null", "NaN")
    nothing = [path for path, item in members(value) if item is None]
    assert [fault.path for fault in faults(text, depth_max=99)] == nothing


@given(st.text("a\né", max_size=20), st.data())
def test_lines_and_columns_count_characters_from_one(text: str, data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.integers(0, len(text)), max_size=4))
    places = line_columns(text, wanted)
    for offset in wanted:
        before = text[:offset].split("\n")
        assert places[offset] == (len(before), len(before[-1]) + 1)


@pytest.mark.parametrize(
    "text", ["}", "]", ",", '{"a"', "[1,", '{"a": [}', "[[1, 2", '{"a": 1,, "b": 2}', '"', "{1: 2}"]
)
def test_a_text_that_stops_being_json_does_no_harm(text: str) -> None:
    offsets(text, {("a",), (0, 1), ("b",)})
