"""What an operator can set of a supervisord, and that everything else is refused with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sovrun.core.errors import InvalidSetting
from sovrun.core.spec.document import read_any
from sovrun.execution.adapters.supervisor import open_adapter
from sovrun.execution.adapters.supervisor_rpc import Address
from sovrun.execution.adapters.supervisor_settings import Parameter, supervisor_settings

BOT: dict[str, Any] = {"command": ["/bin/true"]}
EXAMPLE = Path(__file__).parents[2] / "examples" / "adapters" / "supervisor.yaml"


def given(tmp_path: Path, **more: Any) -> dict[str, Any]:
    base = {"url": "unix:///run/supervisor.sock", "directory": str(tmp_path), "artifacts": {"bot": BOT}}
    return {name: value for name, value in {**base, **more}.items() if value is not ...}


def test_little_needs_to_be_said(tmp_path: Path) -> None:
    settings = supervisor_settings("host", given(tmp_path))
    assert settings.address == Address("/run/supervisor.sock")
    assert (settings.credentials, settings.logs, settings.modes) == (None, None, frozenset({"paper"}))
    assert settings.processing_deadline_us == 30_000_000
    bot = settings.artifacts["bot"]
    assert (bot.restart, bot.exit_codes, bot.processes, bot.user) == ("unexpected", (0,), 1, None)
    assert bot.parameters.is_valid({})
    assert not bot.parameters.is_valid({"any": 1})


def test_everything_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_PASSWORD", "secret")
    artifact = {
        "command": ["/opt/bots/maker", "--config", "/etc/maker#1"],
        "directory": str(tmp_path),
        "user": "nobody",
        "environment": {"LEVEL": "info", "SYMBOL": {"parameter": "symbol"}},
        "parameters": {"type": "object", "properties": {"symbol": {"type": "string"}}},
        "processes": 2,
        "restart": "always",
        "exitCodes": [0, 2],
        "startSeconds": 0,
        "startRetries": 0,
        "stopSignal": "INT",
        "stopSeconds": 30,
    }
    settings = supervisor_settings(
        "host",
        given(
            tmp_path,
            url="http://localhost:9001",
            user="sovrun",
            password={"env": "HOST_PASSWORD"},
            logs=str(tmp_path),
            modes=["paper", "live"],
            processingDeadline="1m",
            artifacts={"bots/maker:7": artifact},
        ),
    )
    assert settings.address == Address(None, "127.0.0.1", 9001)
    assert settings.credentials == ("sovrun", "secret")
    assert settings.processing_deadline_us == 60_000_000
    assert settings.modes == {"paper", "live"}
    assert settings.artifacts["bots/maker:7"].environment == {"LEVEL": "info", "SYMBOL": Parameter("symbol")}


def test_a_password_is_read_from_its_file_without_the_last_line_end(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret with spaces \n")
    where = {"file": str(tmp_path / "password")}
    settings = supervisor_settings("host", given(tmp_path, user="sovrun", password=where))
    assert settings.credentials == ("sovrun", "secret with spaces ")


URL = "write unix:///run/supervisor.sock"
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"artefacts": {}}, "artefacts", "did you mean 'artifacts'?"),
    ({"url": ...}, "url: is missing", ""),
    ({"artifacts": ...}, "artifacts: is missing", ""),
    ({"directory": ...}, "directory: is missing", ""),
    ({"directory": "conf.d"}, "directory: 'conf.d' is not an absolute path", ""),
    ({"directory": "/nowhere/at/all"}, "is not a directory", "make it"),
    ({"directory": 7}, "directory: is not a text", ""),
    ({"logs": "/nowhere"}, "logs: '/nowhere' is not a directory", ""),
    ({"url": 7}, "url: 7", URL),
    ({"url": "unix://s.sock"}, "url", URL),
    ({"url": "unix:///" + "s" * 110}, "at most 107 bytes", ""),
    ({"url": "https://127.0.0.1:9001"}, "url", URL),
    ({"url": "http://127.0.0.1"}, "url", URL),
    ({"url": "http://127.0.0.1:70000"}, "is not a URL", URL),
    ({"url": "http://me:secret@127.0.0.1:9001"}, "url", URL),
    ({"url": "http://127.0.0.1:9001/other"}, "url", URL),
    ({"url": "http://10.0.0.7:9001"}, "is not this machine", URL),
    ({"url": "http://127.0.0.1.example.org:9001"}, "is not this machine", URL),
    ({"user": "me"}, "password: is missing", "both or neither"),
    ({"password": {"env": "HOME"}}, "user: is missing", "both or neither"),
    ({"user": "me", "password": "secret"}, "password: is not the place of a secret", "{env: NAME}"),
    ({"user": "me", "password": {"env": "NO_SUCH_VARIABLE"}}, "no environment variable", "set it"),
    ({"user": "me", "password": {"file": "/nowhere"}}, "cannot be read", "check the file"),
    ({"user": "me", "password": {"file": "/dev/null"}}, "is empty", ""),
    ({"user": "m:e", "password": {"env": "HOME"}}, "user", "colons"),
    ({"modes": []}, "modes: is empty", ""),
    ({"modes": ["real"]}, "modes[0]: there is no mode 'real'", "paper or live"),
    ({"processingDeadline": 30}, "processingDeadline", "30s"),
    ({"processingDeadline": "soon"}, "processingDeadline", "30s"),
    ({"artifacts": []}, "artifacts: a list is not a map", ""),
    ({"artifacts": {"a b": BOT}}, "artifacts.a b", "without spaces"),
]
REFUSED_OF_ARTIFACT: list[tuple[dict[str, Any], str, str]] = [
    ({"comand": []}, "there is no setting 'comand'", "did you mean 'command'?"),
    ({"command": "/bin/true"}, "command: the text '/bin/true' is not a list", ""),
    ({"command": []}, "command", "/usr/bin/PROGRAM"),
    ({"command": ["true"]}, "command: does not begin with the absolute path", ""),
    ({"command": ["/bin/true", 7]}, "command[1]: is not a text", ""),
    ({"command": ["/bin/true", "a\nb"]}, "command[1]: the text has a character that is not printable", ""),
    ({"command": ["/bin/true", "a ;b"]}, "command[1]: the text has a space before ; or #", ""),
    ({"command": ["/bin/true", "%(here)s"]}, "replaces everywhere", ""),
    ({"directory": "/nowhere"}, "directory: '/nowhere' is not a directory", ""),
    ({"user": "no-such-user-here"}, "user: there is no user", "make the user"),
    ({"user": 0}, "user", ""),
    ({"environment": {"A-B": "x"}}, "environment.A-B", "letters, digits and _"),
    ({"environment": {"SOVRUN_TENANT": "x"}}, "are given by Sovrun", "another name"),
    ({"environment": {"A": 7}}, "environment.A", "{parameter: NAME}"),
    ({"environment": {"A": "it's"}}, "single quote", ""),
    ({"environment": {"A": '"x"'}}, "double quote", ""),
    ({"environment": {"A": "x\n[program:y]"}}, "not printable", ""),
    ({"environment": {"A": {"parameter": "symbl"}}}, "has no 'symbl'", "did you mean 'symbol'?"),
    ({"environment": {"A": {"from": "symbol"}}}, "there is no setting 'from'", "known are parameter"),
    ({"environment": {"A": {}}}, "does not name a parameter", ""),
    ({"parameters": {"type": "thing"}}, "parameters.type", "JSON Schema"),
    ({"parameters": {"$ref": "http://127.0.0.1:1/schema"}}, "parameters", "JSON Schema"),
    ({"processes": 0}, "processes: 0 is not a whole number from 1 to 100", ""),
    ({"processes": True}, "processes: True", ""),
    ({"restart": False}, "restart: False is not known", "never, unexpected, always"),
    ({"exitCodes": [256]}, "exitCodes[0]", ""),
    ({"startSeconds": -1}, "startSeconds", ""),
    ({"startRetries": 1.5}, "startRetries", ""),
    ({"stopSignal": "SIGTERM"}, "stopSignal", "TERM"),
    ({"stopSeconds": 0}, "stopSeconds", ""),
]
SYMBOL = {"parameters": {"type": "object", "properties": {"symbol": {}}}}


def require_refused(settings: dict[str, Any], what: str, hint: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        open_adapter("host", settings)
    assert refused.value.detail.startswith("adapter host: ")
    assert what in refused.value.detail
    assert refused.value.hint
    assert hint in refused.value.hint


@pytest.mark.parametrize(("more", "what", "hint"), REFUSED)
def test_a_setting_that_cannot_be_used_is_refused_with_its_place(
    tmp_path: Path, more: dict[str, Any], what: str, hint: str
) -> None:
    require_refused(given(tmp_path, **more), what, hint)


@pytest.mark.parametrize(("more", "what", "hint"), REFUSED_OF_ARTIFACT)
def test_an_artifact_that_cannot_be_run_is_refused_with_its_place(
    tmp_path: Path, more: dict[str, Any], what: str, hint: str
) -> None:
    artifacts = {"bot": {**BOT, **SYMBOL, **more}}
    require_refused(given(tmp_path, artifacts=artifacts), "artifacts.bot", hint)
    require_refused(given(tmp_path, artifacts=artifacts), what, hint)


def test_an_artifact_needs_a_command(tmp_path: Path) -> None:
    require_refused(given(tmp_path, artifacts={"bot": {}}), "artifacts.bot.command: is missing", "")


def test_a_directory_of_logs_has_no_percent_sign(tmp_path: Path) -> None:
    logs = tmp_path / "100%"
    logs.mkdir()
    require_refused(given(tmp_path, logs=str(logs)), "logs: has a %", "another directory")


def test_the_secret_is_in_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_PASSWORD", "geheim-7")
    settings = given(tmp_path, user="me", password={"env": "HOST_PASSWORD"}, modes=["real"])
    with pytest.raises(InvalidSetting) as refused:
        open_adapter("host", settings)
    assert "geheim" not in str(vars(refused.value))


def test_the_example_is_what_the_adapter_takes(tmp_path: Path) -> None:
    document = read_any(EXAMPLE.read_bytes())
    assert not document.findings
    ((adapter, settings),) = document.value["adapters"].items()
    assert settings.pop("kind") == "supervisor"
    settings.pop("tenants", None)
    (tmp_path / "password").write_text("secret")
    here = {
        "directory": str(tmp_path),
        "logs": str(tmp_path),
        "password": {"file": str(tmp_path / "password")},
    }
    for artifact in settings["artifacts"].values():
        artifact["directory"] = str(tmp_path)
        artifact["user"] = "nobody"
    opened = supervisor_settings(adapter, {**settings, **here})
    assert opened.artifacts
