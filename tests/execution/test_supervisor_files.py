"""What is written for supervisord, read back by supervisord's own reader: nothing in a payload is more than a text."""

from __future__ import annotations

import json
import shlex
import string
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from supervisor.options import ProcessConfig, ServerOptions

from sovrun.core.canonical import canonical
from sovrun.core.commands.model import CreateDeployment
from sovrun.core.ids import Actor, Tenant
from sovrun.execution.adapters.supervisor_files import (
    PARAMETERS_MAX,
    Folder,
    UnfitParameter,
    client_id_of,
    file_text,
    group_of,
    request_digest,
    stopped_text,
)
from sovrun.execution.adapters.supervisor_settings import (
    Artifact,
    Parameter,
    supervisor_settings,
    unfit_literal,
)
from sovrun.execution.port import Call, OutcomeUnknown

ID = "0123456789abcdef" * 2
TENANT = Tenant("acme")
CALL = Call(TENANT, Actor("local:alice"), "paper", ID)
GROUP = f"sovrun-acme-{ID}"
ORDER = CreateDeployment("maker", "bot", Decimal("1000.50"), {"symbol": "ACME"})

NASTY = st.text(
    st.sampled_from("'\"%;#\\\n\r\t =,:[](){}$`s\u00e9\u2028\U0001f600\x00\x7f")
    | st.characters(codec="utf-8")
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e15, 1e15) | NASTY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NASTY, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("conf.d")
    artifacts = {"bot": {"command": ["/bin/true", "--plain"], "parameters": {"type": "object"}}}
    made = supervisor_settings(
        "host", {"url": "unix:///s.sock", "directory": str(folder), "artifacts": artifacts}
    )
    return made.artifacts["bot"]


