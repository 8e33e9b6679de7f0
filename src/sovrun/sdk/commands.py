"""Commands from Python: the same calls on a store of one's own and beside the server that owns it.

Owns: `open_commands`, `Commands`, `Outcome`. Nothing is decided here: all of it goes through the one command layer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sovrun.core.commands.journal import CONCLUDED, CommandId, CommandState
from sovrun.core.errors import InvalidSetting
from sovrun.core.ids import Tenant, require_name, run_id
from sovrun.engine.command_desk import Verdict
from sovrun.execution.layer import CommandRequest
from sovrun.reach import CommandAccess, Concluded, UnderWay, open_access, schema_of
from sovrun.wiring import DEFAULT_TENANT, StoreAddress, local_actor

WAIT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a command.

    Args:
        command: its id, by which it is read and resolved.
        state: `confirmed` or `refused`, and while there is no outcome `intended`, `sent` or `unknown`.
        answer: the recorded answer, None while there is none; body: its bytes, the same for every repeat.
    """

    command: str
    state: str
    answer: Mapping[str, Any] | None
    body: bytes | None

    @property
    def is_concluded(self) -> bool:
        """Whether there is an outcome. Only then may a program act on it."""
        return CommandState(self.state) in CONCLUDED


class Commands:
    """The commands of one tenant. Made by `open_commands`; several may be performed at a time."""

    def __init__(
        self, access: CommandAccess, address: StoreAddress, tenant: Tenant, adapters: Path | None
    ) -> None:
        self._access = access
        self._address = address
        self._tenant = tenant
        self._adapters = adapters

    async def perform(
        self,
        kind: str,
        payload: Mapping[str, Any],
        *,
        adapter: str,
        key: str | None = None,
        mode: str = "paper",
        wait_seconds: float = WAIT_SECONDS,
    ) -> Outcome:
        """Perform one effect outside, at most once under its key, and return what is known of it by then.

        Args:
            kind: for example `order.place`; payload: JSON, decimals as texts.
            key: idempotency key: the same command under it has the first one's answer, for ever.
            wait_seconds: how long to wait for the outcome. With 0 the command is journalled; a server, or whoever
                performs the next command of the store, performs it.
        Raises: SovrunError, whose `code` says what is wrong; nothing was sent then.
        """
        asked = CommandRequest(self._tenant, kind, adapter, dict(payload), local_actor(), mode, key=key)
        told = await self._access.perform(asked, wait_us=round(wait_seconds * 1_000_000))
        return _outcome(told)

    async def read(self, command: str) -> dict[str, Any]:
        """Return a command with its `payload`, `answer` and `history`. Raises: SovrunError (`not_found`)."""
        return await self._access.read(CommandId(run_id(command)))

    async def resolve(
        self,
        command: str,
        verdict: Literal["confirmed", "refused", "resend"],
        *,
        rationale: str,
        resource: str | None = None,
    ) -> dict[str, Any]:
        """Say what became of a command whose outcome is unknown, after a look at the provider; return it as it is then.

        Args:
            resource: of what was confirmed, the provider's id.
        Raises: SovrunError; `illegal_transition` when its outcome is not unknown.
        """
        try:
            said = Verdict(verdict)
        except ValueError:
            raise InvalidSetting(
                f"{verdict!r:.40} is no verdict", hint=f"it is one of {', '.join(Verdict)}"
            ) from None
        name = CommandId(run_id(command))
        return await self._access.resolve(name, said, rationale=rationale, resource=resource)

    async def schema(self, kind: str, *, adapter: str | None = None) -> dict[str, Any]:
        """Return the JSON Schema of a kind's payload. Raises: SovrunError (`not_found`)."""
        return await schema_of(self._address, self._tenant, kind, adapter=adapter, adapters=self._adapters)


@asynccontextmanager
async def open_commands(
    store: str | None = None, *, tenant: str = DEFAULT_TENANT, adapters: str | Path | None = None
) -> AsyncIterator[Commands]:
    """Give the commands of a tenant. Where a server owns the store it performs them, else this process does.

    Args:
        store: `sqlite:PATH`; None means `$SOVRUN_STORE`, else the user's own.
        adapters: the file of the adapters' settings; None means `$SOVRUN_ADAPTERS`, else the paper provider alone. Of no
            effect where a server owns the store: its own settings count.
    Raises: SovrunError; `store_owned` when another process owns the store and does not serve it.
    """
    whose = Tenant(require_name(tenant, "tenant"))
    address, file = StoreAddress.parse(store), None if adapters is None else Path(adapters)
    async with open_access(address, whose, file) as access:
        yield Commands(access, address, whose, file)


def _outcome(told: Concluded | UnderWay) -> Outcome:
    if isinstance(told, UnderWay):
        return Outcome(told.command["commandId"], told.command["state"], None, None)
    answer = told.document
    return Outcome(answer["commandId"], answer["status"], answer, told.body)
