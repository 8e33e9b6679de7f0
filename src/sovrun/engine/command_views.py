"""Commands and what surrounds them as the objects that programs see, the same at every face.

Owns: the published members of a command, of an entry of its history, of a switch, of limits, resources and differences.
"""

from __future__ import annotations

from typing import Any

from sovrun.core.canonical import decode
from sovrun.core.commands.gates import AdapterLimits, Switch
from sovrun.core.commands.journal import Command, CommandRecord
from sovrun.core.ids import Digest, Tenant
from sovrun.core.times import time_text
from sovrun.engine.command_desk import EVERYBODY
from sovrun.engine.desk import ParkedView
from sovrun.execution.drift import Comparison
from sovrun.execution.kinds import Declared
from sovrun.execution.port import AdapterReads
from sovrun.store.journal import Compared, Drift, Resource
from sovrun.store.protocol import Reads


def command_json(command: Command) -> dict[str, Any]:
    """Return a command and what is known of it."""
    wanted = command.intention
    return {
        "commandId": command.id,
        "tenant": wanted.tenant,
        "kind": wanted.kind,
        "version": wanted.version,
        "key": wanted.key,
        "adapter": wanted.adapter,
        "mode": wanted.mode,
        "state": str(command.state),
        "reason": command.reason and str(command.reason),
        "gate": command.gate,
        "parked": command.parked,
        "resendWanted": command.resend,
        "actor": wanted.actor,
        "runId": wanted.run,
        "stepId": wanted.step,
        "symbol": wanted.symbol,
        "notional": wanted.notional,
        "target": wanted.target,
        "resourceId": command.resource,
        "payloadHash": wanted.payload,
        "responseHash": command.response,
        "revision": command.revision,
        "sends": command.sends,
        "looks": command.looks,
        "createdAt": time_text(command.created_us),
        "firstSentAt": _time(command.first_sent_us),
        "sentAt": _time(command.sent_us),
        "unknownSince": None if command.ended_us is not None else _time(command.unknown_us),
        "nextAt": _time(command.due_us),
        "endedAt": _time(command.ended_us),
    }


def parked_json(view: ParkedView) -> dict[str, Any]:
    """Return a command of whose outcome a person is asked, with what it asks for and what was last heard of it."""
    return {**command_json(view.command), "payload": view.asked, "detail": view.heard}


async def whole_command_json(reads: Reads, command: Command) -> dict[str, Any]:
    """Return a command with what it asks for, its answer and its history."""
    tenant = command.intention.tenant
    history = await reads.command_history(tenant, command.id)
    return {
        **command_json(command),
        "payload": await _document(reads, tenant, command.intention.payload),
        "answer": await _document(reads, tenant, command.response),
        "history": [record_json(record) for record in history],
    }


async def _document(reads: Reads, tenant: Tenant, digest: Digest | None) -> Any:
    body = None if digest is None else await reads.payload(tenant, digest)
    return None if body is None else decode(body)


def record_json(record: CommandRecord) -> dict[str, Any]:
    """Return an entry of a command's history."""
    return {
        "sequence": record.sequence,
        "timestamp": time_text(record.time_us),
        "actor": record.actor,
        "type": record.type,
        "data": decode(record.data.encode()),
    }


def adapter_json(adapter: AdapterReads) -> dict[str, Any]:
    """Return what may be relied on of an adapter."""
    known = adapter.capabilities
    return {
        "name": adapter.name,
        "resources": sorted(known.resources),
        "kinds": sorted(known.kinds),
        "modes": sorted(known.modes),
        "symbols": None if known.symbols is None else sorted(known.symbols),
        "processingDeadlineSeconds": known.processing_deadline_us / 1_000_000,
        "absenceIsConclusive": known.absence_is_conclusive,
    }


def kind_json(declared: Declared) -> dict[str, Any]:
    """Return a kind of commands with the adapters that take it."""
    kind = declared.kind
    return {
        "kind": kind.name,
        "version": kind.version,
        "needsKey": kind.needs_key,
        "opens": kind.opens,
        "target": None if kind.target is None else {kind.resource: kind.target},
        "decimals": list(kind.decimals),
        "adapters": list(declared.adapters),
        "schema": dict(kind.schema),
    }


def recorded_json(resource: Resource) -> dict[str, Any]:
    """Return a deployment or order as it was last seen."""
    return {
        "adapter": resource.adapter,
        "type": resource.kind,
        "id": resource.id,
        "commandId": resource.command,
        "status": resource.status,
        "rawStatus": resource.raw,
        "live": resource.live,
        "seenAt": time_text(resource.seen_us),
        "seen": decode(resource.body),
    }


def drift_json(drift: Drift) -> dict[str, Any]:
    """Return a difference between what is recorded and what the provider says; one that was just found has no time yet."""
    return {
        "adapter": drift.adapter,
        "type": drift.kind,
        "resourceId": drift.resource,
        "previous": drift.previous,
        "provider": drift.provider,
        "resolution": drift.resolution,
        "changes": decode(drift.changes.encode()),
        "timestamp": _time(drift.time_us or None),
    }


def compared_json(compared: Compared) -> dict[str, Any]:
    """Return when a provider was last compared with the records, and what has stood in the way since."""
    return {
        "adapter": compared.adapter,
        "comparedAt": _time(compared.compared_us or None),
        "triedAt": _time(compared.tried_us or None),
        "unreachable": compared.unreachable,
    }


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return what a comparison of a provider with the records showed; its differences are those that are news."""
    return {
        "adapter": comparison.adapter,
        "compared": comparison.compared,
        "unreachable": comparison.unreachable,
        "drifts": [drift_json(drift) for drift in comparison.drifts],
    }


async def switch_json(reads: Reads, switch: Switch) -> dict[str, Any]:
    """Return a kill switch with why it was last moved, which of the global one everybody may read."""
    body = await reads.payload(switch.tenant or EVERYBODY, switch.rationale)
    return {
        "tenant": switch.tenant,
        "tripped": switch.tripped,
        "actor": switch.actor,
        "rationale": None if body is None else body.decode(errors="replace"),
        "movedAt": time_text(switch.time_us),
    }


def adapter_limits_json(adapter: str, limits: AdapterLimits) -> dict[str, Any]:
    """Return what a tenant may do through an adapter."""
    return {"adapter": adapter, "limits": limits.json()}


def _time(instant_us: int | None) -> str | None:
    return None if instant_us is None else time_text(instant_us)
