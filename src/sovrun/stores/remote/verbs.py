"""The store's verbs as messages: their names, arguments and answers, the same for both ends of the socket.

Owns: `VERBS`. `X-Tenant-Id` travels with every message; a verb that names a tenant names that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sovrun.core.actions import Action
from sovrun.core.commands.gates import AdapterLimits, AdapterLimitsChange, Switch
from sovrun.core.commands.journal import (
    Command,
    CommandId,
    CommandRecord,
    CommandState,
    Confirmed,
    Intention,
    Refused,
    ResendWanted,
)
from sovrun.core.events import Event
from sovrun.core.ids import Actor, Digest, RunId, Tenant, WorkerId
from sovrun.core.lanes import Governed, Limits
from sovrun.core.step import Step
from sovrun.store.journal import Compared, Drift, Intent, Resource
from sovrun.store.payload import Payload
from sovrun.store.protocol import (
    Acted,
    Committed,
    DagRecord,
    Depth,
    Governance,
    Lease,
    Pending,
    Registration,
    Report,
    RunRecord,
    Submission,
    Submitted,
    Wait,
)


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: the types of its arguments by name, and of its answer."""

    arguments: Mapping[str, Any]
    answer: Any


PersonsVerdict = Confirmed | Refused | ResendWanted
"""What may be noted from outside the owner's process: a person's word about an unknown command."""

VERBS: Final[Mapping[str, Verb]] = {
    "register": Verb({"registration": Registration}, bool),
    "submit": Verb({"submission": Submission}, Submitted),
    "claim": Verb({"worker": WorkerId, "slots": int, "patience_us": int}, list[Lease]),
    "commit": Verb({"reports": list[Report], "worker": WorkerId, "slots": int}, Committed),
    "act": Verb({"action": Action, "payloads": list[Payload]}, Acted),
    "pending": Verb({"limit": int, "patience_us": int}, list[Pending]),
    "renew": Verb({"worker": WorkerId, "held": list[Lease]}, list[Lease]),
    "govern": Verb({"governance": Governance}, Governed),
    "dag": Verb({"tenant": Tenant, "version": Digest}, DagRecord),
    "payload": Verb({"tenant": Tenant, "digest": Digest}, bytes | None),
    "outputs": Verb({"lease": Lease | Pending, "positions": list[int]}, dict[int, Payload | None]),
    "run": Verb({"tenant": Tenant, "run": RunId}, RunRecord),
    "runs": Verb({"tenant": Tenant, "limit": int, "before": int | None}, list[RunRecord]),
    "unfinished": Verb({}, list[tuple[Tenant, RunId]]),
    "steps": Verb({"tenant": Tenant, "run": RunId}, list[Step]),
    "events": Verb({"tenant": Tenant, "run": RunId, "after": int, "limit": int}, list[Event]),
    "waiting": Verb({"tenant": Tenant, "limit": int, "after": Wait | None}, list[Wait]),
    "depths": Verb({"tenant": Tenant}, list[Depth]),
    "tenant_limits": Verb({"tenant": Tenant}, Limits),
    "reruns": Verb({"tenant": Tenant, "run": RunId}, int),
    "late_reports": Verb({"tenant": Tenant}, int),
    "intend": Verb({"intention": Intention, "payloads": list[Payload]}, Intent),
    "note": Verb(
        {
            "tenant": Tenant,
            "command": CommandId,
            "revision": int,
            "event": PersonsVerdict,
            "actor": Actor,
            "payloads": list[Payload],
            "resource": Resource | None,
        },
        Command,
    ),
    "move_switch": Verb({"switch": Switch, "payloads": list[Payload]}, None),
    "set_adapter_limits": Verb(
        {"tenant": Tenant, "adapter": str, "change": AdapterLimitsChange, "actor": Actor}, AdapterLimits
    ),
    "note_drifts": Verb({"drifts": list[Drift], "seen": list[Resource], "compared": Compared | None}, None),
    "command": Verb({"tenant": Tenant, "command": CommandId}, Command),
    "commands": Verb(
        {
            "tenant": Tenant,
            "limit": int,
            "before": int | None,
            "states": list[CommandState] | None,
            "run": RunId | None,
        },
        list[tuple[int, Command]],
    ),
    "command_history": Verb({"tenant": Tenant, "command": CommandId}, list[CommandRecord]),
    "unresolved": Verb({"tenant": Tenant, "run": RunId}, int),
    "switches": Verb({"tenant": Tenant}, list[Switch]),
    "switch_moves": Verb({"tenant": Tenant, "limit": int}, list[Switch]),
    "adapter_limits": Verb({"tenant": Tenant}, dict[str, AdapterLimits]),
    "resources": Verb({"tenant": Tenant, "adapter": str | None, "live": bool}, list[Resource]),
    "resource": Verb({"tenant": Tenant, "adapter": str, "kind": str, "resource": str}, Resource | None),
    "drifts": Verb({"tenant": Tenant, "limit": int}, list[Drift]),
    "comparisons": Verb({"tenant": Tenant}, list[Compared]),
    "entries": Verb({"tenant": Tenant, "name": str, "after": int}, list[bytes]),
}

WRITES: Final = frozenset(
    {
        "register",
        "submit",
        "claim",
        "commit",
        "act",
        "pending",
        "renew",
        "govern",
        "intend",
        "note",
        "move_switch",
        "set_adapter_limits",
        "note_drifts",
    }
)
