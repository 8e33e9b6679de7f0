"""The store's verbs as messages: their names, arguments and answers, the same for both ends of the socket.

Owns: `VERBS`. `X-Tenant-Id` travels with every message; a verb that names a tenant names that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sovrun.core.actions import Action
from sovrun.core.events import Event
from sovrun.core.ids import Digest, RunId, Tenant, WorkerId
from sovrun.core.lanes import Limits
from sovrun.core.step import Step
from sovrun.store.protocol import (
    Acted,
    Committed,
    DagRecord,
    Depth,
    Governance,
    Lease,
    Payload,
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


VERBS: Final[Mapping[str, Verb]] = {
    "register": Verb({"registration": Registration}, bool),
    "submit": Verb({"submission": Submission}, Submitted),
    "claim": Verb({"worker": WorkerId, "slots": int, "patience_us": int}, list[Lease]),
    "commit": Verb({"reports": list[Report], "worker": WorkerId, "slots": int}, Committed),
    "act": Verb({"action": Action, "payloads": list[Payload]}, Acted),
    "pending": Verb({"limit": int, "patience_us": int}, list[Pending]),
    "renew": Verb({"worker": WorkerId, "held": list[Lease]}, list[Lease]),
    "govern": Verb({"governance": Governance}, None),
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
    "late_reports": Verb({}, int),
}

WRITES: Final = frozenset({"register", "submit", "claim", "commit", "act", "pending", "renew", "govern"})
