"""Kill `sovrun up`, its workers and its steps at random moments while runs proceed; everything must complete.

Prints figures as JSON and exits 1 when a rule was broken: a run that did not complete, an acknowledged submission that
is gone, a history that the independent checker refuses, an outcome that is not that of an undisturbed run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovrun.core.canonical import decode
from sovrun.core.errors import SovrunError
from sovrun.core.identity import RunKey
from sovrun.core.ids import RunId, Tenant
from sovrun.core.lifecycle import State
from sovrun.core.spec.normal import spec_from_normal
from sovrun.engine.handler import KnownDag, RunRequest
from sovrun.engine.history import chain_head
from sovrun.simulation.checker import check
from sovrun.simulation.histories import History, entry_of
from sovrun.store.protocol import RunRecord
from sovrun.wiring import StoreAddress, local_actor, open_engine, open_reader, open_submitting

TENANT = Tenant("default")
VARIANTS = 5
KINDS = ("server", "worker", "step")
WEIGHTS = (3, 3, 4)
PLUG = """
import time

def work(seed, pause, before=None):
    time.sleep(pause)
    return {"n": (seed * 7919 + sum(before or [])) % 1000003}
"""


def document(steps: int, pause: float) -> str:
    """Return a DAG of `steps` steps in lanes of four that a last step joins."""
    lines = [
        "apiVersion: sovrun/v1",
        "kind: Dag",
        "metadata: {id: kills}",
        "inputs: {type: object, properties: {seed: {type: integer}}, required: [seed]}",
        "steps:",
    ]
    for number in range(steps):
        last = number == steps - 1
        needs = list(range(max(0, number - 4), number)) if last else [number - 4] if number >= 4 else []
        given = [f"seed: {{from: inputs.seed}}, pause: {pause}"]
        if needs:
            given.append("before: [" + ", ".join(f"{{from: steps.s{need:03d}.n}}" for need in needs) + "]")
        named = ", ".join(f"s{need:03d}" for need in needs)
        lines.append(
            f"  - {{id: s{number:03d}, python: 'plug:work', needs: [{named}], with: {{{', '.join(given)}}}, "
            "retry: {maxAttempts: 1000, maxFailures: 1000, base: 10ms, cap: 50ms}}"
        )
    return "\n".join(lines) + "\n"


@dataclass
class Server:
    """The server under fire: `sovrun up` in a process of its own, which is started again when it is gone."""

    store: Path
    isolation: str
    workers: int
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.store.with_name("up.log")

    def start(self) -> None:
        """Start it, without waiting until it serves."""
        self.starts += 1
        command = [sys.executable, "-m", "sovrun", "up", "--store", f"sqlite:{self.store}"]
        command += ["--isolation", self.isolation, "--workers", str(self.workers), "--slots", "2"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, stdin=subprocess.DEVNULL)  # noqa: S603

    def victims(self, kind: str) -> list[int]:
        """Return the processes of one kind that are alive now."""
        if self.process is None or self.process.poll() is not None:
            return []
        if kind == "server":
            return [self.process.pid]
        workers = [pid for pid in children(self.process.pid) if b"worker" in command_line(pid)]
        if kind == "worker":
            return workers
        return [pid for worker in workers for pid in descendants(worker)]

    def stop(self) -> int:
        """Stop it as an operator does. Returns: its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def children(pid: int) -> list[int]:
    """Return the processes whose parent this one is."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Return all processes below one."""
    found = children(pid)
    for child in list(found):
        found += descendants(child)
    return found


