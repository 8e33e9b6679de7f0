"""Host user ids of steps: no two sandboxes of one machine have the same, and no id that belongs to somebody is used."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sovrun.core.errors import InvalidSetting, IsolationUnavailable
from sovrun.sandbox.executor import SandboxExecutor
from sovrun.sandbox.probe import probe
from sovrun.sandbox.settings import SandboxSettings, from_environment, parse_uids
from sovrun.sandbox.users import HostUsers, NoUser, is_mapped, owners_within
from support.attacker import Attacker, living
from support.supervised import guard_of, supervisor_of
from support.tasks import failure_of, require_bubblewrap, task, value_of

AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root drops to another user")
IDS = range(2_000_000, 2_000_003)


def owner_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 -- another process's life has no event to wait for
            await asyncio.sleep(0.01)


def is_dead(pid: int) -> bool:
    """Return whether a process has ended and nobody has waited for it yet."""
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def has_one(users: HostUsers) -> bool:
    with suppress(NoUser):
        users.take()
        return True
    return False


@AS_ROOT
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_steps_of_two_engines_never_have_the_same_user(*, warm: bool) -> None:
    markers = [f"marker-{os.getpid()}-users-{warm}-{number}" for number in range(2)]
    engines = [Attacker(0, warm), Attacker(0, warm)]
    for engine, marker in zip(engines, markers, strict=True):
        engine.value("hello")  # one supervisor each
        for _ in range(3):
            engine.start("linger", marker=marker, children=1)
    while any(len(living(marker)) < 3 for marker in markers):
        assert all(engine._process.poll() is None for engine in engines)
    owners = [{owner_of(pid) for pid in living(marker)} for marker in markers]
    for engine in engines:
        engine.kill("supervisor")
        engine.close()
    assert [len(found) for found in owners] == [
        1 if warm else 3
    ] * 2  # warm steps have that of their template
    assert not owners[0] & owners[1]


@AS_ROOT
async def test_a_step_for_whom_there_is_no_user_is_refused_by_name_and_the_next_one_gets_it(
    tmp_path: Path, code: Callable[..., Path]
) -> None:
    require_bubblewrap()
    marker = f"marker-{os.getpid()}-last"
    folder = code(
        work="import subprocess\ndef wait(marker):\n"
        "    subprocess.run(['/bin/sh', '-c', f'sleep 1000; : {marker}'])\ndef quick():\n    return 1\n"
    )
    settings = SandboxSettings(uid_first=2_000_000, uid_count=1, uid_folder=str(tmp_path / "uids"))
    executor = SandboxExecutor(tmp_path / "spool", settings)
    holding = asyncio.create_task(executor.execute(task("work:wait", code=folder, marker=marker, grace_us=0)))
    await until(lambda: living(marker) != [])
    failed = failure_of(await executor.execute(task("work:quick", code=folder)))
    assert (failed.reason, failed.circumstance, failed.retryable) == ("sandbox_error", True, True)
    assert "all 1 host user ids for steps are taken. Set SOVRUN_UIDS to a larger range" in failed.message
    holding.cancel()
    await asyncio.wait({holding})
    assert value_of(await executor.execute(task("work:quick", code=folder))) == 1
    await executor.close()


@AS_ROOT
async def test_a_killed_supervisors_ids_are_held_until_its_guard_has_seen_all_dead(
    tmp_path: Path, code: Callable[..., Path]
) -> None:
    require_bubblewrap()
    uids = tmp_path / "uids"
    settings = SandboxSettings(uid_first=IDS[0], uid_count=1, uid_folder=str(uids))
    executor = SandboxExecutor(tmp_path / "spool", settings)
    folder = code(work="import time\ndef wait():\n    print('on', flush=True)\n    time.sleep(1000)\n")
    log = tmp_path / "log"
    running = asyncio.create_task(executor.execute(replace(task("work:wait", code=folder), log=str(log))))
    await until(lambda: log.exists() and log.stat().st_size > 0)
    guard, supervisor = guard_of(executor), supervisor_of(executor)
    os.kill(guard, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    await until(lambda: is_dead(supervisor))
    other = HostUsers(range(IDS[0], IDS[1]), uids)
    with pytest.raises(NoUser):
        other.take()
    os.kill(guard, signal.SIGCONT)
    assert failure_of(await running).reason == "sandbox_error"
    await until(lambda: has_one(other))
    other.close()
    await executor.close()


@AS_ROOT
async def test_where_ids_cannot_be_reserved_no_step_runs(tmp_path: Path) -> None:
    require_bubblewrap()
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    settings = SandboxSettings(uid_folder=str(shared))
    with pytest.raises(IsolationUnavailable, match="others can change it") as refused:
        await SandboxExecutor.open(tmp_path / "spool", settings)
    assert "SOVRUN_UIDS_FOLDER" in (refused.value.hint or "")
    executor = SandboxExecutor(tmp_path / "spool", settings)
    failed = failure_of(await executor.execute(task(("/bin/true",))))
    assert "others can change it" in failed.message
    await executor.close()


def test_an_id_is_held_until_it_is_given_back(tmp_path: Path) -> None:
    one, other = HostUsers(IDS, tmp_path / "uids"), HostUsers(IDS, tmp_path / "uids")
    assert [one.take(), other.take(), one.take()] == list(IDS)
    with pytest.raises(NoUser, match="all 3"):
        other.take()
    one.give(IDS[0])
    assert other.take() == IDS[0]
    one.give(IDS[1])  # it is not its own
    with pytest.raises(NoUser):
        one.take()
    other.close()
    assert [one.take(), one.take()] == [IDS[0], IDS[1]]
    one.close()


def test_an_id_is_held_as_long_as_a_process_lives_that_was_forked_from_the_holder(tmp_path: Path) -> None:
    holder = HostUsers(IDS, tmp_path / "uids")
    assert holder.take() == IDS[0]
    reading, writing = os.pipe()
    guard = os.fork()
    if guard == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    holder.close()
    other = HostUsers(IDS, tmp_path / "uids")
    assert other.take() == IDS[1]
    os.close(writing)
    os.waitpid(guard, 0)
    assert other.take() == IDS[0]
    other.close()


def test_the_operators_words() -> None:
    assert parse_uids("") == SandboxSettings().uids
    assert parse_uids("100000:7") == range(100_000, 100_007)
    assert parse_uids("4294967294:1")
    chosen = from_environment({"SOVRUN_UIDS": "5000:10", "SOVRUN_UIDS_FOLDER": "/srv/uids"})
    assert (chosen.uid_first, chosen.uid_count, chosen.uid_folder) == (5000, 10, "/srv/uids")
    for text in ("5000", "5000:", ":1", "a:b", "5000:0", "0:5", "-1:5", "4294967294:2", "1:1:1", "²:1"):
        with pytest.raises(InvalidSetting):
            parse_uids(text)


@pytest.mark.parametrize(
    ("text", "is_there"),
    [
        ("0 0 4294967295", True),
        ("0 1000 1", False),
        ("0 1000 1\n1 100000 65536", False),
        ("0 1000 1\n2000000 100000 2", False),
        ("0 1000 1\n2000001 100000 2\n2000000 5 1", True),
        ("", False),
    ],
)
def test_ids_that_are_not_mapped_do_not_exist(text: str, is_there: bool) -> None:  # noqa: FBT001
    assert is_mapped(IDS, text) == is_there


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("passwd", "ada:x:2000001:2000001::/home/ada:/bin/sh", ["ada (/etc/passwd)"]),
        ("passwd", "ada:x:2000003:100::/home/ada:/bin/sh", []),
        ("group", "staff:x:2000002:ada", ["staff (/etc/group)"]),
        ("subuid", "ada:1999990:11", ["ada (/etc/subuid)"]),
        ("subuid", "ada:1999990:10", []),
        ("subgid", "ada:2000002:65536", ["ada (/etc/subgid)"]),
        ("passwd", "broken", []),
        ("passwd", "broken:x:y:z", []),
    ],
)
def test_ids_of_accounts_and_those_handed_to_accounts_belong_to_them(
    tmp_path: Path, name: str, line: str, said: list[str]
) -> None:
    (tmp_path / name).write_text(f"root:x:0:0::/root:/bin/sh\n{line}\n")
    assert owners_within(IDS, tmp_path) == said


@AS_ROOT
def test_doctor_refuses_a_range_that_belongs_to_somebody_and_says_which_one_it_uses() -> None:
    found = {item.name: item for item in probe(SandboxSettings(uid_first=1, uid_count=10)).items}["user"]
    assert (found.ok, found.needed) == (False, True)
    assert "user ids 1 to 10 for steps belong to others: daemon (/etc/passwd)" in found.detail
    assert "SOVRUN_UIDS" in found.fix
    used = {item.name: item for item in probe(SandboxSettings()).items}["user"]
    assert f"of {SandboxSettings().uids.start} to" in used.detail
