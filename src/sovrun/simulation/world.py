"""One simulated world: a store, workers, callers and what befalls them, all of it decided by one integer.

Owns: `Settings`, `World`, `Seen`. The store, the decisions, the attempts and the requests are the real ones; the link, the
clock, the executor and the callers are simulated.
Must not touch: real time, and any random source but the seed's.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from sovrun.core.events import Event, chain_link
from sovrun.core.identity import RunKey
from sovrun.core.ids import Digest, RunId, Tenant, WorkerId
from sovrun.core.lanes import Limits, LimitsChange
from sovrun.core.lifecycle import TERMINAL
from sovrun.core.spec.model import WORKER_KINDS
from sovrun.core.step import Complete
from sovrun.engine.attempt import Attempts
from sovrun.engine.clerk import Clerk
from sovrun.engine.handler import KnownDag, RunRequest, known_dag, registration_of
from sovrun.simulation.backends import Backend, MemoryBackend, SqliteBackend
from sovrun.simulation.callers import CALLER, Callers
from sovrun.simulation.chaos import Chaos
from sovrun.simulation.checker import Acknowledged, check
from sovrun.simulation.clock import SECOND_US, Happening, Schedule, SimulatedClock
from sovrun.simulation.dags import CODE, FINAL, TENANTS, NoFiles, SimulatedExecutor, random_dag
from sovrun.simulation.faults import ALL_FAULTS, Chance, Fault, Link
from sovrun.simulation.histories import Entry, History, Violation, entry_of
from sovrun.simulation.outsiders import Outsiders
from sovrun.simulation.reference import Reference
from sovrun.simulation.workers import SimulatedWorker
from sovrun.store.protocol import Committed, Governance, Lease, Report

TROUBLE_US = 2 * 3_600 * SECOND_US
"""How long things go wrong; after that a run has every chance to end."""
TURNS_MAX = 20_000
"""Happenings after which a world is taken to be going round in circles."""
CALM_TURNS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How large and how troubled a world is.

    Args:
        store: `memory` or `sqlite`; runs: requests per world; steps: most steps of a DAG.
        workers: most workers; faults: what may go wrong.
    """

    store: str = "memory"
    runs: int = 12
    steps: int = 12
    workers: int = 4
    faults: frozenset[Fault] = ALL_FAULTS


@dataclass(slots=True)
class Seen:
    """What a world came to.

    Args:
        states: of runs at their end; moves: of steps, by event type and reason; simulated_us: time that passed in it.
    """

    violations: list[Violation] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    fired: Counter[Fault] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    reproducible: int = 0
    compared: int = 0
    late: int = 0
    simulated_us: int = 0


