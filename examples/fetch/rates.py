"""Fetch rates over the network, and convert an amount without it."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any
from urllib.request import urlopen

SOURCE = "http://rates.example.org:8080/rates.json"


def fetch() -> dict[str, Any]:
    """Return the rates as the server gives them, and the digest of exactly those bytes."""
    with urlopen(SOURCE, timeout=30) as answer:
        body = answer.read()
    return {"rates": json.loads(body), "sha256": sha256(body).hexdigest()}


def convert(amount: float, rates: dict[str, float]) -> dict[str, float]:
    """Return the amount in each currency, in cents' precision."""
    return {currency: round(amount * rate, 2) for currency, rate in sorted(rates.items())}
