"""`sovrun up`: one process owns the file and serves it; the steps are executed by worker processes beside it.

Owns: the life of the server and its workers. A worker that dies is replaced; when the server is told to stop, workers
finish what they have begun within the grace time, at whose end they have it end, and what they could not finish is given
back.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from sovrun.core.errors import InvalidSetting, StoreUnavailable
from sovrun.core.ids import WorkerId
from sovrun.engine.engine import ENDING_SHARE
from sovrun.engine.hub import DRIFT_SECONDS, Hub
from sovrun.engine.isolation import mixed, unfit
from sovrun.execution.drift import DriftWatch
from sovrun.sandbox.environment import environment_digest
from sovrun.service import incidents
from sovrun.service.app import create_app
from sovrun.service.server import serving
from sovrun.stores.sqlite.store import SqliteStore
from sovrun.wiring import (
    StoreAddress,
    SystemClock,
    SystemIdentity,
    adapter_settings,
    files_of,
    open_commands,
    socket_of,
    worker_name,
)

RESPAWN_SECONDS: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class UpSettings:
    """What `sovrun up` is told.

    Args:
        workers: worker processes; slots: steps at a time in each.
        grace_seconds: after how long nothing of any step is left once the server was told to stop.
        adapters: the file of the adapters' settings.
        drift_seconds: how often providers are compared with what is recorded; None means never.
        allow: the operator's list of endpoints; secrets: where the values of secrets are, never a value.
    """

    address: StoreAddress
    isolation: str
    workers: int
    slots: int
    grace_seconds: float
    allow: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    adapters: Path | None = None
    drift_seconds: float | None = DRIFT_SECONDS


async def up(settings: UpSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises: StoreOwned, StoreUnavailable, StoreVersion, InvalidSetting."""
    path = settings.address.path
    if path is None:
        raise InvalidSetting("memory: cannot be served", hint="use sqlite:PATH")
    told = _Told()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.again)
    store = SqliteStore.open_owner(path, SystemClock())
    found = await unfit(
        store, settings.isolation
    )  # also what waits for an answer, for that may come at any time
    if found:
        await store.close()
        raise mixed(found, settings.isolation)
    files = files_of(path)
    commands = open_commands(store, adapter_settings(settings.adapters))
    watch = DriftWatch(store, commands.adapters, tell=_say)
    hub_of = Hub(
        *(store, files, environment_digest(), commands, watch),
        drift_seconds=settings.drift_seconds,
        at_once=told.at_once,
        silenced=incidents.worker_silent,
    )
    incidents.log_to_stderr()
    async with hub_of as hub:
        app = create_app(store, files, SystemIdentity(), commands, watch, isolation=settings.isolation)
        async with serving(app, socket_of(path)), _workers(settings, hub, told):
            workers = "1 worker" if settings.workers == 1 else f"{settings.workers} workers"
            _say(f"serving {settings.address} at {socket_of(path)} with {workers}")
            if hub.resumed:
                _say(f"took back {hub.resumed} steps that an interrupted engine had begun")
            stop, failed = asyncio.create_task(told.stop.wait()), asyncio.create_task(hub.failed())
            await asyncio.wait([stop, failed], return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if failed.done():
                _say("stopping")
                failed.result()
            failed.cancel()
            _say(_stopping(await _under_way(store), settings.grace_seconds))


class _Told:
    """What signals have said so far: the first to stop, another to do so at once."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()

    def again(self) -> None:
        """Take note of one more signal."""
        if not self.stop.is_set():
            self.stop.set()
        elif not self.at_once.is_set():
            _say("ending at once: what is under way is killed, and its leases are given back")
            self.at_once.set()


def _stopping(steps: int | None, grace_seconds: float) -> str:
    """Return what is being waited for, and how not to."""
    if steps is None:
        return "stopping"
    if not steps:
        return "stopping; no step is under way"
    what = "1 step" if steps == 1 else f"{steps:,} steps"
    return f"stopping; {what} may go on for up to {grace_seconds:g} s (another signal ends at once)"


async def _under_way(store: SqliteStore) -> int | None:
    """Return how many steps workers hold, of all tenants; None when the store cannot say so now."""
    with suppress(StoreUnavailable):
        tenants = {tenant for tenant, _ in await store.unfinished()}
        return sum([depth.executing for tenant in tenants for depth in await store.depths(tenant)])
    return None


@asynccontextmanager
async def _workers(settings: UpSettings, hub: Hub, told: _Told) -> AsyncIterator[None]:
    keepers = [asyncio.create_task(_keep_worker(settings, hub, told)) for _ in range(settings.workers)]
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


async def _keep_worker(settings: UpSettings, hub: Hub, told: _Told) -> None:
    """Run one worker process for as long as the server lives; what a dead one held goes to others at once."""
    identity = SystemIdentity()
    while True:
        name = WorkerId(f"{worker_name()}/{identity.fresh()}")
        command = [
            *(sys.executable, "-m", "sovrun", "worker", "--store", str(settings.address), "--name", name),
            *("--isolation", settings.isolation, "--slots", str(settings.slots)),
            *(word for endpoint in settings.allow for word in ("--allow-endpoint", endpoint)),
            *(word for source in settings.secrets for word in ("--secrets", source)),
        ]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                cwd=Path("/"),
                preexec_fn=partial(_die_with_parent, ctypes.CDLL(None), os.getpid()),
            )
        except OSError as error:
            _say(f"no worker can be started: {error}; trying again")
            await asyncio.sleep(RESPAWN_SECONDS)
            continue
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _stop(process, settings.grace_seconds, told)
            raise
        finally:
            with suppress(StoreUnavailable):  # then its silence is noticed, or the next start takes them back
                await hub.bury(name)
        _say(f"a worker ended with code {code}; starting another")
        await asyncio.sleep(RESPAWN_SECONDS)


async def _stop(process: asyncio.subprocess.Process, grace_seconds: float, told: _Told) -> None:
    """Let a worker finish what it has begun, for a while; then have it end its steps, and kill it when time is over.

    One that is told to end at once has no time.
    """
    ending = grace_seconds / ENDING_SHARE
    ends = [asyncio.create_task(process.wait()), asyncio.create_task(told.at_once.wait())]
    for number, patience in ((signal.SIGTERM, grace_seconds - ending), (signal.SIGQUIT, ending)):
        with suppress(ProcessLookupError):
            process.send_signal(number)
        done, _ = await asyncio.wait(ends, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if done:
            break
    for end in ends:
        end.cancel()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _die_with_parent(libc: ctypes.CDLL, parent: int) -> None:
    """Have the kernel kill this worker when the server dies, however it dies."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)


def _say(text: str) -> None:
    sys.stderr.write(f"sovrun up: {text}\n")
    sys.stderr.flush()
