"""Taking away one wall of warm mode at a time: of the template, of the clone, of the look from outside.

As in `test_walls.py`: it is noticed before the step's first line, or a second wall stands behind it, or a named test fails.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sovrun.sandbox.cgroups import find
from sovrun.sandbox.watch import descendants
from support.attacker import living
from support.supervised import supervisor_of
from support.tasks import failure_of, value_of
from support.walls import NOT_ATTESTED, Run, all_but, lacking_walls


@pytest.fixture
async def run(
    tmp_path: Path, code: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Run]:
    """Run an attack in a sandbox that lacks something."""
    async with lacking_walls(tmp_path, code, monkeypatch) as found:
        yield found


TEMPLATES = {
    "--unshare-ipc": (all_but("--unshare-ipc", "templates"), "its ipc namespace is ours"),
    "--unshare-pid": (all_but("--unshare-pid", "templates"), "its pid namespace is ours|proc"),
    "--unshare-net": (all_but("--unshare-net", "templates"), "its net namespace is ours"),
    "--unshare-uts": (all_but("--unshare-uts", "templates"), "its uts namespace is ours|hostname"),
    "--info-fd": ("without('--info-fd', of=templates)", "did not say which process"),
    "--seccomp": ("without('--seccomp', of=templates)", "it has no filter of system calls"),
    "the drop of the user id": ("launch.drop_to = lambda uid: None", "its host user ids are"),
    "other groups": ("import os; os.setgroups([4242]); os.setgroups = lambda groups: None", "groups ['4242']"),
}  # fmt: skip
FOR_ROOT = ("the drop of the user id", "other groups")
"""An ordinary user drops nothing."""


@pytest.mark.parametrize("wall", TEMPLATES)
async def test_a_wall_that_a_template_lacks_is_noticed_before_a_step(run: Run, wall: str) -> None:
    lacking, said = TEMPLATES[wall]
    outcome = await run("hello", warm=True, lacking=lacking)
    if wall in FOR_ROOT and os.getuid() != 0:
        assert value_of(outcome) == "hello"
        return
    failed = failure_of(outcome)
    assert failed.reason in ("warm_unavailable", "sandbox_error")
    assert any(part in failed.message for part in said.split("|")), failed.message


@pytest.mark.parametrize("wall", ["--cap-drop", "--unshare-user", "--new-session", "--clearenv"])
async def test_what_bubblewrap_or_the_clone_does_in_any_case_a_template_may_lack(run: Run, wall: str) -> None:
    """bubblewrap that nobody privileged starts makes a namespace of users, and drops its capabilities; the launcher makes a
    session, and hands on no environment; so does each clone."""
    lacking = f"without('{wall}', of=templates)"
    assert value_of(await run("hello", warm=True, lacking=lacking)) == "hello"


CLONES = {
    "a namespace of users": ("0x10000000 | ", "Creating new namespace failed"),
    "a namespace of mounts": ("0x00020000 | ", "mount proc on /proc|its mnt namespace is that of its template"),
    "a namespace of processes": ("0x20000000 | ", "mount proc on /proc|its pid namespace is that of its template"),
    "a namespace of IPC": ("0x08000000 | ", "its ipc namespace is that of its template"),
    "a namespace of host names": ("0x04000000 | ", "its uts namespace is that of its template"),
    "a namespace of networks": (" | 0x40000000", "Operation not permitted|its net namespace is that of its template"),
    "a session of its own": ("        os.setsid()\n", "the session is that of the launcher"),
    "what the first process drops": ("        _drop_everything(filtering)\n        os.closerange", "its CapEff is"),
    "what the step drops": ("    _drop_everything(filtering)\n    _forget", "CapEff is"),
    "its filter": ("    loaded = _libc.prctl(_PR_SET_SECCOMP, _FILTERED, ctypes.byref(program), 0, 0)", "no filter of system calls of its own"),
    "closed descriptors": ("    os.closerange(INFO, INFO + 1 + len(mounts))\n", "open descriptors"),
}  # fmt: skip
KEPT = {
    "its filter": "    loaded = 0",
    "what the first process drops": "        os.closerange",
    "what the step drops": "    _forget",
}


@pytest.mark.parametrize("wall", CLONES)
async def test_a_wall_that_a_clone_lacks_is_noticed_before_the_steps_first_line(run: Run, wall: str) -> None:
    text, said = CLONES[wall]
    failed = failure_of(await run("hello", warm=True, clone=((text, KEPT.get(wall, "")),)))
    assert failed.reason == "sandbox_error"
    assert any(part in failed.message for part in said.split("|")), failed.message


async def test_only_the_comparison_with_its_template_notices_a_namespace_that_both_share(run: Run) -> None:
    """The named tests would fail: `a wall that a clone lacks is noticed`, of IPC and of host names."""
    lacking = "warm.WarmAttempt._outside_problems = attempt.Attempt._outside_problems"
    for text in ("0x08000000 | ", "0x04000000 | "):
        assert value_of(await run("hello", warm=True, lacking=lacking, clone=((text, ""),))) == "hello"


NOT_LOOKED = "from sovrun.sandbox import outside; outside.power_problems = lambda *given: []"


async def test_the_first_process_is_looked_at_from_outside_alone(run: Run) -> None:
    """Where it is not, nothing inside notices that it kept its powers."""
    text = CLONES["what the first process drops"][0]
    found = await run("hello", warm=True, lacking=NOT_LOOKED, clone=((text, "        os.closerange"),))
    assert value_of(found) == "hello"


async def test_a_step_waits_until_its_first_process_is_as_it_must_be(run: Run) -> None:
    text = CLONES["what the first process drops"][0]
    slow = (text, f"        __import__('time').sleep(0.3)\n{text}")
    assert value_of(await run("hello", warm=True, clone=(slow,))) == "hello"


async def test_without_its_own_drop_a_step_is_still_in_a_template_that_has_nothing(run: Run) -> None:
    """Its powers reach no further than its own namespaces: the host's mounts and settings stay closed."""
    text = CLONES["what the step drops"][0]
    open_ = {"inside": NOT_ATTESTED, "clone": ((text, "    _forget"),), "lacking": NOT_LOOKED}
    paths = ["/", "/usr", "/etc", "/sovrun"]
    assert set(value_of(await run("write_into", folders=paths, warm=True, **open_)).values()) <= {
        "EROFS",
        "EACCES",
    }


