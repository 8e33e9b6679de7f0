"""Which steps are upstream of which, for as many pairs as a document asks about.

Owns: the answer in near-linear time and bounded memory; a table of all ancestors of 100,000 steps is neither.
Must not touch: documents.

Steps are positions in plan order, so whatever is upstream of a step has a smaller position.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

_LOOKS_MAX: Final = (
    256  # edges that a search for one pair may follow; most references reach back a step or two
)
_BATCH: Final = 4_096  # targets whose descendants are found together, a bit each: 100,000 steps take 50 MB


def not_upstream(pairs: Collection[tuple[int, int]], needs: Sequence[Sequence[int]]) -> set[tuple[int, int]]:
    """Return those pairs (step, target) in which the target is not upstream of the step.

    Args:
        pairs: positions in plan order.
        needs: of each position, the positions it waits for.
    """
    asked: dict[int, list[int]] = {}
    for step, target in pairs:
        asked.setdefault(target, []).append(step)
    refused: set[tuple[int, int]] = set()
    undecided: dict[int, list[int]] = {}
    for target, steps in asked.items():
        for step in steps:
            found = _search(step, target, needs, _LOOKS_MAX // len(steps)) if target < step else False
            if found is None:
                undecided.setdefault(target, []).append(step)
            elif not found:
                refused.add((step, target))
    targets = sorted(undecided)
    for begin in range(0, len(targets), _BATCH):
        batch = targets[begin : begin + _BATCH]
        refused |= _sweep(batch, undecided, needs)
    return refused


def _search(step: int, target: int, needs: Sequence[Sequence[int]], looks: int) -> bool | None:
    """Look back from a step as far as the target; None when that takes more than `looks`."""
    left = looks
    seen = {step}
    open_steps = [step]
    while open_steps:
        for need in needs[open_steps.pop()]:
            if need == target:
                return True
            left -= 1
            if left <= 0:
                return None
            if need > target and need not in seen:
                seen.add(need)
                open_steps.append(need)
    return False


def _sweep(
    batch: Sequence[int], asked: dict[int, list[int]], needs: Sequence[Sequence[int]]
) -> set[tuple[int, int]]:
    """Go once through the plan from the first target to the last step that asks, a bit for each target."""
    bits = {target: 1 << place for place, target in enumerate(batch)}
    last = max(step for target in batch for step in asked[target])
    reached: dict[int, int] = {}
    for position in range(batch[0], last + 1):
        mask = bits.get(position, 0)
        for need in needs[position]:
            mask |= reached.get(need, 0)
        if mask:
            reached[position] = mask
    return {
        (step, target)
        for target in batch
        for step in asked[target]
        if not reached.get(step, 0) & bits[target]
    }
