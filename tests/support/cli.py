"""Driving the real command line in processes of its own, as a user does."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLUG = """
def collect(n):
    return {"items": list(range(n))}

def square(items):
    return {"items": [item * item for item in items]}

def add(left, right):
    return {"sum": sum(left) + sum(right)}

def fail():
    raise ValueError("this step always fails")
"""

DIAMOND = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: diamond, description: four steps}
inputs:
  type: object
  properties: {n: {type: integer, default: 5}}
steps:
  - {id: collect, python: "plug:collect", with: {n: {from: inputs.n}}}
  - {id: left, python: "plug:square", needs: [collect], with: {items: {from: steps.collect.items}}}
  - {id: right, python: "plug:square", needs: [collect], with: {items: {from: steps.collect.items}}}
  - id: total
    python: plug:add
    needs: [left, right]
    with: {left: {from: steps.left.items}, right: {from: steps.right.items}}
    resources: {wallSeconds: 60}
"""

ONE_FAILS = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: fails}
steps:
  - {id: bad, python: "plug:fail", retry: {maxAttempts: 1}}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def environment(**extra: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LC_ALL": "C.UTF-8", **extra}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sovrun", *map(str, arguments)]


def sovrun(*arguments: object, cwd: Path, stdin: bytes = b"", timeout: float = 120) -> Done:
    """Run a command to its end; a traceback in its output fails the test at once."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=timeout,
        env=environment(),
        check=False,
    )
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    assert "Traceback (most recent call last)" not in err, err
    return Done(done.returncode, out, err)


def start(*arguments: object, cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*arguments), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def write_dag(directory: Path, text: str = DIAMOND, plug: str = PLUG, name: str = "dag.yaml") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "plug.py").write_text(plug)
    file = directory / name
    file.write_text(text)
    return file
