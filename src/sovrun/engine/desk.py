"""The desk: what people and tools ask of runs: answers, approvals, cancellation, re-runs, pauses; and what waits for whom.

Owns: `Lookout` (what is read), `Desk` (what is done), `WaitView`, `Asked`. Who may do what is decided here from the
document and the caller's roles; what it comes to is decided in `core.actions`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs

from sovrun.core.actions import Answer, CancelRun, Decide
from sovrun.core.canonical import canonical, decode, digest_of, sha256_hex
from sovrun.core.commands.journal import Command, CommandState
from sovrun.core.errors import IllegalTransition, InvalidValue, NotAllowed, NotFound, PayloadTooLarge
from sovrun.core.identity import RunKey, run_id_of, run_token
from sovrun.core.ids import Actor, Digest, RunId, StepId, Tenant
from sovrun.core.lanes import Governed, Limits
from sovrun.core.lifecycle import TERMINAL, Cause, Reason, State
from sovrun.core.plan import Plan, plan_of
from sovrun.core.spec.model import CommandCall, Confirmation, Kind, StepSpec, ToolWait
from sovrun.core.spec.normal import spec_from_normal
from sovrun.core.step import Step
from sovrun.engine.clerk import with_descendants
from sovrun.engine.command_steps import require_named
from sovrun.engine.holds import Holds
from sovrun.ports import Files
from sovrun.store.payload import Payload
from sovrun.store.protocol import (
    INLINE_MAX,
    Acted,
    Governance,
    Reads,
    RunRecord,
    Store,
    Submission,
    Submitted,
    Wait,
)

NOTE_MAX: Final = 16_384
"""Bytes that a note, a rationale or the message of a tool that could not may have."""
PAGE: Final = 1_000
_EXPIRED: Final = (Reason.TOOL_EXPIRED, Reason.CONFIRMATION_EXPIRED, Reason.REJECTED)
"""Why a step failed whose wait came to its end by itself; owed to circumstance, which a person's rejection is not."""
_BEGINS_TO_WAIT: Final = ("step.awaiting_tool", "step.awaiting_user_confirmation")


@dataclass(frozen=True, slots=True)
class WaitView:
    """A step that waits for somebody.

    Args:
        whom: what it waits for, for a person: the tool's name, or who may decide.
        shown: what is asked, decoded; None also when the payload is no longer kept.
        asks: of a confirmation, who may decide and what its expiry comes to.
        barred: who asked for the run, where that one may not decide.
    """

    wait: Wait
    step: StepId
    kind: Kind
    whom: str
    shown: Any
    asks: Confirmation | None = None
    barred: Actor | None = None

    @property
    def on_expiry(self) -> str | None:
        """What becomes of the step at the end of its time, `fail` or `reject`; None when there is no such end."""
        if self.wait.until_us is None:
            return None
        return "fail" if self.asks is None else self.asks.on_expiry

    def is_for(self, actor: Actor) -> bool:
        """Return whether an actor may end the wait, in whatever role that takes."""
        if self.asks is None:
            return True
        named = self.asks.role is not None or self.asks.actor in (None, actor)
        return named and actor != self.barred


