"""What a declared endpoint costs a step: its start, a call, and bytes, beside the same without a sandbox. Prints JSON.

Read the ratios: every variant meets the same neighbours, in one shuffled loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from sovrun.core.ids import RunId, StepId, Tenant
from sovrun.core.network import Endpoint
from sovrun.core.spec.model import Kind, Resources
from sovrun.ports import Succeeded, Task
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.network import AllowedEndpoint
from sovrun.sandbox.settings import SandboxSettings

SIZE = 1 << 26
CALLS = 200
CLIENT = f"""
import socket, time

def nothing():
    return 0

def calls(host, port):
    began = time.perf_counter()
    for _ in range({CALLS}):
        with socket.create_connection((host, port)) as made:
            made.sendall(b"c")
            made.recv(1)
    return (time.perf_counter() - began) / {CALLS} * 1e3

def transfer(host, port):
    data = bytes(1 << 20)
    began = time.perf_counter()
    with socket.create_connection((host, port)) as made:
        made.sendall(b"t")
        for _ in range({SIZE >> 20}):
            made.sendall(data)
        made.shutdown(socket.SHUT_WR)
        made.recv(1)
    return {SIZE >> 20} / (time.perf_counter() - began)
"""


def serve(listening: socket.socket) -> None:
    """Answer each connection with one byte: at once, or when all that it sends has been read."""

    def answer(made: socket.socket) -> None:
        with made:
            if made.recv(1) == b"t":
                while made.recv(1 << 17):
                    pass
            made.sendall(b".")

    while True:
        made, _ = listening.accept()
        threading.Thread(target=answer, args=(made,), daemon=True).start()


def task_of(code: Path, function: str, endpoints: tuple[Endpoint, ...], **arguments: object) -> Task:
    """Return a step that calls a function of `CLIENT`."""
    return Task(
        tenant=Tenant("bench"),
        run=RunId("0" * 32),
        step=StepId("bench"),
        attempt=1,
        kind=Kind.PYTHON,
        entry=f"client:{function}",
        arguments=json.dumps(arguments, separators=(",", ":")).encode(),
        resources=Resources(),
        epoch=0,
        code=code,
        endpoints=endpoints,
    )


async def measure(rounds: int, seed: int) -> dict[str, dict[str, float]]:
    """Return starts in ms without and with endpoints, calls in ms and bytes in MiB/s, outside and through a listener."""
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listening,), daemon=True).start()
    port = listening.getsockname()[1]
    one = Endpoint("a.test", port)
    eight = (one, *(Endpoint(f"b{number}.test", port) for number in range(7)))
    allowed = tuple(AllowedEndpoint(endpoint, addresses=("127.0.0.1",)) for endpoint in eight)
    outside: dict[str, object] = {}
    exec(CLIENT, outside)  # noqa: S102 -- the same code outside a sandbox
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # noqa: ASYNC240 -- nothing else runs yet
        (folder / "client.py").write_text(CLIENT)
        executor = await SandboxExecutor.open(folder / "spool", SandboxSettings(endpoints=allowed))

        async def start(endpoints: tuple[Endpoint, ...]) -> float:
            began = time.perf_counter()
            await executor.execute(task_of(folder, "nothing", endpoints))
            return (time.perf_counter() - began) * 1e3

        async def inside(function: str) -> float:
            step = task_of(folder, function, (one,), host="a.test", port=port)
            outcome = await executor.execute(step)
            if not isinstance(outcome, Succeeded):
                raise RuntimeError(outcome.message)  # noqa: TRY004 -- it failed
            return float(outcome.output)

        async def bare(function: str) -> float:
            return float(await asyncio.to_thread(outside[function], "127.0.0.1", port))  # type: ignore[arg-type]

        variants = {
            "startWithoutNetworkMs": lambda: start(()),
            "startWithOneEndpointMs": lambda: start((one,)),
            "startWithEightEndpointsMs": lambda: start(eight),
            "callOutsideMs": lambda: bare("calls"),
            "callThroughListenerMs": lambda: inside("calls"),
            "bytesOutsideMiBps": lambda: bare("transfer"),
            "bytesThroughListenerMiBps": lambda: inside("transfer"),
        }
        found: dict[str, list[float]] = {title: [] for title in variants}
        order = list(variants) * rounds
        random.Random(seed).shuffle(order)  # noqa: S311 -- an order, no secret
        for title in order:
            found[title].append(await variants[title]())
        await executor.close()
    return {
        title: {"median": round(median(values), 3), "best": round(best(title, values), 3)}
        for title, values in found.items()
    }


def best(title: str, values: list[float]) -> float:
    """Return the value that neighbours disturbed least."""
    return max(values) if title.startswith("bytes") else min(values)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    print(json.dumps(asyncio.run(measure(told.rounds, told.seed)), indent=2))


main()
