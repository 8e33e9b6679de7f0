"""A store of its own for a test of the command line, and commands on it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from support.cli import Done, sovrun

MAPPING: Final = Path(__file__).parents[2] / "examples" / "adapters" / "order-matching.yaml"
BUY: Final = ("symbol=ACME", "side=buy", "type=market")
ORDER: Final = ("command", "order.place", "--adapter", "paper", *BUY)


class Desk:
    """A store of its own, and commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = f"sqlite:{folder / 's.db'}"

    def tell(self, *arguments: object, stdin: bytes = b"") -> Done:
        return sovrun(*arguments, "--store", self.store, cwd=self.folder, stdin=stdin)

    def ask(self, *arguments: object, code: int = 0, stdin: bytes = b"") -> Any:
        done = self.tell(*arguments, "--json", stdin=stdin)
        assert done.code == code, done.out + done.err
        return done.json

    def refusal(self, *arguments: object, code: int = 2, stdin: bytes = b"") -> str:
        refused: str = self.ask(*arguments, code=code, stdin=stdin)["error"]["code"]
        return refused

    def orders(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("orders", "paper")["orders"]
        return found

    def make_unknown(self, command: str, *, parked: bool = True) -> None:
        """Write into the file that nobody knows what came of a command, as a crash of the provider would have it."""
        reason, sends = ("sends_exhausted", 5) if parked else ("timeout", 1)
        with sqlite3.connect(self.folder / "s.db") as connection:
            connection.execute(
                "UPDATE command SET state = 'unknown', sends = ?, sent_us = created_us, first_sent_us = created_us,"
                " unknown_us = created_us, reached_us = created_us, reason = ?, parked = ?, due_us = 4000000000000000,"
                " response = NULL, resource = NULL, ended_us = NULL WHERE id = ?",
                (sends, reason, parked, command),
            )
        connection.close()
