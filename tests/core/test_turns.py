"""Tenants take turns: no backlog of one delays another, each keeps its own order, and weights are kept."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.ids import Tenant
from sovrun.core.turns import Turn, in_turn

MANY = settings(max_examples=1_000, deadline=None)
A, B, C = map(Tenant, "abc")
NOBODY = Turn()

backlogs = st.dictionaries(st.sampled_from([A, B, C, Tenant("d")]), st.integers(0, 6), max_size=4)
tenants = st.sampled_from(["", "a", "b", "bb", "d", "z"]).map(Tenant)
cursors = st.builds(Turn, tenants, st.integers(1, 3))
weights = st.dictionaries(st.sampled_from([A, B, C]), st.integers(1, 4), max_size=3)


def test_turns_go_on_after_the_tenant_served_last() -> None:
    queues = {C: [1], A: [1], B: [1]}
    for last, expected in (("", [A, B, C]), ("a", [B, C, A]), ("c", [A, B, C]), ("bb", [C, A, B])):
        taken, _ = in_turn(queues, 3, Turn(Tenant(last), 1), {})
        assert [tenant for tenant, _ in taken] == expected


def test_each_tenant_gets_one_step_a_round() -> None:
    taken, turn = in_turn({A: [1, 2, 3], B: [4], C: [5, 6]}, 5, Turn(A, 1), {})
    assert taken == [(B, 4), (C, 5), (A, 1), (C, 6), (A, 2)]
    assert turn == Turn(A, 1)


def test_a_tenant_takes_as_many_steps_in_its_turn_as_it_weighs() -> None:
    taken, turn = in_turn({A: list(range(9)), B: list(range(9))}, 8, NOBODY, {A: 3})
    assert [tenant for tenant, _ in taken] == [A, A, A, B, A, A, A, B]
    assert turn == Turn(B, 1)


def test_a_turn_goes_on_in_the_next_claim() -> None:
    first, turn = in_turn({A: [1, 2, 3], B: [4, 5]}, 2, NOBODY, {A: 3})
    second, _ = in_turn({A: [3], B: [4, 5]}, 2, turn, {A: 3})
    assert [tenant for tenant, _ in (*first, *second)] == [A, A, A, B]


def test_no_slots_or_no_work_moves_no_cursor() -> None:
    assert in_turn({A: [1]}, 0, Turn(B, 1), {}) == ([], Turn(B, 1))
    assert in_turn({A: []}, 3, Turn(B, 1), {}) == ([], Turn(B, 1))


@MANY
@given(backlogs, st.integers(0, 12), cursors)
def test_slots_are_shared_evenly_and_in_each_tenants_order(
    backlog: dict[Tenant, int], slots: int, last: Turn
) -> None:
    queues = {tenant: list(range(count)) for tenant, count in backlog.items()}
    taken, cursor = in_turn(queues, slots, last, {})
    assert len(taken) == min(slots, sum(backlog.values())), "no slot stays empty while there is work"
    shares = {tenant: [item for owner, item in taken if owner == tenant] for tenant in queues}
    for tenant, share in shares.items():
        assert share == queues[tenant][: len(share)]
        for other, others in shares.items():
            assert len(others) <= len(share) + 1 or len(share) == backlog[tenant], (tenant, other)
    assert cursor.tenant == (taken[-1][0] if taken else last.tenant)


@MANY
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), cursors, weights)
def test_many_small_claims_share_as_one_large_one(
    claims: list[int], last: Turn, weight: dict[Tenant, int]
) -> None:
    queues = {tenant: list(range(40)) for tenant in (A, B, C)}
    together, turn = in_turn(queues, sum(claims), last, weight)
    apart, cursor = [], last
    done: Counter[Tenant] = Counter()
    for slots in claims:
        left = {tenant: queue[done[tenant] :] for tenant, queue in queues.items()}
        taken, cursor = in_turn(left, slots, cursor, weight)
        apart.extend(taken)
        done.update(tenant for tenant, _ in taken)
    assert apart == together
    assert cursor == turn


@MANY
@given(st.integers(1, 9), st.integers(0, 12), cursors, weights)
def test_who_waits_alone_is_served_as_beside_others_that_have_no_work(
    backlog: int, slots: int, last: Turn, weight: dict[Tenant, int]
) -> None:
    alone: dict[Tenant, list[int]] = {A: list(range(backlog))}
    assert in_turn(alone, slots, last, weight) == in_turn({**alone, B: []}, slots, last, weight)
