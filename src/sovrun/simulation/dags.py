"""Random DAGs, and steps that are functions of what they are given.

Owns: `random_dag`, `work`, and the executor and files that stand in for a sandbox and a disk.
Must not touch: any random source but the one it is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

from sovrun.core.canonical import canonical, decode, sha256_hex
from sovrun.core.errors import CodeUnavailable, FileUnavailable
from sovrun.core.ids import DagId, Digest, RunId, StepId, Tenant
from sovrun.core.plan import plan_order
from sovrun.core.spec.model import Confirmation, DagSpec, Kind, Reference, Retry, StepSpec, Template, ToolWait
from sovrun.ports import Code, Failed, MadeFile, Succeeded, Task

CODE: Final = sha256_hex(b"the code of simulated steps")
FINAL: Final = frozenset({"refused"})
"""Codes of failures that are never retried."""
INPUTS: Final = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TENANTS: Final = (Tenant("alpha"), Tenant("beta"))
SECOND_US: Final = 1_000_000


def random_dag(rng: Random, number: int, steps_max: int) -> DagSpec:
    """Return a DAG of 1 to `steps_max` steps of any shape, with every setting that the lifecycle knows."""
    count = min(rng.randint(1, steps_max), rng.randint(1, steps_max))
    names = [f"s{position}" for position in rng.sample(range(count), count)]
    needs = [
        rng.sample(range(position), min(position, rng.choice((0, 1, 1, 2, 3)))) for position in range(count)
    ]
    waits = rng.random() < 0.25
    steps: dict[StepId, StepSpec] = {}
    for position, name in enumerate(names):
        dependents = [names[other] for other in range(position, count) if position in needs[other]]
        options = [option for option in dependents if rng.random() < 0.7] if rng.random() < 0.35 else []
        make = _waiting_step if waits and rng.random() < 0.35 else _step
        step = make(rng, name, [names[need] for need in needs[position]], sorted(options))
        steps[step.id] = step
    order = plan_order({id_: step.needs for id_, step in steps.items()})
    return DagSpec(
        id=DagId(f"dag{number}"),
        inputs=INPUTS,
        steps=tuple(steps[id_] for id_ in order),
        fail_fast=rng.random() < 0.12,
        failure_budget=rng.randint(1, 12) if rng.random() < 0.08 else None,
        timeout_us=rng.randint(60, 7_200) * SECOND_US if rng.random() < 0.04 else None,
    )


def _arguments(rng: Random, needs: list[str]) -> dict[str, Template]:
    arguments: dict[str, Template] = {"salt": rng.randrange(4)}
    if rng.random() < 0.4:
        arguments["n"] = Reference(None, ("n",))
    for need in needs:
        if rng.random() < 0.7:
            arguments[f"of_{need}"] = Reference(StepId(need), ())
    return arguments


def _waiting_step(rng: Random, name: str, needs: list[str], options: list[str]) -> StepSpec:
    """Return a step that waits for a tool or, when nothing is to be chosen, perhaps for a person."""
    allowed_us = rng.choice((None, 600 * SECOND_US, 3_600 * SECOND_US))
    common: dict[str, Any] = {
        "id": StepId(name),
        "needs": tuple(sorted(StepId(need) for need in needs)),
        "select": tuple(StepId(option) for option in options),
        "join_any": rng.random() < 0.4,
    }
    if options or rng.random() < 0.6:
        return StepSpec(
            kind=Kind.TOOL,
            entry=ToolWait("oracle", allowed_us),
            arguments=_arguments(rng, needs),
            **common,
        )
    confirmation = Confirmation(
        role=rng.choice((None, "approver")),
        show=_arguments(rng, needs),
        expires_us=allowed_us,
        on_expiry=rng.choice(("reject", "fail")),
        bar_requester=rng.random() < 0.5,
    )
    return StepSpec(kind=Kind.CONFIRM, entry=confirmation, **common)


def _step(rng: Random, name: str, needs: list[str], options: list[str]) -> StepSpec:
    arguments = _arguments(rng, needs)
    entry = rng.choices(("steady", "moody", "fails", "refuses"), (85, 10, 3, 2))[0]
    if options:
        arguments["among"] = list(options)
    base_us = rng.choice((1_000, SECOND_US, 2 * SECOND_US))
    return StepSpec(
        id=StepId(name),
        kind=Kind.PYTHON,
        entry=f"simulated:{entry}",
        needs=tuple(sorted(StepId(need) for need in needs)),
        arguments=arguments,
        retry=Retry(
            max_attempts=rng.choice((3, 5, 8, 12, 12)),
            max_failures=rng.choice((1, 2, 3, 6)),
            base_us=base_us,
            cap_us=base_us * rng.choice((1, 4, 30)),
            jitter=rng.random() < 0.3,
        ),
        select=tuple(StepId(option) for option in options),
        join_any=rng.random() < 0.4,
        timeout_us=rng.randint(30, 3_600) * SECOND_US if rng.random() < 0.01 else None,
    )


def work(entry: str, arguments: bytes) -> Succeeded | Failed:
    """Return what a simulated step does: a function of its entry and arguments alone."""
    seed = sha256(entry.encode() + arguments).digest()
    mood = entry.partition(":")[2]
    if mood == "fails" or (mood == "moody" and seed[0] % 4 == 0):
        return Failed("step_raised", "the step failed, as it always does on this")
    if mood == "refuses" or (mood == "moody" and seed[0] % 4 == 1):
        return Failed("refused", "the step refuses this", retryable=False)
    output: dict[str, Any] = {"value": int.from_bytes(seed[1:4])}
    if b'"among"' in arguments:
        among = decode(arguments)["among"]
        output["select"] = [option for place, option in enumerate(among) if seed[4 + place] % 3]
    return Succeeded(canonical(output))


class SimulatedExecutor:
    """The `Executor` port: does a step's work at once, unless a circumstance comes between."""

    isolation = "in-process"
    inline = True
    environment = sha256_hex(b"the environment of simulated steps")

    def __init__(self, circumstance: Callable[[], bool]) -> None:
        """Args: circumstance: whether this attempt fails for no fault of the work."""
        self._circumstance = circumstance

    async def execute(self, task: Task) -> Succeeded | Failed:
        """See `Executor.execute`."""
        if self._circumstance():
            return Failed("sandbox_failed", "the sandbox could not be set up", circumstance=True)
        return work(str(task.entry), task.arguments)

    async def close(self) -> None:
        """See `Executor.close`."""


