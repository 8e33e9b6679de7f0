"""What steps print: taken as it comes, up to a cap, and written where it can be read while the step runs.

Owns: `Log`, the one sink of everything a step prints, and its file; `Capture` and `Router`, which stand for standard
output and error in this process. Standard library only: the supervisor uses it, too.

A log file is NDJSON, one object a piece: `timeUs` (whole microseconds since the epoch), `stream`, `text`. It is
append-only, for its owner's eyes only, and every piece is one write, so that whatever kills the writer leaves whole lines
and at most one torn one. It is no part of the record: it is not synced, and no digest is taken of it.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Final, TextIO

from sovrun.sandbox.redaction import Redaction, Stream

STDOUT: Final = "stdout"
STDERR: Final = "stderr"
"""The streams of a log."""

_TAIL: Final = 4 << 10
_FINE_SHARE: Final = 4
_COARSE: Final = 16 << 10
"""A log that fills its file with tiny pieces, beyond so many times its cap, is from then on written in pieces of this
size: the names and times of a piece must not be what fills a disk."""


class LogLimit(BaseException):
    """The step printed more than it may; not an Exception, so that a step's own `except` seldom swallows it."""


class _Channel:
    """One stream of a log."""

    __slots__ = ("decoder", "pending", "redacted")

    def __init__(self, redaction: Redaction | None) -> None:
        self.redacted = None if redaction is None else Stream(redaction)
        # A character may lie across two pieces; bytes that are no text are shown as what they are.
        self.decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.pending = bytearray()


