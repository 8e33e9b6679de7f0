"""Every back end gives the answers and the histories of the reference, whatever is asked of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.errors import SovrunError
from sovrun.core.ids import DagId, RunId, Tenant, WorkerId
from sovrun.core.spec.model import DagSpec
from sovrun.store.protocol import Lease, Report, Store
from support import dags
from support.clock import SetClock
from support.folding import require_told_by_history
from support.requests import broken, done, registration, submission
from support.stores import BACK_ENDS, memory, scratch_folder

TENANTS = [Tenant("a"), Tenant("b")]
WORKERS = [WorkerId("worker/1"), WorkerId("worker/2")]
OTHERS = [name for name in BACK_ENDS if name != "memory"]

Ask = Callable[[Store], Coroutine[Any, Any, object]]


class Script:
    """A random sequence of verbs, each made from what the reference answered before."""

    def __init__(self, specs: Sequence[DagSpec], seed: int) -> None:
        self.specs = specs
        self.chance = random.Random(seed)
        self.leases: list[Lease] = []
        self.sent: list[Report] = []
        self.runs: list[tuple[Tenant, RunId, DagSpec]] = []
        self.names = 0

    def next(self, clock: SetClock) -> Ask:
        """Return the next verb; the clock may have been moved."""
        chance = self.chance
        if chance.random() < 0.3:
            clock.advance(chance.choice([1, 500, 1_000, 5_000, 2_000_000, 20_000_000]))
        verb = chance.choices(["submit", "claim", "commit", "recover"], [3, 3, 8, 0.7])[0]
        if verb == "submit" and len(self.runs) < 4:
            return self._submit()
        if verb == "commit" and self.leases:
            return self._commit()
        if verb == "recover":
            return lambda store: store.recover()
        worker, slots = chance.choice(WORKERS), chance.randint(0, 4)
        return lambda store: store.claim(worker, slots)

    def _submit(self) -> Ask:
        spec, tenant = self.chance.choice(self.specs), self.chance.choice(TENANTS)
        self.names += 1
        request = submission(
            spec,
            str(self.names),
            tenant=tenant,
            caller_key=self.chance.choice([None, None, "k"]),
            inputs={"n": self.chance.randint(0, 1)},
            priority=self.chance.choice([1, 100, 100]),
        )
        self.runs.append((tenant, request.id, spec))
        return lambda store: store.submit(request)

    def _commit(self) -> Ask:
        chance = self.chance
        held = chance.sample(self.leases, min(len(self.leases), chance.randint(1, 3)))
        reports = [self._report(lease) for lease in held]
        if self.sent and chance.random() < 0.3:
            reports.append(chance.choice(self.sent))
        if chance.random() < 0.9:
            self.leases = [lease for lease in self.leases if lease not in held]
        self.sent += reports
        worker, slots = chance.choice(WORKERS), chance.randint(0, 3)
        return lambda store: store.commit(reports, worker=worker, slots=slots)

    def _report(self, lease: Lease) -> Report:
        chance = self.chance
        spec = next(spec for tenant, run, spec in self.runs if (tenant, run) == (lease.tenant, lease.run))
        if chance.random() < 0.05:
            lease = replace(lease, fence=lease.fence + chance.choice([-1, 1]))
        if chance.random() < 0.3:
            return broken(lease, circumstance=chance.random() < 0.3, retryable=chance.random() < 0.8)
        choices = sorted(spec.steps[lease.position].select)
        if not choices:
            return done(lease)
        index = {step.id: position for position, step in enumerate(spec.steps)}
        return done(lease, chosen=[index[choice] for choice in choices if chance.random() < 0.5])

    def learn(self, answer: object) -> None:
        """Take up the leases of an answer."""
        leases = answer if isinstance(answer, list | tuple) else getattr(answer, "leases", ())
        self.leases += [lease for lease in leases if isinstance(lease, Lease)]


async def answer_of(store: Store, ask: Ask) -> object:
    try:
        answer = await ask(store)
    except SovrunError as refusal:
        return type(refusal), refusal.facts
    return list(answer) if isinstance(answer, list | tuple) and type(answer) in (list, tuple) else answer


async def everything(store: Store, runs: Sequence[tuple[Tenant, RunId, DagSpec]]) -> list[object]:
    """Return all that a store says of runs."""
    told: list[object] = [await store.unfinished()]
    told += [list(await store.runs(tenant, limit=100)) for tenant in TENANTS]
    for tenant, run, _ in runs:
        known = {record.head.id for record in await store.runs(tenant, limit=100)}
        if run in known:
            told.append(list(await store.steps(tenant, run)))
            told.append(list(await store.events(tenant, run)))
    return told


async def play(folder: Path, other: str, specs: Sequence[DagSpec], seed: int, length: int) -> None:
    clock = SetClock()
    script = Script(specs, seed)
    async with memory(folder, clock) as reference, BACK_ENDS[other](folder, clock) as store:
        for spec in specs:
            for tenant in TENANTS:
                request = registration(spec, tenant)
                assert await reference.register(request) is await store.register(request)
        for _ in range(length):
            ask = script.next(clock)
            expected = await answer_of(reference, ask)
            assert await answer_of(store, ask) == expected
            script.learn(expected)
        assert await everything(store, script.runs) == await everything(reference, script.runs)
        for tenant, run, spec in script.runs:
            if run in {record.head.id for record in await reference.runs(tenant, limit=100)}:
                await require_told_by_history(store, spec, run, tenant)


@pytest.mark.parametrize("other", OTHERS)
@settings(max_examples=250, deadline=None)
@given(
    specs=st.lists(dags.dags(steps_max=6), min_size=1, max_size=2),
    seed=st.integers(0, 2**32),
    length=st.integers(5, 50),
)
def test_the_same_requests_get_the_same_answers_and_leave_the_same_histories(
    other: str, specs: list[DagSpec], seed: int, length: int
) -> None:
    named = [replace(spec, id=DagId(f"dag{number}")) for number, spec in enumerate(specs)]
    with scratch_folder() as folder:
        asyncio.run(play(folder, other, named, seed, length))