@dataclass(frozen=True, slots=True)
class ParkedView:
    """A command of whose outcome a person is asked.

    Args:
        asked: its payload, decoded; None also when it is no longer kept.
        heard: what was last recorded of why nothing is known, None when nothing was.
    """

    command: Command
    asked: Any
    heard: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a `tool` or `confirm` step asks, whether it waits now, did, or will.

    Args:
        shown: digest of what is asked, None before the step begins to wait; body: its canonical JSON, when it is kept.
    """

    record: RunRecord
    step: Step
    id: StepId
    kind: Kind
    whom: str
    shown: Digest | None
    body: bytes | None


class Lookout:
    """Reads what waits and what an operator allows; a reader beside the owner of a store is enough for it."""

    def __init__(self, reads: Reads, files: Files) -> None:
        self._reads = reads
        self._files = files

    async def waiting(self, tenant: Tenant, run: RunId | None = None) -> list[WaitView]:
        """Return what waits for whom, since when and until when, longest first; of one run alone when it is named."""
        views = []
        async for wait in self._waits(tenant):
            if run not in (None, wait.run):
                continue
            step = (await self._plan(tenant, wait.version)).steps[wait.position]
            body = await self._shown(tenant, wait.shown)
            shown = None if body is None else decode(body)
            asks = step.entry if isinstance(step.entry, Confirmation) else None
            barred = None
            if asks is not None and asks.bar_requester:
                barred = (await self._reads.run(tenant, wait.run)).actor
            views.append(WaitView(wait, step.id, step.kind, _whom(step), shown, asks, barred))
        return views

    async def parked(self, tenant: Tenant, run: RunId | None = None) -> list[ParkedView]:
        """Return commands of whose outcome a person is asked, latest first; of one run alone when it is named."""
        found: list[ParkedView] = []
        before: int | None = None
        while True:
            page = await self._reads.commands(
                tenant, limit=PAGE, before=before, states={CommandState.UNKNOWN}, run=run
            )
            found += [await self._parked(command) for _, command in page if command.parked]
            if len(page) < PAGE:
                return found
            before = page[-1][0]

    async def _parked(self, command: Command) -> ParkedView:
        tenant = command.intention.tenant
        body = await self._reads.payload(tenant, command.intention.payload)
        history = await self._reads.command_history(tenant, command.id)
        told = (decode(record.data.encode()).get("detail") for record in reversed(history))
        heard = next((detail for detail in told if detail is not None), None)
        return ParkedView(command, None if body is None else decode(body), heard)

    async def _waits(self, tenant: Tenant) -> AsyncIterator[Wait]:
        page = await self._reads.waiting(tenant, limit=PAGE)
        while page:
            for wait in page:
                yield wait
            page = await self._reads.waiting(tenant, limit=PAGE, after=page[-1])

    async def asked(self, tenant: Tenant, run: RunId, step: StepId) -> Asked:
        """Return what one step asks. Raises: NotFound; IllegalTransition when it is of a kind that asks nothing."""
        record, plan, position = await self._step(tenant, run, step)
        spec = plan.steps[position]
        if spec.kind not in (Kind.TOOL, Kind.CONFIRM):
            raise IllegalTransition(f"step {step} is of kind {spec.kind} and asks nobody", step=step)
        now = (await self._reads.steps(tenant, run))[position]
        body = await self._shown(tenant, now.shown)
        return Asked(record, now, step, spec.kind, _whom(spec), now.shown, body)

    async def too_late(self, tenant: Tenant, run: RunId, step: StepId) -> IllegalTransition | None:
        """Return the refusal of a word about a step whose wait ended by itself; None when it did not end so."""
        _, _, position = await self._step(tenant, run, step)
        now = (await self._reads.steps(tenant, run))[position]
        if now.cause is not Cause.CIRCUMSTANCE or now.reason not in _EXPIRED:
            return None
        until: str | None = None
        after = 0
        while page := await self._reads.events(tenant, run, after=after, limit=PAGE):
            after = page[-1].sequence
            for event in page:
                if event.step == step and event.type in _BEGINS_TO_WAIT:
                    until = decode(event.data.encode())["until"]
        return IllegalTransition(
            f"step {step} of run {run} waited until {until}: its time was over, and it failed ({now.reason})",
            hint="`sovrun rerun` makes a new run, which asks again",
            state=now.state,
            step=step,
        )

    async def holds(self, tenant: Tenant) -> Holds:
        """Return what pauses and limits keep from going on now."""
        return await Holds.read(self._reads, tenant)

    async def limits(self, tenant: Tenant, dag: str | None) -> Limits:
        """Return what an operator allows a tenant or one of its DAGs. Raises: NotFound."""
        if dag is None:
            return await self._reads.tenant_limits(tenant)
        for depth in await self._reads.depths(tenant):
            if depth.dag == dag:
                return depth.limits
        raise NotFound(f"tenant {tenant} has no DAG {dag}")

    async def _shown(self, tenant: Tenant, digest: Digest | None) -> bytes | None:
        if digest is None:
            return None
        return await self._reads.payload(tenant, digest) or self._files.get(tenant, digest)

    async def _step(self, tenant: Tenant, run: RunId, step: StepId) -> tuple[RunRecord, Plan, int]:
        record = await self._reads.run(tenant, run)
        plan = await self._plan(tenant, record.head.version)
        position = plan.index.get(step)
        if position is None:
            raise NotFound(f"run {run} has no step {step}")
        return record, plan, position

    async def _plan(self, tenant: Tenant, version: Digest) -> Plan:
        return plan_of(spec_from_normal(decode((await self._reads.dag(tenant, version)).normal)))


class Desk(Lookout):
    """Acts on runs for people and tools."""

    def __init__(self, store: Store, files: Files) -> None:
        super().__init__(store, files)
        self._store = store

    async def answer(
        self,
        tenant: Tenant,
        run: RunId,
        step: StepId,
        actor: Actor,
        *,
        output: Any = None,
        failure: str | None = None,
    ) -> Acted:
        """Answer a `tool` step with an output, or with why there is none; the identical answer again is acknowledged.

        Raises: NotFound, IllegalTransition, InvalidValue, PayloadTooLarge.
        """
        _, plan, position = await self._step(tenant, run, step)
        spec = plan.steps[position]
        if spec.kind is not Kind.TOOL:
            raise IllegalTransition(f"step {step} is of kind {spec.kind} and takes no answer", step=step)
        if failure is not None:
            message = _bounded(failure, "the message").decode()
            error = self._payload(tenant, canonical({"code": "tool_failed", "message": message}))
            return await self._told(Answer(tenant, run, position, actor, None, error.digest), step, (error,))
        body = canonical(output)
        _require_fit(spec, output, body)
        answer = self._payload(tenant, body)
        chosen = _chosen(plan, spec, output)
        return await self._told(
            Answer(tenant, run, position, actor, answer.digest, None, chosen), step, (answer,)
        )

    async def decide(
        self,
        tenant: Tenant,
        run: RunId,
        step: StepId,
        actor: Actor,
        *,
        roles: frozenset[str],
        approve: bool,
        shown: Digest,
        rationale: str | None,
    ) -> Acted:
        """Approve or reject a `confirm` step; the identical decision again is acknowledged.

        Args:
            shown: digest of exactly what the person looked at.
        Raises: NotFound, NotAllowed, IllegalTransition, ConfirmationChanged, PayloadTooLarge.
        """
        record, plan, position = await self._step(tenant, run, step)
        entry = plan.steps[position].entry
        if not isinstance(entry, Confirmation):
            raise IllegalTransition(
                f"step {step} is of kind {plan.steps[position].kind}; nobody confirms it", step=step
            )
        _require_allowed(entry, step, actor, roles, record.actor)
        note = self._note(tenant, rationale, "the rationale")
        output = self._payload(tenant, canonical({"decision": "approved", "shown": shown}))
        action = Decide(
            *(tenant, run, position, actor, approve, shown, output.digest),
            None if note is None else note.digest,
        )
        payloads = [payload for payload in (note, output if approve else None) if payload is not None]
        return await self._told(action, step, payloads)

    async def _told(self, action: Answer | Decide, step: StepId, payloads: Sequence[Payload]) -> Acted:
        """Pass on a word about a step; one that came after the step's time is refused by saying so."""
        try:
            return await self._store.act(action, payloads=payloads)
        except IllegalTransition as refused:
            raise await self.too_late(action.tenant, action.run, step) or refused from None

    async def cancel(self, tenant: Tenant, run: RunId, actor: Actor, note: str | None) -> Acted:
        """End a run now; the identical request again is acknowledged.

        Raises: NotFound, IllegalTransition, PayloadTooLarge.
        """
        kept = self._note(tenant, note, "the note")
        action = CancelRun(tenant, run, actor, None if kept is None else kept.digest)
        return await self._store.act(action, payloads=() if kept is None else (kept,))

    async def rerun(
        self,
        tenant: Tenant,
        run: RunId,
        actor: Actor,
        *,
        from_step: StepId | None,
        note: str | None,
        key: str | None = None,
        repeat_effects: tuple[StepId, ...] = (),
    ) -> Submitted:
        """Make a new run of the same DAG version and inputs that cites its parent and reuses what is unchanged.

        Args:
            from_step: this step and all that follow from it are executed again in any case.
            repeat_effects: `command` steps whose effect is wanted again.
            key: the caller's own; the same request under it again, as after a lost answer, returns the first re-run.
        Raises: NotFound, IllegalTransition when the parent is not terminal, EffectWouldRepeat, IdempotencyKeyConflict,
            PayloadTooLarge.
        """
        record = await self._store.run(tenant, run)
        if record.head.state not in TERMINAL:
            raise IllegalTransition(
                f"run {run} is {record.head.state}; only a terminal run is run again", run=run
            )
        plan = await self._plan(tenant, record.head.version)
        if from_step is not None and from_step not in plan.index:
            raise NotFound(f"DAG {record.dag} has no step {from_step}")
        fresh = frozenset[int]() if from_step is None else with_descendants(plan, from_step)
        await require_named(
            *(self._store, record, plan, await self._store.steps(tenant, run)),
            fresh=fresh,
            named=repeat_effects,
        )
        name = RunKey(rerun=(run, 1 + await self._store.reruns(tenant, run)))
        token = run_token(tenant, record.dag, record.head.version, record.head.inputs, name)
        kept = self._note(tenant, note, "the note")
        return await self._store.submit(
            Submission(
                tenant=tenant,
                dag=record.dag,
                version=record.head.version,
                token=token,
                id=run_id_of(token),
                key=canonical(name.json()).decode(),
                caller_key=key,
                request=digest_of("sovrun.rerun", 1, _asked(run, from_step, repeat_effects)),
                inputs=Payload(record.head.inputs, None),
                note=kept,
                actor=actor,
                isolation=record.isolation,
                priority=record.head.priority,
                parent=run,
                from_step=from_step,
                repeat_effects=repeat_effects,
            )
        )

    async def govern(self, governance: Governance) -> Governed:
        """Change what is allowed to a tenant or one of its DAGs. Raises: NotFound."""
        return await self._store.govern(governance)

    def _note(self, tenant: Tenant, text: str | None, what: str) -> Payload | None:
        return None if text is None else self._payload(tenant, _bounded(text, what))

    def _payload(self, tenant: Tenant, body: bytes) -> Payload:
        digest = sha256_hex(body)
        if len(body) <= INLINE_MAX:
            return Payload(digest, body)
        self._files.put(tenant, digest, body)
        return Payload(digest, None)