GROUPS = (('    _require(_libc.unshare(_NEW_GROUPS), "namespace of control groups")\n', ""),)


async def test_without_a_namespace_of_control_groups_a_clone_sees_the_names_of_the_hosts_and_no_more(
    run: Run,
) -> None:
    own = value_of(await run("own_groups", warm=True))
    assert {line.rpartition(":")[2] for line in own.splitlines()} == {"/"}
    seen = value_of(await run("own_groups", warm=True, clone=GROUPS))
    if any(place.folder for place in find().values()):
        assert "/warm-" in seen
    found = value_of(await run("write_into", folders=["/sys/fs/cgroup"], warm=True, clone=GROUPS))
    assert found == {"/sys/fs/cgroup": "ENOENT"}


# --- ending -----------------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 -- another process's life has no event to wait for
            await asyncio.sleep(0.01)


DEATH = (
    (
        """        _require(
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
            "parent death signal",
        )
""",
        "",
    ),
)


def template_below(supervisor: int) -> int:
    """Return bubblewrap's child, of which steps are cloned."""
    for pid in descendants(supervisor):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0] != b"bwrap" and b"/sovrun/template.pyc" in words:
                return pid
    raise AssertionError("there is no template")


async def test_a_clone_that_does_not_ask_to_die_with_its_template_dies_with_its_namespace(run: Run) -> None:
    sign = f"marker-{os.getpid()}-clone"
    running = asyncio.ensure_future(run("linger", marker=sign, children=2, warm=True, clone=DEATH))
    await until(lambda: len(living(sign)) == 2)
    os.kill(template_below(supervisor_of(run.opened[-1])), signal.SIGKILL)
    assert failure_of(await running).reason == "sandbox_error"
    assert living(sign) == []


async def test_a_template_that_does_not_die_with_its_supervisor_ends_with_its_link(run: Run) -> None:
    """The guard, which would end it, is taken away as well."""
    sign = f"marker-{os.getpid()}-template"
    lacking = (
        "without('--die-with-parent', of=templates); launch.die_with = lambda parent: None; "
        "from sovrun.sandbox import reaper; reaper.end_children = lambda: None"
    )
    running = asyncio.ensure_future(run("linger", marker=sign, children=2, warm=True, lacking=lacking))
    await until(lambda: len(living(sign)) == 2)
    os.kill(supervisor_of(run.opened[-1]), signal.SIGKILL)
    assert failure_of(await running).reason == "sandbox_error"
    await until(lambda: not living(sign))


LIES = (
    ("            if _is_alone():", "            if True:"),
    ("            os._exit(code)", "            signal.pause()"),
)
"""A first process that says the step has left nothing, whatever is there, and does not end."""

NO_KILL = "warm.WarmAttempt._kill_processes = lambda self: None"


@pytest.mark.parametrize("killed", [True, False])
async def test_who_says_that_nothing_is_left_is_killed_with_all_that_is(run: Run, *, killed: bool) -> None:
    """Without it, what the step left would live until its template ends."""
    sign = f"marker-{os.getpid()}-liar-{killed}"
    given = {"warm": True, "clone": LIES, "lacking": "" if killed else NO_KILL}
    assert value_of(await run("daemon", marker=sign, **given)) > 0
    if killed:
        await until(lambda: not living(sign))
    else:
        await asyncio.sleep(0.5)  # as long as the other takes at the very most
        assert living(sign)


async def test_without_looking_whether_it_is_alone_the_answer_comes_before_all_are_dead(run: Run) -> None:
    """The named test would fail: `nothing changes after the answer`."""
    sign = f"marker-{os.getpid()}-alone"
    left = 0
    for _ in range(20):
        clone = (LIES[0],)
        await run("scribble", marker=sign, children=40, processes=64, warm=True, clone=clone)
        left += len(living(sign))
        if left:
            break
    assert left
