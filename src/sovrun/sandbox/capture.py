"""Catching what steps print in this process, up to a cap.

Owns: `Capture`, and `Router`, which tells the steps of several threads apart.
"""

from __future__ import annotations

import io
import sys
import threading
from typing import Final, TextIO


class LogLimit(BaseException):
    """The step printed more than it may; not an Exception, so that a step's own `except` seldom swallows it."""


class Capture(io.TextIOBase):
    """A text stream that keeps what is written, and raises `LogLimit` beyond the cap. One object serves many steps."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._left = 0
        self.exceeded = False

    def begin(self, cap: int) -> None:
        """Forget everything and take up to `cap` bytes."""
        if self._parts:
            self._parts = []
        self._left = cap
        self.exceeded = False

    def taken(self) -> bytes:
        """Return what was written since `begin`."""
        return b"".join(self._parts) if self._parts else b""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Keep `text`. Raises: LogLimit."""
        if self.exceeded:
            raise LogLimit
        data = text[: self._left + 1].encode("utf-8", "replace")
        if len(data) > self._left:
            self.exceeded = True
            data = data[: self._left]
        self._parts.append(data)
        self._left -= len(data)
        if self.exceeded:
            raise LogLimit
        return len(text)


class Router(io.TextIOBase):
    """Stands for standard output or error while steps run in threads: passes each thread's text to its own stream."""

    _mine: Final = threading.local()

    def __init__(self, otherwise: TextIO) -> None:
        super().__init__()
        self.otherwise = otherwise

    @classmethod
    def to(cls, stream: TextIO | Capture | None) -> None:
        """Pass what this thread writes from now on to `stream`; None means where it went without us."""
        cls._mine.stream = stream

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write where this thread's text belongs."""
        return self._stream().write(text)

    def flush(self) -> None:
        """Flush where this thread's text belongs."""
        self._stream().flush()

    def _stream(self) -> TextIO | Capture:
        return getattr(self._mine, "stream", None) or self.otherwise


def route() -> None:
    """See to it that standard output and error tell threads apart; others may have replaced them since last time."""
    if not isinstance(sys.stdout, Router):
        sys.stdout = Router(sys.stdout)
    if not isinstance(sys.stderr, Router):
        sys.stderr = Router(sys.stderr)


def unroute() -> None:
    """Put back what routers stand for."""
    if isinstance(sys.stdout, Router):
        sys.stdout = sys.stdout.otherwise
    if isinstance(sys.stderr, Router):
        sys.stderr = sys.stderr.otherwise
