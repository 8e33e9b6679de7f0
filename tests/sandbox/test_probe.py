"""What `sovrun doctor` says of isolation: each wall by name, and what is missing with what to change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sovrun.sandbox import landlock, probe
from sovrun.sandbox.cgroups import Place
from sovrun.sandbox.filters import own_filter
from sovrun.sandbox.probe import ProbeItem
from sovrun.sandbox.settings import SandboxSettings
from support.attacker import Attacker, has_landlock
from support.facilities import lacking
from support.tasks import require_bubblewrap


def items(settings: SandboxSettings | None = None) -> dict[str, ProbeItem]:
    return {item.name: item for item in probe.probe(settings).items}


def test_the_filter_landlock_and_the_limit_of_memory_are_named_and_proved_by_a_step() -> None:
    require_bubblewrap()
    found = items()
    counted = found["control groups"].detail.endswith("limited hard")
    filter_ = own_filter(memory_is_counted=counted)
    assert filter_ is not None
    assert filter_.digest in found["system call filter"].detail
    assert found["landlock"].ok == has_landlock()
    said = found["step in a sandbox"].detail
    assert said.endswith(
        f"filter {filter_.digest[:12]}, Landlock {landlock.version() or 'absent'}, "
        f"memory {'hard' if counted else 'best-effort'}"
    )


def test_each_user_is_told_what_steps_run_as_and_how_hard_memory_is_limited(attacker: Attacker) -> None:
    found = attacker.probe()
    user = "root: every running step" if attacker.uid == 0 else f"ordinary user {attacker.uid}"
    assert found["user"][1].startswith(user)
    hard = "hard" if attacker.memory_is_hard else "best-effort"
    assert f"memory is limited {hard}" in found["control groups"][1]
    assert found["step in a sandbox"][0]
    assert found["step in a sandbox"][1].endswith(f"memory {hard}")


def test_without_control_groups_steps_can_be_isolated_and_memory_is_said_to_be_best_effort() -> None:
    require_bubblewrap()
    found = items(SandboxSettings(control_groups=False))
    assert (found["control groups"].ok, found["control groups"].needed) == (False, False)
    assert "best-effort" in found["control groups"].detail
    assert "uncounted" in found["system call filter"].detail
    assert found["step in a sandbox"].detail.endswith("memory best-effort")


def test_each_control_group_that_is_missing_is_named_with_what_to_delegate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = {
        purpose: Place(1, refusal=f"/cg/{purpose} cannot be written") for purpose in ("memory", "pids", "cpu")
    }
    monkeypatch.setattr("sovrun.sandbox.cgroups.find", lambda _process: refused)
    item, counted = probe._control_groups(SandboxSettings())
    assert not counted
    assert "/cg/memory cannot be written" in item.detail
    assert "Delegate=yes" in item.fix


def test_a_kernel_without_landlock_is_named_and_does_not_stop_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    item = probe._landlock()
    assert (item.ok, item.needed) == (False, False)
    assert "lsm=landlock" in item.fix


def test_a_machine_without_a_filter_cannot_isolate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "own_filter", lambda **_: None)
    item = probe._filter(memory_is_counted=True)
    assert (item.ok, item.needed) == (False, True)
    assert "assemble_filters" in item.fix


def test_without_bubblewrap_everything_else_is_still_told(tmp_path: Path) -> None:
    report = probe.probe(SandboxSettings(bwrap=tmp_path / "absent"))
    assert not report.ok
    refusal = report.first_refusal()
    assert refusal is not None
    assert "install" in refusal.fix
    assert {"landlock", "system call filter", "control groups"} <= {item.name for item in report.items}


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("user/max_user_namespaces", None, "use a kernel with CONFIG_USER_NS"),
    ],
)
def test_what_forbids_user_namespaces_is_named_with_the_command_that_allows_them(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, fix: str
) -> None:
    told = {"/proc/sys/user/max_user_namespaces": "96365", f"/proc/sys/{name}": value}
    monkeypatch.setattr(probe, "_read", told.get)
    found = probe._user_namespaces()
    assert (found.ok, found.fix) == (False, fix)
    assert name.rpartition("/")[2] in found.detail


def test_a_root_whose_ids_end_with_its_namespace_is_told_so_and_not_that_it_lacks_a_capability() -> None:
    """As in a container without root, or after `unshare --map-root-user`."""
    if shutil.which("unshare") is None:
        lacking("there is no unshare")
    doctor = [sys.executable, "-m", "sovrun", "doctor", "--store", "memory:", "--json"]
    said = subprocess.run(
        ["unshare", "--user", "--map-root-user", *doctor], capture_output=True, text=True, check=False
    )
    found = {item["name"]: item for item in json.loads(said.stdout)["isolation"]["items"]}
    assert said.returncode == 3
    assert (found["user"]["ok"], found["user"]["needed"]) == (False, True)
    assert (
        "do not exist here: this root is that of a user namespace (/proc/self/uid_map"
        in found["user"]["detail"]
    )
    assert "SOVRUN_UIDS=FIRST:COUNT" in found["user"]["fix"]
    assert "step in a sandbox" not in found


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (PermissionError(13, "Permission denied", os.devnull), "mknod -m 666 /dev/null c 1 3"),
        (PermissionError(13, "Permission denied", "/srv/tmp"), "read and write /srv/tmp"),
        (EOFError("the other side has gone"), "look at standard error"),
    ],
)
def test_what_keeps_the_supervisor_from_starting_comes_with_what_to_change(
    monkeypatch: pytest.MonkeyPatch, error: Exception, fix: str
) -> None:
    require_bubblewrap()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(probe, "start_supervisor", fail)
    found = items()["step in a sandbox"]
    assert (found.ok, found.needed) == (False, True)
    assert str(error) in found.detail
    assert fix in found.fix
