"""A DAG with a wait for a person and one for a tool, and the command line bound to one store of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from support.cli import Done, sovrun, write_dag

PLUG = """
def propose(image):
    return {"image": image}

def release(proposal, scan):
    return {"released": proposal["image"], "findings": scan["findings"]}
"""

RELEASE = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: release}
inputs:
  type: object
  properties: {image: {type: string, default: app}}
steps:
  - {id: propose, python: "plug:propose", with: {image: {from: inputs.image}}}
  - id: approve
    confirm: {role: release-manager, show: {from: steps.propose}, expires: 14d}
    needs: [propose]
  - id: scan
    tool: {name: scanner, deadline: 2h}
    needs: [approve]
    with: {image: {from: steps.propose.image}}
    outputs: {type: object, properties: {findings: {type: integer}}, required: [findings]}
  - {id: release, python: "plug:release", needs: [scan], with: {proposal: {from: steps.propose}, scan: {from: steps.scan}}}
"""
AS_MANAGER = ("--role", "release-manager")
OTHER = "a" * 64


class Site:
    """A directory with the DAG and a store; every command is a process of its own that has ended when it returns."""

    def __init__(self, folder: Path, text: str = RELEASE, plug: str = PLUG) -> None:
        self.folder = folder
        self.file = write_dag(folder / "dag", text, plug)
        self.store = f"sqlite:{folder / 'runs.db'}"

    def copied(self, folder: Path) -> Site:
        """Return a site of its own that begins as this one is now."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Site(folder)

    def tell(self, *arguments: object, stdin: bytes = b"") -> Done:
        """Run a command on the store as a person does."""
        return sovrun(*arguments, "--store", self.store, cwd=self.folder, stdin=stdin)

    def ask(self, *arguments: object, code: int = 0, stdin: bytes = b"") -> Any:
        """Run a command as a program does and return its JSON; it must end with `code`."""
        done = self.tell(*arguments, "--json", stdin=stdin)
        assert done.code == code, done.out + done.err
        return done.json

    def refusal(self, *arguments: object, code: int = 2) -> str:
        """Run a command that must be refused and return the code of its error."""
        refused: str = self.ask(*arguments, code=code)["error"]["code"]
        return refused

    def begun(self, *options: object, code: int = 4) -> str:
        """Make a run and return its id once it is left waiting."""
        run: str = self.ask("run", self.file, "--isolation", "in-process", *options, code=code)["runId"]
        return run

    def resumed(self, code: int) -> list[str]:
        """Execute what is left and return the states in which runs are left."""
        ended = self.ask("resume", "--isolation", "in-process", code=code)["ended"]
        return [one["status"] for one in ended]

    def waits(self) -> list[dict[str, Any]]:
        """Return what waits for a tool or a person."""
        found: list[dict[str, Any]] = self.ask("waiting")["waits"]
        return found

    def states(self, run: str) -> dict[str, str]:
        """Return the states of a run's steps by id."""
        return {step["id"]: step["state"] for step in self.ask("show", run)["steps"]}

    def events(self, run: str) -> list[dict[str, Any]]:
        """Return the history of a run."""
        return self.tell("events", run, "--json").lines()

    def approved(self, run: str) -> None:
        """Approve what the run shows now."""
        self.ask("approve", run, "approve", "--yes", *AS_MANAGER)

    def answered(self, run: str, findings: int = 0) -> None:
        """Answer for the scanner."""
        self.ask("answer", run, "scan", "--output", json.dumps({"findings": findings}))
