"""What is done at supervisord for a deployment, one blocking call after the other.

Owns: `Host`. A deployment comes about by one call, `addProcessGroup`, of which supervisord takes a second one for the same
group for what it is; everything before can be done again.
Must not touch: event loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any, Final

from sovrun.core.commands.model import CreateDeployment
from sovrun.core.ids import Tenant
from sovrun.execution.adapters.supervisor_files import (
    Folder,
    UnfitParameter,
    client_id_of,
    file_text,
    group_of,
    process_names,
    request_digest,
    stopped_text,
)
from sovrun.execution.adapters.supervisor_rpc import Connection, Fault, FaultCode
from sovrun.execution.adapters.supervisor_settings import SupervisorSettings
from sovrun.execution.adapters.supervisor_states import (
    NO_POLICY,
    Process,
    process_of,
    raw_status,
    status_together,
)
from sovrun.execution.port import (
    Call,
    Deployment,
    DeploymentStatus,
    Done,
    Listing,
    NotReached,
    OutcomeUnknown,
    Rejected,
    Unreadable,
    UnreadableRecord,
)

_POLL_SECONDS: Final = 0.05
_MISTAKES_MAX: Final = 5
_OVER: Final = frozenset({DeploymentStatus.STOPPED, DeploymentStatus.FAILED})


class Host:
    """One supervisord with its directory. `deadline` is an instant of `time.monotonic`, after which nothing is sent."""

    def __init__(self, settings: SupervisorSettings) -> None:
        self._settings = settings
        self._connection = Connection(settings.address, settings.credentials)
        self._folder = Folder(settings.directory)

    def deployments(self, tenant: Tenant, deadline: float) -> Listing[Deployment]:
        """Return the deployments of a tenant, by id."""
        groups: dict[str, list[Process]] = {}
        for process in self._processes(deadline):
            if client_id_of(tenant, process.group) is not None:
                groups.setdefault(process.group, []).append(process)
        found: list[Deployment] = []
        unreadable: list[Unreadable] = []
        for group in sorted(groups):
            try:
                found.append(self._told(tenant, group, groups[group]))
            except UnreadableRecord as unknown:
                unreadable.append(unknown.record)
        return Listing(found, unreadable)

    def deployment(self, tenant: Tenant, client_id: str, deadline: float) -> Deployment | None:
        """Return the deployment of a client id; one of which there is a file only has not come about."""
        group, processes = self._group(tenant, client_id, deadline)
        return self._told(tenant, group, processes) if processes else None

    def create(self, call: Call, order: CreateDeployment, deadline: float) -> Done | Rejected:
        """Have supervisord run an artifact, once for each client id."""
        client_id = str(call.client_id)
        group = group_of(call.tenant, client_id)
        if group is None:
            raise ValueError(f"{client_id!r} is not a client id")
        text = self._text(call, group, order)
        if isinstance(text, Rejected):
            return text
        with self._folder.locked(deadline):
            _, processes = self._group(call.tenant, client_id, deadline)
            kept = self._folder.kept(group)
            if kept is not None and kept.digest != request_digest(order, call.mode):
                return Rejected(
                    "duplicate_client_id", f"{client_id} names another deployment", duplicate=True
                )
            if not processes:
                if kept is None:
                    self._write(group, text)
                with _after_a_change(deadline):
                    refusal = self._add(call.tenant, group, client_id, text, deadline)
                    if refusal is not None:
                        return refusal
                    _, processes = self._group(call.tenant, client_id, deadline)
            if not processes:
                raise OutcomeUnknown("bad_answer", f"supervisord took {group}, and has no such group")
            return Done(self._told(call.tenant, group, processes))

    def stop(self, call: Call, client_id: str, deadline: float) -> Done | Rejected:
        """Have all processes of a deployment end, and stay so when supervisord starts again.

        It waits for half of the time that is left, and is `stopping` when that was too short.
        """
        group, processes = self._group(call.tenant, client_id, deadline)
        if not processes:
            return Rejected("not_found", f"there is no deployment {client_id:.140}")
        patience = (monotonic() + deadline) / 2
        with self._folder.locked(deadline):
            text = self._folder.text(group)
            if text is not None and text != stopped_text(text):
                self._write(group, stopped_text(text))
        with _after_a_change(deadline):
            return Done(self._stopped(call.tenant, client_id, patience, deadline))

    def _stopped(self, tenant: Tenant, client_id: str, patience: float, deadline: float) -> Deployment:
        """Stop until all has ended or is about to: supervisord skips what it is just about to start again.

        What was just added was started before this: supervisord does so between two questions, and one was asked.
        """
        while True:
            group, processes = self._group(tenant, client_id, deadline)
            if not processes:
                raise OutcomeUnknown("bad_answer", f"{group} has just been removed from supervisord")
            if any(process.state == "UNKNOWN" for process in processes):
                raise OutcomeUnknown(
                    "bad_answer", f"supervisord has lost a process of {group}; it may still run"
                )
            told = self._told(tenant, group, processes)
            if told.status in _OVER or (told.status is DeploymentStatus.STOPPING and monotonic() >= patience):
                return told
            if not all(process.state == "STOPPING" for process in processes):
                self._stop_once(group, deadline)
            sleep(_POLL_SECONDS)

    def _stop_once(self, group: str, deadline: float) -> None:
        try:
            self._connection.call("supervisor.stopProcessGroup", group, False, deadline=deadline)  # noqa: FBT003 -- wait
        except Fault as fault:
            raise OutcomeUnknown("server_error", str(fault)) from fault

    def _add(self, tenant: Tenant, group: str, client_id: str, text: str, deadline: float) -> Rejected | None:
        """Have supervisord read the file of a deployment and run what it says."""
        try:
            self._connection.call("supervisor.reloadConfig", deadline=deadline)
            self._connection.call("supervisor.addProcessGroup", group, deadline=deadline)
        except Fault as fault:
            if fault.code == FaultCode.ALREADY_ADDED:
                return None
            if fault.code not in {FaultCode.CANT_REREAD, FaultCode.BAD_NAME}:
                raise OutcomeUnknown("server_error", str(fault)) from fault
            return self._withdraw(tenant, group, client_id, text, fault, deadline)
        return None

    def _withdraw(
        self, tenant: Tenant, group: str, client_id: str, text: str, fault: Fault, deadline: float
    ) -> Rejected | None:
        """Take back a file that supervisord does not take, lest it is taken up later, or keeps supervisord from starting."""
        self._folder.remove(group)
        _, processes = self._group(tenant, client_id, deadline)
        if processes:  # somebody else has just had it taken up
            self._folder.write(group, text)
            return None
        what = (
            "cannot read its configuration"
            if fault.code == FaultCode.CANT_REREAD
            else "did not find the file"
        )
        return Rejected(
            "provider_misconfigured",
            f"supervisord {what} ({fault}); its [include] has to name {self._folder.path}/*.conf",
        )

    def _text(self, call: Call, group: str, order: CreateDeployment) -> str | Rejected:
        artifact = self._settings.artifacts.get(order.artifact)
        if artifact is None:
            return Rejected("unknown_artifact", f"there is no artifact {order.artifact}")
        mistakes = [
            f"{'/'.join(map(str, mistake.instance_path)) or 'parameters'}: {mistake.message:.300}"
            for mistake in artifact.parameters.iter_errors(order.parameters)
        ]
        if mistakes:
            return Rejected("invalid_parameters", "; ".join(sorted(mistakes)[:_MISTAKES_MAX]))
        try:
            return file_text(call, group, order, artifact, self._settings.logs)
        except UnfitParameter as error:
            return Rejected("invalid_parameters", str(error))

    def _write(self, group: str, text: str) -> None:
        try:
            self._folder.write(group, text)
        except OSError as error:
            raise NotReached(f"{self._folder.path} cannot be written: {error.strerror}") from error

    def _group(self, tenant: Tenant, client_id: str, deadline: float) -> tuple[str, list[Process]]:
        """Return the name of a deployment's group and its processes, which are none when there is no such deployment."""
        group = group_of(tenant, client_id)
        kept = None if group is None else self._folder.kept(group)
        if group is None or kept is None:
            # Asked even when no deployment is called that: the answer is supervisord's.
            return group or "", [process for process in self._processes(deadline) if process.group == group]
        return group, self._processes_named(group, process_names(group, kept.processes), deadline)

    def _processes(self, deadline: float) -> list[Process]:
        return [process_of(info) for info in self._listed("supervisor.getAllProcessInfo", (), deadline)]

    def _processes_named(self, group: str, names: Sequence[str], deadline: float) -> list[Process]:
        asked = [{"methodName": "supervisor.getProcessInfo", "params": [f"{group}:{name}"]} for name in names]
        processes = []
        for answer in self._listed("system.multicall", (asked,), deadline):
            if isinstance(answer, dict) and "faultCode" in answer:
                fault = Fault(answer["faultCode"], f"supervisor.getProcessInfo: {answer.get('faultString')}")
                if fault.code != FaultCode.BAD_NAME:
                    raise _unreadable(fault) from fault
            else:
                processes.append(process_of(answer))
        return processes

    def _listed(self, method: str, parameters: tuple[Any, ...], deadline: float) -> list[Any]:
        try:
            answer = self._connection.call(method, *parameters, deadline=deadline)
        except Fault as fault:
            raise _unreadable(fault) from fault
        if not isinstance(answer, list):
            raise OutcomeUnknown("bad_answer", f"{method} does not answer with a list")
        return answer

    def _told(self, tenant: Tenant, group: str, processes: Sequence[Process]) -> Deployment:
        """Return a deployment. Raises: UnreadableRecord for a state that supervisord did not have before."""
        kept = self._folder.kept(group)
        client_id = str(client_id_of(tenant, group))
        try:
            status = status_together(processes, NO_POLICY if kept is None else kept.policy)
        except OutcomeUnknown as unknown:
            raw = raw_status(processes)
            raise UnreadableRecord(
                Unreadable("deployment", client_id, client_id, raw, str(unknown))
            ) from unknown
        detail: dict[str, Any] = {"group": group, "processes": [process.told() for process in processes]}
        if kept is not None:
            detail |= {"artifact": kept.artifact, "capital": kept.capital, "mode": kept.mode}
        return Deployment(
            id=client_id,
            client_id=client_id,
            name=group if kept is None else kept.name,
            status=status,
            raw_status=raw_status(processes),
            detail=detail,
        )


def _unreadable(fault: Fault) -> OutcomeUnknown:
    if fault.code == FaultCode.SHUTDOWN_STATE:
        return NotReached("supervisord is shutting down")
    return OutcomeUnknown("server_error", str(fault))


@contextmanager
def _after_a_change(deadline: float) -> Iterator[None]:
    """Tell a refused connection as what it is once something was written or sent: no proof that nothing happens."""
    try:
        yield
    except NotReached as error:
        reason = "timeout" if monotonic() >= deadline else "connection_lost"
        raise OutcomeUnknown(reason, str(error)) from error
