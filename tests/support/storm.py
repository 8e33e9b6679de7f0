"""A storm: callers, a provider behind a bad line, and an orchestrator that is killed again and again.

Owns: `Storm`, which drives a real `sovrun up` over its socket as callers and a person do. What a storm must leave behind is
asserted by who raises it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from support.up import Up

TENANT: Final = "default"
CALLERS: Final = 16
AT_ONCE: Final = {"wait": 0}
UNDER_WAY: Final = frozenset({"intended", "sent", "unknown"})


@dataclass
class Storm:
    """A server that is killed while it is asked for commands through `client`."""

    up: Up
    client: httpx.AsyncClient
    seed: int
    kills: int
    kills_done: int = 0
    parked: set[str] = field(default_factory=set)
    sent_again: int = 0

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask the server, again and again while it is away; every request may be repeated."""
        while True:
            try:
                answer = await self.client.request(method, path, **more)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            if answer.status_code < 500:
                return answer
            await asyncio.sleep(0.05)

    async def command(self, number: int, kind: str, adapter: str, payload: Mapping[str, Any]) -> None:
        """Have one command journalled; what becomes of it is seen later."""
        body = {"kind": kind, "adapter": adapter, "payload": payload}
        headers = {"Idempotency-Key": f'"{kind}-{number}"'}
        answer = await self.ask("POST", "/commands", json=body, headers=headers, params=AT_ONCE)
        taken = answer.status_code in (200, 202) or answer.json()["code"] == "idempotency_key_in_flight"
        assert taken, answer.text

    async def callers(self, kind: str, adapter: str, payloads: Sequence[Mapping[str, Any]]) -> None:
        """Ask for all commands, some at a time."""
        free = asyncio.Semaphore(CALLERS)

        async def one(number: int, payload: Mapping[str, Any]) -> None:
            async with free:
                await self.command(number, kind, adapter, payload)

        await asyncio.gather(*(one(number, payload) for number, payload in enumerate(payloads)))

    async def killer(self, asked: Sequence[Any], expected: int) -> None:
        """Kill the server whenever the provider has been asked a random number of times more, and start it again."""
        chance = random.Random(self.seed)
        for at in sorted(chance.sample(range(1, expected), self.kills)):
            while len(asked) < at:  # noqa: ASYNC110 -- whoever is asked tells nobody
                await asyncio.sleep(0.001)
            await asyncio.to_thread(self.up.kill)
            self.kills_done += 1
            await asyncio.to_thread(self.up.start)

    async def commands(self) -> list[dict[str, Any]]:
        answer = await self.ask("GET", "/commands", params={"limit": 1_000})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["commands"]
        return found

    async def rage(
        self,
        kind: str,
        adapter: str,
        payloads: Sequence[Mapping[str, Any]],
        asked: Sequence[Any],
        expected: int,
    ) -> None:
        """Ask for all commands while the server is killed and a person looks after what is parked."""
        person = asyncio.create_task(self._person())
        try:
            await asyncio.gather(self.callers(kind, adapter, payloads), self.killer(asked, expected))
        finally:
            person.cancel()
            await asyncio.gather(person, return_exceptions=True)

    async def settled(self, patience: float = 120) -> list[dict[str, Any]]:
        """Wait until every command is concluded."""
        async with asyncio.timeout(patience):
            while True:
                found = await self._looked_after()
                if not any(command["state"] in UNDER_WAY for command in found):
                    return found
                await asyncio.sleep(0.3)

    async def _person(self) -> None:
        while True:
            await self._looked_after()
            await asyncio.sleep(0.3)

    async def _looked_after(self) -> list[dict[str, Any]]:
        """Have those sent again that nobody can know of; return all commands as they were.

        They are not at the provider: what is there would have been found.
        """
        found = await self.commands()
        for command in found:
            if command["parked"]:
                await self._send_again(command["commandId"])
        return found

    async def _send_again(self, name: str) -> None:
        self.parked.add(name)
        body = {"verdict": "resend", "rationale": "it is not there"}
        answer = await self.ask("POST", f"/commands/{name}/resolution", json=body)
        self.sent_again += answer.status_code == 200
        assert answer.status_code in (200, 409), answer.text

    async def history(self, name: str) -> list[str]:
        answer = await self.ask("GET", f"/commands/{name}")
        return [entry["type"] for entry in answer.json()["history"]]


@asynccontextmanager
async def storm(folder: Path, adapters: Mapping[str, Any], *, seed: int, kills: int) -> AsyncIterator[Storm]:
    """Give a server with these adapters, about to be killed; nothing of it is left at the end."""
    file = folder / "adapters.json"
    file.write_text(json.dumps({"adapters": adapters}))
    options = (
        "--isolation",
        "in-process",
        "--workers",
        "1",
        "--slots",
        "1",
        "--grace",
        "1",
        "--adapters",
        str(file),
    )
    server = Up(folder, options)
    await asyncio.to_thread(server.start)
    transport = httpx.AsyncHTTPTransport(
        uds=str(server.socket), verify=False
    )  # plain HTTP: certificates need not be read
    client = httpx.AsyncClient(
        transport=transport,
        base_url="http://sovrun/api/v1",
        headers={"X-Tenant-Id": TENANT, "X-Actor": "local:storm"},
        timeout=30,
    )
    try:
        async with client:
            yield Storm(server, client, seed, kills)
    finally:
        if server.process is not None and server.process.poll() is None:
            await asyncio.to_thread(server.stop)
