"""The command journal of the in-memory store: the reference that the others must equal.

Owns: `MemoryJournal`. As in `memory.py`, what is refused leaves everything as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sovrun.core.actions import EnterCommand, Refuse
from sovrun.core.canonical import canonical, sha256_hex
from sovrun.core.commands import journal as core
from sovrun.core.commands.gates import (
    DAY_US,
    AdapterLimits,
    AdapterLimitsChange,
    GateFacts,
    Switch,
    pass_gates,
    total,
)
from sovrun.core.commands.journal import (
    UNRESOLVED,
    Command,
    CommandEvent,
    CommandId,
    CommandRecord,
    CommandState,
    Intended,
    Intention,
    Refused,
    Sent,
    answer_document,
    evolve_command,
    record_of,
)
from sovrun.core.commands.steps import follow, waits_for_command
from sovrun.core.errors import CommandMoved, IdempotencyKeyConflict, IllegalTransition, NotFound
from sovrun.core.events import ENGINE
from sovrun.core.ids import Actor, Digest, RunId, Tenant
from sovrun.core.run import Write
from sovrun.ports import Clock
from sovrun.store.journal import Compared, Drift, Intent, Resource
from sovrun.store.kept import Kept
from sovrun.store.payload import Payload


@dataclass(slots=True)
class KeptCommand:
    """One command with its history; `number` rises with its making."""

    number: int
    command: Command
    history: list[CommandRecord] = field(default_factory=list)


class MemoryJournal:
    """The verbs of `Journal`; the store that mixes it in gives access to runs."""

    _clock: Clock
    _payloads: dict[tuple[Tenant, Digest], bytes]

    def __init__(self) -> None:
        self._commands: dict[tuple[Tenant, CommandId], KeptCommand] = {}
        self._switches: dict[str, Switch] = {}
        self._moves: list[Switch] = []
        self._limits: dict[tuple[Tenant, str], AdapterLimits] = {}
        self._resources: dict[tuple[Tenant, str, str, str], Resource] = {}
        self._drifts: list[Drift] = []
        self._compared: dict[tuple[Tenant, str], Compared] = {}
        self._ledgers: dict[tuple[Tenant, str], list[bytes]] = {}
        self._due_waiting: list[asyncio.Future[bool]] = []

    # --- what the store gives -----------------------------------------------------------------------------------------

    def _of(self, tenant: Tenant, run: RunId) -> Kept:
        raise NotImplementedError

    def _finish(self, kept: Kept, write: Write) -> None:
        raise NotImplementedError

    def _after_moves(self) -> None:
        """Let go on who can after runs have moved."""
        raise NotImplementedError

    def _keep_payload(self, tenant: Tenant, payload: Payload | None) -> None:
        raise NotImplementedError

    # --- commands -----------------------------------------------------------------------------------------------------

    async def intend(self, intention: Intention, *, payloads: Sequence[Payload] = ()) -> Intent:
        """See `Journal.intend`."""
        intent = self._intend(intention)
        for payload in payloads if intent.created else ():
            self._keep_payload(intention.tenant, payload)
        return intent

    def _intend(self, intention: Intention) -> Intent:
        known = self._commands.get((intention.tenant, intention.id))
        if known is not None:
            if known.command.fingerprint != intention.fingerprint:
                raise IdempotencyKeyConflict(
                    f"the key {intention.key!r} of {intention.kind} belongs to command {known.command.id}, which"
                    " asks for something else",
                    hint="use another key, or send the same payload, adapter and mode",
                    command=known.command.id,
                )
            return Intent(known.command, created=False)
        now_us = self._clock.now_us()
        command = core.intend(intention, now_us)
        kept = KeptCommand(len(self._commands) + 1, command)
        kept.history.append(record_of(command, Intended(intention), intention.actor, now_us))
        self._commands[intention.tenant, command.id] = kept
        self._wake_due()
        return Intent(command, created=True)

    def _enter(self, action: EnterCommand) -> EnterCommand | Refuse:
        """Journal the command of a step that is being taken up; return what becomes of the step."""
        try:
            self._intend(action.intention)
        except IdempotencyKeyConflict as conflict:  # somebody else has used the step's own key
            body = canonical({"code": conflict.code, "message": conflict.detail})
            document = Payload(sha256_hex(body), body)
            self._keep_payload(action.tenant, document)
            return Refuse(action.tenant, action.run, action.position, conflict.code, document.digest)
        return action

    async def admit(self, tenant: Tenant, command: CommandId, *, handler: str, due_us: int) -> Command:
        """See `Journal.admit`."""
        kept = self._command(tenant, command)
        wanted = kept.command.intention
        if kept.command.state is not CommandState.INTENDED:
            raise IllegalTransition(
                f"command {command} is {kept.command.state}, not intended", state=kept.command.state
            )
        if wanted.run is not None and wanted.position is not None:
            step = self._of(tenant, wanted.run).steps[wanted.position]
            if not waits_for_command(step):
                return self._refuse(kept, "cancelled", "step_ended", "its step has ended", None)
        refusal = pass_gates(wanted, self._facts(wanted))
        if refusal is not None:
            return self._refuse(kept, "gate", refusal.gate, refusal.message, refusal.gate)
        return self._move(kept, Sent(handler, due_us), ENGINE)

    def _refuse(self, kept: KeptCommand, how: str, code: str, message: str, gate: str | None) -> Command:
        wanted = kept.command.intention
        body = answer_document(wanted, CommandState.REFUSED, code=code, message=message, gate=gate)
        response = Payload(sha256_hex(body), body)
        self._keep_payload(wanted.tenant, response)
        return self._move(kept, Refused(how, code, response.digest, gate), ENGINE)

    def _facts(self, wanted: Intention) -> GateFacts:
        switches = [self._switches[name] for name in ("", wanted.tenant) if name in self._switches]
        limits = self._limits.get((wanted.tenant, wanted.adapter), AdapterLimits())
        now_us = self._clock.now_us()
        window_us = 0 if limits.rate is None else limits.rate[1]
        sent = [
            (kept.command.first_sent_us, kept.command.intention.notional)
            for (tenant, _), kept in self._commands.items()
            if tenant == wanted.tenant
            and kept.command.intention.adapter == wanted.adapter
            and kept.command.intention.opens
            and kept.command.first_sent_us is not None
        ]
        in_day = [notional for when, notional in sent if when > now_us - DAY_US]
        tripped = tuple(switch for switch in switches if switch.tripped)
        return GateFacts(
            tripped,
            limits,
            rationale=self._rationale(tripped[0]) if tripped else None,
            in_window=sum(when > now_us - window_us for when, _ in sent),
            in_day=len(in_day),
            notional_in_day=total(in_day),
        )

    def _rationale(self, switch: Switch) -> str | None:
        body = self._payloads.get((switch.tenant or Tenant("default"), switch.rationale))
        return None if body is None else body.decode(errors="replace")

    async def note(
        self,
        tenant: Tenant,
        command: CommandId,
        revision: int,
        event: CommandEvent,
        *,
        actor: Actor,
        payloads: Sequence[Payload] = (),
        resource: Resource | None = None,
    ) -> Command:
        """See `Journal.note`."""
        kept = self._command(tenant, command)
        if kept.command.revision != revision:
            raise CommandMoved(
                f"command {command} is {kept.command.state} at entry {kept.command.revision}, not at {revision}",
                hint="`sovrun commands` shows it as it is now",
                revision=kept.command.revision,
            )
        evolve_command(kept.command, event, self._clock.now_us())  # refuses before anything is kept
        for payload in payloads:
            self._keep_payload(tenant, payload)
        if resource is not None:
            self._see(resource)
        return self._move(kept, event, actor)

    def _move(self, kept: KeptCommand, event: CommandEvent, actor: Actor) -> Command:
        now_us = self._clock.now_us()
        after = evolve_command(kept.command, event, now_us)
        kept.command = after
        kept.history.append(record_of(after, event, actor, now_us))
        wanted = after.intention
        if wanted.run is not None and wanted.position is not None:
            run = self._of(wanted.tenant, wanted.run)
            write = Write(run.plan, run.head, now_us)
            follow(write, wanted.position, run.steps[wanted.position], after)
            self._finish(run, write)
            self._after_moves()
        self._wake_due()
        return after

    async def due_commands(self, limit: int, *, patience_us: int = 0) -> Sequence[Command]:
        """See `Journal.due_commands`."""
        until_us = self._clock.elapsed_us() + patience_us
        while True:
            now_us = self._clock.now_us()
            open_ = [
                (kept.command.due_us, kept.number, kept.command)
                for kept in self._commands.values()
                if kept.command.due_us is not None
            ]
            due = sorted(entry for entry in open_ if entry[0] <= now_us)[:limit]
            left_us = until_us - self._clock.elapsed_us()
            if due or left_us <= 0:
                return [command for _, _, command in due]
            next_us = min((entry[0] for entry in open_), default=None)
            nap_us = left_us if next_us is None else max(1_000, min(left_us, next_us - now_us))
            waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._due_waiting.append(waiting)
            await asyncio.wait([waiting], timeout=nap_us / 1e6)
            if waiting in self._due_waiting:
                self._due_waiting.remove(waiting)
            elif waiting.done() and waiting.result():
                return []

    async def open_commands(self, limit: int) -> Sequence[Command]:
        """See `Journal.open_commands`."""
        open_ = sorted(
            (kept.command.due_us, kept.number, kept.command)
            for kept in self._commands.values()
            if kept.command.due_us is not None
        )
        return [command for _, _, command in open_[:limit]]

    def _wake_due(self, *, closing: bool = False) -> None:
        """Have those look again who wait for a command to be due, or answer them with nothing."""
        waiting, self._due_waiting = self._due_waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(closing)

    async def disown_commands(self) -> int:
        """See `Journal.disown_commands`."""
        now_us = self._clock.now_us()
        sent = [
            kept
            for kept in self._commands.values()
            if kept.command.state is CommandState.SENT and (kept.command.due_us or 0) > now_us
        ]
        for kept in sent:
            kept.command = replace(kept.command, due_us=now_us)
        self._wake_due()
        return len(sent)

    def _command(self, tenant: Tenant, command: CommandId) -> KeptCommand:
        kept = self._commands.get((tenant, command))
        if kept is None:
            raise NotFound(f"no command {command} for tenant {tenant}", hint="`sovrun commands` lists them")
        return kept

    # --- around them --------------------------------------------------------------------------------------------------

    async def move_switch(self, switch: Switch, *, payloads: Sequence[Payload] = ()) -> None:
        """See `Journal.move_switch`."""
        for payload in payloads:
            self._keep_payload(switch.tenant or Tenant("default"), payload)
        moved = replace(switch, time_us=self._clock.now_us())
        self._switches[switch.tenant or ""] = moved
        self._moves.append(moved)

    async def set_adapter_limits(
        self, tenant: Tenant, adapter: str, change: AdapterLimitsChange, *, actor: Actor
    ) -> AdapterLimits:
        """See `Journal.set_adapter_limits`."""
        del actor
        after = change.applied(self._limits.get((tenant, adapter), AdapterLimits()))
        self._limits[tenant, adapter] = after
        return after

    def _see(self, resource: Resource) -> None:
        name = (resource.tenant, resource.adapter, resource.kind, resource.id)
        known = self._resources.get(name)
        if known is not None and resource.seen_us not in (0, known.seen_us):
            return
        made_by = resource.command if known is None else known.command
        self._resources[name] = replace(resource, command=made_by, seen_us=self._clock.now_us())

    async def note_drifts(
        self, drifts: Sequence[Drift], *, seen: Sequence[Resource] = (), compared: Compared | None = None
    ) -> None:
        """See `Journal.note_drifts`."""
        now_us = self._clock.now_us()
        self._drifts.extend(replace(drift, time_us=now_us) for drift in drifts)
        for resource in seen:
            self._see(resource)
        if compared is not None:
            name = (compared.tenant, compared.adapter)
            before_us = self._compared[name].compared_us if name in self._compared else 0
            compared_us = now_us if compared.unreachable is None else before_us
            self._compared[name] = replace(compared, compared_us=compared_us, tried_us=now_us)

    async def providers(self) -> Sequence[tuple[Tenant, str]]:
        """See `Journal.providers`."""
        return sorted({(tenant, adapter) for tenant, adapter, _, _ in self._resources})

    async def last_drift(self, tenant: Tenant, adapter: str, kind: str, resource: str) -> Drift | None:
        """See `Journal.last_drift`."""
        name = (tenant, adapter, kind, resource)
        found = [one for one in self._drifts if (one.tenant, one.adapter, one.kind, one.resource) == name]
        return found[-1] if found else None

    async def append(self, tenant: Tenant, name: str, at: int, entry: bytes) -> bool:
        """See `Ledger.append`."""
        entries = self._ledgers.setdefault((tenant, name), [])
        if len(entries) != at:
            return False
        entries.append(entry)
        return True

    # --- reads --------------------------------------------------------------------------------------------------------

    async def command(self, tenant: Tenant, command: CommandId) -> Command:
        """See `JournalReads.command`."""
        return self._command(tenant, command).command

    async def commands(
        self,
        tenant: Tenant,
        *,
        limit: int,
        before: int | None = None,
        states: Collection[CommandState] | None = None,
        run: RunId | None = None,
    ) -> Sequence[tuple[int, Command]]:
        """See `JournalReads.commands`."""
        found = [
            (kept.number, kept.command)
            for (whose, _), kept in self._commands.items()
            if whose == tenant
            and (before is None or kept.number < before)
            and (states is None or kept.command.state in states)
            and (run is None or kept.command.intention.run == run)
        ]
        return sorted(found, key=lambda entry: -entry[0])[:limit]

    async def command_history(self, tenant: Tenant, command: CommandId) -> Sequence[CommandRecord]:
        """See `JournalReads.command_history`."""
        return tuple(self._command(tenant, command).history)

    async def unresolved(self, tenant: Tenant, run: RunId) -> int:
        """See `JournalReads.unresolved`."""
        found = await self.commands(tenant, limit=len(self._commands), states=UNRESOLVED, run=run)
        return len(found)

    async def switches(self, tenant: Tenant) -> Sequence[Switch]:
        """See `JournalReads.switches`."""
        return [self._switches[name] for name in ("", tenant) if name in self._switches]

    async def switch_moves(self, tenant: Tenant, *, limit: int) -> Sequence[Switch]:
        """See `JournalReads.switch_moves`."""
        return [move for move in reversed(self._moves) if move.tenant in (None, tenant)][:limit]

    async def adapter_limits(self, tenant: Tenant) -> Mapping[str, AdapterLimits]:
        """See `JournalReads.adapter_limits`."""
        return {
            adapter: limits for (whose, adapter), limits in sorted(self._limits.items()) if whose == tenant
        }

    async def resources(
        self, tenant: Tenant, *, adapter: str | None = None, live: bool = False
    ) -> Sequence[Resource]:
        """See `JournalReads.resources`."""
        return [
            resource
            for name, resource in sorted(self._resources.items())
            if name[0] == tenant and (adapter is None or name[1] == adapter) and (resource.live or not live)
        ]

    async def resource(self, tenant: Tenant, adapter: str, kind: str, resource: str) -> Resource | None:
        """See `JournalReads.resource`."""
        return self._resources.get((tenant, adapter, kind, resource))

    async def drifts(self, tenant: Tenant, *, limit: int) -> Sequence[Drift]:
        """See `JournalReads.drifts`."""
        return [drift for drift in reversed(self._drifts) if drift.tenant == tenant][:limit]

    async def comparisons(self, tenant: Tenant) -> Sequence[Compared]:
        """See `JournalReads.comparisons`."""
        return [one for (whose, _), one in sorted(self._compared.items()) if whose == tenant]

    async def entries(self, tenant: Tenant, name: str, after: int) -> Sequence[bytes]:
        """See `Ledger.entries`."""
        return tuple(self._ledgers.get((tenant, name), ())[after:])
