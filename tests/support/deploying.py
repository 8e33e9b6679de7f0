"""A program that deploys under one client id after the other, to be killed and started again.

python tests/support/deploying.py SETTINGS CLIENT_ID...
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from sovrun.core.commands.model import CreateDeployment
from sovrun.core.ids import Actor, Tenant
from sovrun.execution.adapters.supervisor import open_adapter
from sovrun.execution.port import Call, Done


async def deploy(settings: dict[str, Any], client_ids: Sequence[str]) -> None:
    adapter = open_adapter("host", settings)
    for client_id in client_ids:
        call = Call(Tenant("acme"), Actor("local:tester"), "paper", client_id, 60_000_000)
        outcome = await adapter.create_deployment(call, CreateDeployment("maker", "bot", None, {}))
        assert isinstance(outcome, Done), outcome
    await adapter.close()


if __name__ == "__main__":
    asyncio.run(deploy(json.loads(sys.argv[1]), sys.argv[2:]))