class Reader:
    """Supervisord's own reader of its configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "conf.d").mkdir()
        self.main = folder / "supervisord.conf"
        self.main.write_text(f"[supervisord]\n[include]\nfiles={folder}/conf.d/*.conf\n")

    def groups(self, text: str) -> dict[str, list[ProcessConfig]]:
        (self.folder / "conf.d" / "a.conf").write_text(text, encoding="ascii")
        options = ServerOptions()
        options.configfile, options.here = str(self.main), str(self.folder)
        options.process_config_file(do_usage=False)
        return {
            group.name: group.process_configs
            for group in options.configroot.supervisord.process_group_configs
        }

    def only(self, text: str) -> list[ProcessConfig]:
        """Return the processes of the one group that there must be."""
        groups = self.groups(text)
        assert list(groups) == [GROUP]
        return groups[GROUP]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("reader"))


def written(artifact: Artifact, order: CreateDeployment = ORDER, logs: Path | None = None) -> str:
    return file_text(CALL, GROUP, order, artifact, logs)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parameters=st.dictionaries(NASTY, JSON, max_size=5))
def test_whatever_parameters_say_arrives_as_text_in_one_variable_and_nowhere_else(
    reader: Reader, artifact: Artifact, parameters: dict[str, Any]
) -> None:
    (process,) = reader.only(written(artifact, replace(ORDER, parameters=parameters)))
    handed = process.environment.pop("SOVRUN_PARAMETERS")
    assert handed.isascii()
    assert canonical(json.loads(handed)) == canonical(parameters)
    assert process.environment == {
        "SOVRUN_CAPITAL": "1000.5",
        "SOVRUN_DEPLOYMENT_ID": ID,
        "SOVRUN_DEPLOYMENT_NAME": "maker",
        "SOVRUN_MODE": "paper",
        "SOVRUN_TENANT": "acme",
    }
    assert process.command == "/bin/true --plain"


@settings(max_examples=500, deadline=None)
@given(value=st.text(st.sampled_from(string.printable + "\u00e9\x00"), max_size=12))
def test_a_parameter_in_a_variable_of_its_own_arrives_exactly_or_is_refused(
    reader: Reader, artifact: Artifact, value: str
) -> None:
    placed = replace(artifact, environment={"BOT_SYMBOL": Parameter("symbol"), "BOT_AFTER": "yes"})
    order = replace(ORDER, parameters={"symbol": value})
    if any(character in value for character in "'\"%;#\\\n\r\t$`()[]{}<>|&!*?\x0b\x0c\x00\u00e9"):
        with pytest.raises(UnfitParameter):
            written(placed, order)
        return
    (process,) = reader.only(written(placed, order))
    assert process.environment["BOT_SYMBOL"] == value
    assert process.environment["BOT_AFTER"] == "yes"


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), (0.5, "0.5"), (True, "true"), ("", ""), ("a b", "a b"), (None, None)]
)
def test_scalars_become_the_text_of_a_variable(
    reader: Reader, artifact: Artifact, value: object, text: str | None
) -> None:
    placed = replace(artifact, environment={"BOT_SIZE": Parameter("size")})
    (process,) = reader.only(written(placed, replace(ORDER, parameters={"size": value})))
    assert process.environment.get("BOT_SIZE") == text


def test_a_missing_parameter_sets_no_variable_and_a_structure_fits_none(artifact: Artifact) -> None:
    placed = replace(artifact, environment={"BOT_SIZE": Parameter("size")})
    assert "BOT_SIZE" not in written(placed)
    with pytest.raises(UnfitParameter):
        written(placed, replace(ORDER, parameters={"size": [1]}))


def test_parameters_larger_than_a_variable_are_refused(artifact: Artifact) -> None:
    fits = "x" * (PARAMETERS_MAX - len('{"a":""}'))
    assert fits in written(artifact, replace(ORDER, parameters={"a": fits}))
    with pytest.raises(UnfitParameter):
        written(artifact, replace(ORDER, parameters={"a": fits + "x"}))


@settings(max_examples=500, deadline=None)
@given(
    words=st.lists(st.text(st.sampled_from("ab '\"%;#\\$`s()(here)"), max_size=8), max_size=3),
    value=st.text(st.sampled_from("ab '\"%;#\\,=s()(here)"), max_size=10),
)
def test_what_the_operator_declares_arrives_exactly_or_is_refused_beforehand(
    reader: Reader, artifact: Artifact, words: list[str], value: str
) -> None:
    words = [word for word in words if unfit_literal(f"-{word}-", quoted=False) is None]
    environment = {"BOT_X": value} if unfit_literal(value, quoted=True) is None else {}
    declared = replace(artifact, command=("/bin/echo", *words), environment=environment)
    (process,) = reader.only(written(declared))
    assert shlex.split(process.command) == ["/bin/echo", *words]
    assert process.environment.get("BOT_X") == environment.get("BOT_X")


def test_several_processes_have_a_name_each_and_a_log_each(
    reader: Reader, artifact: Artifact, tmp_path: Path
) -> None:
    logs, work = tmp_path / "logs", tmp_path / "100%"
    logs.mkdir()
    many = replace(
        artifact, directory=str(work), processes=2, restart="always", exit_codes=(0, 3), stop_signal="INT"
    )
    processes = reader.only(written(many, logs=logs))
    assert [process.name for process in processes] == [f"{GROUP}_00", f"{GROUP}_01"]
    assert {process.directory for process in processes} == {str(work)}
    assert [process.stdout_logfile for process in processes] == [
        f"{logs}/{process.name}.log" for process in processes
    ]
    assert {process.exitcodes == [0, 3] and process.stopsignal == 2 for process in processes} == {True}


def test_a_stopped_deployment_differs_only_in_not_being_started_again(
    reader: Reader, artifact: Artifact
) -> None:
    # A parameter that looks like the line which is changed must not be.
    text = written(artifact, replace(ORDER, parameters={"a": "\nautostart=true\n"}))
    (before,), (after,) = reader.only(text), reader.only(stopped_text(text))
    assert (before.autostart, after.autostart) == (True, False)
    after.autostart = True
    assert before == after
    assert stopped_text(stopped_text(text)) == stopped_text(text)


def test_the_file_tells_what_the_deployment_is(artifact: Artifact, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.kept(GROUP) is None
    text = written(replace(artifact, restart="never", exit_codes=(3,)))
    folder.write(GROUP, text)
    kept = folder.kept(GROUP)
    assert kept is not None
    assert (kept.name, kept.artifact, kept.capital, kept.mode) == ("maker", "bot", "1000.5", "paper")
    assert kept.actor == "local:alice"
    assert kept.digest == request_digest(ORDER, "paper")
    assert (kept.policy.starts, kept.policy.restart, kept.policy.exit_codes) == (
        True,
        "never",
        frozenset({3}),
    )
    folder.write(GROUP, stopped_text(text))
    stopped = folder.kept(GROUP)
    assert stopped is not None
    assert not stopped.policy.starts
    assert [path.name for path in tmp_path.iterdir()] == [f"{GROUP}.conf"]
    folder.remove(GROUP)
    folder.remove(GROUP)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "; sovrun {", "; sovrun 7", '; sovrun {"name": "x"}', "[program:x]\ncommand=x"]
)
def test_a_file_that_somebody_else_wrote_is_a_bad_answer(tmp_path: Path, text: str) -> None:
    (tmp_path / f"{GROUP}.conf").write_text(text)
    with pytest.raises(OutcomeUnknown) as unknown:
        Folder(tmp_path).kept(GROUP)
    assert unknown.value.reason == "bad_answer"


def test_everything_that_was_asked_for_is_in_the_digest() -> None:
    others = [
        request_digest(replace(ORDER, name="other"), "paper"),
        request_digest(replace(ORDER, artifact="other"), "paper"),
        request_digest(replace(ORDER, capital=Decimal("1000.51")), "paper"),
        request_digest(replace(ORDER, capital=None), "paper"),
        request_digest(replace(ORDER, parameters={}), "paper"),
        request_digest(ORDER, "live"),
    ]
    assert len({*others, request_digest(ORDER, "paper")}) == 7
    assert request_digest(replace(ORDER, capital=Decimal("1000.5")), "paper") == request_digest(
        ORDER, "paper"
    )


def test_a_group_belongs_to_one_tenant_only() -> None:
    assert group_of(TENANT, ID) == GROUP
    longer = Tenant(f"acme-{ID}")
    theirs = group_of(longer, ID)
    assert theirs is not None
    assert client_id_of(TENANT, GROUP) == ID
    assert client_id_of(longer, theirs) == ID
    assert client_id_of(TENANT, theirs) is None
    assert client_id_of(Tenant("acm"), GROUP) is None
    for other in ("", "nginx", ID, f"sovrun-acme-{ID[1:]}", f"{GROUP}0", ID.upper()):
        assert client_id_of(TENANT, other) is None
        assert other == ID or group_of(TENANT, other) is None
