r"""The one file of configuration that a deployment is at supervisord, and the directory of these files.

Owns: `Kept`, `group_of`, `file_text`, `stopped_text`, `Folder`. What comes from a payload stands in environment variables
only, and in a spelling that neither supervisord's file format, nor its `%` expansion, nor its list of variables takes for
anything but text: JSON with every such character as `\uXXXX`, or a text of harmless characters.
Must not touch: connections.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from sovrun.core.canonical import canonical, digest_of
from sovrun.core.commands.model import CreateDeployment, decimal_text
from sovrun.core.ids import Digest, Tenant
from sovrun.execution.adapters.supervisor_settings import Artifact, Parameter
from sovrun.execution.adapters.supervisor_states import Policy
from sovrun.execution.port import Call, NotReached, OutcomeUnknown

PARAMETERS_MAX: Final = 64 << 10
"""Bytes of `SOVRUN_PARAMETERS`; Linux gives a process at most 128 KiB in one variable."""
VALUE_RULE: Final = "up to 4096 letters, digits, spaces and _ . , : / + = @ ~ ^ -"

_VALUE: Final = re.compile(r"[A-Za-z0-9 _.,:/+=@~^-]{0,4096}", re.ASCII)
_CLIENT_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PREFIX: Final = "sovrun-"
_HEADING: Final = "; sovrun "
_STARTS: Final = "\nautostart=true\n"
_REMAINS_STOPPED: Final = "\nautostart=false\n"
_AUTORESTART: Final = {"never": "false", "unexpected": "unexpected", "always": "true"}
_MODE: Final = 0o640
_POLL_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Kept:
    """What the file of a deployment tells of it.

    Args:
        digest: of everything that was asked for; policy: what supervisord does with it by itself.
        processes: how many it has.
    """

    name: str
    artifact: str
    capital: str | None
    mode: str
    actor: str
    digest: Digest
    policy: Policy
    processes: int


class UnfitParameter(Exception):
    """A parameter cannot be handed on."""


def group_of(tenant: Tenant, client_id: str) -> str | None:
    """Return the name of the process group that a deployment of a tenant's is, None when no client id looks like that."""
    return f"{_PREFIX}{tenant}-{client_id}" if _CLIENT_ID.fullmatch(client_id) else None


def client_id_of(tenant: Tenant, group: str) -> str | None:
    """Return the client id of a process group, None when it is not a deployment of this tenant's."""
    client_id = group[-32:]
    return client_id if group == group_of(tenant, client_id) else None


def process_names(group: str, processes: int) -> list[str]:
    """Return how supervisord calls the processes of a group within it."""
    return [group] if processes == 1 else [f"{group}_{number:02d}" for number in range(processes)]


def request_digest(order: CreateDeployment, mode: str) -> Digest:
    """Return the digest by which a repeat is told from something else under the same client id."""
    body = {
        "artifact": order.artifact,
        "capital": None if order.capital is None else decimal_text(order.capital),
        "mode": mode,
        "name": order.name,
        "parameters": order.parameters,
    }
    return digest_of("sovrun.supervisor-deployment", 1, body)


def file_text(call: Call, group: str, order: CreateDeployment, artifact: Artifact, logs: Path | None) -> str:
    """Return the configuration of a deployment that starts. Raises: UnfitParameter."""
    capital = None if order.capital is None else decimal_text(order.capital)
    kept = {
        "actor": call.actor,
        "artifact": order.artifact,
        "capital": capital,
        "digest": request_digest(order, call.mode),
        "exitCodes": list(artifact.exit_codes),
        "mode": call.mode,
        "name": order.name,
        "processes": artifact.processes,
        "restart": artifact.restart,
    }
    many = artifact.processes > 1
    lines = [
        "; Written by Sovrun, which reads the next line. Once the deployment is stopped and concluded, this file may be",
        "; removed; supervisorctl update then removes the process group.",
        _HEADING + _ascii_json(kept),
        f"[program:{group}]",
        "command=" + _expanding(shlex.join(artifact.command)),
        "process_name=%(program_name)s" + ("_%(process_num)02d" if many else ""),
        f"numprocs={artifact.processes}",
        _STARTS.strip(),
        f"autorestart={_AUTORESTART[artifact.restart]}",
        "exitcodes=" + ",".join(map(str, artifact.exit_codes)),
        f"startsecs={artifact.start_seconds}",
        f"startretries={artifact.start_retries}",
        f"stopsignal={artifact.stop_signal}",
        f"stopwaitsecs={artifact.stop_seconds}",
        "stopasgroup=true",
        "killasgroup=true",
        "redirect_stderr=true",
        "environment=" + _environment(call, order, capital, artifact),
    ]
    if artifact.directory is not None:
        lines.append("directory=" + _expanding(artifact.directory))
    if artifact.user is not None:
        lines.append(f"user={artifact.user}")
    if logs is not None:
        number = "_%(process_num)02d" if many else ""
        lines.append(f"stdout_logfile={logs}/{group}{number}.log")
    return "\n".join(lines) + "\n"


