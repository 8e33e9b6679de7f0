"""What supervisord's states mean: of one process, and of the processes of a deployment together.

Owns: `STATES`, `Process`, `Policy`, `status_of`, `status_together`. Every state of supervisord's stands in one table; one
that does not is never guessed at.
Must not touch: connections, files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from sovrun.execution.port import DeploymentStatus, OutcomeUnknown

STATES: Final[Mapping[str, DeploymentStatus]] = MappingProxyType(
    {
        "STOPPED": DeploymentStatus.STOPPED,
        "STARTING": DeploymentStatus.QUEUED,
        "RUNNING": DeploymentStatus.RUNNING,
        "BACKOFF": DeploymentStatus.QUEUED,  # its start failed and is tried again
        "STOPPING": DeploymentStatus.STOPPING,
        "EXITED": DeploymentStatus.STOPPED,
        "FATAL": DeploymentStatus.FAILED,
        "UNKNOWN": DeploymentStatus.FAILED,  # supervisord has lost it, for good
    }
)

PRECEDENCE: Final = (
    DeploymentStatus.STOPPING,
    DeploymentStatus.RUNNING,
    DeploymentStatus.QUEUED,
    DeploymentStatus.FAILED,
    DeploymentStatus.STOPPED,
)
"""A deployment is what the first of these is that one of its processes is: it has ended only when all have."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process as supervisord tells of it.

    Args:
        group: the deployment's; started: it was started since supervisord itself was.
        pid: None when there is none. exit_status: of one that is EXITED, -1 after a signal; else None.
        message: why its start failed, or "".
    """

    group: str
    name: str
    state: str
    started: bool
    pid: int | None
    exit_status: int | None
    message: str

    def told(self) -> dict[str, Any]:
        """Return what a deployment tells of it."""
        told: dict[str, Any] = {"name": self.name, "state": self.state, "pid": self.pid}
        if self.exit_status is not None:
            told["exitStatus"] = self.exit_status
        if self.message:
            told["message"] = self.message
        return told


@dataclass(frozen=True, slots=True)
class Policy:
    """What supervisord does with a process by itself.

    Args:
        starts: it starts one that it has not started yet.
        restart: `never`, `unexpected` or `always`: after an exit.
        exit_codes: the expected ones.
    """

    starts: bool
    restart: str
    exit_codes: frozenset[int]


NO_POLICY: Final = Policy(starts=False, restart="never", exit_codes=frozenset({0}))
"""What is taken for true of a deployment whose file is gone."""


def process_of(info: Any) -> Process:
    """Return the process that supervisord describes. Raises: OutcomeUnknown when it makes no sense."""
    try:
        return Process(
            group=str(info["group"]),
            name=str(info["name"]),
            state=str(info["statename"]),
            started=int(info["start"]) > 0,
            pid=int(info["pid"]) or None,
            exit_status=int(info["exitstatus"]) if info["statename"] == "EXITED" else None,
            message=str(info["spawnerr"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise OutcomeUnknown("bad_answer", f"supervisord tells of a process without {error}") from error


def status_of(process: Process, policy: Policy) -> DeploymentStatus:
    """Return what a process is doing. Raises: OutcomeUnknown for a state that supervisord did not have before."""
    status = STATES.get(process.state)
    if status is None:
        raise OutcomeUnknown(
            "bad_answer",
            f"supervisord says that {process.name} is {process.state!r:.80}, which is not known here",
        )
    if process.state == "STOPPED" and not process.started and policy.starts:
        return DeploymentStatus.QUEUED
    if process.state == "EXITED":
        expected = process.exit_status in policy.exit_codes
        if policy.restart == "always" or (policy.restart == "unexpected" and not expected):
            return DeploymentStatus.QUEUED
        return DeploymentStatus.STOPPED if expected else DeploymentStatus.FAILED
    return status


def status_together(processes: Iterable[Process], policy: Policy) -> DeploymentStatus:
    """Return what a deployment is doing of which these are the processes, at least one."""
    return min((status_of(process, policy) for process in processes), key=PRECEDENCE.index)


def raw_status(processes: Iterable[Process]) -> str:
    """Return supervisord's own words for a deployment: the states of its processes, each once."""
    return ",".join(sorted({process.state for process in processes}))
