"""Names have one form; what has another is refused at the door, or made fit where it must not refuse."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.errors import InvalidIdentifier
from sovrun.core.ids import actor, digest, idempotency_key, require_name, run_id, tenant

MANY = settings(max_examples=1_000, deadline=None)


@pytest.mark.parametrize("name", ["a", "_", "A-b_9", "x" * 128])
def test_a_legal_name_is_taken(name: str) -> None:
    assert require_name(name, "step") == name
    assert tenant(name) == name


@pytest.mark.parametrize(
    "name", ["", "9a", "-a", "a b", "a.b", "a\n", "\u00e9", "a\u0661", "x" * 129, "a/../b", 'a"']
)
def test_another_name_is_refused_and_shown(name: str) -> None:
    with pytest.raises(InvalidIdentifier, match="not a legal name") as refusal:
        require_name(name, "step")
    assert "step" in refusal.value.detail
    with pytest.raises(InvalidIdentifier):
        tenant(name)


def test_run_ids_and_digests_are_lowercase_hexadecimal_of_their_length() -> None:
    assert run_id("0" * 32) == "0" * 32
    assert digest("f" * 64) == "f" * 64
    for text in ("", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 31 + "\n", "\u0660" * 32):
        with pytest.raises(InvalidIdentifier):
            run_id(text)
        with pytest.raises(InvalidIdentifier):
            digest(text * 2)


@MANY
@given(st.text(max_size=300))
def test_an_actor_is_printable_and_needs_no_escape_in_json(text: str) -> None:
    cleaned = actor(text)
    assert 1 <= len(cleaned) <= 256
    assert json.dumps(cleaned, ensure_ascii=False) == f'"{cleaned}"'
    assert all("!" <= character <= "~" for character in cleaned)
    assert actor(cleaned) == cleaned


def test_a_well_formed_actor_is_kept_as_it_is() -> None:
    assert actor("local:alice") == "local:alice"
    assert actor("") == "unknown"
    assert actor('local:a"b\\c d') == "local:a?b?c?d"


def test_an_idempotency_key_is_printable_ascii() -> None:
    assert idempotency_key("order 42/a") == "order 42/a"
    for text in ("", "x" * 513, "\u00e9", "a\n", "\x7f"):
        with pytest.raises(InvalidIdentifier):
            idempotency_key(text)
