"""A process that places orders at a paper provider whose ledger it shares with others.

`python -m support.paper_client ROOT SEED COUNT`: on a line of input it places COUNT orders that every process knows, in
an order of its own, and prints the id that it was told for each client id.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

from sovrun.core.commands.model import PlaceOrder
from sovrun.core.ids import Actor
from sovrun.execution.adapters.paper import open_adapter
from sovrun.execution.port import Call, Done, Order
from support.ledgers import DirectoryLedger
from support.paper import NAME
from support.providers import TENANT


def order_of(number: int) -> tuple[Call, PlaceOrder]:
    """Return the n-th order, the same in every process: buys and sells that rest and meet."""
    client_id = sha256(f"order {number}".encode()).hexdigest()[:32]
    side = "buy" if number % 3 else "sell"
    order = PlaceOrder("THIN", side, "limit", Decimal(number % 7 + 1), Decimal(96 + number % 9), "gtc")
    return Call(TENANT, Actor(f"local:client-{number}"), "paper", client_id), order


async def place(root: Path, seed: int, count: int) -> dict[str, str]:
    """Place all orders in an order that the seed gives."""
    adapter = open_adapter(NAME, {"shortSelling": True}, ledger=DirectoryLedger(root))
    numbers = list(range(count))
    random.Random(seed).shuffle(numbers)
    told = {}
    for number in numbers:
        call, order = order_of(number)
        answer = await adapter.place_order(call, order)
        if not isinstance(answer, Done) or not isinstance(answer.resource, Order):
            raise TypeError(f"not placed: {answer}")
        told[str(call.client_id)] = answer.resource.id
    return told


def main() -> None:
    """Be ready, wait for the word, place the orders."""
    root, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    print("ready", flush=True)  # noqa: T201 -- this is how it talks
    sys.stdin.readline()
    print(json.dumps(asyncio.run(place(root, seed, count))))  # noqa: T201


if __name__ == "__main__":
    main()
