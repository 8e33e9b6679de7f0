"""What an operator sets of a supervisord: where it is, and as what each artifact is run.

Owns: `SupervisorSettings`, `Artifact`, `Parameter`, `supervisor_settings`, and which texts can stand in a configuration
file of supervisord's without meaning something else there.
Must not touch: connections; how a file is written.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from jsonschema_rs import Draft202012Validator

from sovrun.core.errors import InvalidSetting
from sovrun.core.spec.schemas import BadSchema, compile_schema
from sovrun.core.spec.units import duration_us
from sovrun.execution.adapters.settings import SettingsOf
from sovrun.execution.adapters.supervisor_rpc import Address

RESERVED: Final = "SOVRUN_"
"""How the variables begin that every deployment is given."""
NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "maxProperties": 0}
RESTARTS: Final = ("never", "unexpected", "always")
MODES: Final = frozenset({"paper", "live"})

_KNOWN: Final = (
    "url",
    "user",
    "password",
    "directory",
    "logs",
    "modes",
    "processingDeadline",
    "artifacts",
)
_KNOWN_OF_ARTIFACT: Final = (
    "command",
    "directory",
    "user",
    "environment",
    "parameters",
    "processes",
    "restart",
    "exitCodes",
    "startSeconds",
    "startRetries",
    "stopSignal",
    "stopSeconds",
)
_SIGNALS: Final = ("TERM", "HUP", "INT", "QUIT", "KILL", "USR1", "USR2")
_LOOPBACK: Final = re.compile(r"127(\.[0-9]{1,3}){3}|localhost|::1", re.ASCII)

_PRINTABLE: Final = re.compile(r"[ -~]*", re.ASCII)
_COMMENT: Final = re.compile(r"\s[;#]")
_HERE: Final = "%(here)s"


@dataclass(frozen=True, slots=True)
class Parameter:
    """The place of a payload's parameter in an environment."""

    name: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is run for an artifact.

    Args:
        command: the program and its arguments. directory: where it is run; None is wherever supervisord is.
        user: as whom; None is supervisord's own.
        environment: further variables, a text or the place of a parameter each.
        parameters: what a payload's parameters must be like.
        processes: how many.
        restart: after which exits supervisord starts it again: `never`, `unexpected` or `always`.
        start_seconds: how long it must stay up to be RUNNING; start_retries: failed starts before it is FATAL.
        stop_signal: asks it to end; it is killed after stop_seconds.
    """

    command: tuple[str, ...]
    directory: str | None
    user: str | None
    environment: Mapping[str, str | Parameter]
    parameters: Draft202012Validator
    processes: int
    restart: str
    exit_codes: tuple[int, ...]
    start_seconds: int
    start_retries: int
    stop_signal: str
    stop_seconds: int


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """How a supervisord is used.

    Args:
        directory: from which it includes `*.conf`; logs: where the output of deployments goes, None for supervisord's
            own choice.
        credentials: user name and password of its HTTP server.
    """

    address: Address
    credentials: tuple[str, str] | None
    directory: Path
    logs: Path | None
    modes: frozenset[str]
    processing_deadline_us: int
    artifacts: Mapping[str, Artifact]


def unfit_literal(text: str, *, quoted: bool) -> str | None:
    """Return why a text cannot stand in a configuration file of supervisord's, None when it can.

    Args:
        quoted: it will stand between single quotes, in a list of environment variables, where there is no escaping.
    """
    if _PRINTABLE.fullmatch(text) is None:
        return "has a character that is not printable ASCII"
    if _COMMENT.search(text):
        return "has a space before ; or #, where supervisord takes the rest for a comment"
    if _HERE in text:
        return f"has {_HERE}, which supervisord replaces everywhere"
    if quoted and "'" in text:
        return "has a single quote, which cannot be written there"
    if quoted and text.strip('"') != text:
        return "begins or ends with a double quote, which supervisord would take away"
    if not quoted and text.strip() != text:
        return "begins or ends with a space, which supervisord would take away"
    return None


def supervisor_settings(name: str, settings: Mapping[str, Any]) -> SupervisorSettings:
    """Return the settings of the adapter `name`. Raises: InvalidSetting."""
    reader = SettingsOf(name)
    given = reader.members(settings, "", _KNOWN)
    for required in ("url", "directory", "artifacts"):
        if required not in given:
            reader.refuse(required, "is missing", f"say what {required} is")
    directory = _folder(reader, given["directory"], "directory")
    if not os.access(directory, os.W_OK | os.X_OK):
        reader.refuse(
            "directory", f"{directory} cannot be written", "let the user that runs Sovrun write there"
        )
    return SupervisorSettings(
        address=_address(reader, given["url"]),
        credentials=_credentials(reader, given),
        directory=directory,
        logs=_logs(reader, given["logs"]) if "logs" in given else None,
        modes=_modes(reader, given.get("modes", ["paper"])),
        processing_deadline_us=_duration(
            reader, given.get("processingDeadline", "30s"), "processingDeadline"
        ),
        artifacts={
            artifact: _artifact(reader, value, f"artifacts.{artifact:.80}")
            for artifact, value in reader.members(given["artifacts"], "artifacts").items()
            if reader.text(
                artifact, f"artifacts.{artifact:.80}", "[!-~]{1,128}", "printable ASCII without spaces"
            )
        },
    )


def _address(reader: SettingsOf, value: object) -> Address:
    hint = "write unix:///run/supervisor.sock, or http://127.0.0.1:9001"
    text = reader.text(value, "url", "[!-~]+", hint.removeprefix("write "))
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        reader.refuse("url", f"{text!r:.80} is not a URL", hint)
    if parts.scheme == "unix" and parts.path and not (parts.netloc or parts.query or parts.fragment):
        if len(os.fsencode(parts.path)) > 107:
            reader.refuse("url", "the path of a socket has at most 107 bytes", "name a shorter one")
        return Address(parts.path)
    if parts.scheme != "http" or port is None or parts.path not in {"", "/", "/RPC2"} or "@" in parts.netloc:
        reader.refuse("url", f"{text!r:.80} is not the place of a supervisord", hint)
    host = parts.hostname or ""
    if _LOOPBACK.fullmatch(host) is None:
        reader.refuse(
            "url",
            f"{host!r:.80} is not this machine: supervisord speaks without encryption, and reads files from here",
            hint,
        )
    return Address(None, "127.0.0.1" if host == "localhost" else host, port)


def _credentials(reader: SettingsOf, given: Mapping[str, Any]) -> tuple[str, str] | None:
    if "user" not in given and "password" not in given:
        return None
    for either, other in (("user", "password"), ("password", "user")):
        if either not in given:
            reader.refuse(either, f"is missing, and there is a {other}", "say both or neither")
    user = reader.text(
        given["user"], "user", "[!-9;-~]{1,128}", "a name of printable ASCII without spaces and colons"
    )
    return user, _secret(reader, given["password"])


def _secret(reader: SettingsOf, value: object) -> str:
    hint = "write {env: NAME} or {file: PATH}; a secret itself does not stand in settings"
    if not isinstance(value, Mapping) or len(value) != 1 or not set(value) <= {"env", "file"}:
        reader.refuse("password", "is not the place of a secret", hint)
    ((form, place),) = value.items()
    if not isinstance(place, str):
        reader.refuse("password", "the place of a secret is a text", hint)
    try:
        secret = os.environ[place] if form == "env" else Path(place).read_text("utf-8").rstrip("\r\n")
    except KeyError:
        reader.refuse("password", f"there is no environment variable {place!r:.80}", "set it")
    except (OSError, ValueError) as error:
        reader.refuse("password", f"{place!r:.200} cannot be read: {type(error).__name__}", "check the file")
    if not secret:
        reader.refuse("password", f"what stands in {place!r:.200} is empty", "put the password there")
    return secret


def _folder(reader: SettingsOf, value: object, where: str) -> Path:
    text = _literal(reader, value, where)
    path = Path(text)
    if not path.is_absolute():
        reader.refuse(where, f"{text!r:.200} is not an absolute path", "begin it with /")
    if not path.is_dir():
        reader.refuse(where, f"{text!r:.200} is not a directory", "make it, or name another")
    return path


def _logs(reader: SettingsOf, value: object) -> Path:
    folder = _folder(reader, value, "logs")
    if "%" in str(folder):
        reader.refuse(
            "logs", "has a %, which supervisord expands here more than once", "name another directory"
        )
    return folder


def _modes(reader: SettingsOf, value: object) -> frozenset[str]:
    modes = reader.items(value, "modes")
    for position, mode in enumerate(modes):
        if mode not in MODES:
            reader.refuse(f"modes[{position}]", f"there is no mode {mode!r:.80}", "write paper or live")
    if not modes:
        reader.refuse("modes", "is empty", "write [paper], [live] or [paper, live]")
    return frozenset(modes)


def _artifact(reader: SettingsOf, value: object, where: str) -> Artifact:
    given = reader.members(value, where, _KNOWN_OF_ARTIFACT)
    if "command" not in given:
        reader.refuse(f"{where}.command", "is missing", "write the program and its arguments as a list")
    schema = reader.members(given.get("parameters", NO_PARAMETERS), f"{where}.parameters")
    return Artifact(
        command=_command(reader, given["command"], f"{where}.command"),
        directory=str(_folder(reader, given["directory"], f"{where}.directory"))
        if "directory" in given
        else None,
        user=_user(reader, given["user"], f"{where}.user") if "user" in given else None,
        environment=_environment(reader, given.get("environment", {}), f"{where}.environment", schema),
        parameters=_schema(reader, schema, f"{where}.parameters"),
        processes=_whole(reader, given.get("processes", 1), f"{where}.processes", 1, 100),
        restart=_one_of(reader, given.get("restart", "unexpected"), f"{where}.restart", RESTARTS),
        exit_codes=tuple(
            _whole(reader, code, f"{where}.exitCodes[{position}]", 0, 255)
            for position, code in enumerate(reader.items(given.get("exitCodes", [0]), f"{where}.exitCodes"))
        ),
        start_seconds=_whole(reader, given.get("startSeconds", 1), f"{where}.startSeconds", 0, 3600),
        start_retries=_whole(reader, given.get("startRetries", 3), f"{where}.startRetries", 0, 100),
        stop_signal=_one_of(reader, given.get("stopSignal", "TERM"), f"{where}.stopSignal", _SIGNALS),
        stop_seconds=_whole(reader, given.get("stopSeconds", 10), f"{where}.stopSeconds", 1, 3600),
    )


def _command(reader: SettingsOf, value: object, where: str) -> tuple[str, ...]:
    words = [
        _literal(reader, word, f"{where}[{position}]", inner=True)
        for position, word in enumerate(reader.items(value, where))
    ]
    if not words or not words[0].startswith("/"):
        reader.refuse(
            where, "does not begin with the absolute path of a program", "write [/usr/bin/PROGRAM, ...]"
        )
    return tuple(words)


def _environment(
    reader: SettingsOf, value: object, where: str, schema: Mapping[str, Any]
) -> dict[str, str | Parameter]:
    environment: dict[str, str | Parameter] = {}
    for name, given in reader.members(value, where).items():
        place = f"{where}.{name:.80}"
        reader.text(name, place, "[A-Za-z_][A-Za-z0-9_]{0,127}", "a name of letters, digits and _")
        if name.startswith(RESERVED):
            reader.refuse(
                place, f"names that begin with {RESERVED} are given by Sovrun", "choose another name"
            )
        if isinstance(given, Mapping):
            environment[name] = _parameter(reader, given, place, schema)
        elif isinstance(given, str) and (unfit := unfit_literal(given, quoted=True)) is None:
            environment[name] = given
        elif isinstance(given, str):
            reader.refuse(place, f"the text {unfit}", "let the program read it from a file")
        else:
            reader.refuse(
                place, "is neither a text nor the place of a parameter", 'write "..." or {parameter: NAME}'
            )
    return environment


def _parameter(
    reader: SettingsOf, given: Mapping[str, Any], place: str, schema: Mapping[str, Any]
) -> Parameter:
    wanted = reader.members(given, place, ("parameter",)).get("parameter")
    declared = schema.get("properties", {})
    if not isinstance(wanted, str) or not isinstance(declared, Mapping):
        reader.refuse(place, "does not name a parameter", "write {parameter: NAME}")
    if wanted not in declared:
        near = get_close_matches(wanted, [str(one) for one in declared], n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else "declare it under properties"
        reader.refuse(place, f"the schema of the parameters has no {wanted!r:.80}", hint)
    return Parameter(wanted)


def _schema(reader: SettingsOf, schema: Mapping[str, Any], where: str) -> Draft202012Validator:
    try:
        return compile_schema(schema)
    except BadSchema as error:
        place = ".".join((where, *(str(part) for part in error.at)))
        raise InvalidSetting(
            f"adapter {reader.adapter}: {place}: {error.detail}",
            hint="write a JSON Schema 2020-12 of the parameters",
            adapter=reader.adapter,
            setting=place,
        ) from error


def _user(reader: SettingsOf, value: object, where: str) -> str:
    name = reader.text(value, where, "[a-z_][a-z0-9_-]{0,31}", "the name of a user of this machine")
    try:
        pwd.getpwnam(name)
    except KeyError:
        # supervisord would refuse its whole configuration, and not start again
        reader.refuse(where, f"there is no user {name}", "make the user, or name another")
    return name


def _literal(reader: SettingsOf, value: object, where: str, *, inner: bool = False) -> str:
    """Return a text that can stand in the file; `inner` when it stands among others, in quotes."""
    if not isinstance(value, str) or not (value or inner):
        reader.refuse(where, "is not a text", 'write it in quotes, "..."')
    if (unfit := unfit_literal(f"-{value}-" if inner else value, quoted=False)) is not None:
        reader.refuse(where, f"the text {unfit}", "write it without")
    return value


def _one_of(reader: SettingsOf, value: object, where: str, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        reader.refuse(where, f"{value!r:.80} is not known", f"write one of {', '.join(known)}")
    return value


def _whole(reader: SettingsOf, value: object, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        reader.refuse(
            where, f"{value!r:.80} is not a whole number from {low} to {high}", f"write for example {low}"
        )
    return value


def _duration(reader: SettingsOf, value: object, where: str) -> int:
    if not isinstance(value, str):
        reader.refuse(where, f"{value!r:.80} is not a duration", "write for example 30s")
    try:
        return duration_us(value)
    except ValueError as error:
        reader.refuse(where, f"{value!r:.80} {error}", "write for example 30s")
