"""Instants and their one text form: UTC, RFC 3339, six fractional digits, `Z`.

Fixed width, so text order is time order. Instants are whole microseconds since the Unix epoch (`_us`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

SECOND_US: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def time_text(instant_us: int) -> str:
    """Return an instant as `2026-11-21T05:47:44.000000Z`."""
    moment = _EPOCH + timedelta(microseconds=instant_us)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


def time_us(text: str) -> int:
    """Return the instant of a text that `time_text` made. Raises: ValueError."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)
