"""Record the histories of a release: small runs of the real engine parts on the real SQLite store.

    python tests/replay/record.py tests/replay/VERSION

Run it once for each release, with that release installed, and commit what it wrote. Histories are never edited or
recorded again: they stand for what users have. Of each run it writes NAME.ndjson, as `sovrun events --json` prints it,
and NAME.json: the DAG's normal form and code digest, the run, and its steps as the store had them at the end.

Time is a clock that moves by itself, so that only the environment digest depends on the machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sovrun.core.canonical import decode
from sovrun.core.identity import RunKey, code_digest
from sovrun.core.ids import Tenant, WorkerId, actor
from sovrun.core.spec.document import parse_dag
from sovrun.engine.attempt import Attempts
from sovrun.engine.handler import RunRequest, known_dag, registration_of, submission_of
from sovrun.engine.history import chain_head
from sovrun.engine.views import run_line
from sovrun.sandbox.in_process import InProcessExecutor
from sovrun.step import DoNotRetry
from sovrun.store.codec import shown
from sovrun.store.protocol import Lease, RunRecord
from sovrun.stores.files import FileStore
from sovrun.stores.sqlite.store import SqliteStore

TENANT = Tenant("recorded")
ACTOR = actor("local:recorder")
WORKER = WorkerId("recorder/1")
HEAD = "apiVersion: sovrun/v1\nkind: Dag\n"

DIAMOND = """
metadata: {id: diamond, description: four steps}
inputs: {type: object, properties: {n: {type: integer, default: 3}}}
steps:
  - {id: top, python: "plug:count", with: {n: {from: inputs.n}}}
  - {id: left, python: "plug:double", needs: [top], with: {items: {from: steps.top.items}}}
  - {id: right, python: "plug:double", needs: [top], with: {items: {from: steps.top.items}}}
  - {id: sum, python: "plug:add", needs: [left, right], with: {a: {from: steps.left}, b: {from: steps.right}}}
"""
FAILS = """
metadata: {id: fails}
steps:
  - {id: flaky, python: "plug:flaky", retry: {base: 5ms}}
  - {id: hopeless, python: "plug:hopeless", retry: {maxFailures: 2, base: 5ms, jitter: true}}
  - {id: final, python: "plug:final"}
  - {id: odd, python: "plug:odd"}
  - {id: after, python: "plug:count", needs: [flaky], with: {n: 1}}
  - {id: never, python: "plug:count", needs: [flaky, hopeless], with: {n: 1}}
  - {id: nor_this, python: "plug:count", needs: [never], with: {n: 1}}
"""
SELECTS = """
metadata: {id: selects}
steps:
  - {id: pick, python: "plug:pick", select: [left, middle, right]}
  - {id: left, python: "plug:count", needs: [pick], with: {n: 1}}
  - {id: middle, python: "plug:count", needs: [pick], with: {n: 2}}
  - {id: right, python: "plug:count", needs: [pick], with: {n: 3}}
  - {id: tail, python: "plug:count", needs: [right], with: {n: 4}}
  - {id: either, python: "plug:add", needs: [left, right], join: any, with: {a: {from: steps.left}, b: {from: steps.right}}}
  - {id: both, python: "plug:count", needs: [left, right], with: {n: 5}}
"""
LOSES = """
metadata: {id: loses}
steps:
  - {id: found, python: "plug:count", with: {n: 1}}
  - {id: lost, python: "plug:count", with: {n: 2}, retry: {maxAttempts: 2}}
  - {id: next, python: "plug:count", needs: [found], with: {n: 3}}
"""
FAIL_FAST = """
metadata: {id: fast}
failFast: true
steps:
  - {id: bad, python: "plug:final"}
  - {id: running, python: "plug:count", with: {n: 1}}
  - {id: waiting, python: "plug:count", needs: [running], with: {n: 2}}
  - {id: behind, python: "plug:count", needs: [bad], with: {n: 3}}
