"""The pages about commands have the states, gates, codes, entries, kinds and routes that the program has."""

from __future__ import annotations

import json
import re
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import sovrun
import sovrun.execution.adapters
import sovrun.sdk
from sovrun.cli.waits import PARKED
from sovrun.core import errors
from sovrun.core.commands import journal
from sovrun.core.commands.gates import GATES
from sovrun.core.commands.journal import MOVES, CommandState, UnknownReason
from sovrun.core.commands.model import KINDS
from sovrun.core.ids import Digest
from sovrun.engine.command_desk import BY_PERSON
from sovrun.execution.adapter_set import AdapterSet
from sovrun.execution.drift import DriftWatch, Resolution
from sovrun.execution.layer import CommandLayer
from sovrun.execution.port import CONTRACT_VERSION, DeploymentStatus, OrderStatus
from sovrun.service.app import create_app
from sovrun.store.memory import MemoryStore
from sovrun.stores.files import FileStore
from support.clock import SetClock
from support.codes import literals
from support.commands import intention
from support.markdown import DOCS, blocks, first_cells, rows, section
from support.served import SetIdentity

GUIDE = (DOCS / "guides" / "commands.md").read_text()
ERRORS = section((DOCS / "reference" / "errors.md").read_text(), "Commands")
EVENTS = section((DOCS / "reference" / "events.md").read_text(), "Commands")
REST = (DOCS / "reference" / "rest.md").read_text()
CORE = Path(journal.__file__).parent


def names(cell: str) -> list[str]:
    return re.findall(r"[a-z_]+", cell)


def test_the_diagram_has_the_moves_of_the_journal() -> None:
    (diagram,) = [block.text for block in blocks(GUIDE) if block.language == "mermaid"]
    drawn = set(re.findall(r"^ +(\S+) --> (\S+)$", diagram, re.MULTILINE))
    moves = {(str(one), str(other)) for one, others in MOVES.items() for other in others}
    ends = {(str(one), "[*]") for one, others in MOVES.items() if not others}
    assert drawn == moves | ends | {("[*]", str(CommandState.INTENDED))}


def test_every_state_is_explained() -> None:
    told = rows(section(GUIDE, "The journal"))
    assert [row[0] for row in told] == [str(state) for state in CommandState]


def test_every_kind_is_listed_with_whether_it_needs_a_key_and_passes_the_gates() -> None:
    told = {row[0]: row[1:] for row in rows(section(GUIDE, "Perform one"))}
    assert set(told) == set(KINDS)
    for name, kind in KINDS.items():
        payload, key, gates = told[name]
        assert set(kind.schema["properties"]) <= set(re.findall(r"[a-zA-Z]+", payload))
        assert (key, gates) == ("yes" if kind.needs_key else "no", "yes" if kind.opens else "always")


def test_every_gate_is_explained_in_its_order() -> None:
    assert first_cells(section(GUIDE, "Gates")) == [gate for gate, _ in GATES]
    assert {gate for gate, _ in GATES} <= set(re.findall(r"`([a-z_]+)`", ERRORS.partition("### Gates")[2]))


def test_every_code_of_a_command_is_explained() -> None:
    told = [(code, row[1]) for row in rows(ERRORS) for code in names(row[0])]
    assert len(told) == len(dict(told)), "a code stands twice"
    states = dict(told)
    assert {code for code, state in told if state == "unknown"} == set(UnknownReason)
    parked = {code for code, state in told if "parked" in state}
    assert parked == set(literals(CORE, {"Park": 0})) == set(PARKED)
    adapters = Path(sovrun.execution.adapters.__file__).parent
    rejected = set(literals(adapters, {"Rejected": 0}))
    assert len(rejected) > 10
    ours = set(literals(adapters.parent, {"_refuse": 1})) | {BY_PERSON, "step_ended"}
    assert rejected | ours <= {code for code, state in states.items() if state == "refused"}


def test_every_difference_is_explained() -> None:
    assert first_cells(section(GUIDE, "Drift")) == [str(one) for one in Resolution]


def sample(annotation: str) -> Any:
    if "Intention" in annotation:
        return intention()
    if "UnknownReason" in annotation:
        return UnknownReason.TIMEOUT
    return 1 if "int" in annotation else Digest("0" * 64)