class World:
    """Builds a world, lets it happen, and holds its histories against the rules.

    Attributes:
        known: the DAG versions of this world.
    """

    def __init__(self, seed: int, settings: Settings) -> None:
        self.settings = settings
        self.rng = Random(seed)  # noqa: S311 -- the same world again, not a secret
        self.clock = SimulatedClock()
        self.schedule = Schedule(self.clock)
        rate = self.rng.choice((0.0, 0.01, 0.03, 0.08))
        self.chance = Chance(self.rng, settings.faults, rate)
        self._failing = self.rng.choice((0.0, 0.0, 0.02, 0.1))
        self.backend: Backend = (
            SqliteBackend(self.clock) if settings.store == "sqlite" else MemoryBackend(self.clock)
        )
        self.link = Link(self.chance, self.schedule, lambda: self.backend.store)
        self.callers = Callers(self)
        self._executor = SimulatedExecutor(lambda: self.chance.happens(Fault.CIRCUMSTANCE, self._failing))
        self.attempts = Attempts(self.backend.store, NoFiles(), self._executor)
        self.clerk = Clerk(self.backend.store, NoFiles(), self._executor.environment)
        self.outsiders = Outsiders(self)
        self.known: list[KnownDag] = []
        self._workers: list[SimulatedWorker] = []
        self._names = 0
        self._acknowledged: list[Acknowledged] = []
        self._late = 0
        self._wrong: list[Violation] = []

    # --- what workers and chaos ask for -----------------------------------------------------------------------------

    def fresh_name(self) -> WorkerId:
        """Return a worker's name that was never used."""
        self._names += 1
        return WorkerId(f"worker/{self._names}")

    def acknowledge(self, reports: Sequence[Report], committed: Committed) -> None:
        """Note what a worker was told of its reports."""
        self._late += len(committed.lost)
        for report in reports:
            if report.lease in committed.lost:
                continue
            spec = self.callers.submitted.get(report.lease.run)
            if spec is None:
                continue  # its caller has no answer yet
            completed = isinstance(report.result, Complete)
            result = (
                report.result.output if isinstance(report.result, Complete) else report.result.failure.error
            )
            step = spec.dag.spec.steps[report.lease.position].id
            self._acknowledged.append(
                Acknowledged(report.lease.run, step, report.lease.attempt, completed, result)
            )

    async def require_known(self, name: WorkerId, held: Sequence[Lease]) -> None:
        """Note what the store has leased to a worker that does not know of it, just after it has said what it holds."""
        if self.settings.store != "memory":
            return  # there other calls of the same worker may share the commit
        known = {(lease.run, lease.position, lease.fence) for lease in held}
        store = self.backend.store
        for tenant, run in await store.unfinished():
            for position, step in enumerate(await store.steps(tenant, run)):
                if step.worker == name and (run, position, step.fence) not in known:
                    text = f"{name} has a lease of step {position} and does not know of it"
                    self._wrong.append(Violation("held", run, 0, text))

    def hire(self) -> None:
        """Start new workers."""
        for _ in range(self.rng.randint(1, self.settings.workers)):
            self._start(self.fresh_name())

    def hire_namesake(self) -> None:
        """Start a worker under the name of another."""
        if self._workers:
            self._start(self.rng.choice(self._workers).name)

    def replace(self, dead: SimulatedWorker) -> None:
        """Start a worker in place of one that died, some time later."""
        self._workers.remove(dead)

        async def start() -> None:
            if len(self._workers) < self.settings.workers:
                self._start(self.fresh_name())

        self.schedule.after(self.rng.randint(1, 60) * SECOND_US, start)

    def kill_workers(self) -> None:
        """Kill every worker."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def _start(self, name: WorkerId) -> None:
        worker = SimulatedWorker(self, name, self.rng.randint(1, 4))
        self._workers.append(worker)
        worker.begin()

    async def reopen(self) -> None:
        """Kill the store's process and open the store again."""
        await self.backend.restart()
        self.attempts = Attempts(self.backend.store, NoFiles(), self._executor)
        self.clerk = Clerk(self.backend.store, NoFiles(), self._executor.environment)

    # --- the course of things ---------------------------------------------------------------------------------------

    async def run(self) -> Seen:
        """Let everything happen, then check it."""
        try:
            requests = await self._requests()
            for request in requests:
                self.callers.plan(request)
            self.hire()
            Chaos(self).begin()
            broken = await self._happens()
            seen = await self._judge(Reference())
            return seen if broken is None else replace(seen, violations=[broken, *seen.violations])
        except Exception as error:  # noqa: BLE001 -- whatever it is, it has to come with its seed
            return Seen(violations=[_unexpected(error)], fired=self.chance.fired)
        finally:
            await self.backend.close()

    async def _happens(self) -> Violation | None:
        """Let trouble and calm pass; what the engine raises and nobody expects is the first thing that is wrong."""
        try:
            await self._trouble()
            await self._calm()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it has to come with its histories
            return _unexpected(error)
        return None

    async def _requests(self) -> list[RunRequest]:
        rng, settings = self.rng, self.settings
        for number in range(min(4, settings.runs)):
            spec = random_dag(rng, number, settings.steps)
            for tenant in TENANTS if rng.random() < 0.3 else (rng.choice(TENANTS),):
                dag = known_dag(tenant, spec, CODE)
                await self.backend.store.register(registration_of(dag, CALLER))
                self.known.append(dag)
                if any(step.kind not in WORKER_KINDS for step in spec.steps):
                    self.outsiders.begin()
        return [self._request(rng.choice(self.known), number) for number in range(settings.runs)]

    def _request(self, dag: KnownDag, number: int) -> RunRequest:
        key = RunKey(caller=f"key {number}") if self.rng.random() < 0.5 else RunKey(fresh=str(number))
        priority = self.rng.choice((10, 100, 100, 100, 200))
        inputs = {"n": self.rng.randrange(3)}
        return RunRequest(dag, inputs, key, CALLER, "in-process", priority=priority)

    async def _trouble(self) -> None:
        """Let things happen until all is done or the time of trouble is over."""
        for turn in range(1, TURNS_MAX):
            shared = self.settings.store == "sqlite" and not self.schedule.next_is_alone()
            happening = self.schedule.next()
            if happening is None:
                return
            if shared and not self.schedule.next_is_alone() and self.rng.random() < 0.3:
                await self._together(happening)
            else:
                await happening()
            if self.clock.elapsed_us() > TROUBLE_US or (turn % 16 == 0 and await self._is_over()):
                return

    async def _is_over(self) -> bool:
        """Return whether everyone has an answer and every run has ended."""
        return not self.callers.open and not await self.backend.store.unfinished()

    async def _together(self, first: Happening) -> None:
        """Let two things happen at one moment, so that one commit answers both."""
        second = self.schedule.next()
        if second is None:
            await first()
        else:
            await asyncio.gather(first(), second())

    async def _calm(self) -> None:
        """Nothing goes wrong any more: late calls arrive, everyone has an answer, and what is left is done.

        Either every worker is gone and a new one does it, or those there are go on and must sort out among themselves
        what they hold.
        """
        self.chance.end()
        store = self.backend.store
        if self.rng.random() < 0.5:
            self.kill_workers()
            await store.take_back(0)
        for dag in self.known:
            for name in (None, dag.spec.id):
                await store.govern(Governance(dag.tenant, name, LimitsChange.to(Limits()), CALLER))
        self._start(self.fresh_name())
        for turn in range(CALM_TURNS_MAX):
            happening = self.schedule.next()
            if happening is None:
                break
            await happening()
            if turn % 8 == 0 and await self._is_over():
                break
        self.kill_workers()
        await self.link.deliver()
        await store.take_back(0)

    # --- the judgement ----------------------------------------------------------------------------------------------

    async def _judge(self, reference: Reference) -> Seen:
        seen = Seen(fired=self.chance.fired, simulated_us=self.clock.elapsed_us(), late=self._late)
        seen.violations.extend((*self._wrong, *self.callers.wrong, *self.outsiders.wrong))
        store = self.backend.store
        records = [record for tenant in TENANTS for record in await store.runs(tenant, limit=10_000)]
        records.sort(key=lambda record: record.head.key)
        for record in records:
            request = self.callers.submitted.get(record.head.id)
            if request is None:
                seen.violations.append(Violation("identity", record.head.id, 0, "nobody asked for this run"))
                continue
            events = await store.events(record.head.tenant, record.head.id)
            head = _chain_head(record.token, events)
            history = History(request.dag.spec, tuple(map(entry_of, events)), head)
            seen.histories.append(history)
            seen.states[str(record.head.state)] += 1
            for entry in history.entries:
                seen.moves[_move_of(entry)] += 1
            if record.head.state not in TERMINAL:
                seen.violations.append(Violation("progress", record.head.id, 0, f"left {record.head.state}"))
        seen.runs = len(records)
        missing = self.callers.submitted.keys() - {record.head.id for record in records}
        seen.violations.extend(
            Violation("acknowledged", run, 0, "the run is gone") for run in sorted(missing)
        )
        steady = not self.chance.fired[Fault.CLOCK_BACK]
        seen.violations.extend(
            check(
                seen.histories,
                acknowledged=self._acknowledged,
                final=FINAL,
                steady=steady,
                lanes_open=not self.chance.fired[Fault.GOVERNED],
            )
        )
        for tenant in TENANTS:
            for depth in await store.depths(tenant):
                if depth.queued or depth.executing:
                    text = f"DAG {depth.dag} counts {depth.queued} queued and {depth.executing} held steps at the end"
                    seen.violations.append(Violation("slots", "", 0, text))
        seen.violations.extend(_unheard(seen.histories, self.callers.cancelled))
        await self._compare(seen, reference)
        return seen

    async def _compare(self, seen: Seen, reference: Reference) -> None:
        """Hold the outcome of every run marked reproducible against a faultless one, and against each other."""
        outcomes: dict[tuple[str, str], str] = {}
        for history in seen.histories:
            end = history.entries[-1]
            if end.data.get("reproducible") is not True:
                continue
            seen.reproducible += 1
            request = self.callers.submitted[RunId(end.run)]
            faultless = await reference.of(request)
            received = history.entries[0].data
            name = (received["dagVersion"], received["inputsHash"])
            expected = outcomes.setdefault(
                name, faultless.outcome if faultless.reproducible else end.data["outcomeHash"]
            )
            seen.compared += faultless.reproducible
            if end.data["outcomeHash"] != expected:
                seen.violations.append(
                    Violation(
                        "promise", end.run, end.sequence, f"its outcome is not {expected}, as without faults"
                    )
                )


def _unexpected(error: Exception) -> Violation:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}"
    return Violation("error", "", 0, text)


def _chain_head(token: Digest, events: Sequence[Event]) -> Digest:
    """Return the chain head as the engine computes it, for the checker to compute again."""
    head = token
    for event in events:
        head = chain_link(head, event)
    return head


def _move_of(entry: Entry) -> str:
    data = entry.data
    reason = "reused" if "reusedFrom" in data else data.get("reason", data.get("decision"))
    return entry.type if reason is None else f"{entry.type} ({reason})"


def _unheard(histories: Sequence[History], cancelled: dict[RunId, Tenant]) -> list[Violation]:
    """Return the runs whose cancellation was acknowledged and that went on."""
    ends = {history.entries[-1].run: history.entries[-1].type for history in histories}
    return [
        Violation("cancellation", run, 0, f"its cancellation was acknowledged, it ends with {ends[run]}")
        for run in cancelled
        if run in ends and ends[run] != "run.cancelled"
    ]
