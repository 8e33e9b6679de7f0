"""Values of secrets are taken out of texts in every usual form, however the text is cut into pieces."""

from __future__ import annotations

import base64
import html
import json
import re
from itertools import pairwise
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.sandbox.redaction import CUT, LINE_MIN, MARK, VALUE_MIN, Redaction, Stream

SECRET = 'pa/ss"wörd+&<Ω>\\7'  # noqa: S105 -- of nobody
VALUE = SECRET.encode()

FORMS = {
    "itself": VALUE,
    "JSON": json.dumps(SECRET).encode(),
    "JSON in Unicode": json.dumps(SECRET, ensure_ascii=False).encode(),
    "JSON with escaped slashes": json.dumps(SECRET).replace("/", "\\/").encode(),
    "URL path": quote(SECRET).encode(),
    "URL part": quote(SECRET, safe="").encode(),
    "form": quote_plus(SECRET).encode(),
    "URL with escapes in lower case": re.sub(
        "%..", lambda escape: escape[0].lower(), quote(SECRET, safe="")
    ).encode(),
    "hexadecimal": VALUE.hex().encode(),
    "HTML": html.escape(SECRET).encode(),
    "repr": repr(SECRET).encode(),
    "repr of bytes": repr(VALUE).encode(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_value_is_taken_out_in_every_form(form) -> None:
    cleaned = Redaction([VALUE]).apply(b"before " + form + b" after")
    assert cleaned.startswith(b"before ")
    assert cleaned.endswith(b" after")
    assert cleaned.count(MARK) == 1
    assert len(cleaned) <= len(b'before "***" after') + 1  # what may be left are the quotes around it


@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"abc", b"user:"])
@pytest.mark.parametrize("after", [b"", b"z", b"zz", b"zzz"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_is_recognised_wherever_the_value_begins(before, after, encode) -> None:
    encoded = encode(before + VALUE + after)
    cleaned = Redaction([VALUE]).apply(b"> " + encoded + b" <")
    around = (
        len(encode(before)) + len(encode(after)) + 6
    )  # the groups that hold bits of a neighbour, and padding
    assert MARK in cleaned
    assert len(cleaned) <= len(b">  <") + len(MARK) + around


@pytest.mark.parametrize("columns", [64, 76])
def test_folded_base64_leaves_no_line_of_a_long_value(columns) -> None:
    value = bytes(range(33, 126)) * 5
    encoded = base64.b64encode(value)
    lines = [encoded[at : at + columns] for at in range(0, len(encoded), columns)]
    cleaned = Redaction([value]).apply(b"\n".join(lines))
    assert not any(line in cleaned for line in lines if len(line) >= LINE_MIN)


def test_each_line_of_a_long_key_is_known_but_the_frame_of_a_pem_is_not() -> None:
    key = b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----"
    redaction = Redaction([key])
    printed = b"line 2: hkiG9w0BAQEFAASC\n-----BEGIN PRIVATE KEY-----\n"
    assert redaction.apply(printed) == b"line 2: ***\n-----BEGIN PRIVATE KEY-----\n"
    assert not redaction.is_in(printed), "a part of a value does not refuse an output"
    assert redaction.is_in(json.dumps({"key": key.decode()}).encode())


def test_values_that_overlap_become_one() -> None:
    redaction = Redaction([b"abcdefgh", b"efghijkl"])
    assert redaction.apply(b"<abcdefghijkl> <efghabcdefgh>") == b"<***> <efgh***>"


def test_the_text_form_shows_no_value() -> None:
    assert SECRET not in repr(Redaction([VALUE]))


@pytest.mark.parametrize("kept", range(1, len(VALUE)))
def test_the_beginning_of_a_value_at_a_cut_is_taken_out(kept) -> None:
    beginning = VALUE[:kept].decode(errors="ignore")
    cleaned = Redaction([VALUE]).text("it was " + beginning + CUT)
    assert cleaned in ("it was ***" + CUT, "it was " + CUT)
    assert Redaction([VALUE]).text("it was " + beginning) == "it was " + beginning


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


# Few letters, so that values repeat, overlap and begin within each other.
few = st.text("ab", min_size=VALUE_MIN, max_size=12).map(str.encode)


@settings(max_examples=1_000)
@given(
    st.lists(few, min_size=1, max_size=3),
    st.text("abc", max_size=60),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_cutting_into_pieces_changes_nothing(values, text, places) -> None:
    redaction = Redaction(values)
    stream = Stream(redaction)
    pieces = [stream.take(piece) for piece in _cut(text.encode(), places)]
    assert b"".join([*pieces, stream.rest()]) == redaction.apply(text.encode())


@settings(max_examples=1_000)
@given(st.lists(few, min_size=1, max_size=3), st.text("abc", max_size=60))
def test_what_is_taken_out_is_exactly_what_belongs_to_a_value(values, text) -> None:
    data = text.encode()
    covered = [False] * len(data)
    for value in values:
        for at in range(len(data) - len(value) + 1):
            if data[at : at + len(value)] == value:
                covered[at : at + len(value)] = [True] * len(value)
    cleaned = Redaction(values).apply(data)
    assert cleaned.replace(MARK, b"") == bytes(
        byte for byte, is_value in zip(data, covered, strict=True) if not is_value
    )


@settings(max_examples=300)
@given(
    st.binary(min_size=VALUE_MIN, max_size=40),
    st.binary(max_size=50),
    st.binary(max_size=50),
    st.lists(st.integers(0, 400)),
)
def test_a_value_is_found_however_what_holds_it_is_cut(value, before, after, places) -> None:
    redaction = Redaction([value])
    for whole in (before + value + after, base64.b64encode(before + value + after)):
        assert redaction.is_in_chunks(_cut(whole, places))
        stream = Stream(redaction)
        cleaned = b"".join([*(stream.take(piece) for piece in _cut(whole, places)), stream.rest()])
        assert MARK in cleaned


def test_what_cannot_be_a_value_is_not_held_back() -> None:
    stream = Stream(Redaction([b"token-of-mine"]))
    assert stream.take(b"progress 10 %\n") == b"progress 10 %\n"
    assert stream.take(b"my tok") == b"my "
    assert stream.take(b"yo\n") == b"tokyo\n"
    assert stream.take(b"a token-of-m") == b"a "
    assert stream.take(b"ine!") == b"***!"
    assert stream.rest() == b""
