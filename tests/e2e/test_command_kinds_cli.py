"""Kinds of commands that adapters declare, from the command line: their schemas, and what they are asked with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.cli import Done, sovrun
from support.up import up

FURTHER_SCHEMA = """
adapters:
  desk: {kind: http, mapping: desk.yaml}
  paper: {kind: paper}
"""
FURTHER_MAPPING = """
apiVersion: sovrun/http-adapter/v1
kind: HttpAdapter
baseUrl: http://127.0.0.1:9
modes: [paper]
tenant: default
processingDeadline: 10s
absenceIsConclusive: true
commands:
  book.move:
    version: 3
    schema: {type: object, properties: {by: {type: string}, to: {type: integer}}, required: [by]}
    decimals: [by]
    perform: {method: POST, path: "/books/{clientId}", body: {by: {from: payload.by}}}
    find: {path: "/books/{clientId}", items: [""]}
    clientId: /name
"""


class Desk:
    """A store of its own, and commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tell(self, *arguments: str) -> Done:
        return sovrun(*arguments, "--store", f"sqlite:{self.folder / 's.db'}", cwd=self.folder)

    def ask(self, *arguments: str, code: int = 0) -> Any:
        done = self.tell(*arguments, "--json")
        assert done.code == code, done.out + done.err
        return done.json

    def refusal(self, *arguments: str) -> str:
        refused: str = self.ask(*arguments, code=2)["error"]["code"]
        return refused


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_kinds_that_adapters_declare_have_schemas_and_members_of_their_types(desk: Desk) -> None:
    (desk.folder / "adapters.yaml").write_text(FURTHER_SCHEMA)
    (desk.folder / "desk.yaml").write_text(FURTHER_MAPPING)
    named = ("--adapters", "adapters.yaml")
    assert desk.tell("command", "deployment.pause", "--schema").json["required"] == ["deploymentId"]
    assert desk.tell("command", "book.move", "--schema", *named).json["required"] == ["by"]
    assert desk.refusal("command", "book.move", "--schema", "--adapter", "paper", *named) == "not_found"
    assert desk.refusal("command", "book.move", "--schema") == "not_found"
    asked = ("command", "book.move", "--adapter", "desk", "--key", "k", "--no-wait", *named)
    assert desk.refusal(*asked, "by=much") == "invalid_command"
    left = desk.ask(*asked, "by=1.50", "to=7", code=4)
    shown = desk.ask("commands", left["commandId"])
    assert (shown["version"], shown["payload"]) == (3, {"by": "1.5", "to": 7})


def test_a_server_tells_the_schemas_of_its_own_adapters() -> None:
    with up() as server:
        schema = server.do("command", "deployment.pause", "--schema")
        assert schema.json["required"] == ["deploymentId"]
        assert server.do("command", "deployment.sell", "--schema", "--json").code == 2
        paused = server.do(
            "command", "deployment.pause", "deploymentId=7", "--adapter", "paper", "--key", "k", "--json"
        )
        assert paused.json["error"]["code"] == "not_found", "a text where the schema wants one"
