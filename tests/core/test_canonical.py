"""The canonical form is RFC 8785, whatever the road taken, and nothing that lacks one gets through."""

from __future__ import annotations

import gzip
import json
import random
import struct
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.canonical import (
    COMPOSED_DEPTH_MAX,
    DEPTH_MAX,
    canonical,
    decode,
    digest_of,
    parse,
    path_text,
    require_json,
    sha256_hex,
)
from sovrun.core.errors import InvalidValue
from sovrun.core.jsontext import INTEGER_MAX, depth_exceeds, faults

JCS = Path(__file__).parents[1] / "data" / "jcs"
PAIRS = sorted(path.name for path in (JCS / "input").glob("*.json"))
MANY = settings(max_examples=1_000, deadline=None)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
integers = st.integers(-INTEGER_MAX, INTEGER_MAX)
numbers = integers | st.floats(allow_nan=False, allow_infinity=False)
plain_values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcXYZ_-0 $.", max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def nested(levels: int, *innermost: Any) -> Any:
    value: Any = list(innermost)
    for _ in range(levels - 1):
        value = [value]
    return value


def refusal(data: bytes | str) -> InvalidValue:
    with pytest.raises(InvalidValue) as caught:
        parse(data)
    return caught.value


# --- published vectors ----------------------------------------------------------------------------------------------


def test_there_are_six_published_pairs() -> None:
    assert len(PAIRS) == 6


@pytest.mark.parametrize("name", PAIRS)
def test_published_pair_has_exactly_the_published_bytes(name: str) -> None:
    expected = (JCS / "output" / name).read_bytes()
    assert canonical(parse((JCS / "input" / name).read_bytes())) == expected
    assert canonical(parse(expected)) == expected


def test_ten_thousand_published_numbers_have_the_published_form() -> None:
    data = gzip.decompress((JCS / "es6-numbers-10000.txt.gz").read_bytes())
    assert sha256_hex(data) == "b9f7a8e75ef22a835685a52ccba7f7d6bdc99e34b010992cbc5864cd12be6892"
    lines = data.decode().split()
    assert len(lines) == 10_000
    for line in lines:
        bits, expected = line.split(",")
        (number,) = struct.unpack(">d", bytes.fromhex(bits.zfill(16)))
        assert canonical(number).decode() == expected, line


# --- the fast road --------------------------------------------------------------------------------------------------


@MANY
@given(plain_values)
def test_the_fast_road_gives_the_bytes_of_the_reference(value: Any) -> None:
    assert canonical(value) == orjson.dumps(value, option=orjson.OPT_SORT_KEYS) == rfc8785.dumps(value)


