"""Taking one wall away at a time: it is noticed before the step's first line, or a second wall stands behind it.

Each row names the wall that is missing and what then happens. Where the inside's own attestation would refuse the step,
it is taken away as well, to see whether the attack itself succeeds. The walls that only warm mode has are in
`test_walls_warm.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sovrun.sandbox.cgroups import find
from sovrun.sandbox.settings import SandboxSettings
from support.attacker import has_landlock, living
from support.ordinary import SESSION_KEY
from support.supervised import launchers, supervisor_of
from support.tasks import failure_of, value_of
from support.walls import NO_LANDLOCK, NOT_ATTESTED, Run, all_but, lacking_walls

TESTS = str(Path(__file__).parents[1])


@pytest.fixture
async def run(
    tmp_path: Path, code: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Run]:
    """Run an attack in a sandbox that lacks something."""
    async with lacking_walls(tmp_path, code, monkeypatch) as found:
        yield found


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_with_all_walls_a_step_runs(run: Run, *, warm: bool) -> None:
    assert value_of(await run("hello", warm=warm)) == "hello"


NOTICED = {
    "--unshare-ipc": (all_but("--unshare-ipc"), "its ipc namespace is ours"),
    "--unshare-pid": (all_but("--unshare-pid"), "pid|proc"),
    "--unshare-net": (all_but("--unshare-net"), "network interface|net namespace is ours"),
    "--unshare-uts": (all_but("--unshare-uts"), "uts|hostname"),
    "--unshare-user": ("without('--unshare-user')", "disable-userns requires"),
    "--new-session": ("without('--new-session')", "the session is that of the launcher"),
    "--info-fd": ("without('--info-fd')", "did not say which process|open descriptors"),
    "--seccomp": ("without('--seccomp')", "no filter of system calls is loaded"),
    "--proc": ("writable('--proc', '/proc')", "proc"),
    "--remount-ro /dev": ("writable('--remount-ro', '/dev'); launch._writable = (lambda p: lambda *g: [*p(*g)[:0], '--proc', '/proc', '--dev', '/dev', *p(*g)[3:]])(launch._writable)", "/dev can be written"),
    "closed descriptors": ("launch._arrange = (lambda plain: lambda given: plain({**given, 9: given[0]}))(launch._arrange)", "open descriptors"),
    "the filter's own rows": (
        "allow_everything()",
        "sockets to the machine's host are not denied; the keyring is not denied",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wall", NOTICED)
async def test_a_missing_wall_is_noticed_before_the_steps_first_line(run: Run, wall: str) -> None:
    lacking, said = NOTICED[wall]
    failed = failure_of(await run("hello", lacking=lacking))
    assert failed.reason == "sandbox_error"
    assert any(part in failed.message for part in said.split("|")), failed.message


async def test_a_missing_drop_of_the_user_id_is_noticed_from_outside(run: Run) -> None:
    if (
        os.getuid() != 0
    ):  # nobody drops anything: the step's user on the host is the one that runs Sovrun, never 0
        assert value_of(await run("hello", lacking="launch.drop_to = lambda uid: None")) == "hello"
        return
    failed = failure_of(await run("hello", lacking="launch.drop_to = lambda uid: None"))
    assert failed.reason == "sandbox_error"
    assert "host user ids" in failed.message


async def test_kept_groups_of_the_host_are_noticed_from_outside(run: Run) -> None:
    if os.getuid() != 0:  # who can leave none: its steps are in those of the user that runs Sovrun
        return
    kept = "import os; os.setgroups([4242]); os.setgroups = lambda groups: None"
    failed = failure_of(await run("hello", lacking=kept))
    assert "it is in the host's groups ['4242']" in failed.message


async def test_a_sandbox_outside_of_its_control_groups_is_noticed_from_outside(run: Run) -> None:
    outcome = await run(
        "hello", lacking="from sovrun.sandbox.cgroups import Group; Group._move = lambda self, pids: None"
    )
    if any(place.folder for place in find().values()):
        assert "not in its control group" in failure_of(outcome).message
    else:  # this user has none to be in
        assert value_of(outcome) == "hello"


async def test_without_landlock_it_is_noticed_and_the_mounts_still_hold(run: Run) -> None:
    if has_landlock():
        assert "Landlock does not hold" in failure_of(await run("hello", inside=NO_LANDLOCK)).message
    paths = ["/", "/usr", "/etc", "/dev", "/code", "/sovrun"]
    found = value_of(await run("write_into", folders=paths, inside=(*NO_LANDLOCK, *NOT_ATTESTED)))
    assert set(found.values()) == {"EROFS"}
    assert (
        "opened"
        in value_of(
            await run("open_for_writing", paths=["/proc/self/comm"], inside=(*NO_LANDLOCK, *NOT_ATTESTED))
        ).values()
    )


async def test_without_read_only_mounts_it_is_noticed_and_landlock_still_holds(run: Run) -> None:
    plain = "plain = launch.order\ndef order(*given):\n    made = plain(*given)\n    object.__setattr__(made, 'options', made.options.replace(b'--remount-ro\\0/\\0', b''))\n    return made\nlaunch.order = order\n"
    assert "/ can be written" in failure_of(await run("hello", lacking=plain)).message
    found = value_of(await run("write_into", folders=["/"], lacking=plain, inside=NOT_ATTESTED))
    assert found == {"/": "EACCES" if has_landlock() else "written"}


async def test_without_the_ban_on_user_namespaces_the_filter_still_denies_them(run: Run) -> None:
    wanted = [["unshare", 0x10000000], ["clone3", 0, 0]]
    found = value_of(await run("calls", wanted=wanted, lacking="without('--disable-userns')"))
    assert set(found.values()) == {"EPERM", "ENOSYS"}


async def test_without_the_filter_further_user_namespaces_are_still_banned(run: Run) -> None:
    found = value_of(
        await run(
            "calls", wanted=[["unshare", 0x10000000]], lacking="without('--seccomp')", inside=NOT_ATTESTED
        )
    )
    assert set(found.values()) == {"ENOSPC"}


async def test_without_the_filter_the_attacks_succeed_that_only_it_stops(run: Run) -> None:
    open_ = {"lacking": "without('--seccomp')", "inside": NOT_ATTESTED}
    wanted = [["personality", 0x40000], ["clone3", 0, 0]]
    assert value_of(await run("calls", wanted=wanted, **open_)) == {
        "personality 262144": "done",
        "clone3 0": "EINVAL",
    }
    assert value_of(await run("memory_of_none", size=1 << 20, control_groups=False, **open_)) == "done"


def has_keyrings() -> bool:
    script = f"import sys; sys.path.insert(0, {TESTS!r}); from support.ordinary import leave_key; print(leave_key())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout == "True\n"


@pytest.mark.parametrize("kept", ["a new keyring", "the launcher's keyring"])
async def test_the_launchers_keyring_is_behind_two_walls(run: Run, kept: str) -> None:
    keep = "launch.leave_keyring = lambda: None\n" if kept == "the launcher's keyring" else ""
    described = SESSION_KEY.decode()
    leave = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\nfrom support.ordinary import leave_key\nleave_key()\n"
    shut = value_of(await run("keyring", description=described, lacking=leave + keep))
    assert shut["search"] == "EPERM"
    open_ = value_of(
        await run(
            "keyring",
            description=described,
            lacking=f"{leave}{keep}without('--seccomp')",
            inside=NOT_ATTESTED,
        )
    )
    if has_keyrings():
        assert open_["search"] == ("done" if keep else "ENOKEY")
    else:  # there is nothing to be reached
        assert open_["search"] in ("ENOSYS", "EPERM")


async def test_without_dropped_capabilities_bubblewrap_drops_them_by_itself(run: Run) -> None:
    assert value_of(await run("hello", lacking="without('--cap-drop')")) == "hello"


async def test_without_the_ids_of_nobody_a_step_sees_the_hosts_and_is_told_apart(run: Run) -> None:
    """The named test would fail: `a step is nobody in particular`."""
    seen = value_of(await run("identity", lacking="without('--uid', '--gid')"))
    assert 1000 not in seen
    assert value_of(await run("identity")) == [1000, 1000]


async def test_without_a_namespace_of_control_groups_there_are_still_none_to_be_changed(run: Run) -> None:
    """No hierarchy is mounted inside; only the names of the host's groups would be seen."""
    lacking = all_but("--unshare-cgroup-try")
    assert value_of(await run("write_into", folders=["/sys/fs/cgroup"], lacking=lacking)) == {
        "/sys/fs/cgroup": "ENOENT"
    }


