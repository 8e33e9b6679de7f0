"""Every back end gives the answers and the histories of the reference, whatever is asked of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovrun.core.actions import Action, Answer, CancelRun, Decide, EnterWait, Refuse, Release, Reuse
from sovrun.core.errors import SovrunError, StoreUnavailable
from sovrun.core.ids import Actor, DagId, RunId, Tenant, WorkerId
from sovrun.core.lanes import Limits, LimitsChange
from sovrun.core.spec.model import DagSpec, Kind
from sovrun.store.protocol import Governance, Lease, Pending, Report, Store
from sovrun.stores.sqlite.store import SqliteStore
from support import dags
from support.clock import SetClock
from support.folding import require_told_by_history
from support.requests import ENVIRONMENT, broken, done, payload, registration, submission
from support.stores import BACK_ENDS, limited_files, memory, scratch_folder

TENANTS = [Tenant("a"), Tenant("b")]
WORKERS = [WorkerId("worker/1"), WorkerId("worker/2")]
OTHERS = [name for name in BACK_ENDS if name != "memory"]

VERBS = {"submit": 3, "claim": 4, "commit": 8, "recover": 0.4, "pending": 3, "take up": 6, "speak": 5, "cancel": 0.7,
         "govern": 1, "renew": 0.5, "take back": 0.5, "look": 2}  # fmt: skip
"""What is asked, and how often."""

Ask = Callable[[Store], Coroutine[Any, Any, object]]
Answering = Callable[[Store, Ask], Coroutine[Any, Any, object]]


class Script:
    """A random sequence of verbs, each made from what the reference answered before."""

    def __init__(self, specs: Sequence[DagSpec], seed: int, verbs: Mapping[str, float]) -> None:
        self.specs = specs
        self.verbs = verbs
        self.chance = random.Random(seed)
        self.leases: list[Lease] = []
        self.sent: list[Report] = []
        self.runs: list[tuple[Tenant, RunId, DagSpec]] = []
        self.names = 0
        self.pending: list[Pending] = []
        self.said: list[Action] = []
        self.entered: list[tuple[Tenant, RunId, DagSpec, int]] = []

    def next(self, clock: SetClock) -> Ask:
        """Return the next verb; the clock may have been moved."""
        chance = self.chance
        if chance.random() < 0.3:
            clock.advance(chance.choice([1, 500, 1_000, 5_000, 2_000_000, 20_000_000]))
        verb = chance.choices(list(self.verbs), list(self.verbs.values()))[0]
        if verb == "submit" and len(self.runs) < 5:
            return self._submit()
        if verb == "commit" and self.leases:
            return self._commit()
        if verb == "take up" and self.pending:
            return self._take_up()
        if verb in ("speak", "cancel") and self.runs:
            return self._speak() if verb == "speak" else self._cancel()
        if verb == "govern":
            return self._govern()
        return self._simple(verb)

    def _simple(self, verb: str) -> Ask:
        chance = self.chance
        worker, slots, tenant = chance.choice(WORKERS), chance.randint(0, 4), chance.choice(TENANTS)
        limit, silent_us = chance.randint(1, 5), chance.choice([0, 1_000, 2_000_000])
        match verb:
            case "recover":
                return lambda store: store.recover()
            case "pending":
                return lambda store: store.pending(limit)
            case "renew":
                held = [lease for lease in self.leases if lease.worker == worker and chance.random() < 0.9]
                return lambda store: store.renew(worker, held)
            case "take back":
                return lambda store: store.take_back(silent_us)
            case "look":
                return lambda store: looked_up(store, tenant)
        return lambda store: store.claim(worker, slots)

    def _take_up(self) -> Ask:
        """Do to a step that was pending once what an engine may do, whether it is pending still or not."""
        chance = self.chance
        pending = chance.choice(self.pending[-6:] if chance.random() < 0.8 else self.pending)
        name = (pending.tenant, pending.run, pending.position)
        spec = next(spec for tenant, run, spec in self.runs if (tenant, run) == name[:2])
        step = spec.steps[pending.position]
        shown = payload({"shown": pending.position})
        action: Action
        if chance.random() < 0.15:
            action = Refuse(*name, "input_unresolved", shown.digest)
        elif pending.parent is not None and chance.random() < 0.5:
            chosen = (
                tuple(spec.steps.index(s) for s in spec.steps if s.id in step.select) if step.select else None
            )
            action = Reuse(*name, pending.parent, shown.digest, shown.digest, ENVIRONMENT, chosen)
        elif step.kind is Kind.PYTHON:
            action = Release(*name)
        else:
            action = EnterWait(*name, shown.digest, shown.digest)
            self.entered.append((*name[:2], spec, pending.position))
        return lambda store: store.act(action, payloads=[shown])

    def _speak(self) -> Ask:
        """Answer or decide some step, whether it waits or not; sometimes say again what was said."""
        chance = self.chance
        if self.said and chance.random() < 0.3:
            action = chance.choice(self.said)
            return lambda store: store.act(action)
        tenant, run, spec = chance.choice(self.runs)
        waits = [p for p, step in enumerate(spec.steps) if step.kind is not Kind.PYTHON] or [0]
        position = chance.choice(waits)
        if self.entered and chance.random() < 0.8:
            tenant, run, spec, position = chance.choice(self.entered[-4:])
        step, actor = spec.steps[position], Actor(chance.choice(["local:a", "local:b"]))
        said = payload({"said": chance.randint(0, 1)})
        if step.kind is Kind.CONFIRM:
            shown = payload({"shown": position if chance.random() < 0.9 else -1}).digest
            action = Decide(tenant, run, position, actor, chance.random() < 0.7, shown, said.digest, None)
        elif chance.random() < 0.3:
            action = Answer(tenant, run, position, actor, None, said.digest)
        else:
            chosen = (
                tuple(spec.steps.index(s) for s in spec.steps if s.id in step.select) if step.select else None
            )
            action = Answer(tenant, run, position, actor, said.digest, None, chosen)
        self.said.append(action)
        return lambda store: store.act(action, payloads=[said])

    def _cancel(self) -> Ask:
        tenant, run, _ = self.chance.choice(self.runs)
        action = CancelRun(tenant, run, Actor("local:a"), self.chance.choice([None, payload("why").digest]))
        return lambda store: store.act(action)

    def _govern(self) -> Ask:
        chance = self.chance
        dag = chance.choice([None, *(spec.id for spec in self.specs), DagId("unknown")])
        bounds = [None, None, 0, 1, 2]
        limits = Limits(
            chance.random() < 0.2, chance.choice(bounds), chance.choice(bounds), chance.choice([1, 1, 2, 3])
        )
        change = LimitsChange.to(limits)
        for name in ("paused", "runs_max", "steps_max", "weight"):
            if chance.random() < 0.4:
                change = replace(change, **{name: None})
        governance = Governance(chance.choice(TENANTS), dag, change, Actor("local:a"))
        return lambda store: store.govern(governance)

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
            parent=self._parent(tenant, spec),
        )
        self.runs.append((tenant, request.id, spec))
        return lambda store: store.submit(request)

    def _parent(self, tenant: Tenant, spec: DagSpec) -> tuple[RunId, int] | None:
        mine = [run for of, run, its in self.runs if of == tenant and its is spec]
        return (self.chance.choice(mine), self.names) if mine and self.chance.random() < 0.4 else None

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
            lease = lease._replace(fence=lease.fence + chance.choice([-1, 1]))
        if chance.random() < 0.3:
            return broken(lease, circumstance=chance.random() < 0.3, retryable=chance.random() < 0.8)
        choices = sorted(spec.steps[lease.position].select)
        if not choices:
            return done(lease)
        index = {step.id: position for position, step in enumerate(spec.steps)}
        return done(lease, chosen=[index[choice] for choice in choices if chance.random() < 0.5])

    def learn(self, answer: object) -> None:
        """Take up the leases and pending steps of an answer."""
        if isinstance(answer, list | tuple):
            self.pending += [step for step in answer if isinstance(step, Pending)]
        leases = answer if isinstance(answer, list | tuple) else getattr(answer, "leases", ())
        self.leases += [lease for lease in leases if isinstance(lease, Lease)]


async def answer_of(store: Store, ask: Ask) -> object:
    try:
        answer = await ask(store)
    except SovrunError as refusal:
        return type(refusal), refusal.facts
    return list(answer) if isinstance(answer, list | tuple) and type(answer) in (list, tuple) else answer


async def looked_up(store: Store, tenant: Tenant) -> tuple[object, ...]:
    """Return what can be read of a tenant's queues and waits."""
    return (
        list(await store.depths(tenant)),
        list(await store.waiting(tenant)),
        await store.tenant_limits(tenant),
        await store.late_reports(tenant),
    )


