"""What a reader of a run has to know of the walls that its steps ran behind.

Owns: `weaker_walls`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sovrun.cli.output import counted
from sovrun.core.walls import BEST_EFFORT


def weaker_walls(shown: Mapping[str, Any]) -> list[str]:
    """Return a line for each way in which steps of a run ran behind less than the strongest walls."""
    walls = [step["walls"] for step in shown["steps"] if step["walls"] is not None]
    hopeful = sum(wall["memory"] == BEST_EFFORT for wall in walls)
    warm = sum(wall.get("warm", False) for wall in walls)
    lines = []
    if hopeful:
        lines.append(
            f"memory: {BEST_EFFORT} for {counted(hopeful, 'step')}; `sovrun doctor` says what is missing"
        )
    if warm:
        lines.append(f"warm: {counted(warm, 'step')} cloned from a template of the tenant")
    return lines
