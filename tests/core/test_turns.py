"""Tenants take turns: no backlog of one delays another, and each keeps its own order."""

from __future__ import annotations

from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.ids import Tenant
from sovrun.core.turns import in_turn, turn_order

MANY = settings(max_examples=1_000, deadline=None)
A, B, C = map(Tenant, "abc")

backlogs = st.dictionaries(st.sampled_from([A, B, C, Tenant("d")]), st.integers(0, 6), max_size=4)
cursors = st.sampled_from(["", "a", "b", "bb", "d", "z"]).map(Tenant)


def test_turns_go_on_after_the_tenant_served_last() -> None:
    assert turn_order([C, A, B], Tenant("")) == [A, B, C]
    assert turn_order([C, A, B], A) == [B, C, A]
    assert turn_order([C, A, B], C) == [A, B, C]
    assert turn_order([C, A], B) == [C, A]


def test_each_tenant_gets_one_step_a_round() -> None:
    taken, last = in_turn({A: [1, 2, 3], B: [4], C: [5, 6]}, 5, A)
    assert taken == [(B, 4), (C, 5), (A, 1), (C, 6), (A, 2)]
    assert last == A


def test_no_slots_or_no_work_moves_no_cursor() -> None:
    assert in_turn({A: [1]}, 0, B) == ([], B)
    assert in_turn({A: []}, 3, B) == ([], B)


@MANY
@given(backlogs, st.integers(0, 12), cursors)
def test_slots_are_shared_evenly_and_in_each_tenants_order(
    backlog: dict[Tenant, int], slots: int, last: Tenant
) -> None:
    queues = {tenant: list(range(count)) for tenant, count in backlog.items()}
    taken, cursor = in_turn(queues, slots, last)
    assert len(taken) == min(slots, sum(backlog.values())), "no slot stays empty while there is work"
    shares = {tenant: [item for owner, item in taken if owner == tenant] for tenant in queues}
    for tenant, share in shares.items():
        assert share == queues[tenant][: len(share)]
        for other, others in shares.items():
            assert len(others) <= len(share) + 1 or len(share) == backlog[tenant], (tenant, other)
    assert cursor == (taken[-1][0] if taken else last)


@MANY
@given(backlogs, st.integers(1, 5), st.integers(1, 5), cursors)
def test_many_small_claims_share_as_one_large_one(
    backlog: dict[Tenant, int], first: int, second: int, last: Tenant
) -> None:
    queues = {tenant: list(range(count)) for tenant, count in backlog.items()}
    if any(0 < count < first + second for count in backlog.values()):
        return  # a tenant whose queue ends leaves the round, and the rounds of two claims differ
    together, _ = in_turn(queues, first + second, last)
    one, cursor = in_turn(queues, first, last)
    rest = {t: list(islice(q, sum(owner == t for owner, _ in one), None)) for t, q in queues.items()}
    other, _ = in_turn(rest, second, cursor)
    assert one + other == together