"""


def _functions() -> dict[str, Callable[..., Any]]:
    failures = iter([TimeoutError("nobody answered")])

    def flaky() -> Any:
        for error in failures:
            raise error
        return {"answered": True}

    def hopeless() -> Any:
        raise ValueError("never")

    def final() -> Any:
        raise DoNotRetry("for good")

    return {
        "plug:count": lambda n: {"items": list(range(n))},
        "plug:double": lambda items: {"items": [2 * item for item in items]},
        "plug:add": lambda a, b: {
            "sum": sum((a or {"items": []})["items"]) + sum((b or {"items": []})["items"])
        },
        "plug:pick": lambda: {"select": ["left", "middle"]},
        "plug:odd": lambda: {1, 2},
        "plug:flaky": flaky,
        "plug:hopeless": hopeless,
        "plug:final": final,
    }


class TickingClock:
    """Moves on by a millisecond whenever it is asked."""

    def __init__(self) -> None:
        self._now_us = 1_767_225_600_000_000  # 2026-01-01

    def now_us(self) -> int:
        self._now_us += 1_000
        return self._now_us


class Hand:
    """A worker whose every move is made by a scenario."""

    def __init__(self, store: SqliteStore, attempts: Attempts) -> None:
        self.store = store
        self._attempts = attempts

    async def claim(self, slots: int = 8) -> list[Lease]:
        return list(await self.store.claim(WORKER, slots, patience_us=50_000))

    async def report(self, leases: list[Lease]) -> None:
        await self.store.commit([await self._attempts.execute(lease) for lease in leases], worker=WORKER)

    async def work(self) -> None:
        while leases := await self.claim():
            await self.report(leases)


async def lose_leases(hand: Hand) -> None:
    """One step comes back once and completes; the other is lost as often as it may be."""
    await hand.claim()
    await hand.store.recover()
    for lease in await hand.claim():
        if lease.position == 0:
            await hand.report([lease])
    await hand.store.recover()
    await hand.work()


async def fail_before_the_rest(hand: Hand) -> None:
    """The failure is reported first, so that what runs goes on and what has not started is cancelled."""
    bad, *rest = await hand.claim()
    await hand.report([bad])
    await hand.report(rest)
    await hand.work()


SCENARIOS: dict[str, tuple[str, Callable[[Hand], Awaitable[None]]]] = {
    "completed": (DIAMOND, Hand.work),
    "failed-with-retries": (FAILS, Hand.work),
    "select-and-join": (SELECTS, Hand.work),
    "lost-lease": (LOSES, lose_leases),
    "fail-fast": (FAIL_FAST, fail_before_the_rest),
}


async def record(name: str, target: Path) -> None:
    """Run a scenario in a store of its own and write what it left."""
    document, scenario = SCENARIOS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = SqliteStore.open_owner(folder / "store.db", TickingClock())
        executor = InProcessExecutor(functions=_functions(), spool=folder / "spool")
        dag = known_dag(TENANT, parse_dag((HEAD + document).encode(), name=name), code_digest(()))
        await store.register(registration_of(dag, ACTOR))
        request = RunRequest(
            dag, {}, RunKey(caller=name), ACTOR, executor.isolation, "recorded for tests/replay"
        )
        submission, _ = submission_of(request)
        run = (await store.submit(submission)).run
        await scenario(Hand(store, Attempts(store, FileStore(folder / "files"), executor)))
        ended = await store.run(TENANT, run)
        events = [shown(event) for event in await store.events(TENANT, run)]
        steps = {
            spec.id: step._asdict()
            for spec, step in zip(dag.spec.steps, await store.steps(TENANT, run), strict=True)
        }
        head = await chain_head(store, TENANT, run)
        await store.close()
        await executor.close()
    lines = [json.dumps(event, separators=(",", ":")) for event in events]
    (target / f"{name}.ndjson").write_text("\n".join(lines) + "\n")
    written = _written(ended, head, decode(dag.normal), str(dag.code), steps)
    (target / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")


def _written(ended: RunRecord, head: str, normal: Any, code: str, steps: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": {**run_line(ended), "key": json.loads(ended.key), "chainHead": head},
        "code": code,
        "normal": normal,
        "steps": steps,
    }


def main() -> None:
    """Record every scenario in the directory that the command line names; it must not exist yet."""
    target = Path(sys.argv[1])
    target.mkdir()
    for name in SCENARIOS:
        asyncio.run(record(name, target))


if __name__ == "__main__":
    main()
