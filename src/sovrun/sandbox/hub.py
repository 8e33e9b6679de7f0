"""What the parts of an attempt need of the supervisor's loop.

Owns: `Hub`. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sovrun.sandbox.cgroups import Groups

if TYPE_CHECKING:
    from sovrun.sandbox.attempt import Attempt


class Hub(Protocol):
    """What an attempt needs of the supervisor's loop."""

    bwrap: str
    frame: Mapping[str, Any]
    spool: Path
    handshake_s: float
    filter: str
    template_filter: str
    landlock: int
    groups: Groups

    def watch(self, descriptor: int, on_ready: Callable[[], object]) -> None:
        """Call `on_ready` whenever the descriptor can be read."""

    def watch_write(self, descriptor: int, on_ready: Callable[[], None] | None) -> None:
        """Call `on_ready` also when a watched descriptor can be written, or no longer."""

    def unwatch(self, descriptor: int) -> None:
        """Forget the descriptor; before it is closed."""

    def done(self, attempt: Attempt, head: dict[str, Any], *parts: bytes) -> None:
        """Take an attempt's reply; nothing of it is left."""
