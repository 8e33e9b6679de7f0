"""What names a thing is the digest of the whole object that the design lists, and of nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.canonical import canonical, decode, digest_of, sha256_hex
from sovrun.core.identity import (
    CodeFile,
    RunKey,
    StepResult,
    TreeFile,
    code_digest,
    dag_version,
    outcome_body,
    outcome_of,
    parse_replay_token,
    replay_token,
    run_id_of,
    run_token,
    step_hash,
    step_hash_prefix,
    step_hash_suffix,
    tree_manifest,
)
from sovrun.core.ids import DagId, Digest, RunId, Tenant, run_id
from sovrun.core.lifecycle import Cause, State
from sovrun.core.network import Endpoint
from sovrun.core.spec.model import CommandCall, Kind, Resources, Retry, StepSpec
from support import dags
from support.values import digests, texts

MANY = settings(max_examples=1_000, deadline=None)

A, B, C = (Digest(digit * 64) for digit in "abc")


def hash_of(step: StepSpec, inputs: Digest, code: Digest) -> Digest:
    return step_hash(step_hash_prefix(step, code), inputs, step_hash_suffix(step))


# --- steps --------------------------------------------------------------------------------------------------------------

endpoints = st.builds(Endpoint, st.sampled_from(["a.test", "db"]), st.integers(1, 65_535))


def _entry(entry: object) -> object:
    if isinstance(entry, CommandCall):
        return {"adapter": entry.adapter, "command": entry.kind, "mode": entry.mode}
    return list(entry) if isinstance(entry, tuple) else entry


entries = st.one_of(
    st.tuples(st.just(Kind.PYTHON), texts),
    st.tuples(st.just(Kind.ARGV), st.lists(texts, min_size=1, max_size=4).map(tuple)),
    st.tuples(st.just(Kind.COMMAND), st.builds(CommandCall, texts, texts, texts)),
)


@MANY
@given(
    entries,
    digests,
    digests,
    st.lists(endpoints, max_size=3),
    st.dictionaries(texts, texts, max_size=3),
    st.sets(st.sampled_from(["reproducible", "verify-twice"])),
)
def test_a_step_hash_is_the_digest_of_all_that_decides_the_steps_result(
    kind_and_entry: tuple[Kind, Any],
    inputs: Digest,
    code: Digest,
    outside: list[Endpoint],
    secrets: dict[str, str],
    flags: set[str],
) -> None:
    kind, entry = kind_and_entry
    step = replace(
        dags.step("a"),
        kind=kind,
        entry=entry,
        endpoints=tuple(outside),
        secrets=tuple(secrets.items()),
        reproducible="reproducible" in flags,
        verified="verify-twice" in flags,
    )
    body = {
        "stepKind": str(kind),
        "entry": _entry(entry),
        "inputs": inputs,
        "code": code,
        "endpoints": [f"{host}:{port}" for host, port in outside],
        "secrets": [[name, reference] for name, reference in secrets.items()],
        "flags": sorted(flags),
    }
    assert hash_of(step, inputs, code) == digest_of("sovrun.step", 1, body)


def test_a_step_hash_changes_with_all_that_it_is_the_digest_of() -> None:
    step = dags.step("a")
    others = [
        hash_of(replace(step, endpoints=(Endpoint("a.test", 443),)), A, B),
        hash_of(replace(step, endpoints=(Endpoint("a.test", 80),)), A, B),
        hash_of(replace(step, secrets=(("TOKEN", "one"),)), A, B),
        hash_of(replace(step, secrets=(("TOKEN", "two"),)), A, B),
        hash_of(replace(step, secrets=(("OTHER", "one"),)), A, B),
        hash_of(replace(step, reproducible=True), A, B),
        hash_of(replace(step, verified=True), A, B),
        hash_of(replace(step, entry="plugin:other"), A, B),
        hash_of(replace(step, kind=Kind.ARGV, entry=("plugin:work",)), A, B),
        hash_of(replace(step, kind=Kind.TOOL), A, B),
        hash_of(step, C, B),
        hash_of(step, A, C),
        hash_of(step, B, A),
    ]
    assert len({hash_of(step, A, B), *others}) == len(others) + 1


def test_a_step_hash_does_not_change_with_what_cannot_change_the_result() -> None:
    step = dags.step("a")
    others = [
        dags.step("b"),
        dags.step("a", "z"),
        replace(step, retry=Retry(9, 9, 9, 9)),
        replace(step, resources=Resources(memory=1)),
        replace(step, description="text", outputs={"type": "object"}, select=step.needs, join_any=True),
        replace(step, arguments={"x": 1}),  # its value is in the digest of the resolved inputs
    ]
    assert {hash_of(other, A, B) for other in others} == {hash_of(step, A, B)}


# --- outcomes -----------------------------------------------------------------------------------------------------------

ENDS = [
    (State.COMPLETED, None),
    (State.FAILED, Cause.WORK),
    (State.FAILED, Cause.CIRCUMSTANCE),
    (State.CANCELLED, Cause.UPSTREAM_FAILED),
    (State.CANCELLED, Cause.NOT_SELECTED),
    (State.CANCELLED, Cause.CIRCUMSTANCE),
]


@st.composite
def results(draw: st.DrawFn) -> StepResult:
    state, cause = draw(st.sampled_from(ENDS))
    output = draw(digests) if state is State.COMPLETED else None
    return StepResult(draw(st.none() | digests) if output is None else draw(digests), state, cause, output)


def steps_for(count: int) -> Sequence[StepSpec]:
    return [dags.step(f"s{number}") for number in range(count)]


@MANY
@given(digests, digests, st.lists(results(), min_size=1, max_size=5))
def test_an_outcome_is_the_digest_of_the_object_that_anyone_can_make(
    version: Digest, inputs: Digest, ended: list[StepResult]
) -> None:
    steps = steps_for(len(ended))
    ids = [step.id for step in steps]
    outcome = outcome_of(version, inputs, steps, iter(ended))
    assert outcome.outcome == digest_of("sovrun.outcome", 1, outcome_body(version, inputs, ids, ended))
    outputs = [
        {"id": id_, "output": result.output}
        for id_, result in zip(ids, ended, strict=True)
        if result.state is State.COMPLETED
    ]
    assert outcome.outputs == digest_of("sovrun.outputs", 1, {"outputs": outputs})
    assert outcome.reproducible is all(result.cause is not Cause.CIRCUMSTANCE for result in ended)


def test_an_outcome_changes_with_each_member() -> None:
    done = StepResult(A, State.COMPLETED, None, B)
    failed = StepResult(A, State.FAILED, Cause.WORK, None)
    pairs = [
        (A, B, ("a", "b"), (done, failed)),
        (C, B, ("a", "b"), (done, failed)),
        (A, C, ("a", "b"), (done, failed)),
        (A, B, ("a", "c"), (done, failed)),
        (A, B, ("a", "b"), (failed, done)),
        (A, B, ("a", "b"), (done._replace(output=C), failed)),
        (A, B, ("a", "b"), (done._replace(step_hash=C), failed)),
        (A, B, ("a", "b"), (done, failed._replace(cause=Cause.CIRCUMSTANCE))),
        (A, B, ("a", "b"), (done, failed._replace(step_hash=None))),
        (A, B, ("a", "b"), (done, failed._replace(state=State.CANCELLED))),
    ]
    digests_ = {
        outcome_of(v, i, [dags.step(n) for n in names], ended).outcome for v, i, names, ended in pairs
    }
    assert len(digests_) == len(pairs)


def test_an_outputs_hash_depends_on_completed_steps_alone() -> None:
    done = StepResult(A, State.COMPLETED, None, B)
    failed = StepResult(A, State.FAILED, Cause.WORK, None)
    cancelled = StepResult(None, State.CANCELLED, Cause.UPSTREAM_FAILED, None)
    one, other = (outcome_of(A, B, steps_for(2), [done, rest]) for rest in (failed, cancelled))
    assert one.outputs == other.outputs
    assert one.outcome != other.outcome
    assert one.outputs != outcome_of(A, B, steps_for(2), [done._replace(output=C), failed]).outputs


def test_an_outcome_of_too_few_or_too_many_results_is_refused() -> None:
    done = StepResult(A, State.COMPLETED, None, B)
    for count in (1, 3):
        with pytest.raises(ValueError, match="zip"):
            outcome_of(A, B, steps_for(2), [done] * count)


@pytest.mark.parametrize(
    "state", [state for state in State if state not in (State.COMPLETED, State.FAILED, State.CANCELLED)]
)
def test_an_outcome_of_a_step_that_is_not_terminal_is_refused(state: State) -> None:
    with pytest.raises(ValueError, match="s0"):
        outcome_of(A, B, steps_for(1), [StepResult(A, state, None, None)])


# --- runs ---------------------------------------------------------------------------------------------------------------

KEYS: list[tuple[RunKey, dict[str, Any]]] = [
    (RunKey(caller="k"), {"caller": "k"}),
    (RunKey(fresh="k"), {"fresh": "k"}),
    (
        RunKey(schedule=("nightly", "2026-01-01T00:00:00.000000Z")),
        {"schedule": "nightly", "instant": "2026-01-01T00:00:00.000000Z"},
    ),
    (RunKey(rerun=(RunId("0" * 32), 2)), {"rerun": "0" * 32, "n": 2}),
]


@pytest.mark.parametrize(("key", "form"), KEYS, ids=["caller", "fresh", "schedule", "rerun"])
def test_a_run_token_is_the_digest_of_what_names_the_run(key: RunKey, form: dict[str, Any]) -> None:
    token = run_token(Tenant("t"), DagId("d"), A, B, key)
    body = {"tenant": "t", "dag": "d", "dagVersion": A, "inputs": B, "key": form}
    assert token == digest_of("sovrun.run", 1, body)
    assert run_id(run_id_of(token)) == token[:32]


def test_a_run_token_changes_with_each_member_and_each_form_of_the_key() -> None:
    tenant, dag, key = Tenant("t"), DagId("d"), RunKey(caller="k")
    tokens = {
        run_token(tenant, dag, A, B, key),
        run_token(Tenant("u"), dag, A, B, key),
        run_token(tenant, DagId("e"), A, B, key),
        run_token(tenant, dag, C, B, key),
        run_token(tenant, dag, A, C, key),
        run_token(tenant, dag, A, B, RunKey(caller="l")),
        *(run_token(tenant, dag, A, B, other) for other, _ in KEYS[1:]),
    }
    assert len(tokens) == 6 + len(KEYS) - 1


@pytest.mark.parametrize(
    "key", [RunKey(), RunKey(caller="k", fresh="k"), RunKey(fresh="k", rerun=(RunId("0" * 32), 1))]
)
def test_a_run_key_has_exactly_one_form(key: RunKey) -> None:
    with pytest.raises(ValueError, match="exactly one form"):
        key.json()


@MANY
@given(digests, digests, digests)
def test_a_replay_token_names_run_outcome_and_history(token: Digest, outcome: Digest, head: Digest) -> None:
    run = run_id_of(token)
    text = replay_token(run, outcome, head)
    assert parse_replay_token(text) == (run, outcome, head)


GOOD = replay_token(run_id_of(A), B, C)


@pytest.mark.parametrize(
    "text",
    [
        "",
        run_id_of(A),
        GOOD.replace("sovrun1", "sovrun2"),
        GOOD[:-1],
        GOOD + "0",
        GOOD + ".x",
        " " + GOOD,
        GOOD.replace("aa", "a"),
        GOOD.upper(),
        GOOD.replace("bbbb", "zzzz"),
        GOOD.replace("cc", "\u0663\u0663"),
    ],
)
def test_what_is_not_a_replay_token_is_not_taken_for_one(text: str) -> None:
    assert parse_replay_token(text) is None


# --- code, trees and DAG versions -----------------------------------------------------------------------------------------

files = st.lists(
    st.builds(CodeFile, texts, st.booleans(), digests), max_size=5, unique_by=lambda file: file.path
)


@MANY
@given(files, st.randoms(use_true_random=False))
def test_a_code_digest_does_not_depend_on_the_order_of_files(
    listed: list[CodeFile], chance: random.Random
) -> None:
    expected = digest_of("sovrun.code", 1, {"files": [list(file) for file in sorted(listed)]})
    shuffled = listed.copy()
    chance.shuffle(shuffled)
    assert code_digest(shuffled) == expected


def test_a_code_digest_changes_with_path_bit_content_and_presence() -> None:
    file = CodeFile("a/b.py", executable=False, digest=A)
    digests_ = [
        code_digest(listing)
        for listing in (
            [],
            [file],
            [file._replace(path="a/c.py")],
            [file._replace(executable=True)],
            [file._replace(digest=B)],
            [file, file._replace(path="a/c.py")],
        )
    ]
    assert len(set(digests_)) == len(digests_)


def test_a_tree_is_named_by_the_digest_of_its_sorted_listing() -> None:
    one, two = (
        TreeFile("b", executable=False, digest=A, size=1),
        TreeFile("a", executable=True, digest=B, size=2),
    )
    manifest = tree_manifest([one, two])
    assert manifest == tree_manifest([two, one])
    assert decode(manifest) == {
        "kind": "sovrun.tree",
        "version": 1,
        "files": [["a", True, B, 2], ["b", False, A, 1]],
    }
    assert canonical(decode(manifest)) == manifest
    assert (
        len({tree_manifest([file]) for file in (one, one._replace(size=9), one._replace(executable=True))})
        == 3
    )


def test_a_dag_version_names_the_document_and_its_code() -> None:
    normal = {"id": "a", "steps": []}
    assert dag_version(normal, A) == digest_of("sovrun.dag", 1, {"spec": normal, "code": A})
    assert (
        len({dag_version(normal, A), dag_version(normal, B), dag_version({"id": "b", "steps": []}, A)}) == 3
    )


def test_digests_of_two_kinds_or_versions_never_meet() -> None:
    assert len({digest_of("a", 1, {}), digest_of("b", 1, {}), digest_of("a", 2, {}), sha256_hex(b"{}")}) == 4
