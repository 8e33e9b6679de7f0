"""Make a small store of today's schema with the real command line: two finished runs, and one that was killed.

    python tests/replay/record_store.py tests/data/stores/schema-NNNN.db.gz

Run it once for each schema, with the last program of that schema installed, and commit what it wrote; a store that users
may have is never made again. The DAGs have no code and no files, so the one file is all there is. Beside it, schema-NNNN.json
says what `sovrun show` and `sovrun events` said of the finished runs, and how the killed one ends when nobody kills it.
"""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COMPLETES = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: completes}
code: []
inputs: {type: object, properties: {n: {type: integer, default: 7}}}
steps:
  - {id: first, python: "builtins:dict", with: {n: {from: inputs.n}}}
  - {id: second, python: "builtins:dict", needs: [first], with: {n: {from: steps.first.n}, text: "é"}}
"""
FAILS = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: fails}
code: []
steps:
  - {id: broken, argv: [/bin/false], retry: {maxAttempts: 2, base: 1ms}}
  - {id: after, python: "builtins:dict", needs: [broken]}
"""
IS_KILLED = """
apiVersion: sovrun/v1
kind: Dag
metadata: {id: killed}
code: []
steps:
  - {id: before, python: "builtins:dict", with: {done: true}}
  - {id: pause, argv: [/bin/sleep, "0.2"], needs: [before]}
  - {id: after, python: "builtins:dict", needs: [pause], with: {before: {from: steps.before.done}}}
"""


def _sovrun(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sovrun", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _run(path: Path, name: str, text: str) -> subprocess.Popen[str]:
    document = path.parent / f"{name}.yaml"
    document.write_text(text)
    options = ("--isolation", "in-process", "--workers", "1", "--idempotency-key", name)
    return _sovrun("run", str(document), "--store", f"sqlite:{path}", *options)


def _read(path: Path, *arguments: str) -> str:
    return _sovrun(*arguments, "--store", f"sqlite:{path}", "--json").communicate()[0]


def _told(path: Path, run: dict[str, Any]) -> dict[str, Any]:
    events = _read(path, "events", run["runId"]).splitlines()
    shown = json.loads(_read(path, "show", run["runId"]))
    return {"shown": shown, "events": [json.loads(event) for event in events]}


def _kill_in(step: str, run: subprocess.Popen[str], path: Path) -> None:
    """Kill a run as soon as one of its steps executes."""
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    question = "SELECT count(*) FROM event WHERE step = ? AND type = 'step.executing'"
    while reader.execute(question, (step,)).fetchone() == (0,):
        assert run.poll() is None, "the run ended before it could be killed"
    run.kill()
    run.wait()
    reader.close()


def main() -> None:
    """Write the store that the command line names."""
    target = Path(sys.argv[1])
    assert not target.exists(), f"{target} is there already"
    with tempfile.TemporaryDirectory() as scratch:
        path, whole = Path(scratch, "runs.db"), Path(scratch, "whole.db")
        assert _run(path, "completes", COMPLETES).wait() == os.EX_OK
        assert _run(path, "fails", FAILS).wait() == 1
        finished = [_told(path, run) for run in json.loads(_read(path, "runs"))["runs"]]
        _kill_in("pause", _run(path, "killed", IS_KILLED), path)
        writer = sqlite3.connect(path)
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        writer.close()
        assert _run(whole, "killed", IS_KILLED).wait() == os.EX_OK
        [unharmed] = json.loads(_read(whole, "runs"))["runs"]
        target.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    told = {"finished": finished, "killed": unharmed["runId"], "outcomeOfKilled": unharmed["outcomeHash"]}
    target.with_name(target.name.replace(".db.gz", ".json")).write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
