"""The values of the protocol travel unharmed; whatever else is sent is refused and harms nobody."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.commands.gates import AdapterLimits, AdapterLimitsChange
from sovrun.core.commands.journal import CommandId
from sovrun.core.errors import InvalidValue
from sovrun.core.ids import Actor, DagId, Digest, RunId, StepId, Tenant, WorkerId
from sovrun.core.lanes import LIMIT_MAX, WEIGHT_MAX, Bound, LimitsChange
from sovrun.core.walls import Walls
from sovrun.stores.remote.values import from_json, to_json
from sovrun.stores.remote.verbs import VERBS
from support.clock import SetClock
from support.requests import TENANT
from support.served import served
from support.stores import scratch_folder

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,20}", fullmatch=True)
PRINTED = st.text("abcXYZ019:/-.@", min_size=1, max_size=20)
OF_NAME: dict[Any, st.SearchStrategy[Any]] = {
    Tenant: NAMES,
    DagId: NAMES,
    StepId: NAMES,
    Digest: st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    RunId: st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    CommandId: st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    Actor: PRINTED,
    WorkerId: PRINTED,
}
BOUNDS = st.builds(Bound, st.none() | st.integers(0, LIMIT_MAX))
WITHIN_BOUNDS: dict[Any, st.SearchStrategy[Any]] = {
    Bound: BOUNDS,
    LimitsChange: st.builds(
        LimitsChange,
        st.none() | st.booleans(),
        st.none() | BOUNDS,
        st.none() | BOUNDS,
        st.none() | st.integers(1, WEIGHT_MAX),
    ),
}
"""Values that are not any of their members' types."""
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    int: st.integers(0, 2**53 - 1),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bytes: st.binary(max_size=20),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False, places=6),
    type(None): st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a declared type of the protocol."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is None or kind in PLAIN:
        return PLAIN[kind if kind is not None else type(None)]
    if kind in OF_NAME or kind in WITHIN_BOUNDS:
        return (OF_NAME | WITHIN_BOUNDS)[kind]
    if isinstance(kind, typing.NewType):
        return values(kind.__supertype__)
    if origin in (Union, types.UnionType):
        return st.one_of([values(each) for each in arguments])
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is frozenset:
        return st.frozensets(values(arguments[0]), max_size=3)
    if origin in (list, Sequence):
        return st.lists(values(arguments[0]), max_size=3)
    if origin in (dict, Mapping):
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    if kind is Walls:
        return st.builds(Walls, values(Digest), st.integers(0, 9), st.sampled_from(["hard", "best-effort"]))
    hints = get_type_hints(kind)
    names = (
        [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else kind._fields
    )
    return st.builds(kind, **{name: _member(kind, name, hints[name]) for name in names})


def _member(kind: Any, name: str, of: Any) -> st.SearchStrategy[Any]:
    if (kind, name) == (AdapterLimitsChange, "members"):
        return st.frozensets(st.sampled_from([field.name for field in dataclasses.fields(AdapterLimits)]))
    return values(of)


TYPES = {f"{verb}.{name}": kind for verb, of in VERBS.items() for name, kind in of.arguments.items()}
TYPES |= {f"{verb}.answer": of.answer for verb, of in VERBS.items()}


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_value_of_the_protocol_comes_back_as_it_went(name: str) -> None:
    kind = TYPES[name]

    @settings(max_examples=40, deadline=None)
    @given(values(kind))
    def comes_back(value: Any) -> None:
        sent = json.loads(json.dumps(to_json(value)))
        back = from_json(kind, sent)
        assert back == value
        assert type(back) is type(value)

    comes_back()


GARBAGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", sorted(TYPES))
def test_garbage_is_refused_or_is_a_value_after_all(name: str) -> None:
    kind = TYPES[name]

    @settings(max_examples=40, deadline=None)
    @given(GARBAGE)
    def is_refused(sent: Any) -> None:
        try:
            value = from_json(kind, sent)
        except InvalidValue:
            return
        assert from_json(kind, to_json(value)) == value

    is_refused()


async def test_whatever_is_sent_to_a_verb_no_answer_is_a_fault_of_ours() -> None:
    with scratch_folder() as folder:
        async with served(Path(folder), SetClock()) as server:
            for verb, of in sorted(VERBS.items()):
                kinds = {
                    name: st.one_of(values(kind).map(to_json), GARBAGE) for name, kind in of.arguments.items()
                }
                for body in _examples(st.fixed_dictionaries(kinds), 12):
                    if "patience_us" in body:
                        body["patience_us"] = 0
                    tenants = _tenants_in(body) or {str(TENANT)}
                    answer = await server.client.post(
                        f"/api/v1/engine/{verb}",
                        content=json.dumps(body),
                        headers={"X-Tenant-Id": min(tenants)},
                    )
                    assert answer.status_code < 500, (verb, body, answer.text)
            assert (await server.client.get("/api/v1/health")).status_code == 200
            assert (await server.client.get("/api/v1/runs", headers={"X-Tenant-Id": "t"})).status_code == 200


def _examples(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    found: list[Any] = []

    @settings(max_examples=count, deadline=None, database=None, derandomize=True)
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def _tenants_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = (
            {value["tenant"]}
            if isinstance(value.get("tenant"), str) and value["tenant"].isidentifier()
            else set()
        )
        return own.union(*(_tenants_in(item) for item in value.values()))
    return set()
