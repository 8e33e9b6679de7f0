"""The frames in which the engine, the supervisor and the runner inside a sandbox talk over their sockets.

Owns: one frame = two lengths (unsigned 32 bit, network order), a JSON object, then the bytes of its parts.
Must not touch: what a frame means. Standard library only: this is also imported inside the sandbox.
"""

from __future__ import annotations

import os

from sovrun.sandbox import smalljson

TYPE_CHECKING = False  # importing what follows would slow the start of every step
if TYPE_CHECKING:
    from typing import Any, Final

HEAD_MAX: Final = 16 << 20
"""Bytes of a frame's JSON object; it holds names and digests, never payloads."""

_LENGTHS: Final = 8
_CHUNK: Final = 1 << 16


class BadFrame(ValueError):
    """The other side does not speak the protocol, or says more than it may."""


def encode(head: dict[str, Any], *parts: bytes) -> bytes:
    """Return the bytes of one frame."""
    # A lone surrogate becomes its JSON escape.
    text = smalljson.dumps({**head, "parts": [len(part) for part in parts]}).encode(errors="backslashreplace")
    return b"".join((len(text).to_bytes(4), sum(map(len, parts)).to_bytes(4), text, *parts))


def _lengths(data: bytes | bytearray) -> tuple[int, int]:
    return int.from_bytes(data[:4]), int.from_bytes(data[4:_LENGTHS])


class Decoder:
    """Cuts a stream into frames and refuses what is too large before it is held.

    Args:
        head_max, body_max: bytes of a frame's object, and of its parts together.
    """

    def __init__(self, *, body_max: int, head_max: int = HEAD_MAX) -> None:
        self._head_max = head_max
        self._body_max = body_max
        self._data = bytearray()

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], list[bytes]]]:
        """Return the frames that `data` completes, each as its object and its parts. Raises: BadFrame."""
        self._data += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> tuple[dict[str, Any], list[bytes]] | None:
        if len(self._data) < _LENGTHS:
            return None
        head_size, body_size = _lengths(self._data)
        if head_size > self._head_max or body_size > self._body_max:
            raise BadFrame(f"a frame of {head_size} + {body_size} bytes")
        start, end = _LENGTHS + head_size, _LENGTHS + head_size + body_size
        if len(self._data) < end:
            return None
        try:
            head = smalljson.loads(bytes(self._data[_LENGTHS:start]))
        except (ValueError, RecursionError) as error:
            raise BadFrame("a frame whose object is not JSON") from error
        body = bytes(self._data[start:end])
        del self._data[:end]
        return head, _parts(head, body)


def _parts(head: Any, body: bytes) -> list[bytes]:
    sizes = head.get("parts") if isinstance(head, dict) else None
    if not isinstance(sizes, list) or any(type(size) is not int or size < 0 for size in sizes):
        raise BadFrame("a frame that does not say its parts")
    if sum(sizes) != len(body):
        raise BadFrame("a frame whose parts do not add up")
    parts, offset = [], 0
    for size in sizes:
        parts.append(body[offset : offset + size])
        offset += size
    return parts


def send(descriptor: int, head: dict[str, Any], *parts: bytes) -> None:
    """Write one frame to a blocking descriptor. Raises: OSError."""
    data = memoryview(encode(head, *parts))
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int, *, body_max: int) -> tuple[dict[str, Any], list[bytes]]:
    """Read the next frame, and not a byte more, from a blocking descriptor.

    Raises: BadFrame, EOFError when the other side has gone.
    """
    decoder = Decoder(body_max=body_max)
    lengths = _read_exactly(descriptor, _LENGTHS)
    decoder.feed(lengths)  # refuses what is too large before it is read
    [frame] = decoder.feed(_read_exactly(descriptor, sum(_lengths(lengths))))
    return frame


def _read_exactly(descriptor: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = os.read(descriptor, min(_CHUNK, size - len(data)))
        if not more:
            raise EOFError("the other side has gone")
        data += more
    return bytes(data)