@MANY
@given(values)
def test_any_value_has_the_bytes_of_the_reference(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@MANY
@given(values)
def test_a_value_comes_back_from_its_canonical_form(value: Any) -> None:
    assert decode(canonical(value)) == value


@MANY
@given(values)
def test_parsing_reads_what_other_writers_wrote(value: Any) -> None:
    assert canonical(parse(json.dumps(value))) == canonical(value)
    assert canonical(parse(json.dumps(value, ensure_ascii=False).encode())) == canonical(value)


def test_keys_sort_by_utf16_code_units_not_by_code_point() -> None:
    assert canonical({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()


def test_texts_that_only_look_like_texts_are_written_as_their_value() -> None:
    class Colour(StrEnum):
        RED = "red"

    assert canonical({"c": Colour.RED}) == b'{"c":"red"}'


def test_a_double_of_two_to_the_53_or_more_comes_back_as_a_double() -> None:
    assert decode(canonical([1e20, 2.0**53])) == [1e20, 2.0**53]
    assert all(type(number) is float for number in decode(canonical([1e20, 2.0**53])))


# --- what has no canonical form -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, float("nan")]}, "$.a[1]"),
        ({"a": {"b c": float("-inf")}}, '$.a["b c"]'),
        ([INTEGER_MAX + 1], "$[0]"),
        ([-INTEGER_MAX - 1], "$[0]"),
        ({"a": "\ud800"}, "$.a"),
        ({"a": {"\udfff": 1}}, "$.a"),
        ({"a": {1: 2}}, "$.a"),
        ({"a": {1, 2}}, "$.a"),
        ({"a": b"bytes"}, "$.a"),
        ([10**400], "$[0]"),
        (nested(COMPOSED_DEPTH_MAX + 1), "$" + "[0]" * COMPOSED_DEPTH_MAX),
    ],
)
def test_a_value_without_canonical_form_is_refused_with_its_path(value: Any, where: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        canonical(value)
    assert caught.value.facts["path"] == where
    assert caught.value.detail.startswith(where)
    caught.value.detail.encode()


def test_the_deepest_value_allowed_has_a_form_on_both_roads() -> None:
    opened, closed = b"[" * COMPOSED_DEPTH_MAX, b"]" * COMPOSED_DEPTH_MAX
    assert canonical(nested(COMPOSED_DEPTH_MAX)) == opened + closed
    assert canonical(nested(COMPOSED_DEPTH_MAX, 0.5)) == opened + b"0.5" + closed


def test_a_value_at_the_door_may_have_64_levels() -> None:
    require_json(nested(DEPTH_MAX))
    with pytest.raises(InvalidValue, match="deeper than 64 levels"):
        require_json(nested(DEPTH_MAX + 1))


# --- strict parsing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where", "line", "column", "says"),
    [
        ('{"a": {"k": 1,\n "k": 2}}', "$.a", 2, 2, 'the key "k" stands twice'),
        ('{"a": [1, {"b": NaN}]}', "$.a[1].b", 1, 17, "NaN"),
        ("[-Infinity]", "$[0]", 1, 2, "-Infinity"),
        ("[0, 9007199254740992]", "$[1]", 1, 5, "beyond 2^53-1"),
        ("[" + "9" * 5_000 + "]", "$[0]", 1, 2, "beyond 2^53-1"),
        ('{"x": 1e400}', "$.x", 1, 7, "beyond what a double can hold"),
        ('{"x": ["\\ud800"]}', "$.x[0]", None, None, "lone surrogate"),
        ('{"\\udc00": 1}', "$", None, None, "lone surrogate"),
        ('{"a": 1, "a": ' + "[" * 70 + "]" * 70 + "}", "$", 1, 10, 'the key "a" stands twice'),
    ],
)
def test_a_text_that_is_not_strict_is_refused_with_path_and_place(
    text: str, where: str, line: int | None, column: int | None, says: str
) -> None:
    for data in (text, text.encode()):
        error = refusal(data)
        assert error.facts["path"] == where
        assert says in error.detail
        if line is not None:
            assert (error.facts["line"], error.facts["column"]) == (line, column)


@pytest.mark.parametrize(
    "data", [b"", b" ", b"{", b"[1,]", b"\xff", b"\xff\xfe{\x00}\x00", b"nul", b"{'a': 1}", b"1 2"]
)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    refusal(data)


def test_a_byte_order_mark_is_named() -> None:
    assert "byte order mark" in refusal(b"\xef\xbb\xbf{}").detail


@pytest.mark.parametrize("opener", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("closed", [True, False])
def test_ten_thousand_levels_are_refused_without_recursion(opener: str, *, closed: bool) -> None:
    closer = "".join({"[": "]", "{": "}"}.get(letter, "") for letter in reversed(opener))
    text = opener * 10_000 + "1" + (closer * 10_000 if closed else "")
    refusal(text)
    refusal(text.encode())


def test_the_limit_of_nesting_lies_between_64_and_65_levels() -> None:
    assert parse("[" * DEPTH_MAX + "]" * DEPTH_MAX) == nested(DEPTH_MAX)
    error = refusal("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1))
    assert "64 levels" in error.detail
    assert error.facts["column"] == DEPTH_MAX + 1
    assert parse('["' + "[{" * 200 + '\\"[[", 1]')  # brackets in a text are not levels


def height(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(height, value.values()), default=0)
    return 1 + max(map(height, value), default=0) if isinstance(value, list) else 0


@MANY
@given(values, st.integers(0, 6))
def test_depth_is_counted_without_parsing(value: Any, limit: int) -> None:
    assert depth_exceeds(json.dumps(value, ensure_ascii=False), limit) == (height(value) > limit)


def mutations(data: bytes, rng: random.Random) -> Iterator[bytes]:
    yield from (data[:length] for length in range(len(data)))
    for position in range(len(data)):
        yield data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :]
        yield data[:position] + bytes([rng.randrange(256)]) + data[position + 1 :]
        yield data[:position] + data[position + 1 :]


@pytest.mark.parametrize("folder", ["input", "output"])
@pytest.mark.parametrize("name", PAIRS)
def test_a_damaged_text_gives_a_value_or_a_refusal_and_nothing_else(folder: str, name: str) -> None:
    data = (JCS / folder / name).read_bytes()
    outcomes = {"value": 0, "refused": 0}
    for damaged in mutations(data, random.Random(8785)):
        try:
            value = parse(damaged)
        except InvalidValue:
            outcomes["refused"] += 1
        else:
            outcomes["value"] += 1
            canonical(value)
    assert all(outcomes.values()), outcomes


@MANY
@given(st.binary(max_size=64) | st.text(max_size=64).map(lambda text: text.encode(errors="surrogatepass")))
def test_arbitrary_bytes_give_a_value_or_a_refusal(data: bytes) -> None:
    try:
        value = parse(data)
    except InvalidValue:
        return
    assert canonical(parse(canonical(value))) == canonical(value)


@MANY
@given(values)
def test_a_strict_text_has_no_faults(value: Any) -> None:
    text = json.dumps(value)
    try:
        parse(text)
    except InvalidValue:  # a double that is written with digits only
        assert list(faults(text, depth_max=DEPTH_MAX))
    else:
        assert not list(faults(text, depth_max=DEPTH_MAX))


# --- digests --------------------------------------------------------------------------------------------------------


def test_a_digest_names_the_kind_and_the_version_of_what_it_is_of() -> None:
    expected = sha256_hex(b'{"a":1,"kind":"sovrun.x","version":1}')
    assert digest_of("sovrun.x", 1, {"a": 1}) == expected
    assert len({digest_of("sovrun.x", 2, {"a": 1}), digest_of("sovrun.y", 1, {"a": 1}), expected}) == 3


def test_the_kind_and_version_cannot_be_taken_over_by_the_body() -> None:
    for lost in ({"kind": "other"}, {"version": 9}):
        with pytest.raises(ValueError, match="otherwise than kind and version"):
            digest_of("sovrun.x", 1, lost)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), "$"),
        (("steps", 3, "with", "day"), "$.steps[3].with.day"),
        (("a.b", "c d", ""), '$["a.b"]["c d"][""]'),
        (("\ud800",), '$["\\ud800"]'),
        (("$file",), "$.$file"),
    ],
)
def test_a_path_is_printable_and_unambiguous(path: tuple[str | int, ...], text: str) -> None:
    assert path_text(path) == text
    text.encode()
