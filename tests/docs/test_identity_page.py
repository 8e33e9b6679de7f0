"""Every digest that names something can be made from its definition on the page alone.

Nothing of `sovrun.core.identity` is used: the objects are taken from the page, their values from files and from what the
command line recorded, and hashed with the standard library.
"""

from __future__ import annotations

import json
import sqlite3
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sovrun.core.retry import retry_delay_us
from sovrun.sandbox.environment import environment_digest, installed
from sovrun.step import tree_manifest
from support.cli import sovrun
from support.markdown import DOCS, blocks

PAGE = (DOCS / "reference" / "identity.md").read_text()
LAYOUTS = {
    block.attributes["digest"]: json.loads(block.text)
    for block in blocks(PAGE)
    if "digest" in block.attributes
}
DAG = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: named}
code: [plug.py, tool.sh]
inputs:
  type: object
  properties: {text: {type: string}, tree: {type: object}, n: {type: integer, default: 3}}
steps:
  - {id: zero, python: "plug:echo", with: {n: {from: inputs.n}, text: {from: inputs.text}}}
  - {id: alpha, argv: [tool.sh, "--quick"], needs: [zero], with: {tree: {from: inputs.tree}}}
  - {id: broken, python: "plug:fail", needs: [zero], retry: {maxAttempts: 1}}
  - {id: never, python: "plug:echo", needs: [broken], with: {n: 1}}
"""


def hashed(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode()).hexdigest()


def named(digest: str, **values: Any) -> str:
    """Return the digest of the page's object with its members filled in; every member must be told."""
    layout = LAYOUTS[digest]
    told = {name: value for name, value in layout.items() if name in ("kind", "version") or value == []}
    assert set(layout) - set(told) == set(values), digest
    return hashed({**told, **values})


def file_hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


class Recorded:
    """A run that the command line has made, and what can be known of it without Sovrun."""

    def __init__(self, folder: Path) -> None:
        (folder / "plug.py").write_text(
            "def echo(**given):\n    return given\n\n\ndef fail():\n    raise ValueError\n"
        )
        (folder / "tool.sh").write_text("#!/bin/sh\nprintf '{\"größe\": 1}' > outputs/told.json\n")
        (folder / "tool.sh").chmod(0o755)
        (folder / "dag.yaml").write_text(DAG)
        self.tree = folder / "tree"
        (self.tree / "below").mkdir(parents=True)
        (self.tree / "below" / "b.txt").write_text("b\n")
        (self.tree / "a.sh").write_text("a\n")
        (self.tree / "a.sh").chmod(0o700)
        (self.tree / "link").symlink_to("below/b.txt")
        store = f"sqlite:{folder / 'runs.db'}"
        done = sovrun(
            *("run", "dag.yaml", "--input", "text=é", "--input-file", f"tree={self.tree}", "--json"),
            *("--store", store, "--isolation", "in-process", "--idempotency-key", "one", "--tenant", "acme"),
            cwd=folder,
        )
        self.run = done.json
        self.steps = {step["id"]: step for step in self.run["steps"]}
        database = sqlite3.connect(folder / "runs.db")
        [[normal, self.recorded_code]] = database.execute("SELECT normal, code FROM dag_version")
        self.normal = json.loads(normal)
        self.payloads = dict(database.execute("SELECT digest, body FROM payload"))
        [[self.request]] = database.execute("SELECT request FROM caller_key")
        database.close()
        files = [[name, name == "tool.sh", file_hash(folder / name)] for name in ("plug.py", "tool.sh")]
        self.code = named("code", files=files)
        listing = [
            ["a.sh", True, file_hash(self.tree / "a.sh"), 2],
            ["below/b.txt", False, file_hash(self.tree / "below" / "b.txt"), 2],
            ["link", False, sha256(b"link\0below/b.txt").hexdigest(), 0],
        ]
        self.inputs = {"n": 3, "text": "é", "tree": {"$tree": named("tree", files=listing)}}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return _recorded(tmp_path_factory.mktemp("identity"))


@cache
def _recorded(folder: Path) -> Recorded:
    return Recorded(folder)


def test_the_code_and_the_version(recorded: Recorded) -> None:
    assert recorded.code == recorded.recorded_code
    assert named("dag", code=recorded.code, spec=recorded.normal) == recorded.run["dagVersion"]
    assert [step["id"] for step in recorded.normal["steps"]] == ["zero", "alpha", "broken", "never"]


