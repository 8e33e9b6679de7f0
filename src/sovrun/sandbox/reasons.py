"""How an attempt can fail: the stable reasons, and what each implies.

Owns: `REASONS`. A reason is public: never renamed, never reused.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class Meaning(NamedTuple):
    """What a reason implies.

    Args:
        circumstance: it belongs to the machine or to a limit, not to the work.
        retryable: another attempt may end otherwise.
    """

    circumstance: bool
    retryable: bool


REASONS: Final[Mapping[str, Meaning]] = MappingProxyType(
    {
        "step_not_found": Meaning(circumstance=False, retryable=False),
        "step_raised": Meaning(circumstance=False, retryable=True),
        "do_not_retry": Meaning(circumstance=False, retryable=False),
        "output_not_json": Meaning(circumstance=False, retryable=False),
        "output_too_large": Meaning(circumstance=True, retryable=False),
        "secret_not_found": Meaning(circumstance=True, retryable=False),
        "secret_unusable": Meaning(circumstance=True, retryable=False),
        "secret_in_output": Meaning(circumstance=False, retryable=False),
        "not_reproducible": Meaning(circumstance=False, retryable=False),
        "reproducible_unavailable": Meaning(circumstance=True, retryable=False),
        "exit_nonzero": Meaning(circumstance=False, retryable=True),
        "killed_by_signal": Meaning(circumstance=False, retryable=True),
        "bad_output_file": Meaning(circumstance=False, retryable=True),
        "log_limit": Meaning(circumstance=True, retryable=True),
        "wall_limit": Meaning(circumstance=True, retryable=True),
        "cpu_limit": Meaning(circumstance=True, retryable=True),
        "memory_limit": Meaning(circumstance=True, retryable=True),
        "memory_not_hard": Meaning(circumstance=True, retryable=False),
        "process_limit": Meaning(circumstance=True, retryable=True),
        "open_files_limit": Meaning(circumstance=True, retryable=True),
        "disk_limit": Meaning(circumstance=True, retryable=True),
        "network_not_allowed": Meaning(circumstance=True, retryable=False),
        "endpoint_unresolved": Meaning(circumstance=True, retryable=True),
        "warm_unavailable": Meaning(circumstance=True, retryable=False),
        "sandbox_error": Meaning(circumstance=True, retryable=True),
        "cancelled": Meaning(circumstance=True, retryable=False),  # seen only by whoever cancelled the call
    }
)
