"""A canary in every source of secrets is used by steps, and is found nowhere: not in the store, not in what is shown of a
run, not in the environment or the arguments of any process but the operator's own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import sovrun
from sovrun.sandbox.redaction import Redaction
from support import attacker
from support.tasks import require_bubblewrap
from support.up import until

CANARIES = {"env": "canary/env+7f3a91", "file": "canary/file+b04c22", "dir": "canary/dir+ü+9d1e"}
SECRETS = "secrets: {ENV: of-env, FILE: of-file, DIR: of-dir}"
DAG = f"""
apiVersion: sovrun/v1
kind: Dag
metadata: {{id: canary}}
steps:
  - {{id: use, python: "plug:use", {SECRETS}}}
  - {{id: program, argv: [program.sh], {SECRETS}}}
  - {{id: tell, python: "plug:tell", {SECRETS}, needs: [use, program], retry: {{maxAttempts: 1}}}}
  - {{id: give, python: "plug:give", {SECRETS}, needs: [use, program]}}
  - {{id: keep, python: "plug:keep", {SECRETS}, needs: [use, program]}}
  - {{id: hold, python: "plug:hold", {SECRETS}, needs: [use, program]}}
"""
PLUG = """
import base64, hashlib, json, os, sys, time
from urllib.parse import quote
from sovrun import step

NAMES = ("ENV", "FILE", "DIR")

def use():
    return {name: hashlib.sha256(step.secret_bytes(name)).hexdigest() for name in NAMES}

def tell():
    for name in NAMES:
        value = step.secret(name)
        print(value, json.dumps(value), quote(value), quote(value, safe=""), value.encode().hex(), file=sys.stderr)
        for offset in range(3):
            print(base64.b64encode(b"x" * offset + value.encode()).decode())
        for character in value:
            print(character, end="", flush=True)
        print()
    raise ValueError("refused: " + " ".join(map(step.secret, NAMES)))

def give():
    return ["Bearer " + step.secret("ENV")]

def keep():
    path = step.work_dir() / "token"
    path.write_text(step.secret("DIR"))
    return step.keep_file(path)

def hold():
    held = [step.secret(name) for name in NAMES]
    print("holding", len(held), flush=True)
    time.sleep(3600)