def test_the_inputs_a_directory_among_them(recorded: Recorded) -> None:
    assert hashed(recorded.inputs) == recorded.run["inputsHash"]


def test_a_directory_that_a_step_returns_is_named_like_one_that_is_given() -> None:
    files = [["a/é", True, "0" * 64, 1], ["b", False, "1" * 64, 2]]
    manifest = tree_manifest([tuple(file) for file in reversed(files)])  # type: ignore[misc]
    assert sha256(manifest).hexdigest() == named("tree", files=files)


def test_the_run_and_the_request(recorded: Recorded) -> None:
    version, inputs = recorded.run["dagVersion"], hashed(recorded.inputs)
    token = named("run", tenant="acme", dag="named", dagVersion=version, inputs=inputs, key={"caller": "one"})
    assert (token, token[:32]) == (recorded.run["runToken"], recorded.run["runId"])
    assert named("request", dagVersion=version, inputs=inputs) == recorded.request


def test_the_steps(recorded: Recorded) -> None:
    given = recorded.inputs
    zero = {"entry": "plug:echo", "stepKind": "python", "inputs": hashed({"n": 3, "text": "é"})}
    alpha = {"entry": ["tool.sh", "--quick"], "stepKind": "argv", "inputs": hashed({"tree": given["tree"]})}
    broken = {"entry": "plug:fail", "stepKind": "python", "inputs": hashed({})}
    for name, made in {"zero": zero, "alpha": alpha, "broken": broken}.items():
        assert named("step", code=recorded.code, **made) == recorded.steps[name]["stepHash"], name
    assert recorded.steps["never"]["stepHash"] is None


def test_outputs_and_error_documents(recorded: Recorded) -> None:
    assert hashed({"n": 3, "text": "é"}) == recorded.steps["zero"]["outputHash"]
    assert hashed({"told": {"größe": 1}}) == recorded.steps["alpha"]["outputHash"]
    assert hashed(recorded.steps["broken"]["error"]) in recorded.payloads


def test_the_outcome_and_the_outputs(recorded: Recorded) -> None:
    steps = [
        {
            "id": step["id"], "state": step["state"], "cause": step["cause"], "stepHash": step["stepHash"],
            "output": step["outputHash"],
        }
        for step in recorded.run["steps"]
    ]  # fmt: skip
    assert set(LAYOUTS["outcome"]["steps"][0]) == set(steps[0])
    version, inputs = recorded.run["dagVersion"], recorded.run["inputsHash"]
    assert named("outcome", dagVersion=version, inputs=inputs, steps=steps) == recorded.run["outcomeHash"]
    outputs = [{"id": name, "output": recorded.steps[name]["outputHash"]} for name in ("zero", "alpha")]
    assert set(LAYOUTS["outputs"]["outputs"][0]) == set(outputs[0])
    assert named("outputs", outputs=outputs) == recorded.run["outputsHash"]


def test_the_environment() -> None:
    import platform  # noqa: PLC0415 -- the name is a member, too
    import sysconfig  # noqa: PLC0415

    made = named(
        "environment",
        distributions=sorted(installed()),
        implementation=platform.python_implementation(),
        platform=sysconfig.get_platform(),
        python=platform.python_version(),
    )
    assert made == environment_digest()


def test_the_replay_token(recorded: Recorded) -> None:
    run = recorded.run
    assert run["replayToken"] == f"sovrun1.{run['runId']}.{run['outcomeHash']}.{run['chainHead']}"


def test_jitter(recorded: Recorded) -> None:
    step_hash = recorded.steps["broken"]["stepHash"]
    for failures in range(1, 6):
        longest = min(8_000_000, 1_000_000 * 2 ** (failures - 1))
        drawn = int(sha256(f"sovrun.jitter/1:{step_hash}:{failures}".encode()).hexdigest(), 16) % (
            longest + 1
        )
        policy = {"base_us": 1_000_000, "cap_us": 8_000_000, "jitter": True}
        assert retry_delay_us(failures, step_hash=step_hash, **policy) == drawn


def test_every_layout_of_the_page_is_held_to(recorded: Recorded) -> None:
    assert set(LAYOUTS) == {
        "tree", "code", "dag", "run", "request", "step", "environment", "outcome", "outputs",
    }  # fmt: skip
    assert recorded.run["status"] == "failed"
