"""The command journal within the owner's transaction.

Owns: `JournalOwner` and the requests it answers. What a command's next entry may be is decided in `core.commands`; here it
is looked up and written down, and the step that waits for the command moves in the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

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
    Command,
    CommandEvent,
    CommandId,
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
from sovrun.core.ids import Actor, Tenant
from sovrun.core.run import Write
from sovrun.store.journal import Compared, Drift, Intent, Resource
from sovrun.store.payload import Payload
from sovrun.stores.sqlite import journal_rows as sql
from sovrun.stores.sqlite import rows
from sovrun.stores.sqlite.batch import Batch
from sovrun.stores.sqlite.runs import Runs


@dataclass(frozen=True, slots=True)
class Intend:
    """See `Journal.intend`."""

    intention: Intention
    payloads: Sequence[Payload]


@dataclass(frozen=True, slots=True)
class Admit:
    """See `Journal.admit`."""

    tenant: Tenant
    command: CommandId
    handler: str
    due_us: int


@dataclass(frozen=True, slots=True)
class Note:
    """See `Journal.note`."""

    tenant: Tenant
    command: CommandId
    revision: int
    event: CommandEvent
    actor: Actor
    payloads: Sequence[Payload]
    resource: Resource | None


@dataclass(frozen=True, slots=True)
class Disown:
    """See `Journal.disown_commands`."""


@dataclass(frozen=True, slots=True)
class MoveSwitch:
    """See `Journal.move_switch`."""

    switch: Switch
    payloads: Sequence[Payload]


@dataclass(frozen=True, slots=True)
class SetLimits:
    """See `Journal.set_adapter_limits`."""

    tenant: Tenant
    adapter: str
    change: AdapterLimitsChange
    actor: Actor


@dataclass(frozen=True, slots=True)
class NoteDrifts:
    """See `Journal.note_drifts`."""

    drifts: Sequence[Drift]
    seen: Sequence[Resource]
    compared: Compared | None


@dataclass(frozen=True, slots=True)
class Append:
    """See `Journal.append`."""

    tenant: Tenant
    name: str
    at: int
    entry: bytes


JournalRequest: TypeAlias = Intend | Admit | Note | Disown | MoveSwitch | SetLimits | NoteDrifts | Append
JournalAnswer: TypeAlias = Intent | Command | AdapterLimits | int | bool | None


class JournalOwner:
    """The journal's one writer."""

    def __init__(self, connection: sqlite3.Connection, runs: Runs) -> None:
        self._connection = connection
        self._runs = runs
        self.moved = False
        """Whether a command has moved since somebody looked last."""

    def answer(self, batch: Batch, request: JournalRequest) -> JournalAnswer:
        """Carry out one request. Raises: what its verb raises; then nothing was written."""
        match request:
            case Intend():
                intent = self._intend(batch, request.intention)
                batch.keep(request.intention.tenant, request.payloads if intent.created else ())
                return intent
            case Admit():
                return self._admit(batch, request)
            case Note():
                return self._note(batch, request)
            case Disown():
                self.moved = True
                now_us = batch.now_us
                return self._connection.execute(sql.DISOWN_COMMANDS, (now_us, now_us)).rowcount
            case Append():
                return self._append(request)
            case NoteDrifts():
                self._connection.executemany(
                    sql.INSERT_DRIFT, [sql.drift_columns(drift, batch.now_us) for drift in request.drifts]
                )
                self._see(batch, request.seen)
                if request.compared is not None:
                    values = sql.compared_columns(request.compared, batch.now_us)
                    self._connection.execute(sql.UPSERT_COMPARISON, values)
                return None
            case MoveSwitch():
                self._switch(batch, request)
                return None
            case SetLimits():
                return self._limit(batch, request)

    def next_due_us(self) -> int | None:
        """Return when the next command is due, None when none is open."""
        due: int | None = rows.one(self._connection, sql.SELECT_NEXT_DUE_COMMAND)
        return due

    # --- commands -----------------------------------------------------------------------------------------------------

    def enter(self, batch: Batch, action: EnterCommand) -> EnterCommand | Refuse:
        """Journal the command of a step that is being taken up; return what becomes of the step."""
        try:
            self._intend(batch, action.intention)
        except IdempotencyKeyConflict as conflict:  # somebody else has used the step's own key
            body = canonical({"code": conflict.code, "message": conflict.detail})
            document = Payload(sha256_hex(body), body)
            batch.keep(action.tenant, (document,))
            return Refuse(action.tenant, action.run, action.position, conflict.code, document.digest)
        return action

    def _intend(self, batch: Batch, intention: Intention) -> Intent:
        known = self._find(intention.tenant, intention.id)
        if known is not None:
            if known.fingerprint != intention.fingerprint:
                raise IdempotencyKeyConflict(
                    f"the key {intention.key!r} of {intention.kind} belongs to command {known.id}, which asks for"
                    " something else",
                    hint="use another key, or send the same payload, adapter and mode",
                    command=known.id,
                )
            return Intent(known, created=False)
        command = core.intend(intention, batch.now_us)
        columns = (*sql.intention_columns(intention), command.id, command.fingerprint)
        key = self._connection.execute(
            sql.INSERT_COMMAND, (*columns, *sql.state_columns(command))
        ).fetchone()[0]
        self._record(key, command, Intended(intention), intention.actor, batch.now_us)
        return Intent(command, created=True)

    def _admit(self, batch: Batch, request: Admit) -> Command:
        command = self._get(request.tenant, request.command)
        if command.state is not CommandState.INTENDED:
            raise IllegalTransition(
                f"command {command.id} is {command.state}, not intended", state=command.state
            )
        wanted = command.intention
        if not self._is_wanted_still(batch, wanted):
            return self._refuse(batch, command, "cancelled", "step_ended", "its step has ended", None)
        refusal = pass_gates(wanted, self._facts(batch, wanted))
        if refusal is not None:
            return self._refuse(batch, command, "gate", refusal.gate, refusal.message, refusal.gate)
        return self._move(batch, command, Sent(request.handler, request.due_us), ENGINE)

    def _refuse(
        self, batch: Batch, command: Command, how: str, code: str, message: str, gate: str | None
    ) -> Command:
        body = answer_document(command.intention, CommandState.REFUSED, code=code, message=message, gate=gate)
        response = Payload(sha256_hex(body), body)
        batch.keep(command.intention.tenant, (response,))
        return self._move(batch, command, Refused(how, code, response.digest, gate), ENGINE)

    def _is_wanted_still(self, batch: Batch, wanted: Intention) -> bool:
        """Whether the step that asks for a command still waits for it; others than steps are asked nothing."""
        if wanted.run is None or wanted.position is None:
            return True
        write = self._write_of(batch, wanted)
        return waits_for_command(self._runs.step(write, wanted.position))

    def _facts(self, batch: Batch, wanted: Intention) -> GateFacts:
        read = self._connection.execute
        switches = [sql.switch_of(row) for row in read(sql.SELECT_SWITCHES, (wanted.tenant,))]
        tripped = tuple(switch for switch in switches if switch.tripped)
        rationale = self._rationale(batch, tripped[0]) if tripped else None
        limits = self._limits(wanted.tenant, wanted.adapter)
        of = (wanted.tenant, wanted.adapter)
        day_us = batch.now_us - DAY_US
        in_window = in_day = 0
        spent = Decimal(0)
        if limits.rate is not None:
            in_window = rows.one(self._connection, sql.COUNT_SENT, *of, batch.now_us - limits.rate[1])
        if limits.per_day is not None:
            in_day = rows.one(self._connection, sql.COUNT_SENT, *of, day_us)
        if limits.day_notional is not None:
            spent = total(text for (text,) in read(sql.SELECT_NOTIONALS, (*of, day_us)))
        return GateFacts(tripped, limits, in_window, in_day, spent, rationale)

    def _limits(self, tenant: Tenant, adapter: str) -> AdapterLimits:
        row = self._connection.execute(sql.SELECT_LIMITS_OF, (tenant, adapter)).fetchone()
        return AdapterLimits() if row is None else sql.limits_of(row[0])

    def _rationale(self, batch: Batch, switch: Switch) -> str | None:
        """Return why a switch was moved, maybe by this very commit."""
        name = (switch.tenant or Tenant("default"), switch.rationale)
        kept = self._connection.execute(rows.SELECT_PAYLOAD, name).fetchone()
        bodies = [kept[0]] if kept else [body for *of, body in batch.payloads if tuple(of) == name]
        return bytes(bodies[0]).decode(errors="replace") if bodies else None

    def _note(self, batch: Batch, request: Note) -> Command:
        command = self._get(request.tenant, request.command)
        if command.revision != request.revision:
            raise CommandMoved(
                f"command {command.id} is {command.state} at entry {command.revision}, not at {request.revision}",
                hint="`sovrun commands` shows it as it is now",
                revision=command.revision,
            )
        moved = self._move(batch, command, request.event, request.actor)
        batch.keep(request.tenant, request.payloads)
        if request.resource is not None:
            self._see(batch, (request.resource,))
        return moved

    def _move(self, batch: Batch, command: Command, event: CommandEvent, actor: Actor) -> Command:
        after = evolve_command(command, event, batch.now_us)
        name = (command.intention.tenant, command.id)
        key = self._connection.execute(sql.UPDATE_COMMAND, (*sql.state_columns(after), *name)).fetchone()[0]
        self._record(key, after, event, actor, batch.now_us)
        wanted = after.intention
        if wanted.run is not None and wanted.position is not None:
            write = self._write_of(batch, wanted)
            follow(write, wanted.position, self._runs.step(write, wanted.position), after)
        return after

    def _record(self, key: int, command: Command, event: CommandEvent, actor: Actor, now_us: int) -> None:
        entry = record_of(command, event, actor, now_us)
        values = (key, entry.sequence, entry.time_us, entry.actor, entry.type, entry.data)
        self._connection.execute(sql.INSERT_COMMAND_EVENT, values)
        self.moved = True

    def _write_of(self, batch: Batch, wanted: Intention) -> Write:
        row = self._connection.execute(rows.SELECT_RUN_KEY, (wanted.tenant, wanted.run)).fetchone()
        return self._runs.write(batch, row[0])

    def _find(self, tenant: Tenant, command: CommandId) -> Command | None:
        row = self._connection.execute(sql.SELECT_COMMAND, (tenant, command)).fetchone()
        return None if row is None else sql.command_of(row)

    def _get(self, tenant: Tenant, command: CommandId) -> Command:
        found = self._find(tenant, command)
        if found is None:
            raise NotFound(f"no command {command} for tenant {tenant}", hint="`sovrun commands` lists them")
        return found

    # --- around them --------------------------------------------------------------------------------------------------

    def _see(self, batch: Batch, resources: Iterable[Resource]) -> None:
        seen = [sql.resource_columns(resource, batch.now_us) for resource in resources]
        self._connection.executemany(sql.UPSERT_RESOURCE, seen)

    def _append(self, request: Append) -> bool:
        count = rows.one(self._connection, sql.COUNT_ENTRIES, request.tenant, request.name)
        if count != request.at:
            return False
        values = (request.tenant, request.name, request.at, request.entry)
        return self._connection.execute(sql.INSERT_ENTRY, values).rowcount == 1

    def _switch(self, batch: Batch, request: MoveSwitch) -> None:
        switch = request.switch
        tenant = switch.tenant or ""
        values = (tenant, switch.tripped, switch.actor, switch.rationale, batch.now_us)
        self._connection.execute(sql.UPSERT_SWITCH, values)
        type_ = sql.SWITCH_TRIPPED if switch.tripped else sql.SWITCH_RESET
        act = (tenant, batch.now_us, switch.actor, type_, f'{{"rationaleHash":"{switch.rationale}"}}')
        self._connection.execute(rows.INSERT_ACT, act)
        batch.keep(switch.tenant or Tenant("default"), request.payloads)

    def _limit(self, batch: Batch, request: SetLimits) -> AdapterLimits:
        after = request.change.applied(self._limits(request.tenant, request.adapter))
        text = sql.limits_text(after)
        self._connection.execute(sql.UPSERT_LIMITS, (request.tenant, request.adapter, text))
        data = f'{{"adapter":"{request.adapter}","limits":{text}}}'
        act = (request.tenant, batch.now_us, request.actor, "adapter.limited", data)
        self._connection.execute(rows.INSERT_ACT, act)
        return after
