"""The attestation itself: each check is shown to fail when what it checks is not so."""

from __future__ import annotations

from pathlib import Path

import pytest

from sovrun.sandbox.seal import can_create_in, interface_problems, status_problems

GOOD = "Uid:\t1000\t1000\t1000\t1000\nNoNewPrivs:\t1\nSeccomp:\t2\n" + "".join(
    f"{name}:\t0000000000000000\n" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
)
DEVICES = "Inter-|   Receive\n face |bytes\n    lo:       0       0\n"


def test_a_sealed_process_has_no_problems() -> None:
    assert status_problems(GOOD) == []
    assert interface_problems(DEVICES) == []


@pytest.mark.parametrize("name", ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
def test_a_single_capability_is_a_problem(name: str) -> None:
    left = GOOD.replace(f"{name}:\t0000000000000000", f"{name}:\t0000000000000400")
    assert [name in problem for problem in status_problems(left)] == [True]


@pytest.mark.parametrize(
    ("old", "new"), [("NoNewPrivs:\t1", "NoNewPrivs:\t0"), ("Seccomp:\t2", "Seccomp:\t0"), ("1000\n", "0\n")]
)
def test_new_privileges_and_root_are_problems(old: str, new: str) -> None:
    assert len(status_problems(GOOD.replace(old, new, 1))) == 1


def test_another_network_interface_is_a_problem() -> None:
    assert len(interface_problems(DEVICES + "  eth0:       0       0\n")) == 1


def test_a_directory_that_can_be_written_is_a_problem(tmp_path: Path) -> None:
    assert can_create_in(str(tmp_path))
    assert not can_create_in(str(tmp_path / "absent"))
    assert list(tmp_path.iterdir()) == []
