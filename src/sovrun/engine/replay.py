"""Replay: execute a recorded run again, in a scratch store, and say step by step whether the same came out.

Owns: `Verdict`, `StepVerdict`, `Replay`, `compare`, `RecordedClerk`. Only `python` and `argv` steps that reach nothing
outside and need no secret are executed; the others come out as they were recorded. Nothing here reaches an adapter, a
tool, a person or the store of record, which is only read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sovrun.core.actions import Action, Release, Reuse
from sovrun.core.canonical import decode
from sovrun.core.errors import FileUnavailable, NotFound
from sovrun.core.identity import RunKey
from sovrun.core.ids import Actor, Digest, RunId, StepId, Tenant
from sovrun.core.lifecycle import TERMINAL, Cause, State
from sovrun.core.plan import Plan, plan_of
from sovrun.core.spec.model import WORKER_KINDS, StepSpec
from sovrun.core.spec.normal import spec_from_normal
from sovrun.core.step import Step
from sovrun.engine.clerk import Clerk
from sovrun.engine.engine import Engine
from sovrun.engine.handler import RunRequest, known_dag
from sovrun.engine.resolve import Resolved
from sovrun.engine.views import step_error
from sovrun.engine.workloads import Workload
from sovrun.ports import Code, Files
from sovrun.store.payload import Payload
from sovrun.store.protocol import DagRecord, Pending, Reads, RunRecord, Store


class Verdict(StrEnum):
    """What a replay says of a step."""

    REPRODUCED = "reproduced"
    DIVERGED = "diverged"
    RECORDED = "recorded"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """One step, recorded and replayed; `why` says what differs or why it was not compared.

    `failure`: the code and message of the replayed step's last failed attempt.
    """

    id: StepId
    verdict: Verdict
    recorded: Step
    replayed: Step | None
    why: str = ""
    failure: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found.

    Args:
        code_kept: the kept copy of the code was executed, not the code where it came from.
        code_differs: the code executed was not the recorded one; environment_differs: nor was the environment.
        steps: in plan order; outcome: of the scratch run.
    """

    record: RunRecord
    code_kept: bool
    code_differs: bool
    environment_differs: bool
    steps: tuple[StepVerdict, ...]
    outcome: Digest | None

    @property
    def reproduced(self) -> bool:
        """Whether nothing diverged and everything could be looked at."""
        return not (self.count(Verdict.DIVERGED) or self.count(Verdict.UNAVAILABLE))

    @property
    def first_divergence(self) -> StepVerdict | None:
        """The first diverging step in plan order."""
        return next((step for step in self.steps if step.verdict is Verdict.DIVERGED), None)

    def count(self, verdict: Verdict) -> int:
        """Return how many steps have a verdict."""
        return sum(step.verdict is verdict for step in self.steps)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run as it was recorded, ready to be replayed."""

    record: RunRecord
    dag: DagRecord
    plan: Plan
    steps: Sequence[Step]
    inputs: dict[str, Any]
    answers: Mapping[int, bytes]
    """By position, the outputs of steps that nobody executed."""


async def recorded_run(store: Reads, files: Files, tenant: Tenant, run: RunId) -> Recorded:
    """Return a terminal run as recorded. Raises: NotFound when it is not terminal; FileUnavailable."""
    record = await store.run(tenant, run)
    if record.head.state not in TERMINAL:
        raise NotFound(f"run {run} is {record.head.state}; only a terminal run can be replayed", run=run)
    dag = await store.dag(tenant, record.head.version)
    body = await store.payload(tenant, record.head.inputs) or files.get(tenant, record.head.inputs)
    if body is None:
        raise FileUnavailable(f"the inputs {record.head.inputs} of run {run} are not kept any more")
    plan = plan_of(spec_from_normal(decode(dag.normal)))
    steps = await store.steps(tenant, run)
    answers = {}
    for position, (spec, step) in enumerate(zip(plan.steps, steps, strict=True)):
        if is_executed(spec) or step.output is None:
            continue
        answer = await store.payload(tenant, step.output) or files.get(tenant, step.output)
        if answer is None:
            raise FileUnavailable(f"the output {step.output} of step {spec.id} is not kept any more")
        answers[position] = answer
    return Recorded(record, dag, plan, steps, decode(body), answers)


def is_executed(step: StepSpec) -> bool:
    """Return whether a replay executes a step: what reaches outside or needs a secret comes out as it was recorded."""
    return step.kind in WORKER_KINDS and not step.endpoints and not step.secrets


class RecordedClerk(Clerk):
    """Gives the steps that are not executed the outputs and ends that they had when the run was recorded."""

    def __init__(self, store: Store, files: Files, environment: Digest, recorded: Recorded) -> None:
        super().__init__(store, files, environment)
        self._recorded = recorded

    async def _decided(
        self, pending: Pending, workload: Workload, resolved: Resolved
    ) -> tuple[Action, tuple[Payload, ...]]:
        name = (pending.tenant, pending.run, pending.position)
        if is_executed(workload.plan.steps[pending.position]):
            return Release(*name), ()
        before = self._recorded.steps[pending.position]
        answer = self._recorded.answers.get(pending.position)
        if answer is None or before.output is None:
            return self._refusal(
                pending, before.reason or str(before.state), "it ended so when it was recorded"
            )
        payload = self._payload(pending.tenant, answer)
        chosen = _chosen(workload, pending.position, answer)
        source = self._recorded.record.head.id
        return Reuse(*name, source, resolved.step_hash, payload.digest, None, chosen), (payload,)


def _chosen(workload: Workload, position: int, answer: bytes) -> tuple[int, ...] | None:
    if not workload.plan.steps[position].select:
        return None
    return tuple(sorted(workload.plan.index[StepId(name)] for name in decode(answer)["select"]))


async def replay(
    recorded: Recorded, code: Code, engine: Engine, scratch: Reads, actor: Actor, *, code_kept: bool
) -> Replay:
    """Execute a recorded run again with `code` and compare.

    Args:
        code_kept: `code` is the kept copy.
        engine: entered, on `scratch`, a store that holds nothing of record; it decides isolation and environment.
    """
    record = recorded.record
    dag = known_dag(record.head.tenant, recorded.plan.spec, code.digest, recorded.dag.source)
    await engine.register(dag, actor)
    key = RunKey(rerun=(record.head.id, 0))
    request = RunRequest(dag, recorded.inputs, key, actor, engine.isolation, priority=record.head.priority)
    run = (await engine.submit(request, parent=record.head.id)).run
    ended = await engine.wait(record.head.tenant, run)
    replayed = await scratch.steps(record.head.tenant, run)
    intact = all(step.cause is not Cause.CIRCUMSTANCE for step in recorded.steps)
    verdicts = []
    for spec, before, after in zip(recorded.plan.steps, recorded.steps, replayed, strict=True):
        if is_executed(spec):
            verdict = compare(spec.id, before, after, intact=intact)
            verdicts.append(await _with_failure(verdict, scratch, record.head.tenant))
        else:
            verdicts.append(StepVerdict(spec.id, Verdict.RECORDED, before, None))
    environments = {(b.environment, a.environment) for b, a in zip(recorded.steps, replayed, strict=True)}
    return Replay(
        record=record,
        code_kept=code_kept,
        code_differs=code.digest != recorded.dag.code,
        environment_differs=any(before != after for before, after in environments if before and after),
        steps=tuple(verdicts),
        outcome=ended.head.outcome,
    )


async def _with_failure(verdict: StepVerdict, scratch: Reads, tenant: Tenant) -> StepVerdict:
    after = verdict.replayed
    if after is None or after.state is not State.FAILED:
        return verdict
    document = await step_error(scratch, tenant, after) or {}
    code = after.failure or str(after.reason)
    return replace(verdict, failure=(code, str(document.get("message") or "")))


def compare(step: StepId, recorded: Step, replayed: Step, *, intact: bool) -> StepVerdict:
    """Return what to say of one executed step: what counts is what came out, not how many attempts it took.

    `intact`: no step of the recorded run ended by circumstance; else those that never ran have nothing to say.
    """
    if replayed.failure in ("file_unavailable", "code_unavailable"):
        return StepVerdict(step, Verdict.UNAVAILABLE, recorded, replayed, replayed.failure)
    if recorded.cause is Cause.CIRCUMSTANCE or (recorded.state is State.CANCELLED and not intact):
        return StepVerdict(step, Verdict.RECORDED, recorded, replayed, "its end was owed to circumstance")
    if (recorded.state, recorded.cause) != (replayed.state, replayed.cause):
        why = f"it {recorded.state} then and {replayed.state} now"
        return StepVerdict(step, Verdict.DIVERGED, recorded, replayed, why)
    if recorded.output != replayed.output:
        return StepVerdict(step, Verdict.DIVERGED, recorded, replayed, "the outputs differ")
    return StepVerdict(step, Verdict.REPRODUCED, recorded, replayed)
