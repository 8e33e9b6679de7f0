"""Catching what steps print in this process, up to a cap.

Owns: `Capture`, and `Routing`, which tells the steps of several threads apart.
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
        self._otherwise = otherwise

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
        return getattr(self._mine, "stream", None) or self._otherwise


class Routing:
    """Puts routers in the place of standard output and error until `stop`."""

    def __init__(self) -> None:
        self._before = (sys.stdout, sys.stderr)
        self._routers = (Router(sys.stdout), Router(sys.stderr))
        sys.stdout, sys.stderr = self._routers

    def stop(self) -> None:
        """Put back what was there, unless somebody else has replaced it since."""
        if sys.stdout is self._routers[0]:
            sys.stdout = self._before[0]
        if sys.stderr is self._routers[1]:
            sys.stderr = self._before[1]
