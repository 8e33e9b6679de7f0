"""Following a run that others execute: what happens to it, and why nothing does."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from sovrun.cli.holds import is_left, why_nothing_goes_on
from sovrun.cli.options import AsJson, StoreUrl, TenantName, tenant_of
from sovrun.cli.output import Exit, complete, err
from sovrun.cli.progress import event_line
from sovrun.cli.runs import find_run
from sovrun.cli.summary import Seen, Stand, finish
from sovrun.core.ids import RunId, Tenant
from sovrun.core.times import time_text
from sovrun.store.protocol import RunRecord
from sovrun.wiring import StoreAddress, open_reader

LOOK_SECONDS: Final = 0.2
LOOKS_PER_NOTICE: Final = 5
"""How many looks at the run come to one at what holds it: that changes by hand, and asks the system for processes."""


def watch(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The run's id, or a beginning of it.", show_default=False)
    ],
    *,
    store: StoreUrl = None,
    tenant: TenantName = "default",
    as_json: AsJson = False,
) -> None:
    """Follow a run until it is over or left waiting, and say so while nothing of it goes on."""
    whose = tenant_of(tenant)
    address = StoreAddress.parse(store)

    async def job() -> Exit:
        async with open_reader(address) as (reader, files):
            seen = Stand(reader, files)
            record = await followed(seen, address, whose, await find_run(reader, whose, run), quiet=as_json)
            return await finish(seen, address, record, save=None, as_json=as_json)

    raise typer.Exit(complete(job()))


async def followed(
    seen: Seen, address: StoreAddress, tenant: Tenant, run: RunId, *, quiet: bool
) -> RunRecord:
    """Show the events of a run that others execute until it is terminal or left waiting, and return it.

    What holds it is told in any case, on standard error: a program that waits for nothing has to be able to say so.
    """
    after, look, told = 0, 0, list[str]()
    while True:
        record = await seen.store.run(tenant, run)
        for event in await seen.store.events(tenant, run, after=after):
            after = event.sequence
            if not quiet:
                err.print(f"{time_text(event.time_us)[:19]}Z {event_line(event)}", markup=False)
        if await is_left(seen.store, record):
            return record
        if look % LOOKS_PER_NOTICE == 0:
            lines = await why_nothing_goes_on(seen.store, record, address)
            for line in lines if lines != told else ():
                err.print(line, markup=False)
            told = lines
        look += 1
        await asyncio.sleep(LOOK_SECONDS)