def _bounded(text: str, what: str) -> bytes:
    """Return what somebody says about an act. Raises: PayloadTooLarge, for half a reason may say the opposite."""
    body = text.encode()
    if len(body) > NOTE_MAX:
        raise PayloadTooLarge(f"{what} has {len(body):,} bytes; the limit is {NOTE_MAX:,}")
    return body


def _asked(run: RunId, from_step: StepId | None, repeat_effects: tuple[StepId, ...]) -> dict[str, Any]:
    """Return what a re-run asks for, which a repeat of its key must equal."""
    asked: dict[str, Any] = {"fromStep": from_step, "parent": run}
    return asked | ({"repeatEffects": sorted(repeat_effects)} if repeat_effects else {})


def _whom(step: StepSpec) -> str:
    entry = step.entry
    if isinstance(entry, ToolWait):
        return f"tool {entry.name}"
    if isinstance(entry, Confirmation):
        allowed = [f"role {entry.role}"] if entry.role else []
        allowed += [entry.actor] if entry.actor else []
        return " or ".join(allowed) or "anyone who may approve"
    if isinstance(entry, CommandCall):
        return f"{entry.kind} at {entry.adapter}"
    return str(step.kind)


def _require_allowed(
    entry: Confirmation, step: StepId, actor: Actor, roles: frozenset[str], requester: Actor
) -> None:
    named = entry.role is not None or entry.actor is not None
    if named and entry.role not in roles and entry.actor != actor:
        raise NotAllowed(
            f"step {step} waits for {'role ' + entry.role if entry.role else entry.actor}, not for {actor}",
            hint=f"if you hold that role, say so: --role {entry.role}"
            if entry.role
            else "somebody else must decide",
        )
    if entry.bar_requester and actor == requester:
        raise NotAllowed(
            f"{actor} asked for this run and may not decide step {step}", hint="somebody else must decide"
        )


