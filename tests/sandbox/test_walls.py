"""Taking one wall away at a time: it is noticed before the step's first line, or a second wall stands behind it.

Each row names the wall that is missing and what then happens. Where the inside's own attestation would refuse the step,
it is taken away as well, to see whether the attack itself succeeds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sovrun.ports import Failed, Succeeded
from sovrun.sandbox import executor as executor_module
from sovrun.sandbox import image
from sovrun.sandbox.cgroups import find
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.settings import SandboxSettings
from support import attacks
from support.attacker import has_landlock, living
from support.ordinary import SESSION_KEY
from support.tasks import failure_of, require_bubblewrap, task, value_of

TESTS = str(Path(__file__).parents[1])
ATTACKS = Path(attacks.__file__).read_text()
Run = Callable[..., Awaitable[Succeeded | Failed]]

WITHOUT = """
from sovrun.sandbox import attempt, launch, supervisor
def without(*flags):
    words, left = list(launch._BOUNDARY), []
    while words:
        word = words.pop(0)
        values = []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        if word not in flags:
            left += [word, *values]
    launch._BOUNDARY = tuple(left)
def allow_everything():
    import os
    from pathlib import Path
    from sovrun.sandbox.filters import Filter
    made = os.memfd_create("filter")
    os.write(made, bytes.fromhex("060000000000ff7f"))
    supervisor.own_filter = lambda **_: Filter(Path(f"/proc/self/fd/{made}"), "0" * 64, 1)
def writable(*options):
    plain = launch._writable
    launch._writable = lambda *given: [word for word in plain(*given) if word not in options]
"""
NOT_ATTESTED = (
    ("return [*problems, str(error)]", "return []"),
    ("    return problems\n\n\ndef set_limits", "    return []\n\n\ndef set_limits"),
)
"""The inside does not refuse, whatever it finds."""

NO_LANDLOCK = (("used = landlock.restrict(", "used = (lambda *_: setup['landlock'])("),)


@pytest.fixture
async def run(
    tmp_path: Path, code: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Run]:
    """Run an attack in a sandbox that lacks something."""
    require_bubblewrap()
    opened: list[SandboxExecutor] = []
    folder = code(attacks=ATTACKS)

    async def carry_out(
        entry: str, *, lacking: str = "", inside: tuple[tuple[str, str], ...] = (), **more: Any
    ) -> Succeeded | Failed:
        text = f"{WITHOUT}\n{lacking}\nsupervisor.main()"
        monkeypatch.setattr(executor_module, "SUPERVISOR", text)
        monkeypatch.setattr(image, "source_of", lambda path: changed(path, inside))
        image.image_of.cache_clear()
        groups = more.pop("control_groups", True)
        executor = SandboxExecutor(tmp_path / f"spool-{len(opened)}", SandboxSettings(control_groups=groups))
        opened.append(executor)
        return await executor.execute(task(f"attacks:{entry}", code=folder, **more))

    carry_out.opened = opened  # type: ignore[attr-defined]
    yield carry_out
    image.image_of.cache_clear()
    for executor in opened:
        await executor.close()


def changed(path: Path, replacements: tuple[tuple[str, str], ...]) -> bytes:
    text = path.read_text()
    if path.name == "seal.py":
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new)
    return text.encode()


async def test_with_all_walls_a_step_runs(run: Run) -> None:
    assert value_of(await run("hello")) == "hello"


SINGLE = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]


def all_but(flag: str) -> str:
    others = [one for one in SINGLE if one != flag]
    return f"without('--unshare-all'); launch._BOUNDARY = ({others!r} + list(launch._BOUNDARY))"


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


async def test_without_dying_with_the_parent_a_step_outlives_its_supervisor(run: Run) -> None:
    """The named test would fail: `when the supervisor is killed nothing of its steps lives on`."""
    sign = f"marker-{os.getpid()}-orphan"
    lacking = "without('--die-with-parent'); launch.die_with = lambda parent: None"
    running = asyncio.ensure_future(run("linger", marker=sign, children=1, lacking=lacking))
    async with asyncio.timeout(60):
        while not living(sign):  # noqa: ASYNC110 -- another process's life has no event to wait for
            await asyncio.sleep(0.01)
    try:
        os.kill(run.opened[-1]._link._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        assert failure_of(await running).reason == "sandbox_error"
        assert living(sign)
    finally:
        for pid in living(sign):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
