"""The command journal's statements and rows.

Owns: every SQL text of the journal but its schema. All of them are constants; values are always bound.
"""
# ruff: noqa: S608 -- texts below are put together from constants of this module only

from __future__ import annotations

from typing import Any, Final

from sovrun.core.canonical import canonical, decode
from sovrun.core.commands.gates import AdapterLimits, Switch
from sovrun.core.commands.journal import Command, CommandId, CommandRecord, CommandState, Intention
from sovrun.core.ids import Actor, Digest, RunId, StepId, Tenant
from sovrun.store.journal import Compared, Drift, Resource

_INTENTION: Final = """tenant, kind, version, command_key, adapter, mode, payload, actor, opens, symbol, notional, target,
    run, step, position"""
_STATE: Final = """state, revision, created_us, due_us, reason, gate, parked, resend, sends, looks, handler, response,
    resource, sent_us, first_sent_us, reached_us, unknown_us, ended_us"""
_COMMAND: Final = f"{_INTENTION}, id, fingerprint, {_STATE}"
_COUNT: Final = len(_COMMAND.split(","))

INSERT_COMMAND: Final = f"INSERT INTO command ({_COMMAND}) VALUES ({', '.join('?' * _COUNT)}) RETURNING key"
UPDATE_COMMAND: Final = (
    f"UPDATE command SET {', '.join(f'{name.strip()} = ?' for name in _STATE.split(','))} WHERE tenant = ? AND id = ?"
    " RETURNING key"
)
SELECT_COMMAND: Final = f"SELECT {_COMMAND} FROM command WHERE tenant = ? AND id = ?"
SELECT_COMMANDS: Final = f"""
SELECT key, {_COMMAND} FROM command
WHERE tenant = ? AND key < ? AND (?3 IS NULL OR state IN (SELECT value FROM json_each(?3))) AND (?4 IS NULL OR run = ?4)
ORDER BY key DESC LIMIT ?5""".replace("tenant = ?", "tenant = ?1").replace("key < ?", "key < ?2")
SELECT_DUE_COMMANDS: Final = f"SELECT {_COMMAND} FROM command WHERE due_us <= ? ORDER BY due_us, key LIMIT ?"
SELECT_OPEN_COMMANDS: Final = (
    f"SELECT {_COMMAND} FROM command WHERE due_us IS NOT NULL ORDER BY due_us, key LIMIT ?"
)
SELECT_NEXT_DUE_COMMAND: Final = "SELECT min(due_us) FROM command WHERE due_us IS NOT NULL"
DISOWN_COMMANDS: Final = "UPDATE command SET due_us = ? WHERE state = 'sent' AND due_us > ?"
COUNT_UNRESOLVED: Final = """
SELECT count(*) FROM command WHERE tenant = ? AND run = ? AND state IN ('sent', 'unknown')"""
COUNT_SENT: Final = """
SELECT count(*) FROM command
WHERE tenant = ? AND adapter = ? AND opens = 1 AND first_sent_us IS NOT NULL AND first_sent_us > ?"""
SELECT_NOTIONALS: Final = """
SELECT notional FROM command
WHERE tenant = ? AND adapter = ? AND opens = 1 AND first_sent_us IS NOT NULL AND first_sent_us > ?
    AND notional IS NOT NULL"""

INSERT_COMMAND_EVENT: Final = """
INSERT INTO command_event (command, sequence, time_us, actor, type, data) VALUES (?, ?, ?, ?, ?, ?)"""
SELECT_COMMAND_EVENTS: Final = """
SELECT c.id, e.sequence, e.time_us, e.actor, e.type, e.data FROM command_event e JOIN command c ON c.key = e.command
WHERE c.tenant = ? AND c.id = ? ORDER BY e.sequence"""

UPSERT_SWITCH: Final = """
INSERT INTO command_switch (tenant, tripped, actor, rationale, time_us) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant) DO UPDATE SET tripped = excluded.tripped, actor = excluded.actor,
    rationale = excluded.rationale, time_us = excluded.time_us"""