async def test_without_a_cleared_environment_there_is_still_nothing_in_it(run: Run, monkeypatch) -> None:
    monkeypatch.setenv("CANARY", "canary-of-the-host")
    plain = "plain = launch._environment\nlaunch._environment = lambda *given, **more: [w for w in plain(*given, **more) if w != '--clearenv']\n"
    assert "canary" not in str(value_of(await run("processes", lacking=plain)))


async def test_without_the_group_of_processes_the_limit_inside_holds_and_the_other_way_round(
    run: Run,
) -> None:
    found = value_of(await run("fork_bomb", processes=20, control_groups=False))
    assert found["made"] == 18
    if SandboxSettings().control_groups and os.getuid() == 0:
        unlimited = "plain = attempt.Attempt._limits_inside\nattempt.Attempt._limits_inside = lambda self: {k: v for k, v in plain(self).items() if k != 'processes'}\n"
        assert value_of(await run("fork_bomb", processes=20, lacking=unlimited))["made"] == 18


ORPHANED = "launch.die_with = lambda parent: None"
LEFT = "from sovrun.sandbox import reaper; reaper.end_children = lambda: None"
"""Nobody ends what the supervisor leaves."""


async def kill_the_supervisor(run: Run, sign: str, lacking: str) -> None:
    """Have it killed while a step runs; return when the executor says so."""
    running = asyncio.ensure_future(run("linger", marker=sign, children=1, lacking=lacking))
    async with asyncio.timeout(60):
        while not living(sign):  # noqa: ASYNC110 -- another process's life has no event to wait for
            await asyncio.sleep(0.01)
    os.kill(supervisor_of(run.opened[-1]), signal.SIGKILL)
    assert failure_of(await running).reason == "sandbox_error"


