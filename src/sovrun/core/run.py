"""One atomic write to one run: which facts it records and what becomes of the run and its steps.

Owns: `Run`, the head of a run, and `Write`, which gathers the moves of one write. It does no IO: what a store has to
look up, it is asked for by a generator that the store drives (`settle`), so that every back end, synchronous or not,
decides by the same code.
Must not touch: stores, clocks. Readiness comes from counters; nothing here ever scans a run.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from sovrun.core.errors import IllegalTransition
from sovrun.core.events import (
    ENGINE,
    Fact,
    RunBudget,
    StepAwaitsAnswer,
    StepAwaitsApproval,
    StepCancelled,
    StepCompleted,
    StepEvent,
    StepFailed,
    StepStarted,
    StepStopped,
    grouped,
)
from sovrun.core.identity import Outcome
from sovrun.core.ids import Actor, Digest, RunId, Tenant, WorkerId
from sovrun.core.lifecycle import (
    TERMINAL,
    Cause,
    Counts,
    Reason,
    RunFacts,
    State,
    Tally,
    decide_received,
    run_path,
    run_state,
)
from sovrun.core.plan import Plan
from sovrun.core.spec.model import WORKER_KINDS
from sovrun.core.step import QUEUED, RECEIVED, Fail, Start, Step, StepCommand, cancel_cause, decide, evolve


class Run(NamedTuple):
    """The head of a run: all that a write needs to know of it, none of which grows with the run.

    Args:
        key: the store's own number of the run; rises with submission, so it is the run sequence of the queue's order.
        isolation: what its steps are isolated by, which every lease of one names.
        counts: of steps by state.
        started: a step has started once; cancelled: a cancellation was accepted; stopping: `failFast` has struck.
        sequence: of the last recorded event, from 1; time_us: its time.
        failures: reported by all steps together.
        admitted: its steps may be queued; False while it waits for a quota or an unpause, named by `reason`.
        parent: the run of which it is a re-run, whose outputs may be reused.
        cancel: digest of the accepted request for cancellation.
    """

    key: int
    id: RunId
    tenant: Tenant
    version: Digest
    inputs: Digest
    priority: int
    isolation: str
    state: State
    counts: Counts
    reason: str | None = None
    started: bool = False
    cancelled: bool = False
    stopping: bool = False
    sequence: int = 0
    time_us: int = 0
    outcome: Digest | None = None
    outputs: Digest | None = None
    reproducible: bool | None = None
    failures: int = 0
    admitted: bool = True
    parent: RunId | None = None
    cancel: Digest | None = None


Deltas: TypeAlias = dict[int, Tally]
"""By position of a `received` step: by how much its counters change; `remaining` is what to subtract."""

Tallies: TypeAlias = Iterable[tuple[int, Tally]]
"""Steps whose `remaining` became 0, with all their counters."""

Ending: TypeAlias = tuple[int, int, frozenset[int] | None]
"""What the end of a need adds to a dependent's counters: failed, skipped; and what it chose, when it is a selector."""

_SLOT: Final = {
    State.RECEIVED: 0,
    State.QUEUED: 1,
    State.EXECUTING: 2,
    State.AWAITING_TOOL: 3,
    State.AWAITING_USER_CONFIRMATION: 4,
    State.FAILED: 5,
    State.COMPLETED: 6,
    State.CANCELLED: 6,
}


@lru_cache(maxsize=64)
def _first_attempt(worker: WorkerId) -> tuple[Step, str]:
    """Return a step that a worker has begun for the first time, and what is recorded of it: it differs by worker alone."""
    event = StepStarted(worker, 1, QUEUED.fence)
    return evolve(QUEUED, event), event.data()