"""
PROGRAM = """#!/bin/sh
cat secrets/ENV secrets/FILE secrets/DIR | sha256sum | tr -d ' \\n-' | sed 's/.*/"&"/' > outputs/sum.json
cat secrets/DIR
"""


class Operator:
    """Somebody of the host who runs Sovrun, with a store and sources of secrets of their own."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.folder = Path(tempfile.mkdtemp(prefix="sovrun-canary-", dir="/tmp"))
        self.store = self.folder / "s" / "s.db"
        self._python = attacker._python(uid)
        source = Path(sovrun.__file__).parents[1]
        paths = [str(source), *(path for path in sys.path if path.endswith("site-packages"))]
        self._environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "PYTHONPATH": ":".join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
        }
        self._lay_out()
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, uid, -1)
        self.folder.chmod(0o755)

    def _lay_out(self) -> None:
        dag, held = self.folder / "dag", self.folder / "held"
        for folder in (dag, held, held / "dir", self.store.parent):
            folder.mkdir()
        (dag / "dag.yaml").write_text(DAG)
        (dag / "plug.py").write_text(PLUG)
        (dag / "program.sh").write_text(PROGRAM)
        (dag / "program.sh").chmod(0o755)
        (held / "file.json").write_text(json.dumps({"of-file": CANARIES["file"]}))
        (held / "dir" / "of-dir").write_text(CANARIES["dir"] + "\n")
        for secret in (held / "file.json", held / "dir" / "of-dir"):
            secret.chmod(0o600)
        self.sources = [f"dir:{held}/dir", f"file:{held}/file.json", "env:CANARY_"]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start what executes steps; it alone is given the secrets."""
        sources = [word for source in self.sources for word in ("--secrets", source)]
        with (self.folder / "said").open("ab") as said:
            return subprocess.Popen(
                [self._python, "-m", "sovrun", *arguments, "--store", f"sqlite:{self.store}", *sources],
                env={**self._environment, "CANARY_of-env": CANARIES["env"]},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                **self._as_user(),
            )

    def do(self, *arguments: str) -> str:
        """Run a command on the same store, without the secrets, and return what it says."""
        done = subprocess.run(
            [self._python, "-m", "sovrun", *arguments, "--store", f"sqlite:{self.store}"],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **self._as_user(),
        )
        return done.stdout

    def _as_user(self) -> dict[str, Any]:
        return {} if self.uid == os.getuid() else {"user": self.uid, "group": self.uid, "extra_groups": []}

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """Give everything that is kept or shown of what was done."""
        for path in (*self.store.parent.rglob("*"), self.folder / "said"):
            if path.is_file():
                yield str(path), path.read_bytes()
        (run,) = json.loads(self.do("runs", "--json"))["runs"]
        for command in ("show", "events", "logs"):
            for as_json in ((), ("--json",)):
                shown = self.do(command, run["runId"], *as_json)
                assert shown, command
                yield f"sovrun {command}", shown.encode()

    def close(self) -> None:
        shutil.rmtree(self.folder)


@pytest.fixture(params=attacker.users(), ids=lambda uid: "root" if uid == 0 else "ordinary user")
def operator(request: pytest.FixtureRequest) -> Iterator[Operator]:
    require_bubblewrap()
    made = Operator(request.param)
    yield made
    made.close()


def _steps(operator: Operator, run: str) -> dict[str, dict[str, Any]]:
    return {step["id"]: step for step in json.loads(operator.do("show", run, "--json"))["steps"]}


def _run_of(operator: Operator) -> str:
    def look() -> str | None:
        shown = operator.do("runs", "--json")
        runs = json.loads(shown).get("runs") if shown else None
        return runs[0]["runId"] if runs else None

    found: str = until(look, "the run")
    return found


def _until_only_the_holder_runs(operator: Operator, run: str) -> None:
    def look() -> bool:
        states = {name: step["state"] for name, step in _steps(operator, run).items()}
        return states.pop("hold") == "executing" and set(states.values()) <= {"completed", "failed"}

    until(look, "all steps but one")
    until(lambda: "holding 3" in operator.do("logs", run, "hold"), "the step that holds its secrets")


def _holders(canary: str) -> list[Path]:
    """Return the processes of the host whose environment or arguments hold a canary, as far as can be seen."""
    found = []
    redaction = Redaction([canary.encode()])
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and any(
                redaction.is_in((folder / name).read_bytes()) for name in ("environ", "cmdline")
            ):
                found.append(folder)
    return found


def _assert_no_other_process_holds_one(operator: Operator) -> None:
    assert _holders(CANARIES["file"]) == []
    assert _holders(CANARIES["dir"]) == []
    found = _holders(CANARIES["env"])
    assert found, "those that were given the variable must have been seen"
    for process in found:  # the operator put it into the environment of these
        words = (process / "cmdline").read_bytes().split(b"\0")
        assert b"sovrun" in words or b"sovrun.service" in words, words
        assert process.stat().st_uid == operator.uid
        assert (process / "ns" / "user").stat().st_ino == Path("/proc/self/ns/user").stat().st_ino


def _assert_used(steps: dict[str, dict[str, Any]]) -> None:
    digests = {name.upper(): hashlib.sha256(value.encode()).hexdigest() for name, value in CANARIES.items()}
    together = hashlib.sha256("".join(CANARIES[kind] for kind in ("env", "file", "dir")).encode()).hexdigest()
    # What a step returned is named by the digest of its canonical form.
    canonical = json.dumps(digests, sort_keys=True, separators=(",", ":")).encode()
    assert steps["use"]["outputHash"] == hashlib.sha256(canonical).hexdigest()
    assert steps["program"]["outputHash"] == hashlib.sha256(f'{{"sum":"{together}"}}'.encode()).hexdigest()


def _assert_refused(operator: Operator, run: str, steps: dict[str, dict[str, Any]]) -> None:
    failures = {name: steps[name]["failure"] for name in ("tell", "give", "keep")}
    assert failures == {"tell": "step_raised", "give": "secret_in_output", "keep": "secret_in_output"}
    assert steps["tell"]["error"]["message"] == "ValueError: refused: *** *** ***"
    assert operator.do("logs", run, "tell").count("***") >= 3 * (1 + 3 + 5)


def _assert_found_nowhere(operator: Operator) -> None:
    redaction = Redaction(value.encode() for value in CANARIES.values())
    places = list(operator.texts())
    assert len(places) > 10
    assert [place for place, data in places if redaction.is_in(data)] == []
    assert [
        place for place, data in places if any(value.encode() in data for value in CANARIES.values())
    ] == []


@pytest.mark.parametrize("mode", ["run", "up"])
def test_a_canary_is_used_and_found_nowhere(operator: Operator, mode: str) -> None:
    file = str(operator.folder / "dag" / "dag.yaml")
    noted = ["--note", f"with {CANARIES['env']}"]
    run_command, up_command = ["run", file, "--workers", "4", *noted], ["up", "--slots", "4"]
    process = operator.start(*(run_command if mode == "run" else up_command))
    try:
        if mode == "up":
            until(lambda: operator.store.with_name("s.db.sock").exists(), "the server")
            operator.do("submit", file)
        run = _run_of(operator)
        _until_only_the_holder_runs(operator, run)
        _assert_no_other_process_holds_one(operator)
        _assert_found_nowhere(operator)
    finally:
        process.kill()
        process.wait()
    steps = _steps(operator, run)
    _assert_used(steps)
    _assert_refused(operator, run, steps)
    _assert_found_nowhere(operator)


def test_the_search_would_find_a_canary(operator: Operator) -> None:
    """What is asserted to find nothing finds what is there."""
    sleeper = subprocess.Popen(["sleep", "3600"], env={"LEAK": "x" + CANARIES["file"]}, **operator._as_user())
    try:
        until(lambda: _holders(CANARIES["file"]), "the process")
        assert [process.name for process in _holders(CANARIES["file"])] == [str(sleeper.pid)]
    finally:
        sleeper.kill()
        sleeper.wait()
