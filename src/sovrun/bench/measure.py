"""Measuring: repeats, percentiles, the machine's raw commit rate, the memory of this process."""

from __future__ import annotations

import resource
import sqlite3
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeats of one figure: how many, the median, and the extremes."""

    n: int
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(len(values), statistics.median(values), min(values), max(values))

    def json(self) -> dict[str, float | int]:
        """Return the spread with six significant digits."""
        figures = {"median": self.median, "min": self.low, "max": self.high}
        return {"n": self.n, **{name: float(f"{value:.6g}") for name, value in figures.items()}}


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value at a percentile, nearest rank, of at least one value."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


class RawCommits:
    """The machine's own speed: commits of one small row, SQLite, WAL, `synchronous=FULL`, as the store does them."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE row (key INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT")
        self.milliseconds()  # the first commits of a file are slower, until its log has its length

    def milliseconds(self, commits: int = 1_000) -> float:
        """Return the mean time of one commit, in milliseconds."""
        execute = self._connection.execute
        begun = perf_counter()
        for _ in range(commits):
            execute("BEGIN IMMEDIATE")
            execute("INSERT INTO row (body) VALUES ('x')")
            execute("COMMIT")
        return (perf_counter() - begun) / commits * 1_000

    def close(self) -> None:
        """Release the file."""
        self._connection.close()


def peak_memory_mib() -> float:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