@pytest.mark.parametrize("kind", typing.get_args(journal.CommandEvent), ids=lambda kind: kind.__name__)
def test_every_entry_of_a_history_is_explained_with_its_data(kind: type[Any]) -> None:
    told = {row[0]: set(re.findall(r"`?([a-zA-Z]+)`?", row[1])) for row in rows(EVENTS)}
    event = kind(**{field.name: sample(str(field.type)) for field in fields(kind)})
    assert told[kind.type] == set(event.data())
    assert json.dumps(event.data())
    assert len(told) == len(typing.get_args(journal.CommandEvent))


def test_every_route_is_on_the_page_and_none_that_does_not_exist(tmp_path: Path) -> None:
    store, adapters, clock, identity = MemoryStore(SetClock()), AdapterSet({}), SetClock(), SetIdentity()
    layer = CommandLayer(store, adapters, clock, identity)
    watch = DriftWatch(store, adapters)
    app = create_app(store, FileStore(tmp_path), identity, layer, watch, isolation="in-process")
    routes = {
        f"{method} {path}"
        for path, methods in app.openapi()["paths"].items()
        for method in map(str.upper, methods)
    }
    told = set(re.findall(r"^\| `((?:GET|POST|PUT|PATCH) [^`?]+)[^`]*` \|", REST, re.MULTILINE))
    assert told == routes


def test_the_version_of_the_adapters_contract_is_that_of_the_code() -> None:
    page = (DOCS / "architecture" / "INTERFACES.md").read_text()
    (row,) = [row for row in rows(page) if "`ExecutionAdapter`" in row[0] and len(row) == 5]
    assert row[1] == str(CONTRACT_VERSION)
    (payloads,) = [row for row in rows(page) if row[0].startswith("[Payloads of commands]")]
    assert set(re.findall(r"`([a-z.]+)`", payloads[0])) == set(KINDS)
    assert {kind.version for kind in KINDS.values()} == {1}
    (python,) = [row for row in rows(page) if row[0].startswith("[Python]")]
    assert python[1] == str(sovrun.sdk.INTERFACE_VERSION)


def test_the_interfaces_state_every_payload_code_and_refusal_of_a_command() -> None:
    page = (DOCS / "architecture" / "INTERFACES.md").read_text()
    told = section(page, "Payloads of commands")
    for name, kind in KINDS.items():
        stated = {row[0]: row[1:] for row in rows(section(told, f"`{name}`, version {kind.version}"))}
        assert set(stated) == set(kind.schema["properties"])
        assert {member for member, row in stated.items() if row[0] == "yes"} == set(kind.schema["required"])
        for member, rule in kind.schema["properties"].items():
            assert rule.get("title", "") in stated[member][1]
            assert all(f"`{word}`" in stated[member][1] for word in rule.get("enum", ()))
    stated_codes = section(page, "Statuses, reasons, gates, differences")
    told_statuses = {(row[0].rpartition(" ")[2], row[1]) for row in rows(stated_codes) if len(row) == 3}
    kinds = {"deployment": DeploymentStatus, "order": OrderStatus, "command": CommandState}
    assert {(of, f"`{one}`") for of, ones in kinds.items() for one in ones} == {
        (of, f"`{one.strip('`')}`") for of, one in told_statuses
    }
    codes = [row[0] for row in rows(stated_codes) if len(row) == 2]
    assert codes == [*UnknownReason, *(gate for gate, _ in GATES), *Resolution]


def test_every_error_of_the_command_layer_is_among_its_refusals() -> None:
    told = first_cells(section((DOCS / "architecture" / "INTERFACES.md").read_text(), "Refusals"))
    source = Path(sovrun.__file__).parent
    places = [*(source / "execution").glob("*.py"), *(source / "core" / "commands").glob("*.py")]
    places += [
        source / "engine" / "command_desk.py",
        source / "engine" / "command_steps.py",
        source / "reach.py",
    ]
    raised = {name for place in places for name in re.findall(r"raise ([A-Z]\w+)\(", place.read_text())}
    codes = {getattr(errors, name).code for name in raised if hasattr(errors, name)}
    assert len(codes) >= 11
    assert codes - {"corrupt_history"} <= set(told)
    assert {"idempotency_key_conflict", "command_moved"} <= set(told), "raised by the journal of each store"
