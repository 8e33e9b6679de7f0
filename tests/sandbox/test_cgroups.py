"""Control groups on machines of every kind, laid out as files; what the kernel makes of them the escapes show."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sovrun.sandbox import cgroups
from sovrun.sandbox.cgroups import Group, Groups, find

LIMITS = {"memory": 64 << 20, "processes": 20}
Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Lay out /proc/self and the hierarchies of a machine; `own` is the path of the supervisor's group."""

    def lay_out(
        v1: dict[str, str], v2: str | None, *, own: str = "/own", root: str = "/", handed: str = ""
    ) -> Path:
        lines, groups = [], []
        for number, (controller, path) in enumerate(v1.items(), 2):
            place = tmp_path / "v1" / controller
            (place / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
            lines.append(f"{number} 1 0:{number} / {place} rw - cgroup cgroup rw,{controller}")
            groups.append(f"{number}:{controller}:{path}")
        if v2 is not None:
            place = tmp_path / "v2"
            folder = place / own.removeprefix(root.rstrip("/")).lstrip("/")
            folder.mkdir(parents=True)
            (folder / "cgroup.controllers").write_text(v2)
            (folder / "cgroup.subtree_control").write_text(handed)
            (folder / "cpu.stat").write_text("usage_usec 5\n")
            lines.append(f"9 1 0:9 {root} {place} rw - cgroup2 cgroup2 rw")
            groups.append(f"0::{own}")
        process = tmp_path / "self"
        process.mkdir()
        (process / "mountinfo").write_text("\n".join(lines))
        (process / "cgroup").write_text("\n".join(groups))
        return process

    return lay_out


def test_controllers_of_version_1_are_found_in_their_hierarchies(machine: Machine, tmp_path: Path) -> None:
    places = find(machine({"memory": "/a/b", "pids": "/", "cpuacct": "/"}, None))
    assert {purpose: place.version for purpose, place in places.items()} == {"memory": 1, "pids": 1, "cpu": 1}
    assert places["memory"].folder == tmp_path / "v1" / "memory" / "a" / "b"


def test_controllers_of_version_2_are_handed_down(machine: Machine, tmp_path: Path) -> None:
    places = find(machine({}, "memory pids cpu"))
    assert {place.version for place in places.values()} == {2}
    assert (tmp_path / "v2" / "own" / "cgroup.subtree_control").read_text() in ("+memory", "+pids")


def test_each_controller_is_looked_for_where_it_is(machine: Machine) -> None:
    places = find(machine({"memory": "/m", "pids": "/"}, "hugetlb"))
    assert {purpose: place.version for purpose, place in places.items()} == {"memory": 1, "pids": 1, "cpu": 2}
    assert not any(place.refusal for place in places.values())


def test_a_containers_own_root_is_its_mounts(machine: Machine, tmp_path: Path) -> None:
    process = machine({}, "memory pids", own="/docker/x/inner", root="/docker/x", handed="memory pids")
    assert find(process)["memory"].folder == tmp_path / "v2" / "inner"


def test_a_group_beside_the_services_own_is_used_where_systemd_delegated_it(machine, monkeypatch) -> None:
    process = machine({}, "", own="/service/main")
    service = Path(find(process)["cpu"].folder or "").parent
    (service / "cgroup.controllers").write_text("memory pids")
    (service / "cgroup.subtree_control").write_text("memory pids")
    monkeypatch.setattr(cgroups, "_is_delegated", lambda folder: folder == service)
    assert find(process)["memory"].folder == service


def test_what_is_missing_is_named(machine: Machine) -> None:
    places = find(machine({"pids": "/"}, None))
    assert places["memory"].refusal == "there is no such controller"
    assert Groups(places).kinds()["memory"] == "there is no such controller"


def test_a_controller_that_is_not_delegated_is_named(machine: Machine) -> None:
    assert "controller memory is not delegated" in find(machine({}, "pids"))["memory"].refusal


def test_a_group_with_processes_of_its_own_hands_nothing_down_and_says_so(
    machine: Machine, tmp_path: Path
) -> None:
    process = machine({}, "memory")
    control = tmp_path / "v2" / "own" / "cgroup.subtree_control"
    control.unlink()
    control.mkdir()  # writing fails, as it does in the kernel with EBUSY
    assert "hands controller memory down to nobody" in find(process)["memory"].refusal


def test_limits_of_version_2_are_written_and_the_whole_group_is_killed_at_once(tmp_path: Path) -> None:
    group = Group(
        {"memory": (2, tmp_path / "m"), "pids": (2, tmp_path / "p"), "cpu": (2, tmp_path / "m")}, LIMITS
    )
    assert (tmp_path / "m" / "memory.max").read_text() == str(64 << 20)
    assert (tmp_path / "m" / "memory.oom.group").read_text() == "1"
    assert (tmp_path / "p" / "pids.max").read_text() == "20"
    assert group.watch_memory() is None
    group.begin_entering([os.getpid()])
    assert group.finish_entering([os.getpid()]) == []
    assert {(tmp_path / name / "cgroup.procs").read_text() for name in "mp"} == {str(os.getpid())}


def test_what_version_2_counts_is_read(tmp_path: Path) -> None:
    group = Group({"memory": (2, tmp_path), "pids": (2, tmp_path), "cpu": (2, tmp_path)}, LIMITS)
    assert (group.ran_out_of_memory(), group.ran_out_of_processes(), group.memory_peak()) == (False, False, 0)
    (tmp_path / "memory.events").write_text("oom 2\noom_kill 1\n")
    (tmp_path / "memory.peak").write_text("77\n")
    (tmp_path / "pids.events").write_text("max 3\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 42\nuser_usec 40\n")
    assert (group.ran_out_of_memory(), group.ran_out_of_processes(), group.memory_peak()) == (True, True, 77)
    assert group.cpu_us() == 42


def test_a_limit_that_does_not_hold_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "memory.max").symlink_to("/dev/null")  # takes what is written, and reads back nothing
    with pytest.raises(OSError, match="reads back"):
        Group({"memory": (2, tmp_path)}, LIMITS)


def test_groups_of_the_dead_are_removed_and_those_of_the_living_are_not(
    machine: Machine, tmp_path: Path
) -> None:
    process = machine({"pids": "/own"}, None)
    own = tmp_path / "v1" / "pids" / "own"
    dead, alive = own / "sovrun-999999999", own / f"sovrun-{os.getppid()}"
    (dead / "7").mkdir(parents=True)
    alive.mkdir()
    groups = Groups(find(process))
    assert (dead.exists(), alive.exists()) == (False, True)
    groups.close()
    assert sorted(path.name for path in own.iterdir()) == [alive.name]


def test_without_places_nothing_is_made() -> None:
    groups = Groups({})
    assert groups.make("1", LIMITS) is None
    assert not groups.memory_is_counted
    assert set(groups.kinds().values()) == {"switched off"}
