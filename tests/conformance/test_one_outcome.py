"""Deterministic steps come to one outcome on every back end, however many ask at once and however workers are lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.canonical import sha256_hex
from sovrun.core.ids import Digest, RunId
from sovrun.core.spec.model import DagSpec, Retry
from sovrun.store.protocol import Committed, Lease, Report, Store
from support import dags
from support.clock import SetClock
from support.folding import require_told_by_history
from support.requests import TENANT, WORKER, broken, done, submitted
from support.stores import BACK_ENDS, scratch_folder

MANY_TRIES = st.builds(
    lambda failures: Retry(max_attempts=12, max_failures=failures, base_us=1_000, cap_us=4_000),
    st.integers(1, 3),
)


def report_of(spec: DagSpec, lease: Lease) -> Report:
    """Return what a step of a given id always reports: one in five fails, and a selector chooses by its id."""
    step = spec.steps[lease.position]
    draw = int(sha256_hex(f"{spec.id} {step.id}".encode()), 16)
    if draw % 5 == 0:
        return broken(lease, retryable=draw % 2 == 0)
    index = {other.id: position for position, other in enumerate(spec.steps)}
    chosen = sorted(index[choice] for number, choice in enumerate(step.select) if draw >> number & 1)
    return done(lease, chosen=chosen if step.select else None)


class Crowd:
    """Workers that all ask at the same moment, again and again, until nothing is left to do."""

    def __init__(self, store: Store, clock: SetClock, spec: DagSpec, seed: int) -> None:
        self.store, self.clock, self.spec = store, clock, spec
        self.chance = random.Random(seed)
        self.held: list[Lease] = []
        self.given: set[tuple[RunId, int, int]] = set()
        self.losses = 3

    def take(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            right = (lease.run, lease.position, lease.fence)
            assert right not in self.given, "two live leases on one step"
            self.given.add(right)
        self.held += leases

    async def ask_once(self) -> None:
        """Send some reports in several commits, some of them twice, beside claims and perhaps a recovery."""
        chance = self.chance
        chance.shuffle(self.held)
        going, self.held = self.held[:6], self.held[6:]
        reports = [report_of(self.spec, lease) for lease in going]
        commits = [reports[number::3] + reports[:1] * (number == 2) for number in range(3)]
        asked = [
            *(self.store.commit(batch, worker=WORKER, slots=chance.randint(0, 3)) for batch in commits),
            *(self.store.claim(WORKER, chance.randint(0, 3)) for _ in range(2)),
        ]
        if self.losses and chance.random() < 0.2:
            self.losses -= 1
            asked.append(self.store.recover())
        answers = await asyncio.gather(*chance.sample(asked, len(asked)))
        for answer in answers:
            if isinstance(answer, Committed):
                self.take(answer.leases)
            elif not isinstance(answer, int):
                self.take(answer)
        self.clock.advance(chance.choice([0, 500, 4_000]))

    async def work(self) -> None:
        while await self.store.unfinished():
            await self.ask_once()


async def outcomes(
    folder: Path, back_end: str, spec: DagSpec, seed: int
) -> set[tuple[Digest | None, Digest | None]]:
    clock = SetClock()
    async with BACK_ENDS[back_end](folder, clock) as store:
        runs = [await submitted(store, spec, str(number)) for number in range(3)]
        await Crowd(store, clock, spec, seed).work()
        heads = [(await store.run(TENANT, run)).head for run in runs]
        for run in runs:
            await require_told_by_history(store, spec, run, TENANT)
        return {(head.outcome, head.outputs) for head in heads if head.reproducible}


@settings(max_examples=100, deadline=None)
@given(spec=dags.dags(steps_max=7, retries=MANY_TRIES), seed=st.integers(0, 2**32))
def test_all_reproducible_runs_of_a_dag_have_one_outcome_on_all_back_ends(spec: DagSpec, seed: int) -> None:
    found = set()
    for number, back_end in enumerate(BACK_ENDS):
        with scratch_folder() as folder:
            found |= asyncio.run(outcomes(folder, back_end, spec, seed + number))
    assert len(found) <= 1


@pytest.mark.parametrize("back_end", list(BACK_ENDS))
def test_runs_whose_workers_were_lost_are_reproducible_all_the_same(tmp_path: Path, back_end: str) -> None:
    spec = dags.shaped(dags.CROSSED, retry=Retry(max_attempts=12))
    assert len(asyncio.run(outcomes(tmp_path, back_end, spec, 1))) == 1
