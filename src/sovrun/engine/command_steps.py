"""The commands of `command` steps: under which key they go to the layer, and which effects a re-run must not repeat.

Owns: `CommandSteps`, `require_named`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sovrun.core.commands.journal import CommandId, CommandState, Intention, step_key
from sovrun.core.errors import EffectWouldRepeat, NotFound
from sovrun.core.ids import Digest, RunId, StepId
from sovrun.core.lifecycle import State
from sovrun.core.plan import Plan
from sovrun.core.spec.model import CommandCall, StepSpec
from sovrun.core.step import Step
from sovrun.execution.layer import CommandLayer
from sovrun.execution.requests import CommandRequest, Prepared
from sovrun.store.journal import JournalReads
from sovrun.store.protocol import Pending, RunRecord, Store


class CommandSteps:
    """Turns steps into commands. Args: layer: what checks them, and performs them once they are journalled."""

    def __init__(self, store: Store, layer: CommandLayer) -> None:
        self._store = store
        self._layer = layer

    async def prepare(self, pending: Pending, step: StepSpec, payload: Mapping[str, Any]) -> Prepared:
        """Return the command of a step that is taken up.

        Raises: what `CommandLayer.prepare` raises; EffectWouldRepeat.
        """
        assert isinstance(step.entry, CommandCall)  # noqa: S101 -- asked for no other kind
        record = await self._store.run(pending.tenant, pending.run)
        if pending.parent is not None and step.id not in record.repeat_effects:
            await self._require_unhappened(pending, pending.parent, step)
        return await self._layer.prepare(
            CommandRequest(
                tenant=pending.tenant,
                kind=step.entry.kind,
                adapter=step.entry.adapter,
                payload=payload,
                actor=record.actor,
                mode=step.entry.mode,
                key=step_key(record.token, step.id),
                run=pending.run,
                step=step.id,
                position=pending.position,
            )
        )

    async def _require_unhappened(self, pending: Pending, parent: RunId, step: StepSpec) -> None:
        """Refuse a step whose effect the parent had or may have had: it came out otherwise than the parent's."""
        record = await self._store.run(pending.tenant, parent)
        before = (await self._store.steps(pending.tenant, parent))[
            pending.position
        ]  # a re-run is of the same version
        if await happened(self._store, record, step, before):
            raise _would_repeat(parent, step.id)


async def happened(journal: JournalReads, record: RunRecord, step: StepSpec, before: Step) -> bool:
    """Return whether a command step of a run had its effect or may have had it."""
    if before.state is State.COMPLETED:
        return True
    assert isinstance(step.entry, CommandCall)  # noqa: S101 -- asked for no other kind
    name = _command_of(record, step.id, step.entry)
    try:
        command = await journal.command(record.head.tenant, name)
    except NotFound:
        return False
    return command.state is not CommandState.REFUSED


def _command_of(record: RunRecord, step: StepId, entry: CommandCall) -> CommandId:
    return Intention(
        *(record.head.tenant, entry.kind, 1, step_key(record.token, step), entry.adapter, entry.mode),
        payload=Digest(""),
        actor=record.actor,
        opens=False,
    ).id


def _would_repeat(run: RunId, step: StepId) -> EffectWouldRepeat:
    return EffectWouldRepeat(
        f"step {step} had or may have had its effect in run {run}, and would have it again",
        hint=f"if that is wanted, name it: --repeat-effect {step}",
        step=step,
    )


async def require_named(
    journal: JournalReads,
    record: RunRecord,
    plan: Plan,
    steps: Collection[Step],
    *,
    fresh: Collection[int],
    named: Collection[StepId],
) -> None:
    """Refuse a re-run that would repeat an effect which is not named.

    Args:
        record, plan, steps: of the parent; fresh: positions that are executed again in any case.
    Raises: EffectWouldRepeat; NotFound when what is named is no `command` step.
    """
    for name in named:
        position = plan.index.get(name)
        if position is None or not isinstance(plan.steps[position].entry, CommandCall):
            raise NotFound(f"DAG {record.dag} has no command step {name}", step=name)
    for position, (spec, before) in enumerate(zip(plan.steps, steps, strict=True)):
        if not isinstance(spec.entry, CommandCall) or spec.id in named:
            continue
        reused = before.state is State.COMPLETED and position not in fresh
        if not reused and await happened(journal, record, spec, before):
            raise _would_repeat(record.head.id, spec.id)
