"""What a server tells of that no run's history has: one JSON object a line on its standard error.

Owns: `late_report`, `worker_silent`, and the form of their lines. Names and codes only, never a payload.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

from sovrun.core.canonical import canonical, decode
from sovrun.core.errors import NotFound
from sovrun.core.ids import StepId, WorkerId
from sovrun.core.step import Complete
from sovrun.core.times import time_text
from sovrun.store.protocol import Reads, Report

LOGGER: Final = logging.getLogger("sovrun.service")


class JsonLine(logging.Formatter):
    """The message is the name of what happened, and `facts` says of what."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as canonical JSON."""
        head = {"event": record.getMessage(), "level": record.levelname.lower()}
        when = {"time": time_text(int(record.created * 1_000_000))}
        return canonical({**head, **when, **getattr(record, "facts", {})}).decode()


def log_to_stderr() -> None:
    """Have what happens written to this process's standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine())
    LOGGER.addHandler(handler)
    LOGGER.propagate = False


async def late_report(reads: Reads, report: Report) -> None:
    """Tell of a report that was refused because its lease is over."""
    lease = report.lease
    result = report.result
    facts = {
        "attempt": lease.attempt,
        "fence": lease.fence,
        "report": "completed" if isinstance(result, Complete) else result.failure.code,
        "runId": lease.run,
        "stepId": await _step_of(reads, report),
        "tenant": lease.tenant,
        "worker": lease.worker,
    }
    LOGGER.warning("late_report_refused", extra={"facts": facts})


def worker_silent(worker: WorkerId, leases: int) -> None:
    """Tell of a worker that was not heard of for too long, and how many leases were taken back from it."""
    LOGGER.warning("worker_silent", extra={"facts": {"leasesTakenBack": leases, "worker": worker}})


async def _step_of(reads: Reads, report: Report) -> StepId | None:
    """Return the id of a report's step; None where it is of nothing that there is."""
    try:
        dag = await reads.dag(report.lease.tenant, report.lease.version)
    except NotFound:
        return None
    steps = decode(dag.normal)["steps"]  # in plan order, as positions are
    position = report.lease.position
    return StepId(steps[position]["id"]) if position < len(steps) else None