async def test_without_dying_with_the_parent_the_guard_still_ends_every_step(run: Run) -> None:
    sign = f"marker-{os.getpid()}-guarded"
    await kill_the_supervisor(run, sign, f"without('--die-with-parent'); {ORPHANED}")
    assert living(sign) == []


async def test_without_either_a_step_outlives_its_supervisor(run: Run) -> None:
    """The named test would fail: `when the supervisor is killed nothing of its steps lives on`."""
    sign = f"marker-{os.getpid()}-orphan"
    with launchers():  # which ends what is left, in the end
        await kill_the_supervisor(run, sign, f"without('--die-with-parent'); {ORPHANED}; {LEFT}")
        assert living(sign)


STUCK = """
import os
def stuck(module):
    plain = launch._arrange
    def arrange(given):
        reading, writing = os.pipe()
        return plain({**given, 8: reading, 9: writing})
    launch._arrange = arrange
    without("--disable-userns")  # it cannot be had with what follows
    module._BOUNDARY = (*module._BOUNDARY, "--userns-block-fd", "8")
"""
"""bubblewrap stops for good after it has made its child, which has not asked for death with its parent yet."""


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("guarded", [True, False])
async def test_who_has_not_yet_asked_to_die_with_its_parent_is_ended_by_the_guard(
    run: Run, *, warm: bool, guarded: bool
) -> None:
    """Without it, the named test would fail: `whoever is killed at any moment of a start leaves nothing`."""
    lacking = f"{STUCK}\nstuck({'templates' if warm else 'launch'})\n{'' if guarded else LEFT}"
    with launchers() as started:
        running = asyncio.ensure_future(run("hello", warm=warm, lacking=lacking))
        async with asyncio.timeout(60):
            while len(started()) < 2:  # noqa: ASYNC110 -- another process's life has no event to wait for
                await asyncio.sleep(0.01)
        os.kill(supervisor_of(run.opened[-1]), signal.SIGKILL)
        assert failure_of(await running).reason == "sandbox_error"
        assert bool(started()) == (not guarded)