class Write:
    """The moves of one atomic write to one run, gathered in order.

    Attributes:
        run: the head before the write; `head()` gives the one after.
        now_us: the time of every event of this write, never before the run's last one.
        facts: what is recorded, in order.
        steps: the changed steps by position, as they are after the write.
        ready: positions that this write queued and nobody has claimed yet, ascending within one settling.
        pending: positions that this write queued and that the engine itself is to take up: waits, and steps of a re-run.
        lingering: leases (position, fence, worker) whose steps ended without a report, so their processes may still run.
        timers: instants at which a step's time is over, or with position -1 the run's.
    """

    __slots__ = (
        "_counts",
        "_ended",
        "admitted",
        "cancel",
        "cancel_note",
        "cancelled",
        "facts",
        "failures",
        "lingering",
        "now_us",
        "outcome",
        "pending",
        "plan",
        "ready",
        "reason",
        "run",
        "started",
        "state",
        "steps",
        "stopping",
        "timers",
    )

    def __init__(self, plan: Plan, run: Run, now_us: int) -> None:
        self.plan = plan
        self.run = run
        self.now_us = max(now_us, run.time_us)
        self.facts: list[Fact] = []
        self.steps: dict[int, Step] = {}
        self.ready: list[int] = []
        self.pending: list[int] = []
        self.timers: list[tuple[int, int]] = []
        self.lingering: list[tuple[int, int, WorkerId]] = []
        self.failures = run.failures
        self.admitted = run.admitted
        self.cancel = run.cancel
        self.cancel_note: Digest | None = None
        self.state = run.state
        self.reason = run.reason
        self.started = run.started
        self.cancelled = run.cancelled
        self.stopping = run.stopping
        self.outcome: Outcome | None = None
        self._counts = [*run.counts, 0]
        self._ended: list[tuple[int, Ending]] = []

    # --- moves of steps ---------------------------------------------------------------------------------------------

    def receive(self, actor: Actor, data: str, waits_for: Reason | None = None) -> None:
        """Record that the run was received; unless it `waits_for` a quota or an unpause, admit it at once."""
        self.facts.append(Fact("run.received", -1, actor, data))
        self._counts[0] = self.plan.size
        if self.plan.spec.timeout_us is not None:
            self.timers.append((self.now_us + self.plan.spec.timeout_us, -1))
        self.reason = waits_for
        self.admitted = False
        if waits_for is None:
            self.admit()

    def admit(self) -> None:
        """Queue the steps that need nothing."""
        self.admitted = True
        self.reason = None
        self._queue([position for position, needs in enumerate(self.plan.needs) if not needs])
        self.derive()

    def move(self, position: int, step: Step, command: StepCommand, actor: Actor) -> Step:
        """Apply a command to a step and record what it causes. Raises: LeaseLost, IllegalTransition."""
        failed = isinstance(command, Fail)
        event = decide(
            step,
            command,
            self.plan.steps[position].retry,
            self.now_us,
            stopping=self.stopping,
            run_budget=self._budget_after(self.failures + failed),
        )
        self.failures += failed
        if isinstance(event, StepCancelled | StepFailed) and self._is_stopped_by_its_budget(event):
            event = replace(event, reason=Reason.RUN_BUDGET_EXHAUSTED)
        return self.happen(position, step, (event,), actor)

    def _is_stopped_by_its_budget(self, event: StepCancelled | StepFailed) -> bool:
        return event.reason == Reason.FAIL_FAST and not self.plan.spec.fail_fast

    def happen(self, position: int, step: Step, events: Iterable[StepEvent], actor: Actor) -> Step:
        """Record what happened to one step, in order, and return what became of it."""
        before = step.state
        for event in events:
            if isinstance(event, StepStopped):
                self._leave_behind(position, step)
            step = evolve(step, event)
            self.facts.append(Fact(event.type, position, actor, self._data(event)))
            if event.target is State.EXECUTING:
                self.started = True
            elif isinstance(event, StepAwaitsAnswer | StepAwaitsApproval):
                if event.until_us is not None:
                    self.timers.append((event.until_us, position))
            elif isinstance(event, StepCompleted | StepFailed | StepStopped):
                self._ended.append((position, self._ending(position, event)))
        self.steps[position] = step
        self._count(before, step.state)
        return step

    def _budget_after(self, failures: int) -> RunBudget | None:
        """Return what is left of the run's failure budget after so many failures, None when it has none."""
        budget = self.plan.spec.failure_budget
        return None if budget is None else RunBudget(failures, max(0, budget - failures))

    def start(self, claimed: Sequence[tuple[int, Step]], worker: WorkerId, actor: Actor) -> None:
        """Lease steps to a worker: queued ones and those whose wait is over."""
        executing, data = _first_attempt(worker)
        fresh: list[int] = []
        for position, step in claimed:
            if step == QUEUED:  # first attempts are alike, so one event names them all
                fresh.append(position)
                self.steps[position] = executing
            else:
                self.move(position, step, Start(worker), actor)
        if fresh:
            self._counts[1] -= len(fresh)
            self._counts[2] += len(fresh)
            self._group(StepStarted.type, data, fresh, actor)
            self.started = True

    def stop(self, positions: Sequence[tuple[int, Step]], reason: Reason, actor: Actor) -> None:
        """Cancel steps that are not terminal, all for one reason, in plan order: one event."""
        self._all_become(positions, StepCancelled(reason, cancel_cause(reason)), actor)
        if reason is Reason.RUN_CANCELLED:
            self.cancelled = True
        else:
            self.stopping = True

    def run_out(self, positions: Sequence[tuple[int, Step]], reason: Reason) -> None:
        """Fail all steps that are not terminal, because the time there was is over: one event."""
        self._all_become(positions, StepStopped(reason, Cause.CIRCUMSTANCE), ENGINE)
        self.stopping = True

    def _all_become(
        self, positions: Sequence[tuple[int, Step]], event: StepCancelled | StepStopped, actor: Actor
    ) -> None:
        for position, step in positions:
            self._leave_behind(position, step)
            self.steps[position] = evolve(step, event)
            self._count(step.state, event.target)
        self._group(event.type, event.data(), [position for position, _ in positions], actor)
        gone = {position for position, _ in positions}
        self.ready = [position for position in self.ready if position not in gone]
        self.pending = [position for position in self.pending if position not in gone]

    def _leave_behind(self, position: int, step: Step) -> None:
        """Note that a worker still runs a step that is over: its slot is free only when the process is known dead."""
        if step.state is State.EXECUTING and step.worker is not None:
            self.lingering.append((position, step.fence, step.worker))

    def settle(self) -> Generator[Deltas, Tallies, None]:
        """Decide the steps whose needs have all become terminal in this write, and those that follow from them.

        Yields: counter changes of `received` steps with more than one need.
        Receives: those among them whose needs are now all terminal.
        """
        wave, self._ended = self._ended, []
        queued: list[int] = []
        while wave and not (self.cancelled or self.stopping):
            deltas: Deltas = {}
            settled: list[tuple[int, Tally]] = []
            self._spread(wave, deltas, settled)
            if deltas:
                settled.extend((yield deltas))
            wave = self._decide(sorted(settled), queued)
        if queued:
            self._queue(sorted(queued))

    def _spread(
        self, wave: Iterable[tuple[int, Ending]], deltas: Deltas, settled: list[tuple[int, Tally]]
    ) -> None:
        """Add what ended in `wave` to the counters of its dependents; those with one need are settled at once."""
        needs, dependents = self.plan.needs, self.plan.dependents
        for position, (failed, skipped, chosen) in wave:
            selectable = self.plan.selectable.get(position, frozenset())
            for dependent in dependents[position]:
                unchosen = chosen is not None and dependent in selectable and dependent not in chosen
                if len(needs[dependent]) == 1:
                    settled.append((dependent, Tally(0, failed, skipped, unchosen)))
                    continue
                before = deltas.get(dependent)
                if before is None:
                    deltas[dependent] = Tally(1, failed, skipped, unchosen)
                else:
                    deltas[dependent] = Tally(
                        before.remaining + 1,
                        before.failed + failed,
                        before.skipped + skipped,
                        before.unchosen or unchosen,
                    )

    def _decide(self, settled: Tallies, queued: list[int]) -> list[tuple[int, Ending]]:
        """Decide settled steps; the queued ones go to `queued`, the cancelled ones are recorded and returned."""
        refused: dict[Reason, list[int]] = {}
        for position, tally in settled:
            step = self.plan.steps[position]
            reason = decide_received(tally, len(self.plan.needs[position]), join_any=step.join_any)
            if reason is None:
                queued.append(position)
            else:
                refused.setdefault(reason, []).append(position)
        wave: list[tuple[int, Ending]] = []
        for reason, positions in sorted(refused.items()):
            event = StepCancelled(reason, cancel_cause(reason))
            after = evolve(RECEIVED, event)
            ending = (1, 0, None) if reason is Reason.UPSTREAM_FAILED else (0, 1, None)
            for position in positions:
                self.steps[position] = after
                wave.append((position, ending))
            self._counts[0] -= len(positions)
            self._group(event.type, event.data(), positions, ENGINE)
        return wave

    def _queue(self, positions: list[int]) -> None:
        for position in positions:
            self.steps[position] = QUEUED
        self._counts[0] -= len(positions)
        self._counts[1] += len(positions)
        if self.run.parent is not None:
            self.pending.extend(positions)
        elif self.plan.has_waits:
            self.pending.extend(p for p in positions if self.plan.steps[p].kind not in WORKER_KINDS)
            self.ready.extend(p for p in positions if self.plan.steps[p].kind in WORKER_KINDS)
        else:
            self.ready.extend(positions)
        if self.plan.has_timeouts:
            timeouts = ((self.plan.steps[position].timeout_us, position) for position in positions)
            self.timers.extend(
                (self.now_us + after, position) for after, position in timeouts if after is not None
            )
        self._group("step.queued", "{}", positions, ENGINE)

    def _group(self, type_: str, data: str, positions: Sequence[int], actor: Actor) -> None:
        if len(positions) == 1:
            self.facts.append(Fact(type_, positions[0], actor, data))
        elif positions:
            ids = [self.plan.steps[position].id for position in positions]
            self.facts.append(Fact(type_, -1, actor, grouped(data, ids)))

    def _data(self, event: StepEvent) -> str:
        if isinstance(event, StepCompleted):
            return event.data([self.plan.steps[position].id for position in event.chosen or ()])
        return "{}" if event.type == "step.queued" else event.data()  # type: ignore[union-attr]

    def _ending(self, position: int, event: StepCompleted | StepFailed | StepStopped) -> Ending:
        if not isinstance(event, StepCompleted):
            return (1, 0, None)
        chosen = event.chosen
        return (0, 0, frozenset(chosen) if chosen is not None and position in self.plan.selectable else None)

    def _count(self, before: State, after: State) -> None:
        self._counts[_SLOT[before]] -= 1
        self._counts[_SLOT[after]] += 1

    # --- the run ----------------------------------------------------------------------------------------------------

    @property
    def struck(self) -> Reason | None:
        """Why the rest of the run is to be cancelled now: `failFast`, or the run's failure budget; None when it is not."""
        if self.stopping or self.cancelled or self._counts[5] == self.run.counts.failed:
            return None
        if self.plan.spec.fail_fast:
            return Reason.FAIL_FAST
        budget = self._budget_after(self.failures)
        return Reason.RUN_BUDGET_EXHAUSTED if budget is not None and budget.failures_left == 0 else None

    @property
    def ending(self) -> State | None:
        """The terminal state the run has come to, when all its steps are terminal; `end` must follow."""
        state = run_state(self._facts())
        return state if state in TERMINAL else None

    def _facts(self) -> RunFacts:
        return RunFacts(Counts(*self._counts[:6]), self.started, self.cancelled)

    def derive(self) -> bool:
        """Record the run's moves to the state that its steps now give it; return whether it is a terminal one.

        That one is left to `end`.
        """
        target = run_state(self._facts())
        if target in TERMINAL:
            return True
        for state in run_path(self.state, target):
            self.facts.append(Fact(f"run.{state}", -1, ENGINE, "{}"))
        self.state = target
        return False

    def end(self, outcome: Outcome, actor: Actor = ENGINE) -> None:
        """Record the end of the run with its hashes. Raises: IllegalTransition when a step is not terminal."""
        target = self.ending
        if target is None:
            raise IllegalTransition(f"run {self.run.id} has steps that are not terminal")
        self.reason = {State.FAILED: Reason.STEP_FAILED, State.CANCELLED: Reason.RUN_CANCELLED}.get(target)
        reproducible = "true" if outcome.reproducible else "false"
        reason = "null" if self.reason is None else f'"{self.reason}"'
        for state in run_path(self.state, target):
            data = "{}"
            if state is target:
                note = "" if self.cancel_note is None else f'"noteHash":"{self.cancel_note}",'
                data = (
                    f'{{{note}"outcomeHash":"{outcome.outcome}","outputsHash":"{outcome.outputs}",'
                    f'"reason":{reason},"reproducible":{reproducible}}}'
                )
            self.facts.append(Fact(f"run.{state}", -1, actor, data))
        self.state = target
        self.outcome = outcome

    def head(self) -> Run:
        """Return the run's head after this write."""
        outcome = self.outcome
        return self.run._replace(
            state=self.state,
            reason=self.reason,
            counts=Counts(*self._counts[:6]),
            started=self.started,
            cancelled=self.cancelled,
            stopping=self.stopping,
            failures=self.failures,
            admitted=self.admitted,
            cancel=self.cancel,
            sequence=self.run.sequence + len(self.facts),
            time_us=self.now_us if self.facts else self.run.time_us,
            outcome=None if outcome is None else outcome.outcome,
            outputs=None if outcome is None else outcome.outputs,
            reproducible=None if outcome is None else outcome.reproducible,
        )
