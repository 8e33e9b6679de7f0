"""What is wrong with the endpoints that a step declares.

Owns: these findings. The form of an endpoint is that of `sovrun.core.network`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sovrun.core.jsontext import Path
from sovrun.core.network import BadEndpoint, Endpoint, parse_endpoint
from sovrun.core.spec.findings import Finding, quoted


def bad_endpoint(text: str, path: Path) -> Finding | None:
    """Return what is wrong with a text that should be an endpoint, None when it is one."""
    try:
        parse_endpoint(text)
    except BadEndpoint as error:
        return Finding("bad_endpoint", str(error), path, error.hint)
    return None


def endpoint_findings(network: Any, at: Path) -> Iterator[Finding]:
    """Yield what is wrong with the `network` of a step: texts that are no endpoint, and endpoints that stand twice."""
    allowed = network.get("allow") if isinstance(network, dict) else None
    known: set[Endpoint] = set()
    for position, text in enumerate(allowed if isinstance(allowed, list) else ()):
        if not isinstance(text, str):
            continue
        path = (*at, "allow", position)
        fault = bad_endpoint(text, path)
        if fault is not None:
            yield fault
            continue
        endpoint = parse_endpoint(text)
        if endpoint in known:
            yield Finding("duplicate_item", f"{quoted(str(endpoint))} stands twice in `allow`", path)
        known.add(endpoint)