SELECT_SWITCHES: Final = """
SELECT tenant, tripped, actor, rationale, time_us FROM command_switch WHERE tenant IN ('', ?) ORDER BY tenant"""
SWITCH_TRIPPED: Final = "switch.tripped"
SWITCH_RESET: Final = "switch.reset"
SELECT_SWITCH_MOVES: Final = f"""
SELECT tenant, type = '{SWITCH_TRIPPED}', actor, data ->> 'rationaleHash', time_us FROM act
WHERE tenant IN ('', ?) AND type IN ('{SWITCH_TRIPPED}', '{SWITCH_RESET}') ORDER BY key DESC LIMIT ?"""
UPSERT_LIMITS: Final = """
INSERT INTO adapter_limit (tenant, adapter, limits) VALUES (?, ?, ?)
ON CONFLICT (tenant, adapter) DO UPDATE SET limits = excluded.limits"""
SELECT_LIMITS: Final = "SELECT adapter, limits FROM adapter_limit WHERE tenant = ? ORDER BY adapter"
SELECT_LIMITS_OF: Final = "SELECT limits FROM adapter_limit WHERE tenant = ? AND adapter = ?"

UPSERT_RESOURCE: Final = """
INSERT INTO resource (tenant, adapter, kind, id, command, status, raw, body, live, seen_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, adapter, kind, id) DO UPDATE
SET status = excluded.status, raw = excluded.raw, body = excluded.body, live = excluded.live, seen_us = excluded.seen_us
WHERE ? IN (0, seen_us)"""
SELECT_RESOURCES: Final = """
SELECT tenant, adapter, kind, id, command, status, raw, body, live, seen_us FROM resource
WHERE tenant = ?1 AND (?2 IS NULL OR adapter = ?2) AND (?3 = 0 OR live = 1) ORDER BY adapter, kind, id"""
SELECT_RESOURCE: Final = """
SELECT tenant, adapter, kind, id, command, status, raw, body, live, seen_us FROM resource
WHERE tenant = ? AND adapter = ? AND kind = ? AND id = ?"""
INSERT_DRIFT: Final = """
INSERT INTO drift (tenant, adapter, kind, resource, previous, provider, resolution, time_us, changes)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
SELECT_DRIFTS: Final = """
SELECT tenant, adapter, kind, resource, previous, provider, resolution, time_us, changes FROM drift
WHERE tenant = ? ORDER BY key DESC LIMIT ?"""

SELECT_LAST_DRIFT: Final = """
SELECT tenant, adapter, kind, resource, previous, provider, resolution, time_us, changes FROM drift
WHERE tenant = ? AND adapter = ? AND kind = ? AND resource = ? ORDER BY key DESC LIMIT 1"""
UPSERT_COMPARISON: Final = """
INSERT INTO comparison (tenant, adapter, unreachable, compared_us, tried_us) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant, adapter) DO UPDATE SET unreachable = excluded.unreachable, tried_us = excluded.tried_us,
    compared_us = CASE WHEN excluded.unreachable IS NULL THEN excluded.compared_us ELSE compared_us END"""
SELECT_COMPARISONS: Final = """
SELECT tenant, adapter, unreachable, compared_us, tried_us FROM comparison WHERE tenant = ? ORDER BY adapter"""
SELECT_PROVIDERS: Final = """
WITH RECURSIVE provider (tenant, adapter) AS (
    SELECT * FROM (SELECT tenant, adapter FROM resource ORDER BY tenant, adapter LIMIT 1)
    UNION ALL
    SELECT r.tenant, r.adapter FROM provider p JOIN resource r ON r.rowid = (
        SELECT rowid FROM resource WHERE (tenant, adapter) > (p.tenant, p.adapter) ORDER BY tenant, adapter LIMIT 1)
)
SELECT tenant, adapter FROM provider ORDER BY tenant, adapter"""
"""It hops from pair to pair: what it costs grows with the pairs and not with the resources."""

COUNT_ENTRIES: Final = "SELECT count(*) FROM ledger WHERE tenant = ? AND name = ?"
INSERT_ENTRY: Final = """
INSERT INTO ledger (tenant, name, position, entry) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"""
SELECT_ENTRIES: Final = (
    "SELECT entry FROM ledger WHERE tenant = ? AND name = ? AND position >= ? ORDER BY position"
)


def intention_columns(wanted: Intention) -> tuple[Any, ...]:
    """Return an intention as its columns."""
    return (
        *(
            wanted.tenant,
            wanted.kind,
            wanted.version,
            wanted.key,
            wanted.adapter,
            wanted.mode,
            wanted.payload,
        ),
        *(wanted.actor, wanted.opens, wanted.symbol, wanted.notional, wanted.target, wanted.run, wanted.step),
        wanted.position,
    )


def state_columns(command: Command) -> tuple[Any, ...]:
    """Return what changes of a command as its columns."""
    return (
        *(command.state, command.revision, command.created_us, command.due_us, command.reason, command.gate),
        *(command.parked, command.resend, command.sends, command.looks, command.handler, command.response),
        *(command.resource, command.sent_us, command.first_sent_us, command.reached_us, command.unknown_us),
        command.ended_us,
    )


def command_of(row: tuple[Any, ...]) -> Command:
    """Return a row of `_COMMAND` columns as the command."""
    run, step = row[12], row[13]
    intention = Intention(
        *(Tenant(row[0]), row[1], row[2], row[3], row[4], row[5], Digest(row[6]), Actor(row[7])),
        opens=bool(row[8]),
        symbol=row[9],
        notional=row[10],
        target=row[11],
        run=None if run is None else RunId(run),
        step=None if step is None else StepId(step),
        position=row[14],
    )
    state = row[17:]
    return Command(
        intention,
        id=CommandId(row[15]),
        fingerprint=Digest(row[16]),
        state=CommandState(state[0]),
        revision=state[1],
        created_us=state[2],
        due_us=state[3],
        reason=state[4],
        gate=state[5],
        parked=bool(state[6]),
        resend=bool(state[7]),
        sends=state[8],
        looks=state[9],
        handler=state[10],
        response=None if state[11] is None else Digest(state[11]),
        resource=state[12],
        sent_us=state[13],
        first_sent_us=state[14],
        reached_us=state[15],
        unknown_us=state[16],
        ended_us=state[17],
    )


def record_of(row: tuple[Any, ...]) -> CommandRecord:
    """Return a row of `SELECT_COMMAND_EVENTS` as the entry it is."""
    return CommandRecord(CommandId(row[0]), row[1], row[2], Actor(row[3]), row[4], row[5])


def switch_of(row: tuple[Any, ...]) -> Switch:
    """Return a row of `SELECT_SWITCHES`; the empty tenant is everybody."""
    return Switch(Tenant(row[0]) if row[0] else None, bool(row[1]), Actor(row[2]), Digest(row[3]), row[4])


def limits_text(limits: AdapterLimits) -> str:
    """Return limits as they are kept."""
    return canonical(limits.json()).decode()


def limits_of(text: str) -> AdapterLimits:
    """Return kept limits."""
    return AdapterLimits.of(decode(text.encode()))


def resource_columns(resource: Resource, now_us: int) -> tuple[Any, ...]:
    """Return a resource as its columns, seen now, and with which record it was compared."""
    return (
        *(resource.tenant, resource.adapter, resource.kind, resource.id, resource.command, resource.status),
        *(resource.raw, resource.body, resource.live, now_us, resource.seen_us),
    )


def resource_of(row: tuple[Any, ...]) -> Resource:
    """Return a row of `SELECT_RESOURCES`."""
    tenant, adapter, kind, id_, command, status, raw, body, live, seen_us = row
    return Resource(
        Tenant(tenant), adapter, kind, id_, CommandId(command), status, raw, body, bool(live), seen_us
    )


def drift_columns(drift: Drift, now_us: int) -> tuple[Any, ...]:
    """Return a difference as its columns, noticed now."""
    return (
        *(drift.tenant, drift.adapter, drift.kind, drift.resource, drift.previous, drift.provider),
        *(drift.resolution, now_us, drift.changes),
    )


def drift_of(row: tuple[Any, ...]) -> Drift:
    """Return a row of `SELECT_DRIFTS`."""
    return Drift(Tenant(row[0]), *row[1:])


def compared_columns(compared: Compared, now_us: int) -> tuple[Any, ...]:
    """Return as columns that a provider was compared now, or that it could not be."""
    compared_us = now_us if compared.unreachable is None else 0
    return (compared.tenant, compared.adapter, compared.unreachable, compared_us, now_us)


def compared_of(row: tuple[Any, ...]) -> Compared:
    """Return a row of `SELECT_COMPARISONS`."""
    return Compared(Tenant(row[0]), *row[1:])
