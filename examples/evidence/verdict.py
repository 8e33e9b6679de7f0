"""Print what a report of the evidence example comes to, in one line: `python verdict.py REPORT.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def verdict(report: dict[str, Any]) -> str:
    """Return how many problems a report has, of which kinds, and in how many distributions."""
    findings = report["findings"]
    if not findings:
        return "no problems found"
    places = {each["distribution"] for each in findings}
    named = len(places - {None})
    within = [_counted(named, "distribution")] if named else []
    within += ["files of no distribution"] if None in places else []
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report["summary"]["findings"].items() if count)
    return f"{_counted(len(findings), 'problem')} in {' and '.join(within)}: {kinds}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.stdout.write(verdict(json.loads(Path(sys.argv[1]).read_bytes())) + "\n")
