"""Whose turn it is: how the slots of one claim are shared among tenants.

Owns: `in_turn`. Tenants take turns in the order of their ids, going on after the one served last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from sovrun.core.ids import Tenant

Item = TypeVar("Item")


def turn_order(tenants: Iterable[Tenant], last: Tenant) -> list[Tenant]:
    """Return tenants in the order of their turns, the first being the one after `last` ("" for nobody yet)."""
    ordered = sorted(tenants)
    return [tenant for tenant in ordered if tenant > last] + [tenant for tenant in ordered if tenant <= last]


def in_turn(
    queues: Mapping[Tenant, Sequence[Item]], slots: int, last: Tenant
) -> tuple[list[tuple[Tenant, Item]], Tenant]:
    """Return up to `slots` items, one tenant's head after another's, and the tenant that was served last.

    Args:
        queues: of each tenant the head of its queue, at most `slots` items needed.
        last: who was served last before.
    """
    taken: list[tuple[Tenant, Item]] = []
    depth = 0
    order = turn_order((tenant for tenant, queue in queues.items() if queue), last)
    while order and len(taken) < slots:
        for tenant in order:
            taken.append((tenant, queues[tenant][depth]))
            last = tenant
            if len(taken) == slots:
                break
        depth += 1
        order = [tenant for tenant in order if len(queues[tenant]) > depth]
    return taken, last