class NoFiles:
    """The `Files` port where nothing is large and no step reads a file."""

    def take_in(self, tenant: Tenant, path: Path) -> dict[str, object]:
        """See `Files.take_in`."""
        raise FileUnavailable(f"{path}: the simulator of {tenant} knows no files")

    def put(self, tenant: Tenant, digest: Digest, body: bytes) -> None:
        """See `Files.put`."""
        raise FileUnavailable(
            f"a payload of {len(body)} bytes of {tenant} is too large to simulate: {digest}"
        )

    def adopt(self, tenant: Tenant, made: MadeFile) -> None:
        """See `Files.adopt`."""
        raise FileUnavailable(f"{made.path}: the simulator of {tenant} knows no files")

    def get(self, tenant: Tenant, digest: Digest) -> bytes | None:
        """See `Files.get`."""
        del tenant, digest
        return None

    def locate(self, tenant: Tenant, digest: Digest) -> Path:
        """See `Files.locate`."""
        raise FileUnavailable(f"the simulator of {tenant} knows no file {digest}")

    def log(self, tenant: Tenant, run: RunId, step: StepId, attempt: int) -> str:
        """See `Files.log`."""
        del tenant, run, step, attempt
        return os.devnull

    def take_code(self, root: Path, include: tuple[str, ...] | None, document: Path | None) -> Code:
        """See `Files.take_code`."""
        raise CodeUnavailable(f"{root}: simulated steps have no code ({include}, {document})")

    def code(self, digest: Digest) -> Code:
        """See `Files.code`."""
        return Code(digest, None)