def command_line(pid: int) -> bytes:
    """Return the command of a process, empty when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


class Assault:
    """One whole experiment."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.random = random.Random(options.seed)  # noqa: S311 -- moments and victims, reproducible in kind
        self.file = folder / "dag" / "dag.yaml"
        self.file.parent.mkdir()
        self.file.write_text(document(options.steps, options.pause))
        (self.file.parent / "plug.py").write_text(PLUG)
        self.server = Server(folder / "s.db", options.isolation, options.workers)
        self.address = StoreAddress(folder / "s.db")
        self.kills: Counter[str] = Counter()
        self.acknowledged: dict[int, RunId] = {}
        self.refused_submissions = 0

    async def run(self) -> dict[str, Any]:
        """Carry it out and return the figures."""
        begun = time.monotonic()
        expected = await self.undisturbed()
        self.server.start()
        submitting = asyncio.create_task(self.submit_all())
        try:
            await self.fire()
            if self.server.process is None or self.server.process.poll() is not None:
                self.server.start()
            await submitting
            await self.all_ended()
            code = self.server.stop()
        finally:
            submitting.cancel()
            if self.server.process is not None and self.server.process.poll() is None:
                self.server.process.kill()
        figures, violations = await self.judged(expected)
        return {
            "benchmark": "kill",
            "seed": self.options.seed,
            "isolation": self.options.isolation,
            "runs": len(self.acknowledged),
            "stepsPerRun": self.options.steps,
            "kills": dict(self.kills),
            "killed": sum(self.kills.values()),
            "serverStarts": self.server.starts,
            "submissionsRepeated": self.refused_submissions,
            **figures,
            "exitCode": code,
            "seconds": round(time.monotonic() - begun, 1),
            "violations": violations,
        }

    async def undisturbed(self) -> list[str]:
        """Return the outcome hash of each variant where nothing is killed, from a store of its own."""
        outcomes = []
        async with open_engine(StoreAddress(None), isolation="in-process", slots=8) as opened:
            dag = opened.load(self.file, TENANT)
            await opened.engine.register(dag, local_actor())
            for variant in range(VARIANTS):
                submitted = await opened.engine.submit(self.request(dag, variant, "in-process"))
                record = await opened.engine.wait(TENANT, submitted.run)
                assert record.head.outcome is not None
                outcomes.append(str(record.head.outcome))
        return outcomes

    def request(self, dag: KnownDag, number: int, isolation: str) -> RunRequest:
        """Return the request for one run."""
        key = RunKey(caller=f"run-{number}")
        given = {"seed": number % VARIANTS}
        return RunRequest(dag, given, key, local_actor(), isolation, None, 100)

    async def submit_all(self) -> None:
        """Submit the runs, spread over the kills; what was not acknowledged is submitted again under its key."""
        for number in range(self.options.runs):
            while sum(self.kills.values()) < number * self.options.kills * 0.9 / self.options.runs:  # noqa: ASYNC110 -- a script that polls
                await asyncio.sleep(0.05)
            while number not in self.acknowledged:
                if not (self.server.store.with_name("s.db.sock")).exists():
                    await asyncio.sleep(0.05)
                    continue
                try:
                    async with open_submitting(self.address) as opened:
                        dag = opened.load(self.file, TENANT)
                        submitted = await opened.submit(self.request(dag, number, self.options.isolation))
                        self.acknowledged[number] = submitted.run
                except SovrunError:
                    self.refused_submissions += 1
                    await asyncio.sleep(0.05)

    async def fire(self) -> None:
        """Kill until it is enough."""
        while sum(self.kills.values()) < self.options.kills:
            await asyncio.sleep(self.random.uniform(0.02, self.options.interval * 2))
            if self.server.process is None or self.server.process.poll() is not None:
                self.server.start()
            missing = [kind for kind in KINDS if not self.kills[kind]]  # each kind once before chance decides
            kind = missing[0] if missing else self.random.choices(KINDS, WEIGHTS)[0]
            victim = await self.victim(kind)
            if victim is None:
                continue
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.kills[kind] += 1
            if kind == "server":
                assert self.server.process is not None
                self.server.process.wait()
                await asyncio.sleep(self.random.uniform(0, 0.3))
                self.server.start()

    async def victim(self, kind: str) -> int | None:
        """Return a process of one kind, waiting a while for one to appear: a new server has no workers yet."""
        for _ in range(100):
            victims = self.server.victims(kind)
            if victims:
                return self.random.choice(victims)
            await asyncio.sleep(0.05)
        return None

    async def all_ended(self) -> None:
        """Wait until nothing is left to do. Raises: TimeoutError."""
        async with asyncio.timeout(self.options.patience), open_reader(self.address) as (reader, _):
            while await reader.unfinished():  # noqa: ASYNC110 -- the file of another process
                await asyncio.sleep(0.2)

    async def judged(self, expected: list[str]) -> tuple[dict[str, Any], list[str]]:
        """Return figures about what is recorded, and what is wrong with it."""
        found: list[str] = []
        histories: list[History] = []
        states: Counter[str] = Counter()
        events: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        reproducible = attempts = 0
        async with open_reader(self.address) as (reader, _):
            for number, run in sorted(self.acknowledged.items()):
                record: RunRecord = await reader.run(TENANT, run)
                spec = spec_from_normal(decode((await reader.dag(TENANT, record.head.version)).normal))
                entries = [entry_of(event) for event in await reader.events(TENANT, run)]
                head = await chain_head(reader, TENANT, run)
                histories.append(History(spec, entries, head))
                events.update(entry.type for entry in entries)
                failures.update(
                    e.data.get("failure") or e.data["reason"] for e in entries if "attempts" in e.data
                )
                states[record.head.state] += 1
                attempts += sum(step.attempts for step in await reader.steps(TENANT, run))
                failed = [(e.step, e.data["failure"]) for e in entries if e.type == "step.failed"]
                if record.head.state is not State.COMPLETED:
                    found.append(f"run {run} is {record.head.state}: {failed}")
                reproducible += bool(record.head.reproducible)
                if not record.head.reproducible or record.head.outcome != expected[number % VARIANTS]:
                    found.append(
                        f"run {run} has outcome {record.head.outcome}, not {expected[number % VARIANTS]}"
                    )
            late = await reader.late_reports(TENANT)
        found += [str(violation) for violation in check(histories)]
        figures = {
            "states": {str(state): count for state, count in states.items()},
            "reproducible": reproducible,
            "attempts": attempts,
            "lateReportsRefused": late,
            "failures": dict(sorted(failures.items())),
            "events": dict(sorted(events.items())),
        }
        return figures, found


def main() -> int:
    """Read the options, carry it out, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--isolation", default="sandbox")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--interval", type=float, default=0.8, help="mean seconds between kills")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds that a step takes")
    parser.add_argument("--patience", type=float, default=300, help="seconds after the last kill")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sovrun-kill-") as folder:
        figures = asyncio.run(Assault(options, Path(folder)).run())
    print(json.dumps(figures, indent=2))
    return 1 if figures["violations"] or figures["exitCode"] else 0


if __name__ == "__main__":
    sys.exit(main())
