"""`python -m sovrun.service`: what `sovrun up` becomes."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from sovrun.core.errors import InvalidSetting, SovrunError
from sovrun.service.up import UpSettings, up
from sovrun.wiring import StoreAddress


def main() -> None:
    """Read the options that `sovrun up` has checked, and serve."""
    parser = argparse.ArgumentParser(prog="sovrun up")
    parser.add_argument("--store", required=True)
    parser.add_argument("--isolation", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("--allow-endpoint", action="append", default=[])
    parser.add_argument("--secrets", action="append", default=[])
    parser.add_argument("--adapters")
    parser.add_argument("--drift-every", type=float)
    told = parser.parse_args()
    try:
        address = StoreAddress.parse(told.store)
        settings = UpSettings(
            address,
            told.isolation,
            told.workers,
            told.slots,
            told.grace,
            tuple(told.allow_endpoint),
            tuple(told.secrets),
            None if told.adapters is None else Path(told.adapters),
            told.drift_every,
        )
        asyncio.run(up(settings))
    except SovrunError as error:
        sys.stderr.write(f"error [{error.code}] {error.detail}\n")
        if error.hint:
            sys.stderr.write(f"  {error.hint}\n")
        sys.exit(2 if isinstance(error, InvalidSetting) else 3)


main()
