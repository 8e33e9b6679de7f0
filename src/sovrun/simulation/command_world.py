"""One simulated world of commands: layers, stores and providers, and who asks for what, decided by one integer.

Owns: `CommandSettings`, `CommandWorld`, `CommandsSeen`. The command layer, the clerk, the gates, the journal and the decisions are the
real ones, on simulated time; the network, the providers and the people are simulated.
Must not touch: real time, and any random source but the seed's.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, cast

from sovrun.core.actions import CancelRun
from sovrun.core.canonical import sha256_hex
from sovrun.core.commands.gates import AdapterLimits, AdapterLimitsChange, Switch
from sovrun.core.commands.journal import CONCLUDED, Command, CommandState
from sovrun.core.errors import IllegalTransition, StoreUnavailable
from sovrun.core.identity import RunKey
from sovrun.core.ids import Actor, RunId, Tenant, WorkerId
from sovrun.engine.attempt import Attempts
from sovrun.engine.clerk import Clerk
from sovrun.engine.command_steps import CommandSteps
from sovrun.engine.handler import KnownDag, RunRequest, known_dag, registration_of, submission_of
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.layer import CommandLayer
from sovrun.simulation.checker import check
from sovrun.simulation.clock import SECOND_US, SimulatedClock
from sovrun.simulation.command_callers import CommandCallers
from sovrun.simulation.command_checker import CommandHistory, Limited, check_commands, command_entry_of
from sovrun.simulation.command_dags import command_dag
from sovrun.simulation.command_faults import ALL_COMMAND_FAULTS, CommandFault, Trouble
from sovrun.simulation.command_link import Life, LinkedAdapter, LinkedStore
from sovrun.simulation.command_people import People
from sovrun.simulation.dags import CODE, FINAL, TENANTS, NoFiles, SimulatedExecutor
from sovrun.simulation.histories import Entry, History, Violation, entry_of
from sovrun.simulation.provider import Provider, random_profile
from sovrun.store.memory import MemoryStore
from sovrun.store.protocol import Store

OPERATOR: Final = Actor("local:operator")
CALLER: Final = Actor("local:caller")
TROUBLE_US: Final = 2_400 * SECOND_US
"""How long things go wrong."""
CALM_US: Final = 4 * 3_600 * SECOND_US
"""How long after that everything may take to be concluded: longer than any clock is set back."""
WORKER: Final = WorkerId("worker/1")
LIVES_MAX: Final = 3
_CLERK_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class CommandSettings:
    """How large and how troubled a world is.

    Args:
        commands: asked for by callers; runs: of DAGs with command steps, besides.
    """

    commands: int = 24
    runs: int = 6
    faults: frozenset[CommandFault] = ALL_COMMAND_FAULTS


@dataclass(slots=True)
class CommandsSeen:
    """What a world came to.

    Args:
        ends: what became of commands; steps: how command steps ended.
    """

    violations: list[Violation] = field(default_factory=list)
    histories: list[CommandHistory] = field(default_factory=list)
    fired: Counter[CommandFault] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    effects: int = 0
    simulated_us: int = 0


class Names:
    """The `Identity` port: names in order."""

    def __init__(self) -> None:
        self._count = 0

    def fresh(self) -> str:
        """See `Identity.fresh`."""
        self._count += 1
        return f"00000000-0000-7000-8000-{self._count:012}"


class Engine:
    """One life of an engine with its layer and its clerk."""

    def __init__(self, world: CommandWorld) -> None:
        self.life = Life(world.clock, world.trouble, world.bury)
        store = cast("Store", LinkedStore(world.store, self.life, told=world.note_entry))
        self._store = store
        adapters = {name: LinkedAdapter(name, one, self.life) for name, one in world.providers.items()}
        self.layer = CommandLayer(
            store, AdapterSet(adapters), world.clock, world.names, alone=not world.shared
        )
        self._clerk = Clerk(store, NoFiles(), SimulatedExecutor.environment, CommandSteps(store, self.layer))

    def begin(self, world: CommandWorld) -> None:
        """Start to work."""
        world.start(self.layer.run())
        world.start(self._take_up())

    async def _take_up(self) -> None:
        while True:
            with suppress(StoreUnavailable):
                await self._clerk.work_off(await self._store.pending(_CLERK_BATCH))
            await asyncio.sleep(4)


class CommandWorld:
    """Builds a world, lets it happen, and holds the journal against the providers' own ledgers."""

    def __init__(self, seed: int, settings: CommandSettings, clock: SimulatedClock) -> None:
        self.settings = settings
        self.clock = clock
        self.rng = Random(seed)  # noqa: S311 -- the same world again, not a secret
        self.trouble = Trouble(self.rng, settings.faults, self.rng.choice((0.02, 0.06, 0.15)))
        self.store = MemoryStore(clock)
        self.names = Names()
        self.shared = self.rng.random() < 0.3
        self.providers = {
            name: Provider(name, self.rng, clock, random_profile(self.rng)) for name in ("north", "south")
        }
        self.engines: list[Engine] = []
        self.calm = False
        self.callers = CommandCallers(self)
        self.people = People(self)
        self._tasks: list[asyncio.Task[Any]] = []
        self._errors: list[Violation] = []
        self._entered_us: dict[tuple[str, int], int] = {}
        self._known: list[KnownDag] = []
        self._limited: list[Limited] = []
        self._dags: dict[RunId, KnownDag] = {}

    # --- what the others ask for --------------------------------------------------------------------------------------

    def start(self, what: Coroutine[Any, Any, None]) -> None:
        """Have something happen beside everything else."""
        task = asyncio.get_running_loop().create_task(what)
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(_unexpected(error))

    def note_entry(self, command: Command) -> None:
        """Note when an entry of a journal was really made, whatever the store's clock says."""
        self._entered_us[command.id, command.revision] = self.clock.elapsed_us()

    def engine(self) -> Engine | None:
        """Return some engine that callers can reach, None while there is none."""
        living = [engine for engine in self.engines if engine.life.alive and not engine.life.fenced]
        return self.rng.choice(living) if living else None

    def bury(self, life: Life) -> None:
        """Start another engine some time after one has died."""
        self.engines = [engine for engine in self.engines if engine.life is not life]

        async def succeed() -> None:
            await asyncio.sleep(self.rng.choice((0, 1, 5, 60)))
            if not self.calm and self.engine() is None:
                self.hire()

        self.start(succeed())

    def hire(self) -> None:
        """Start an engine."""
        engine = Engine(self)
        self.engines.append(engine)
        engine.begin(self)

    # --- the course of things -----------------------------------------------------------------------------------------

    async def run(self) -> CommandsSeen:
        """Let everything happen, then check it."""
        asyncio.get_running_loop().set_exception_handler(self._unheard)
        try:
            await self._prepare()
            await self._happen()
            return await self._judge()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it has to come with its seed
            return CommandsSeen(violations=[_unexpected(error)], fired=self.trouble.fired)

    def _unheard(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._errors.append(
            _unexpected(error) if error is not None else Violation("error", "", 0, context["message"])
        )

    async def _prepare(self) -> None:
        rng = self.rng
        for tenant in TENANTS:
            for name in self.providers:
                if self.trouble.happens(CommandFault.LIMITED, 0.2):
                    limits = AdapterLimits(
                        rate=rng.choice((None, (2, 10 * SECOND_US), (4, 60 * SECOND_US))),
                        per_day=rng.choice((None, 3, 8)),
                    )
                    change = AdapterLimitsChange.to(limits)
                    await self.store.set_adapter_limits(tenant, name, change, actor=OPERATOR)
                    self._limited.append(Limited(tenant, name, limits.rate, limits.per_day))
        for number in range(min(3, self.settings.runs)):
            dag = known_dag(rng.choice(TENANTS), command_dag(rng, number, tuple(self.providers)), CODE)
            await self.store.register(registration_of(dag, CALLER))
            self._known.append(dag)

    async def _happen(self) -> None:
        self.hire()
        self.callers.begin(self.settings.commands)
        for number in range(self.settings.runs):
            self.start(self._run(number))
        self.start(self._work())
        self.start(self.people.watch())
        for befalls in (self._outages(), self._second(), self._set_clock(), self._switch()):
            self.start(befalls)
        await self._wait_until_over(TROUBLE_US, 20)
        self._end_trouble()
        await self._wait_until_over(self.clock.elapsed_us() + CALM_US, 60)
        await asyncio.sleep(400)  # what is still under way arrives

    async def _wait_until_over(self, until_us: int, every_seconds: float) -> None:
        while self.clock.elapsed_us() < until_us:
            if await self._is_over():
                return
            await asyncio.sleep(every_seconds)

    def _end_trouble(self) -> None:
        """Nothing goes wrong any more; what has not noticed that it is over dies, and a new engine does what is left."""
        self.calm = True
        self.trouble.end()
        for engine in list(self.engines):
            engine.life.die()
        self.hire()

    async def _is_over(self) -> bool:
        if self.callers.open or len(self._dags) < self.settings.runs:
            return False
        if await self.store.unfinished() and not self.people.absent:
            return False
        for tenant in TENANTS:
            for _, command in await self.store.commands(tenant, limit=10_000):
                if command.state not in CONCLUDED and not (command.parked and self.people.absent):
                    return False
        return True

    async def _run(self, number: int) -> None:
        """Submit a run, and perhaps cancel it at some time."""
        await asyncio.sleep(self.rng.uniform(0, 600))
        dag = self.rng.choice(self._known)
        request = RunRequest(
            dag, {"n": self.rng.randrange(3)}, RunKey(fresh=str(number)), CALLER, "in-process"
        )
        run = (await self.store.submit(submission_of(request)[0])).run
        self._dags[run] = dag
        if self.trouble.happens(CommandFault.CANCEL, 0.2):
            await asyncio.sleep(self.rng.choice((0, 2, 3, 10, 60)))
            with suppress(IllegalTransition):
                await self.store.act(CancelRun(dag.tenant, run, OPERATOR, None))

    async def _work(self) -> None:
        """Execute what workers execute, without faults: those have worlds of their own."""
        attempts = Attempts(self.store, NoFiles(), SimulatedExecutor(lambda: False))
        while True:
            for lease in await self.store.claim(WORKER, 8):
                await self.store.commit([await attempts.execute(lease)], worker=WORKER)
            await asyncio.sleep(3)

    # --- what befalls it ----------------------------------------------------------------------------------------------

    async def _outages(self) -> None:
        while not self.calm:
            await asyncio.sleep(self.rng.uniform(10, 600))
            provider = self.rng.choice(list(self.providers.values()))
            if self.trouble.happens(CommandFault.UNREACHABLE, 0.3):
                seconds = self.rng.choice((5, 60, 1_200))
                provider.down_until_us = self.clock.elapsed_us() + seconds * SECOND_US
            elif self.trouble.happens(CommandFault.PROVIDER_RESTART, 0.3):
                provider.life += 1
                provider.down_until_us = self.clock.elapsed_us() + 3 * SECOND_US
        for provider in self.providers.values():
            provider.down_until_us = 0

    async def _second(self) -> None:
        """Start a second engine: beside the first, or in place of one that has not noticed."""
        while not self.calm:
            await asyncio.sleep(self.rng.uniform(5, 300))
            if len(self.engines) >= LIVES_MAX:
                continue
            if not self.shared:
                continue
            if self.trouble.happens(CommandFault.SECOND_LAYER, 0.4):
                self.hire()
            elif self.trouble.happens(CommandFault.ZOMBIE, 0.4):
                for engine in self.engines:
                    engine.life.fenced = True
                self.hire()

    async def _set_clock(self) -> None:
        while not self.calm:
            await asyncio.sleep(self.rng.uniform(30, 1_500))
            if self.trouble.happens(CommandFault.CLOCK_FORWARD, 0.1):
                self.clock.jump(self.rng.choice((5, 60, 3_600)) * SECOND_US)
            elif self.trouble.happens(CommandFault.CLOCK_BACK, 0.05):
                self.clock.jump(-self.rng.choice((5, 60, 3_600)) * SECOND_US)

    async def _switch(self) -> None:
        """Trip the kill switch of one tenant or of all, and reset it again."""
        await asyncio.sleep(self.rng.uniform(5, 900))
        if not self.trouble.happens(CommandFault.KILL_SWITCH, 0.2):
            return
        tenant = self.rng.choice((None, *TENANTS))
        await self._move_switch(tenant, tripped=True)
        tripped_us = self.clock.elapsed_us()
        await asyncio.sleep(self.rng.uniform(5, 120))
        self._limited.append(Limited(tenant, None, shut=(tripped_us, self.clock.elapsed_us())))
        await self._move_switch(tenant, tripped=False)

    async def _move_switch(self, tenant: Tenant | None, *, tripped: bool) -> None:
        rationale = sha256_hex(b"it was time")
        await self.store.move_switch(Switch(tenant, tripped, OPERATOR, rationale, 0))

    # --- the judgement ------------------------------------------------------------------------------------------------

    async def _judge(self) -> CommandsSeen:
        for engine in self.engines:
            engine.life.die()
        seen = CommandsSeen(fired=self.trouble.fired, simulated_us=self.clock.elapsed_us())
        seen.violations.extend((*self._errors, *self.callers.wrong))
        steady = not self.trouble.fired[CommandFault.CLOCK_BACK]
        ledgers = {name: provider.ledger for name, provider in self.providers.items()}
        for tenant in TENANTS:
            for _, command in await self.store.commands(tenant, limit=10_000):
                seen.histories.append(await self._history_of(command))
                _count(seen, command)
        seen.commands = len(seen.histories)
        seen.effects = sum(len(ledger.effects) for ledger in ledgers.values())
        runs = [await self._run_history(run, dag) for run, dag in self._dags.items()]
        runs.sort(key=lambda history: history.entries[0].time_us)
        for history in runs:
            seen.steps.update(_step_end(entry) for entry in history.entries if _of_command(entry, history))
        seen.violations.extend(check(runs, final=FINAL, steady=steady))
        seen.violations.extend(
            check_commands(
                seen.histories,
                ledgers,
                runs,
                answers=self.callers.answers,
                limited=self._limited,
                jumped=bool(self.trouble.fired[CommandFault.CLOCK_FORWARD]) or not steady,
            )
        )
        return seen

    async def _history_of(self, command: Command) -> CommandHistory:
        tenant = command.intention.tenant
        body = await self.store.payload(tenant, command.intention.payload)
        entries = [
            command_entry_of(
                record.sequence,
                record.time_us,
                record.actor,
                record.type,
                record.data,
                at_us=self._entered_us.get((record.command, record.sequence)),
            )
            for record in await self.store.command_history(tenant, command.id)
        ]
        return CommandHistory(command.id, tenant, body or b"", entries)

    async def _run_history(self, run: RunId, dag: KnownDag) -> History:
        events = await self.store.events(dag.tenant, run)
        return History(dag.spec, [entry_of(event) for event in events])


def _of_command(entry: Entry, history: History) -> bool:
    return any(step.id == entry.step and step.kind == "command" for step in history.spec.steps)


def _step_end(entry: Entry) -> str:
    reason = entry.data.get("reason", entry.data.get("decision"))
    return entry.type if reason is None else f"{entry.type} ({reason})"


def _count(seen: CommandsSeen, command: Command) -> None:
    seen.ends[str(command.state)] += 1
    history = seen.histories[-1]
    for entry in history.entries:
        how = entry.data.get("how", entry.data.get("gate"))
        seen.ends[entry.type if how is None else f"{entry.type} ({how})"] += 1
    if command.state is CommandState.UNKNOWN and command.parked:
        seen.ends["left parked"] += 1
    if command.sends > 1:
        seen.ends["sent again"] += 1


def _unexpected(error: BaseException) -> Violation:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
    return Violation("error", "", 0, f"{type(error).__name__} at {place}: {error}")
