"""Steps that stand for recorded tasks of an imported workflow: they take the recorded time and pass digests on.

Used by what `sovrun import wfformat` makes. Standard library only, since it runs within steps.
"""

from __future__ import annotations

import json
import time
from hashlib import sha256
from typing import Any


def run_task(
    program: str,
    runtimeUs: int,  # noqa: N803 -- the name of the argument in the document
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    upstream: dict[str, str],
) -> dict[str, Any]:
    """Take as long as the recorded task took, and return the files it made.

    Args:
        program: what the recorded task ran.
        runtimeUs: microseconds to take.
        inputs, outputs: the recorded files, each with its name, size in bytes, and digest of the two.
        upstream: by id of each parent, the digest that it returned.
    Returns: `digest`, which depends on everything the task was given and made, and `files`, its outputs.
    """
    if runtimeUs > 0:
        time.sleep(runtimeUs / 1_000_000)
    given = {"inputs": inputs, "outputs": outputs, "program": program, "upstream": upstream}
    text = json.dumps(given, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {"digest": sha256(text.encode()).hexdigest(), "files": outputs}
