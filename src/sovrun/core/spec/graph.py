"""The steps of a document as a graph: ids, needs, circles, choices.

Owns: what is wrong with how steps name each other, found also in a document that is wrong elsewhere.
Must not touch: the shape of a step (`shape.py`), what flows between steps (`references.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from sovrun.core.ids import NAME, StepId
from sovrun.core.plan import Cycle, plan_order
from sovrun.core.spec.findings import MISTAKES_MAX, Finding, Suggester, quoted

CIRCLES_MAX: Final = 20
_CIRCLE_SHOWN: Final = 50


@dataclass(frozen=True, slots=True)
class Graph:
    """The steps of a document as far as they can be told apart.

    Args:
        steps: as they stand in the document; anything that is not a map is left out by whoever looks.
        position: in the document, by step id; the first of those with the same id.
        needs: of each step, the other steps it needs, each once.
        order: in plan order; None when there are circles.
    """

    steps: Sequence[Any]
    position: Mapping[StepId, int]
    needs: Mapping[StepId, Sequence[StepId]]
    order: tuple[StepId, ...] | None


def read_graph(steps: Sequence[Any], suggester: Suggester) -> tuple[Graph, list[Finding]]:
    """Return the graph of a document's steps and what is wrong with it."""
    found: list[Finding] = []
    position: dict[StepId, int] = {}
    for place, step in enumerate(steps):
        name = _name_of(step)
        if name is not None and position.setdefault(name, place) != place and len(found) < MISTAKES_MAX:
            message = f"the step id {quoted(name)} is taken by steps[{position[name]}]"
            found.append(Finding("duplicate_step", message, ("steps", place, "id")))
    names = {name: name for name in position}  # one object for each name saves memory with a million edges
    needs: dict[StepId, Sequence[StepId]] = dict.fromkeys(position, ())
    for place, step in enumerate(steps):
        if isinstance(step, dict) and "needs" in step:
            known = _known_needs(step, place, names, suggester, found)
            name = _name_of(step)
            if name is not None and position[name] == place:
                needs[name] = known
    order, circles = _order(needs, position)
    found += circles
    graph = Graph(steps, position, needs, order)
    found += islice(_choices(graph, suggester), MISTAKES_MAX)
    return graph, found


def _name_of(step: Any) -> StepId | None:
    name = step.get("id") if isinstance(step, dict) else None
    return StepId(name) if isinstance(name, str) and NAME.fullmatch(name) else None


def _known_needs(
    step: Mapping[str, Any],
    place: int,
    names: Mapping[StepId, StepId],
    suggester: Suggester,
    found: list[Finding],
) -> Sequence[StepId]:
    needs = step["needs"]
    if not isinstance(needs, list):
        return ()
    known: dict[StepId, None] = {}
    for at, need in enumerate(needs):
        if not isinstance(need, str):
            continue
        if len(found) >= MISTAKES_MAX:
            break
        path = ("steps", place, "needs", at)
        name = names.get(StepId(need))
        if need == step.get("id"):
            found.append(Finding("self_need", f"the step {quoted(need)} needs itself", path))
        elif name in known:
            found.append(Finding("duplicate_need", f"{quoted(need)} stands twice in `needs`", path))
        elif name is not None:
            known[name] = None
        elif NAME.fullmatch(need):
            message = f"there is no step {quoted(need)}"
            found.append(Finding("unknown_need", message, path, suggester.hint(need, names)))
    return tuple(known)


def _order(
    needs: Mapping[StepId, Sequence[StepId]], position: Mapping[StepId, int]
) -> tuple[tuple[StepId, ...] | None, list[Finding]]:
    """Return the plan order, or the circles that stand in its way: each is cut open to find the next."""
    found: list[Finding] = []
    left = dict(needs)
    while len(found) < CIRCLES_MAX:
        try:
            order = plan_order(left)
        except Cycle as cycle:
            first, second = cycle.path[0], cycle.path[1]
            path = ("steps", position[second], "needs")
            found.append(Finding("cycle", circle_text(cycle.path), path))
            left[second] = [need for need in left[second] if need != first]
        else:
            return (order if not found else None), found
    return None, found


def circle_text(path: Sequence[StepId]) -> str:
    """Return a circle as a message shows it, not longer than can be read."""
    shown: list[str] = list(path)
    if len(shown) > _CIRCLE_SHOWN:
        shown = [*shown[:_CIRCLE_SHOWN], f"({len(path) - _CIRCLE_SHOWN - 1} more)", shown[-1]]
    return f"steps need each other in a circle: {' -> '.join(shown)} (each needs the one before it)"


def _choices(graph: Graph, suggester: Suggester) -> Iterator[Finding]:
    need_sets: dict[StepId, frozenset[StepId]] = {}
    for place, step in enumerate(graph.steps):
        if not isinstance(step, dict) or not isinstance(step.get("select"), list):
            continue
        chooser = _name_of(step)
        chosen: set[str] = set()
        for at, choice in enumerate(step["select"]):
            path = ("steps", place, "select", at)
            if not isinstance(choice, str) or not NAME.fullmatch(choice):
                continue
            name = StepId(choice)
            if choice in chosen:
                yield Finding("duplicate_item", f"{quoted(choice)} stands twice in `select`", path)
                continue
            chosen.add(choice)
            if name not in graph.position:
                hint = suggester.hint(choice, graph.position)
                yield Finding("unknown_step", f"there is no step {quoted(choice)}", path, hint)
                continue
            if name not in need_sets:
                need_sets[name] = frozenset(graph.needs[name])
            if chooser is not None and chooser not in need_sets[name]:
                message = f"{quoted(choice)} does not need this step, so this step cannot choose it"
                hint = f"add {quoted(chooser)} to the needs of {quoted(choice)}"
                yield Finding("not_dependent", message, path, hint)
