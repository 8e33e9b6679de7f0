"""One run as an immutable value that a test can move in every possible way, on the pure core alone.

It does for `core.run.Write` what a store does: looks steps and counters up and keeps what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations

from sovrun.core.canonical import sha256_hex
from sovrun.core.events import Failure
from sovrun.core.identity import StepResult, outcome_of
from sovrun.core.ids import Actor, Digest, RunId, Tenant, WorkerId
from sovrun.core.lifecycle import TERMINAL, Counts, Reason, State, Tally
from sovrun.core.plan import Plan, plan_of
from sovrun.core.run import Run, Write
from sovrun.core.spec.model import DagSpec
from sovrun.core.step import Complete, Fail, LoseLease, Step, StepCommand
from sovrun.store.codec import drive

WORKER = WorkerId("worker/1")
ACTOR = Actor("worker:worker/1")
VERSION = sha256_hex(b"version")
INPUTS = sha256_hex(b"inputs")
ENVIRONMENT = sha256_hex(b"environment")

Moves = Sequence[tuple[int, StepCommand]]


@dataclass(frozen=True)
class World:
    """A run between two writes; `trail` holds the types of the facts of the last write."""

    plan: Plan
    head: Run
    steps: tuple[Step, ...]
    tallies: tuple[Tally, ...]
    chosen: tuple[tuple[int, tuple[int, ...]], ...] = ()
    trail: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What of the world decides everything that can still happen."""
        head = self.head
        return self.steps, self.tallies, self.chosen, head.state, head.started, head.cancelled, head.stopping

    def where(self, *states: State) -> list[int]:
        """Return the positions of the steps in any of `states`."""
        return [position for position, step in enumerate(self.steps) if step.state in states]

    @property
    def over(self) -> bool:
        return self.head.state in TERMINAL


def admitted(spec: DagSpec) -> World:
    """Return the run of a DAG just after it was submitted."""
    plan = plan_of(spec)
    head = Run(1, RunId("0" * 32), Tenant("t"), VERSION, INPUTS, 100, "sandbox", State.RECEIVED, Counts())
    before = World(plan, head, (Step(),) * plan.size, tuple(Tally(len(needs)) for needs in plan.needs))
    write = Write(plan, head, 0)
    write.receive(Actor("local:tester"), "{}")
    return _after(before, write, list(before.tallies), {})


def written(world: World, moves: Moves = (), claims: Sequence[int] = (), *, cancel: bool = False) -> World:
    """Return the world after one write: the moves, what follows from them, then the claims or a cancellation."""
    write = Write(world.plan, world.head, world.head.time_us)
    tallies = list(world.tallies)
    chosen = dict(world.chosen)
    for position, command in moves:
        write.move(position, write.steps.get(position, world.steps[position]), command, ACTOR)
        if isinstance(command, Complete) and command.chosen is not None:
            chosen[position] = command.chosen
    drive(write, lambda deltas: list(_counted(tallies, deltas)))

    def unended(*left_out: State) -> list[tuple[int, Step]]:
        now = [(p, write.steps.get(p, step)) for p, step in enumerate(world.steps)]
        return [(p, step) for p, step in now if step.state not in TERMINAL and step.state not in left_out]

    if write.struck:
        write.stop(unended(State.EXECUTING), Reason.FAIL_FAST, ACTOR)
    if cancel:
        write.stop(unended(), Reason.RUN_CANCELLED, ACTOR)
    write.derive()
    if claims:
        write.start([(p, write.steps.get(p, world.steps[p])) for p in claims], WORKER, ACTOR)
        write.derive()
    if write.ending is not None:
        after = [write.steps.get(position, step) for position, step in enumerate(world.steps)]
        results = [StepResult(step.step_hash, step.state, step.cause, step.output) for step in after]
        write.end(outcome_of(VERSION, INPUTS, world.plan.steps, results))
    return _after(world, write, tallies, chosen)


def _counted(tallies: list[Tally], deltas: Mapping[int, Tally]) -> Iterator[tuple[int, Tally]]:
    for position, delta in deltas.items():
        before = tallies[position]
        after = tallies[position] = Tally(
            before.remaining - delta.remaining,
            before.failed + delta.failed,
            before.skipped + delta.skipped,
            before.unchosen or delta.unchosen,
        )
        if after.remaining == 0:
            yield position, after


def _after(world: World, write: Write, tallies: list[Tally], chosen: Mapping[int, tuple[int, ...]]) -> World:
    return replace(
        world,
        head=write.head(),
        steps=tuple(write.steps.get(position, step) for position, step in enumerate(world.steps)),
        tallies=tuple(tallies),
        chosen=tuple(sorted(chosen.items())),
        trail=tuple(fact.type for fact in write.facts),
    )


def completed(world: World, position: int, chosen: Sequence[int] | None = None) -> Complete:
    """Return the report of a step that returns what its id says, whoever runs it and whenever."""
    id_ = world.plan.steps[position].id
    return Complete(
        world.steps[position].fence,
        hash_of(id_),
        sha256_hex(f"output of {id_} {chosen}".encode()),
        ENVIRONMENT,
        None if chosen is None else tuple(chosen),
    )


def failed(world: World, position: int, *, retryable: bool = True, circumstance: bool = False) -> Fail:
    """Return the report of a step that fails as its id says."""
    id_ = world.plan.steps[position].id
    error = sha256_hex(f"error of {id_}".encode())
    failure = Failure("step_raised", error, hash_of(id_), ENVIRONMENT, circumstance, retryable)
    return Fail(world.steps[position].fence, failure)


def hash_of(id_: str) -> Digest:
    return sha256_hex(f"step {id_}".encode())


def results(world: World, position: int) -> Iterator[StepCommand]:
    """Yield every way in which an executing step can go on."""
    selectable = sorted(world.plan.selectable.get(position, ()))
    if selectable:
        sizes = range(len(selectable) + 1)
        for choice in chain.from_iterable(combinations(selectable, size) for size in sizes):
            yield completed(world, position, choice)
    else:
        yield completed(world, position)
    yield failed(world, position)
    yield failed(world, position, retryable=False)
    yield LoseLease()
