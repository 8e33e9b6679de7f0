"""Small random DAGs with command steps.

Owns: `command_dag`, `random_payload`.
Must not touch: any random source but the one it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from sovrun.core.ids import DagId, StepId
from sovrun.core.plan import plan_order
from sovrun.core.spec.model import CommandCall, DagSpec, Kind, Reference, Retry, StepSpec, Template
from sovrun.simulation.dags import INPUTS
from sovrun.simulation.provider import FURTHER_KIND, SYMBOLS

OPENING = ("order.place", "order.place", "deployment.create", FURTHER_KIND)
ENDING = {
    "order.place": ("order.cancel", "orderId"),
    "deployment.create": ("deployment.stop", "deploymentId"),
}


def random_payload(rng: Random, kind: str) -> dict[str, Any]:
    """Return a payload of a kind that opens something."""
    if kind == "order.place":
        symbol = rng.choices(SYMBOLS, (6, 6, 1))[0]
        quantity, price = str(rng.randint(1, 9)), f"{rng.randint(1, 99)}.5"
        return {"symbol": symbol, "side": rng.choice(("buy", "sell")), "quantity": quantity, "price": price}
    if kind == "deployment.create":
        return {"name": f"d{rng.randrange(100)}", "artifact": "a.tar", "capital": str(rng.randint(1, 999))}
    return {"text": f"message {rng.randrange(1_000)}"}


def command_dag(rng: Random, number: int, adapters: Sequence[str]) -> DagSpec:
    """Return a DAG of 1 to 5 steps, most of them commands; what one opened, a later one may end."""
    steps: dict[StepId, StepSpec] = {}
    opened: list[tuple[StepId, str, str]] = []
    for position in range(rng.randint(1, 5)):
        id_ = StepId(f"s{position}")
        earlier = list(steps)
        needs = rng.sample(earlier, min(len(earlier), rng.choice((0, 1, 1, 2))))
        if rng.random() < 0.25:
            arguments: dict[str, Template] = {"salt": rng.randrange(4)}
            steps[id_] = StepSpec(id_, Kind.PYTHON, "simulated:steady", tuple(sorted(needs)), arguments)
            continue
        if opened and rng.random() < 0.4:
            source, kind, adapter = opened.pop()
            ending, member = ENDING[kind]
            arguments = {member: Reference(source, ("resource", "id"))}
            entry = CommandCall(ending, adapter, "paper")
            needs = list({*needs, source})
        else:
            kind, adapter = rng.choice(OPENING), rng.choice(list(adapters))
            arguments = dict(random_payload(rng, kind))
            entry = CommandCall(kind, adapter, "paper")
            if kind in ENDING:
                opened.append((id_, kind, adapter))
        steps[id_] = StepSpec(id_, Kind.COMMAND, entry, tuple(sorted(needs)), arguments, retry=Retry())
    order = plan_order({id_: step.needs for id_, step in steps.items()})
    return DagSpec(
        id=DagId(f"dag{number}"),
        inputs=INPUTS,
        steps=tuple(steps[id_] for id_ in order),
        fail_fast=rng.random() < 0.12,
    )