async def everything(store: Store, runs: Sequence[tuple[Tenant, RunId, DagSpec]]) -> list[object]:
    """Return all that a store says of runs."""
    told: list[object] = [await store.unfinished()]
    told += [list(await store.runs(tenant, limit=100)) for tenant in TENANTS]
    told += [await looked_up(store, tenant) for tenant in TENANTS]
    told += [list(await store.pending(1_000)), [list(await store.renew(worker, [])) for worker in WORKERS]]
    told += [await store.reruns(tenant, run) for tenant, run, _ in runs]
    for tenant, run, _ in runs:
        known = {record.head.id for record in await store.runs(tenant, limit=100)}
        if run in known:
            told.append(list(await store.steps(tenant, run)))
            told.append(list(await store.events(tenant, run)))
    return told


async def answer_at_last(store: Store, ask: Ask) -> object:
    """Ask once while no file may grow and, where that is refused, again; a request that writes nothing is not refused."""
    with limited_files(1):
        answer = await answer_of(store, ask)
    return answer if answer != (StoreUnavailable, {}) else await answer_of(store, ask)


async def restarted(store: Store, clock: SetClock) -> Store:
    """Return a store's file opened anew, by a process that remembers nothing."""
    assert isinstance(store, SqliteStore)
    await store.close()
    return SqliteStore.open_owner(store._path, clock)


