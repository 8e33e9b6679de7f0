"""An adapter from outside: notes, each a file that is named by the command's client id.

A note that is written is never written again: the file is made in one move, and whoever comes second finds it.
"""

# ruff: noqa: ARG002 -- the arguments are the port's

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from sovrun.core.commands.model import CancelOrder, CommandKind, CreateDeployment, PlaceOrder, StopDeployment
from sovrun.core.errors import InvalidSetting
from sovrun.execution.port import (
    Call,
    Capabilities,
    Deployment,
    Done,
    Ledger,
    NotReached,
    Order,
    OutcomeUnknown,
    Portfolio,
    Rejected,
)
from sovrun.ports import Clock

WRITE: Final = CommandKind(
    name="note.write",
    version=1,
    schema={
        "type": "object",
        "properties": {
            "text": {"type": "string", "maxLength": 1000},
            "budget": {"title": 'a decimal in a text, such as "1.5"', "type": "string"},
        },
        "required": ["text"],
        "additionalProperties": False,
    },
    needs_key=True,
    opens=False,
    resource=None,
    decimals=("budget",),
)


def open_adapter(name: str, settings: Mapping[str, Any], *, ledger: Ledger, clock: Clock) -> NotesAdapter:
    """Return an adapter by the settings that stand beside its `kind`. Raises: InvalidSetting."""
    del ledger, clock
    if set(settings) != {"directory"} or not isinstance(settings["directory"], str):
        raise InvalidSetting(f"adapter {name}: it has the one setting `directory`")
    return NotesAdapter(name, Path(settings["directory"]))


class NotesAdapter:
    """`ExecutionAdapter` for notes."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.capabilities = Capabilities(
            resources=frozenset(),
            modes=frozenset({"paper", "live"}),
            processing_deadline_us=10_000_000,
            absence_is_conclusive=True,
            kinds={WRITE.name: WRITE},
        )
        self._directory = directory

    async def perform_further(self, call: Call, kind: str, payload: Mapping[str, Any]) -> Done | Rejected:
        """Write a note, unless it is there."""
        if kind != WRITE.name:
            return _no_such(kind)
        place = self._place(call, str(call.client_id))
        draft = place.with_suffix(f".{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(dict(payload)), encoding="utf-8")
        except OSError as error:
            raise NotReached(f"nothing was written to {self._directory}: {error.strerror}") from error
        try:
            os.link(draft, place)
        except FileExistsError:
            pass
        except OSError as error:
            raise OutcomeUnknown("server_error", f"{place}: {error.strerror}") from error
        finally:
            draft.unlink(missing_ok=True)
        return Done(self._told(place))

    async def find_performed(self, call: Call, kind: str, client_id: str) -> Mapping[str, Any] | None:
        """Return a note."""
        place = self._place(call, client_id)
        return self._told(place) if kind == WRITE.name and place.exists() else None

    def _place(self, call: Call, client_id: str) -> Path:
        return self._directory / call.tenant / f"{client_id}.json"

    def _told(self, place: Path) -> Mapping[str, Any]:
        return {"id": place.stem, "type": "note", **json.loads(place.read_text(encoding="utf-8"))}

    async def close(self) -> None:
        """Release nothing: no file stays open."""

    # --- what this provider does not have -----------------------------------------------------------------------------

    async def get_deployment(self, call: Call, deployment: str) -> Deployment | None:
        """Return none."""

    async def list_deployments(self, call: Call) -> Sequence[Deployment]:
        """Return none."""
        return []

    async def get_order(self, call: Call, order: str) -> Order | None:
        """Return none."""

    async def list_orders(self, call: Call) -> Sequence[Order]:
        """Return none."""
        return []

    async def portfolio(self, call: Call) -> Portfolio:
        """Return nothing."""
        return Portfolio({}, {})

    async def find_deployment(self, call: Call, client_id: str) -> Deployment | None:
        """Return none."""

    async def find_order(self, call: Call, client_id: str) -> Order | None:
        """Return none."""

    async def quote(self, call: Call, symbol: str) -> Decimal | None:
        """Return none."""

    async def create_deployment(self, call: Call, order: CreateDeployment) -> Done | Rejected:
        """Refuse."""
        return _no_such("deployment.create")

    async def stop_deployment(self, call: Call, order: StopDeployment) -> Done | Rejected:
        """Refuse."""
        return _no_such("deployment.stop")

    async def place_order(self, call: Call, order: PlaceOrder) -> Done | Rejected:
        """Refuse."""
        return _no_such("order.place")

    async def cancel_order(self, call: Call, order: CancelOrder) -> Done | Rejected:
        """Refuse."""
        return _no_such("order.cancel")


def _no_such(kind: str) -> Rejected:
    return Rejected("unknown_kind", f"notes are written by {WRITE.name}, not by {kind}")