def stopped_text(text: str) -> str:
    """Return the configuration of the same deployment, which supervisord does not start again."""
    return text.replace(_STARTS, _REMAINS_STOPPED)


def _environment(call: Call, order: CreateDeployment, capital: str | None, artifact: Artifact) -> str:
    parameters = _ascii_json(order.parameters)
    if len(parameters) > PARAMETERS_MAX:
        raise UnfitParameter(f"the parameters take {len(parameters)} bytes, more than {PARAMETERS_MAX}")
    variables = {
        "SOVRUN_DEPLOYMENT_ID": str(call.client_id),
        "SOVRUN_DEPLOYMENT_NAME": order.name,
        "SOVRUN_MODE": call.mode,
        "SOVRUN_PARAMETERS": parameters,
        "SOVRUN_TENANT": str(call.tenant),
    }
    if capital is not None:
        variables["SOVRUN_CAPITAL"] = capital
    for name, value in artifact.environment.items():
        if not isinstance(value, Parameter):
            variables[name] = value
        elif (text := _value_text(value.name, order.parameters)) is not None:
            variables[name] = text
    return ",".join(f"{name}='{_expanding(text)}'" for name, text in sorted(variables.items()))


def _value_text(name: str, parameters: Mapping[str, Any]) -> str | None:
    value = parameters.get(name)
    if value is None:
        return None
    text = value if isinstance(value, str) else canonical(value).decode()
    if _VALUE.fullmatch(text) is None:
        raise UnfitParameter(
            f"the parameter {name:.80} goes into an environment variable, where only {VALUE_RULE} can stand"
        )
    return text


def _ascii_json(value: Any) -> str:
    """Return JSON of letters, digits and harmless signs: the rest, which only texts can hold, is escaped."""
    return re.sub(r"[^ !\"$&(-:<-~]", _escaped, canonical(value).decode())


def _escaped(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _expanding(text: str) -> str:
    """Return how a text is written where supervisord expands `%(name)s`."""
    return text.replace("%", "%%")


class Folder:
    """The directory from which supervisord includes `*.conf`; usable from any thread, and any process of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self, deadline: float) -> Iterator[None]:
        """Keep other writers out. Raises: NotReached when that is not possible until `deadline`."""
        try:
            lock = os.open(self.path / ".sovrun.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise NotReached(f"the directory {self.path} cannot be locked: {error.strerror}") from error
        try:
            while not _is_locked(lock):
                if monotonic() >= deadline:
                    raise NotReached(f"others kept {self.path} locked all the time")
                sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(lock)

    def text(self, group: str) -> str | None:
        """Return the file of a deployment, None when there is none."""
        path = self._path(group)
        try:
            return path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutcomeUnknown("bad_answer", f"{path} cannot be read: {error}") from error

    def kept(self, group: str) -> Kept | None:
        """Return what the file of a deployment tells of it, None when there is none."""
        text = self.text(group)
        return None if text is None else _kept(text, self._path(group))

    def write(self, group: str, text: str) -> None:
        """Write the file of a deployment, durably and at once. Raises: OSError."""
        path = self._path(group)
        made = path.with_name(f".{path.name}.new")  # no *.conf for a shell pattern
        file = os.open(made, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        with os.fdopen(file, "w", encoding="ascii") as writer:
            writer.write(text)
            writer.flush()
            os.fsync(writer.fileno())
        made.replace(path)
        self._settle()

    def remove(self, group: str) -> None:
        """Remove the file of a deployment. Raises: OSError."""
        self._path(group).unlink(missing_ok=True)
        self._settle()

    def _path(self, group: str) -> Path:
        return self.path / f"{group}.conf"

    def _settle(self) -> None:
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kept(text: str, path: Path) -> Kept:
    heading = next((line for line in text.splitlines() if line.startswith(_HEADING)), "")
    try:
        told = json.loads(heading.removeprefix(_HEADING))
        return Kept(
            name=told["name"],
            artifact=told["artifact"],
            capital=told["capital"],
            mode=told["mode"],
            actor=told["actor"],
            digest=Digest(told["digest"]),
            policy=Policy(_STARTS in text, told["restart"], frozenset(told["exitCodes"])),
            processes=int(told["processes"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OutcomeUnknown(
            "bad_answer", f"{path} is not as Sovrun wrote it; supervisord may have been given something else"
        ) from error
