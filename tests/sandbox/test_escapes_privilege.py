"""Escapes, fourth part: becoming more than the step is. Each attack fails by the wall that is named."""

from __future__ import annotations

import pytest

from support.attacker import Attacker

NEW_USER_NAMESPACE = 0x10000000


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ptrace", [16, 1, 0, 0]),  # PTRACE_ATTACH to the sandbox's first process
        ("process_vm_readv", [1, 0, 0, 0, 0, 0]),
        ("unshare", [NEW_USER_NAMESPACE]),
        ("unshare", [0x20000]),
        ("setns", [0, 0]),
        ("mount", [0, 0, 0, 0, 0]),
        ("io_uring_setup", [8, 0]),
        ("userfaultfd", [1]),
        ("bpf", [0, 0, 0]),
        ("perf_event_open", [0, 0, -1, -1, 0]),
        ("personality", [0x40000]),
    ],
)
def test_a_call_that_no_computation_needs_is_denied(
    attacker: Attacker, name: str, arguments: list[int]
) -> None:
    """By the filter."""
    assert set(attacker.value("calls", wanted=[[name, *arguments]]).values()) == {"EPERM"}


def test_the_filters_arguments_cannot_be_hidden_in_memory(attacker: Attacker) -> None:
    """clone3 has its flags in a structure; it does not exist, and the C library falls back to clone."""
    assert attacker.value("calls", wanted=[["clone3", 0, 0]]) == {"clone3 0": "ENOSYS"}


def test_a_setuid_program_gains_nothing(attacker: Attacker) -> None:
    """By no_new_privs, and by mounts with nosuid."""
    found = attacker.value("become_root")
    assert found["no_new_privs"] == "1"
    assert found["suid"] == []
    assert (found["status"] != 0, found["out"]) == (True, "")
