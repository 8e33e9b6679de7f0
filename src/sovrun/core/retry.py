"""How long to wait before another attempt, as a function of policy and step hash.

Must not touch: clocks and random sources; the same failure waits equally long on every replay.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from sovrun.core.ids import Digest

FAILURES_MAX: Final = 1_000_000


def retry_delay_us(failures: int, *, base_us: int, cap_us: int, jitter: bool, step_hash: Digest) -> int:
    """Return how long to wait before the next attempt, the same on every replay.

    Args:
        failures: failures reported so far, 1..FAILURES_MAX; a lost lease is not one.
        base_us, cap_us: first and largest delay in microseconds, 0 <= base_us <= cap_us.
        jitter: draw below the ceiling ("full jitter") instead of taking the ceiling itself.
        step_hash: what the draw is taken from.
    Returns: microseconds in 0..min(cap_us, base_us * 2**(failures - 1)), both included.
    Raises: ValueError when an argument is outside its range.
    Source: M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
    """
    if not 1 <= failures <= FAILURES_MAX:
        raise ValueError(f"failures {failures} outside 1..{FAILURES_MAX}")
    if not 0 <= base_us <= cap_us:
        raise ValueError(f"base {base_us} outside 0..cap {cap_us}")
    doublings = min(failures - 1, cap_us.bit_length())  # more cannot change the minimum
    ceiling_us = min(cap_us, base_us << doublings)
    return _draw(step_hash, failures) % (ceiling_us + 1) if jitter else ceiling_us


def _draw(step_hash: Digest, failures: int) -> int:
    """Return 256 bits that look random and depend on the arguments alone."""
    return int.from_bytes(sha256(f"sovrun.jitter/1:{step_hash}:{failures}".encode()).digest())