def _require_fit(spec: StepSpec, output: Any, body: bytes) -> None:
    if len(body) > spec.resources.output:
        raise PayloadTooLarge(f"the answer has {len(body):,} bytes; the limit is {spec.resources.output:,}")
    if spec.outputs is not None:
        schema = jsonschema_rs.Draft202012Validator(dict(spec.outputs), validate_formats=True)
        mistake = next(iter(schema.iter_errors(output)), None)
        if mistake is not None:
            where = "/".join(str(part) for part in mistake.instance_path)
            raise InvalidValue(
                f"the answer at /{where} does not fit the declared outputs: {mistake.message:.300}"
            )


def _chosen(plan: Plan, spec: StepSpec, output: Any) -> tuple[int, ...] | None:
    if not spec.select:
        return None
    names = output.get("select") if isinstance(output, dict) else None
    if not isinstance(names, list) or not all(name in spec.select for name in names):
        raise InvalidValue(f'the answer must have "select", a list of ids among {", ".join(spec.select)}')
    return tuple(sorted({plan.index[StepId(name)] for name in names}))


def is_waiting(state: State) -> bool:
    """Return whether a run in this state waits for somebody or for a time."""
    return state in (State.AWAITING_TOOL, State.AWAITING_USER_CONFIRMATION)