async def play(
    folder: Path,
    other: str,
    specs: Sequence[DagSpec],
    seed: int,
    length: int,
    answer: Answering = answer_of,
    *,
    restarts: float = 0,
) -> None:
    """Ask both; before that share of the requests the other one is opened anew."""
    clock = SetClock()
    # Silence counts from when a store was opened, so after a restart the two need not find the same workers silent.
    verbs = {verb: often for verb, often in VERBS.items() if not (restarts and verb == "take back")}
    script = Script(specs, seed, verbs)
    async with memory(folder, clock) as reference, BACK_ENDS[other](folder, clock) as opened:
        store = opened
        for spec in specs:
            for tenant in TENANTS:
                request = registration(spec, tenant)
                assert await reference.register(request) is await store.register(request)
        for _ in range(length):
            ask = script.next(clock)
            if restarts and script.chance.random() < restarts:
                store = await restarted(store, clock)
            expected = await answer_of(reference, ask)
            assert await answer(store, ask) == expected
            script.learn(expected)
        assert await everything(store, script.runs) == await everything(reference, script.runs)
        for tenant, run, spec in script.runs:
            if run in {record.head.id for record in await reference.runs(tenant, limit=100)}:
                await require_told_by_history(store, spec, run, tenant)
        if store is not opened:
            await store.close()


@pytest.mark.parametrize("other", OTHERS)
@settings(max_examples=250, deadline=None)
@given(
    specs=st.lists(dags.dags(steps_max=6) | dags.waiting_dags(steps_max=6), min_size=1, max_size=2),
    seed=st.integers(0, 2**32),
    length=st.integers(5, 80),
)
def test_the_same_requests_get_the_same_answers_and_leave_the_same_histories(
    other: str, specs: list[DagSpec], seed: int, length: int
) -> None:
    named = [replace(spec, id=DagId(f"dag{number}")) for number, spec in enumerate(specs)]
    with scratch_folder() as folder:
        asyncio.run(play(folder, other, named, seed, length))


@settings(max_examples=150, deadline=None)
@given(
    specs=st.lists(dags.dags(steps_max=6) | dags.waiting_dags(steps_max=6), min_size=1, max_size=2),
    seed=st.integers(0, 2**32),
    length=st.integers(5, 60),
)
def test_what_a_full_disk_refused_is_as_if_it_had_never_been_asked(
    specs: list[DagSpec], seed: int, length: int
) -> None:
    named = [replace(spec, id=DagId(f"dag{number}")) for number, spec in enumerate(specs)]
    with scratch_folder() as folder:
        asyncio.run(play(folder, "sqlite", named, seed, length, answer_at_last))


@settings(max_examples=60, deadline=None)
@given(
    specs=st.lists(dags.waiting_dags(steps_max=5), min_size=1, max_size=2),
    seed=st.integers(0, 2**32),
    length=st.integers(20, 60),
)
def test_a_file_that_is_opened_anew_again_and_again_gives_the_same_answers(
    specs: list[DagSpec], seed: int, length: int
) -> None:
    """Waits, timers, pending steps, limits, turns and slots of processes that may still run: all of it survives."""
    named = [replace(spec, id=DagId(f"dag{number}")) for number, spec in enumerate(specs)]
    with scratch_folder() as folder:
        asyncio.run(play(folder, "sqlite", named, seed, length, restarts=0.2))
