"""Whose turn it is: how the slots of one claim are shared among tenants.

Owns: `Turn`, `in_turn`. Tenants take turns in the order of their ids; in each turn a tenant may take as many steps as
its weight. The cursor says who is served and how much of the turn is used up, so the next claim goes on where this one
ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from sovrun.core.ids import Tenant

Item = TypeVar("Item")


class Turn(NamedTuple):
    """The cursor: whose turn it was last ("" for nobody yet), and how many steps it has taken in that turn."""

    tenant: Tenant = Tenant("")
    used: int = 0


def in_turn(
    queues: Mapping[Tenant, Sequence[Item]], slots: int, turn: Turn, weights: Mapping[Tenant, int]
) -> tuple[list[tuple[Tenant, Item]], Turn]:
    """Return up to `slots` items, tenants in turn, and the cursor after them.

    Args:
        queues: of each tenant the head of its queue, at most `slots` items needed.
        weights: of tenants, where not 1.
    """
    if len(queues) == 1:
        ((tenant, queue),) = queues.items()
        return _alone(tenant, queue[:slots], turn, weights)
    taken: list[tuple[Tenant, Item]] = []
    depths = dict.fromkeys(queues, 0)
    waiting = sorted(tenant for tenant, queue in queues.items() if queue)
    while waiting and len(taken) < slots:
        turn = _next(waiting, turn, weights)
        tenant = turn.tenant
        depth = depths[tenant]
        taken.append((tenant, queues[tenant][depth]))
        depths[tenant] = depth + 1
        if depth + 1 == len(queues[tenant]):
            waiting.remove(tenant)
    return taken, turn


def _alone(
    tenant: Tenant, items: Sequence[Item], turn: Turn, weights: Mapping[Tenant, int]
) -> tuple[list[tuple[Tenant, Item]], Turn]:
    """Return what `in_turn` does when nobody else waits: one turn after another."""
    if items:
        weight = weights.get(tenant, 1)
        before = min(turn.used, weight) if turn.tenant == tenant else 0
        turn = Turn(tenant, (before + len(items) - 1) % weight + 1)
    return [(tenant, item) for item in items], turn


def _next(waiting: Sequence[Tenant], turn: Turn, weights: Mapping[Tenant, int]) -> Turn:
    """Return the cursor for the next item: the same tenant while its turn lasts, else the next one in order."""
    if turn.tenant in waiting and turn.used < weights.get(turn.tenant, 1):
        return Turn(turn.tenant, turn.used + 1)
    later = [tenant for tenant in waiting if tenant > turn.tenant]
    return Turn(later[0] if later else waiting[0], 1)