class Log:
    """What one attempt prints.

    Args:
        cap: bytes of all its streams together; `take` answers False once they are exceeded.
        path: of its file, made when the first piece is written; None means none.
        redaction: takes out values of secrets before anything is kept anywhere.
        by_line: write whole lines where that is possible, for a writer that hands over single words.
    """

    def __init__(
        self, cap: int, path: str | None = None, redaction: Redaction | None = None, *, by_line: bool = False
    ) -> None:
        self.is_full = False
        self._left = cap
        self._fine = _FINE_SHARE * cap + _COARSE
        self._path = path
        self._redaction = redaction
        self._by_line = by_line
        self._descriptor = -1
        self._channels: dict[str, _Channel] = {}
        self._kept = bytearray()
        self._last = b""

    def take(self, stream: str, data: bytes) -> bool:
        """Keep what was printed; return False when it is more than may be, what is beyond the cap is dropped."""
        if len(data) > self._left:
            self.is_full = True
            data = data[: self._left]
        self._left -= len(data)
        channel = self._channels.get(stream)
        if channel is None:
            channel = self._channels[stream] = _Channel(self._redaction)
        self._keep(stream, channel, data if channel.redacted is None else channel.redacted.take(data))
        return not self.is_full

    def taken(self) -> bytes:
        """Return all that was kept, the streams as they came."""
        return bytes(self._kept)

    def last_words(self) -> str:
        """Return the last lines of standard error."""
        return "\n".join(self._last.decode(errors="replace").strip().splitlines()[-10:])

    def flush(self) -> None:
        """Write what waits for the end of its line."""
        for stream, channel in self._channels.items():
            self._write(stream, channel, final=False)

    def close(self) -> None:
        """Let go what was held back, and close the file. Nothing may be taken afterwards."""
        for stream, channel in self._channels.items():
            if channel.redacted is not None:
                self._keep(stream, channel, channel.redacted.rest())
            self._write(stream, channel, final=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._path = None

    def _keep(self, stream: str, channel: _Channel, data: bytes) -> None:
        if not data:
            return
        self._kept += data
        if stream == STDERR:
            self._last = (self._last + data)[-_TAIL:]
        if self._path is None:
            return
        channel.pending += data
        is_line = not self._by_line or b"\n" in data
        if len(channel.pending) >= _COARSE or (is_line and self._fine > 0):
            self._write(stream, channel, final=False)

    def _write(self, stream: str, channel: _Channel, *, final: bool) -> None:
        if self._path is None:
            return
        text = channel.decoder.decode(channel.pending, final=final)
        channel.pending.clear()
        now_us = time.time_ns() // 1_000
        for begin in range(0, len(text), _COARSE):
            piece = {"timeUs": now_us, "stream": stream, "text": text[begin : begin + _COARSE]}
            line = json.dumps(piece, separators=(",", ":")).encode() + b"\n"
            self._fine -= len(line)
            with suppress(OSError):  # a full disk must not fail the step; its record lies elsewhere
                if self._descriptor < 0:
                    self._descriptor = _open(self._path)
                os.write(self._descriptor, line)


def _open(path: str) -> int:
    _make_private(os.path.dirname(path))  # noqa: PTH120 -- pathlib costs as much again
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _make_private(folder: str) -> None:
    """Make a directory and those above it, each for its owner alone; `makedirs` does so for the last one only."""
    try:
        os.mkdir(folder, 0o700)  # noqa: PTH102 -- see above
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_private(os.path.dirname(folder))  # noqa: PTH120 -- see above
        _make_private(folder)


class Capture:
    """Standard output and error of steps that run in this process, one after another, as two text streams.

    One object serves many steps, for most of them print nothing.
    """

    def __init__(self) -> None:
        self.stdout = CapturedStream(self, STDOUT)
        self.stderr = CapturedStream(self, STDERR)
        self._cap = 0
        self._path: str | None = None
        self._redaction: Redaction | None = None
        self._log: Log | None = None

    def begin(self, cap: int, path: str | None = None, redaction: Redaction | None = None) -> None:
        """Forget everything and take up to `cap` bytes."""
        self._log = None
        self._cap = cap
        self._path = path
        self._redaction = redaction

    def end(self) -> bytes:
        """Return what was written since `begin`, when no more will be."""
        if self._log is None:
            return b""
        self._log.close()
        return self._log.taken()

    def close(self) -> None:
        """Close the log's file, whatever became of the step."""
        if self._log is not None:
            self._log.close()

    @property
    def exceeded(self) -> bool:
        """Whether the step wrote more than it may."""
        return self._log is not None and self._log.is_full

    def take(self, stream: str, text: str) -> None:
        """Keep `text`. Raises: LogLimit."""
        log = self._log
        if log is None:
            log = self._log = Log(self._cap, self._path, self._redaction, by_line=True)
        if log.is_full or not log.take(stream, text.encode("utf-8", "backslashreplace")):
            raise LogLimit

    def flush(self) -> None:
        """Let readers see what has no end of its line yet."""
        if self._log is not None:
            self._log.flush()


class CapturedStream(io.TextIOBase):
    """One of the two streams of a `Capture`."""

    def __init__(self, capture: Capture, name: str) -> None:
        super().__init__()
        self._capture = capture
        self._name = name

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Keep `text`. Raises: LogLimit."""
        self._capture.take(self._name, text)
        return len(text)

    def flush(self) -> None:
        """Let readers see what has no end of its line yet."""
        self._capture.flush()


class Router(io.TextIOBase):
    """Stands for standard output or error while steps run in threads: passes each thread's text to its own stream."""

    _mine: Final = threading.local()

    def __init__(self, otherwise: TextIO, name: str) -> None:
        super().__init__()
        self.otherwise = otherwise
        self._name = name

    @classmethod
    def to(cls, capture: Capture | None) -> None:
        """Pass what this thread writes from now on to `capture`; None means where it went without us."""
        cls._mine.capture = capture

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write where this thread's text belongs."""
        return self._stream().write(text)

    def flush(self) -> None:
        """Flush where this thread's text belongs."""
        self._stream().flush()

    def _stream(self) -> TextIO | CapturedStream:
        capture: Capture | None = getattr(self._mine, "capture", None)
        if capture is None:
            return self.otherwise
        return capture.stderr if self._name == STDERR else capture.stdout


def route() -> None:
    """See to it that standard output and error tell threads apart; others may have replaced them since last time."""
    if not isinstance(sys.stdout, Router):
        sys.stdout = Router(sys.stdout, STDOUT)
    if not isinstance(sys.stderr, Router):
        sys.stderr = Router(sys.stderr, STDERR)


def unroute() -> None:
    """Put back what routers stand for."""
    if isinstance(sys.stdout, Router):
        sys.stdout = sys.stdout.otherwise
    if isinstance(sys.stderr, Router):
        sys.stderr = sys.stderr.otherwise
