"""The steps of the release that Sovrun executes itself: what is proposed, and what is noted in the end."""

from __future__ import annotations

from typing import Any


def propose(service: str, version: str) -> dict[str, Any]:
    """Return the change that a person is asked about, with the risks to look at."""
    major, _, rest = version.partition(".")
    risks = ["a new major version may break callers"] if rest == "0.0" else []
    return {"change": {"service": service, "version": version, "major": major}, "risks": risks}


def note(change: dict[str, Any], deployed: dict[str, Any]) -> dict[str, str]:
    """Return one line for the record: what runs where, and whether it is well."""
    state = "is healthy" if deployed["healthy"] else "is not healthy"
    return {"line": f"{change['service']} {change['version']} on {deployed['host']} {state}"}
