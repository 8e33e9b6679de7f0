"""The page about events has the data that the code records, and its example can be recomputed by anybody."""

from __future__ import annotations

import json
import re
import typing
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sovrun.core import events
from sovrun.core.network import Connection
from sovrun.core.walls import Walls
from support.markdown import DOCS, blocks, first_cells, rows, section

PAGE = (DOCS / "reference" / "events.md").read_text()
RECORDED = sorted((Path(__file__).parents[1] / "replay").glob("*/*.ndjson"))
KINDS: tuple[type[Any], ...] = typing.get_args(events.StepEvent)


def told() -> list[tuple[str, set[str], set[str]]]:
    """Return of each row and type the members that are always there and those that may be."""
    found = []
    for types, members, _ in rows(section(PAGE, "Data")):
        always, _, sometimes = members.partition(";")
        needed = set(re.findall(r"[a-zA-Z]+", always)) - {"none"}
        maybe = set(re.findall(r"`([a-zA-Z]+)`", sometimes))
        found += [(type_, needed, maybe) for type_ in re.findall(r"(?:run|step)\.[a-z_]+", types)]
    return found


def is_told(type_: str, members: set[str]) -> bool:
    return any(
        type_ == row and needed <= members - {"steps"} <= needed | maybe for row, needed, maybe in told()
    )


def sample(annotation: Any, *, absent: bool = False) -> Any:
    """Return a value of a field's type; what may be `absent` within it is so when it is asked for."""
    text = str(annotation)
    if "Budget" in text:
        return events.Budget(1, 1, 1, 1, None if absent else events.RunBudget(1, 1))
    if "Failure" in text:
        return events.Failure(
            "code",
            sample("Digest"),
            sample("Digest"),
            sample("Digest"),
            circumstance=False,
            retryable=True,
            connections=sample("Connection"),
            walls=sample("Walls"),
        )
    if "Walls" in text:
        return Walls(sample("Digest"), 7, "hard", warm=True)
    if "Connection" in text:
        return (Connection("a.test", 443, "closed", 1, 2, 3, 4),)
    if "tuple" in text:
        return (0,)
    return 1 if "int" in text else "0" * 64


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_an_event_of_a_step_records_is_on_the_page(kind: type[Any]) -> None:
    hints = {field.name: field.type for field in fields(kind)}
    for absent in (False, True):
        values = {
            name: None if absent and "None" in str(of) else sample(of, absent=absent)
            for name, of in hints.items()
        }
        event = kind(**values)
        data = json.loads(event.data()) if hasattr(event, "data") else {}
        assert is_told(kind.type, set(data)), (kind.type, sorted(data))


def test_what_is_told_of_a_connection_is_on_the_page() -> None:
    event = events.StepCompleted(
        sample("Digest"), sample("Digest"), None, 1, connections=sample("Connection")
    )
    (told_of_one,) = json.loads(event.data())["connections"]
    cells = first_cells(section(PAGE, "Connections"))
    assert set(told_of_one) == {name for cell in cells for name in re.findall(r"[a-zA-Z]+", cell)}


def test_what_is_told_of_the_walls_is_on_the_page() -> None:
    event = events.StepCompleted(sample("Digest"), sample("Digest"), None, 1, walls=sample("Walls"))
    told_of = json.loads(event.data())["walls"]
    assert set(told_of) == {cell.strip("`") for cell in first_cells(section(PAGE, "Walls"))}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_what_was_recorded_is_on_the_page(path: Path) -> None:
    for line in map(json.loads, path.read_text().splitlines()):
        assert set(line) == set(first_cells(section(PAGE, "An event")))
        assert is_told(line["type"], set(line["data"])), line


def example(name: str) -> str:
    return next(block.text for block in blocks(PAGE) if block.attributes.get("example") == name)


def test_the_example_can_be_recomputed_with_nothing_but_sha256_and_json() -> None:
    lines = [json.loads(line) for line in example("first").splitlines()]
    link = lines[0]["data"]["runToken"]
    for event in lines:
        hashed = {"event": event, "kind": "sovrun.event", "previous": link, "version": 1}
        text = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
        link = sha256(text.encode()).hexdigest()
    assert text == example("hashed").strip()
    assert link == example("link").strip()
    recorded = next(path for path in RECORDED if path.stem == "lost-lease").read_text().splitlines()[:2]
    assert example("first").splitlines() == recorded
