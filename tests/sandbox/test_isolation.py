"""What a step in the sandbox cannot reach, cannot use up and cannot outlive."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from sovrun.core.ids import Digest
from sovrun.sandbox.settings import SandboxSettings
from support import attacks
from support.supervised import supervisor_of
from support.tasks import failure_of, require_bubblewrap, task, value_of

ATTACKS = Path(attacks.__file__).read_text()
LOOK = """
import json, os, socket, sys

def environment():
    return dict(os.environ)

def first_process():
    try:
        raw = open("/proc/1/environ", "rb").read().decode()
    except PermissionError:  # Landlock's wall; without it the file can be read, and is empty
        raw = ""
    return {"environ": raw, "cmdline": open("/proc/1/cmdline").read(), "pids": [p for p in os.listdir("/proc") if p.isdigit()]}

def identity():
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    return {
        "uid": os.getuid(), "gid": os.getgid(), "groups": [g for g in os.getgroups() if g != 65534],
        "host": socket.gethostname(), "cwd": os.getcwd(), "umask": os.umask(0o077),
        "caps": status["CapEff"].strip(), "no_new_privs": status["NoNewPrivs"].strip(),
    }

def root():
    return sorted(os.listdir("/"))

def write_to(paths):
    done = []
    for path in paths:
        try:
            open(path + "/probe", "w").close()
            done.append(path)
        except OSError:
            pass
    return done

def see(paths):
    return [path for path in paths if os.path.exists(path)]

def descriptors():
    return sorted(int(name) for name in os.listdir("/proc/self/fd"))

def connect(port):
    made = socket.socket()
    made.settimeout(2)
    try:
        made.connect(("127.0.0.1", port))
    except OSError as error:
        return type(error).__name__
    return "connected"

def raise_limit():
    import resource
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    except (ValueError, OSError):
        return "refused"
    return "raised"

def sysctl():
    try:
        open("/proc/sys/kernel/core_pattern", "r+").close()
    except OSError:
        return "refused"
    return "open"

def new_namespace():
    import ctypes
    return ctypes.CDLL(None, use_errno=True).unshare(0x10000000)

def limits():
    import resource
    names = ("AS", "DATA", "NPROC", "NOFILE", "FSIZE", "CORE", "CPU")
    return {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name))[0] for name in names}
"""


@pytest.fixture
def look(code) -> Path:
    return code(look=LOOK)


async def test_the_environment_is_fixed_and_nothing_of_the_host_is_in_it(sandbox, look, monkeypatch) -> None:
    monkeypatch.setenv("CANARY", "canary-of-the-host")
    seen = value_of(await sandbox.execute(task("look:environment", code=look)))
    seen.pop("PWD", None)
    assert seen == {
        "HOME": "/work",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": "/code:/sovrun/lib",
        "SOURCE_DATE_EPOCH": "315532800",
        "TMPDIR": "/tmp",  # noqa: S108 -- within the sandbox
        "TZ": "UTC",
    }


async def test_the_first_process_shows_neither_host_environment_nor_host_paths(
    sandbox, look, monkeypatch
) -> None:
    monkeypatch.setenv("CANARY", "canary-of-the-host")
    seen = value_of(await sandbox.execute(task("look:first_process", code=look)))
    assert seen["environ"] == ""
    assert str(look) not in seen["cmdline"]
    assert len(seen["pids"]) <= 3


async def test_where_the_shown_directories_lie_is_told_as_names_and_nothing_beside_them(
    sandbox, code, tmp_path: Path
) -> None:
    (tmp_path / "undeclared").mkdir()
    folder = code(told="def mounts():\n    return open('/proc/self/mountinfo').read()\n")
    seen = value_of(await sandbox.execute(task("told:mounts", code=folder)))
    assert folder.name in seen  # the guide says so; the kernel tells whoever may read its own mounts
    assert "undeclared" not in seen


async def test_a_step_is_nobody_in_particular(sandbox, look) -> None:
    assert value_of(await sandbox.execute(task("look:identity", code=look))) == {
        "uid": 1000,
        "gid": 1000,
        "groups": [],
        "host": "sovrun",
        "cwd": "/work",
        "umask": 0o022,
        "caps": "0000000000000000",
        "no_new_privs": "1",
    }


async def test_only_what_was_declared_is_mounted(sandbox, look, tmp_path: Path) -> None:
    (tmp_path / "undeclared").write_text("secret")
    paths = [str(tmp_path), str(look), "/etc/shadow", "/var", "/home", "/etc/hostname", "/run", "/sys"]
    assert value_of(await sandbox.execute(task("look:see", code=look, paths=paths))) == []


async def test_nothing_can_be_written_but_the_three_places_of_fixed_size(sandbox, look) -> None:
    paths = ["/", "/usr", "/etc", "/code", "/sovrun/lib/sovrun", "/dev", "/proc/sys", "/inputs", "/bin"]
    own = ["/work", "/tmp", "/dev/shm"]  # noqa: S108 -- within the sandbox
    assert value_of(await sandbox.execute(task("look:write_to", code=look, paths=paths + own))) == own


async def test_only_the_expected_descriptors_are_open(sandbox, look) -> None:
    assert value_of(await sandbox.execute(task("look:descriptors", code=look))) == [0, 1, 2, 3, 4]


async def test_the_hosts_loopback_is_not_there(sandbox, look) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        given = task("look:connect", code=look, port=port)
        assert value_of(await sandbox.execute(given)) == "ConnectionRefusedError"


async def test_the_kernels_settings_cannot_be_opened_for_writing(sandbox, look) -> None:
    assert value_of(await sandbox.execute(task("look:sysctl", code=look))) == "refused"


async def test_further_user_namespaces_are_refused(sandbox, look) -> None:
    assert value_of(await sandbox.execute(task("look:new_namespace", code=look))) == -1


async def test_limits_are_set_and_cannot_be_raised(sandbox, look) -> None:
    given = task(
        "look:limits", code=look, memory=300 << 20, processes=9, open_files=77, disk=5 << 20, cpu_us=1_500_000
    )
    expected = {"NPROC": 9, "NOFILE": 77, "FSIZE": 5 << 20, "CORE": 0, "CPU": 2}
    found = value_of(await sandbox.execute(given))
    # Where a control group counts all memory, address space that is only reserved is free.
    assert {found.pop("AS"), found.pop("DATA")} == {300 << 20, -1}
    assert found == expected
    assert value_of(await sandbox.execute(task("look:raise_limit", code=look))) == "refused"


async def test_a_steps_own_module_cannot_stand_in_for_what_seals_the_sandbox(sandbox, code) -> None:
    names = ("ctypes", "json", "resource", "sovrun", "os", "_json")
    folder = code(work="def run():\n    return 1\n", **dict.fromkeys(names, "raise SystemExit"))
    assert value_of(await sandbox.execute(task("work:run", code=folder))) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("x = bytearray(400 << 20)", "memory_limit"),
        ("open('big', 'wb').write(bytes(20 << 20))", "disk_limit"),
        ("[open(f'f{n}', 'wb').write(bytes(4 << 20)) for n in range(9)]", "disk_limit"),
        ("[open(f'/tmp/f{n}', 'wb').write(bytes(4 << 20)) for n in range(9)]", "disk_limit"),
        ("[open(f'/dev/shm/f{n}', 'wb').write(bytes(4 << 20)) for n in range(9)]", "disk_limit"),
        ("for _ in iter(int, 1): pass", "cpu_limit"),
        ("import os; os.kill(os.getpid(), 11)", "killed_by_signal"),
        ("import os; os._exit(3)", "exit_nonzero"),
        ("import os; os._exit(0)", "output_not_json"),
        ("import os; os.write(3, b'garbage' * 100)", "output_not_json"),
        ("[open('/dev/null') for _ in iter(int, 1)]", "open_files_limit"),
    ],
)
async def test_which_limit_ended_a_step_is_its_reason(sandbox, code, body, reason) -> None:
    folder = code(work=f"def run():\n    {body}\n")
    given = task("work:run", code=folder, memory=200 << 20, disk=16 << 20, cpu_us=1_000_000)
    failed = failure_of(await sandbox.execute(given))
    assert failed.reason == reason, failed


async def test_a_fork_bomb_is_stopped_and_does_not_touch_the_step_beside_it(sandbox, code, look) -> None:
    bomb = code(
        work="""
        import os, time
        def run():
            made = 0
            try:
                while True:
                    if os.fork() == 0:
                        time.sleep(100)
                    made += 1
            except BlockingIOError:
                return made
        """
    )
    both = await asyncio.gather(
        sandbox.execute(task("work:run", code=bomb, processes=20)),
        sandbox.execute(task("look:identity", code=look, processes=4)),
    )
    assert value_of(both[0]) < 20
    assert value_of(both[1])["uid"] == 1000


def living(marker: str) -> list[int]:
    """Process ids of this machine whose command line holds `marker`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if marker.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


DAEMON = """
import os, signal, subprocess, sys, time
def start(marker):
    child = subprocess.Popen(["/bin/sh", "-c", "trap '' TERM HUP; sleep 1000; : " + marker], start_new_session=True)
    return child.pid
def linger(marker):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    start(marker)
    print("started", flush=True)
    time.sleep(1000)
"""


async def test_a_daemon_dies_with_its_step(sandbox, code) -> None:
    marker = f"marker-{os.getpid()}-daemon"
    given = task("work:start", code=code(work=DAEMON), marker=marker)
    assert value_of(await sandbox.execute(given)) > 0
    assert living(marker) == []


def owners_of(pids: list[int]) -> set[int]:
    return {Path(f"/proc/{pid}").stat().st_uid for pid in pids}


async def eventually(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 -- another process's life has no event to wait for
            await asyncio.sleep(0.01)


async def test_cancelling_returns_only_when_everything_of_the_step_is_dead(sandbox, code) -> None:
    marker = f"marker-{os.getpid()}-cancel"
    running = asyncio.create_task(sandbox.execute(task("work:linger", code=code(work=DAEMON), marker=marker)))
    await eventually(lambda: living(marker))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert living(marker) == []


async def test_the_wall_clock_kills_what_ignores_sigterm_with_its_children(sandbox, code) -> None:
    marker = f"marker-{os.getpid()}-wall"
    given = task("work:linger", code=code(work=DAEMON), marker=marker, wall_us=400_000)
    failed = failure_of(await sandbox.execute(given))
    assert (failed.reason, failed.log) == ("wall_limit", b"started\n")
    assert living(marker) == []


async def test_when_the_supervisor_dies_its_steps_die_and_are_reported_and_later_steps_run(
    sandbox, code
) -> None:
    marker = f"marker-{os.getpid()}-supervisor"
    folder = code(work=DAEMON, look=LOOK)
    running = asyncio.create_task(sandbox.execute(task("work:linger", code=folder, marker=marker)))
    await eventually(lambda: living(marker))
    os.kill(supervisor_of(sandbox), signal.SIGKILL)
    failed = failure_of(await running)
    assert (failed.reason, failed.circumstance, failed.retryable) == ("sandbox_error", True, True)
    await eventually(lambda: not living(marker))
    assert value_of(await sandbox.execute(task("look:identity", code=folder)))["uid"] == 1000


async def test_when_the_engine_is_killed_its_steps_die(code, tmp_path: Path) -> None:
    require_bubblewrap()
    marker = f"marker-{os.getpid()}-engine"
    script = f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from support.tasks import task
from sovrun.sandbox.executor import SandboxExecutor
async def main():
    executor = await SandboxExecutor.open(Path({str(tmp_path / "spool")!r}))
    await executor.execute(task("work:linger", code=Path({str(code(work=DAEMON))!r}), marker=os.environ["MARKER"]))
asyncio.run(main())
"""
    engine = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env={"MARKER": marker})
    await eventually(lambda: living(marker))
    engine.kill()
    await engine.wait()
    await eventually(lambda: not living(marker))


async def test_many_steps_run_at_once_each_as_a_user_of_its_own(sandbox, code) -> None:
    folder = code(work="def run(n):\n    return n\n")
    outcomes = await asyncio.gather(*(sandbox.execute(task("work:run", code=folder, n=n)) for n in range(12)))
    assert [value_of(outcome) for outcome in outcomes] == list(range(12))


@pytest.mark.skipif(os.getuid() != 0, reason="only root drops to another user")
async def test_as_root_a_step_never_has_host_user_id_0(sandbox, code) -> None:
    marker = f"marker-{os.getpid()}-uid"
    running = asyncio.create_task(sandbox.execute(task("work:linger", code=code(work=DAEMON), marker=marker)))
    await eventually(lambda: living(marker))
    owners = owners_of(living(marker))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [uid in SandboxSettings().uids for uid in owners] == [True]


@pytest.mark.skipif(os.getuid() != 0, reason="only root drops to another user")
async def test_two_steps_that_run_at_once_are_two_users(sandbox, code) -> None:
    marker = f"marker-{os.getpid()}-two"
    given = task("work:linger", code=code(work=DAEMON), marker=marker)
    both = [asyncio.create_task(sandbox.execute(given)) for _ in range(2)]
    is_warm = sandbox._settings.warm  # then they are one tenant's, and have the template's user
    await eventually(lambda: len(living(marker)) >= 2)
    await eventually(lambda: len(owners_of(living(marker))) == (1 if is_warm else 2))
    assert owners_of(living(marker)) <= set(SandboxSettings().uids)
    for running in both:
        running.cancel()
    await asyncio.gather(*both, return_exceptions=True)
    assert living(marker) == []


FORGE = """
import os
from sovrun.sandbox import wire
def failure():
    forged = {"say": "failed", "reason": "sandbox_error", "message": "m" * 100_000, "traceback": "t" * 100_000, "lineage": 3}
    wire.send(3, forged)
    os._exit(0)
def huge():
    os.write(3, b"\\xff" * 8)
    os._exit(0)
def twice():
    wire.send(3, {"say": "result"}, b"1")
    wire.send(3, {"say": "result"}, b"2")
    return 3
def nothing():
    wire.send(3, {"say": "result"})
    os._exit(0)
"""


async def test_what_a_step_forges_is_bounded_and_never_believed_beyond_its_own_failure(sandbox, code) -> None:
    folder = code(work=FORGE)
    forged = failure_of(await sandbox.execute(task("work:failure", code=folder)))
    assert (forged.reason, forged.circumstance) == ("step_raised", False)
    assert len(forged.message) < 5_000
    assert len(forged.traceback or "") < 20_000
    assert failure_of(await sandbox.execute(task("work:huge", code=folder))).reason == "output_not_json"
    assert value_of(await sandbox.execute(task("work:twice", code=folder))) == 1
    empty = await sandbox.execute(task("work:nothing", code=folder))
    assert getattr(empty, "output", None) == b""


async def test_a_large_value_and_a_large_argument_pass(sandbox, code) -> None:
    folder = code(work="def run(text):\n    return text + text\n")
    outcome = await sandbox.execute(task("work:run", code=folder, text="x" * 3_000_000))
    assert value_of(outcome) == "x" * 6_000_000


async def test_code_that_other_users_cannot_read_is_refused_by_name(sandbox, look) -> None:
    if os.getuid() != 0:
        pytest.skip("an ordinary user's steps run as that user")
    look.chmod(0o700)
    failed = failure_of(await sandbox.execute(task("look:identity", code=look)))
    assert failed.reason == "sandbox_error"
    assert str(look) in failed.message
    assert "chmod" in failed.message


async def test_a_directory_is_given_read_only(sandbox, code, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("a")
    digest = Digest(sha256(b"tree").hexdigest())
    folder = code(
        work="""
        from sovrun.step import path_of
        def run(t):
            try:
                (path_of(t) / "b").write_text("b")
            except OSError as error:
                return [sorted(p.name for p in path_of(t).iterdir()), error.errno]
        """
    )
    given = task("work:run", code=folder, t={"$tree": digest}, input_files={digest: tmp_path / "tree"})
    assert value_of(await sandbox.execute(given)) == [["a"], 30]


async def test_nothing_changes_after_the_answer(sandbox, code, tmp_path: Path) -> None:
    """Neither a file that was kept nor the log, whoever the step left behind to write to them."""
    marker = f"marker-{os.getpid()}-scribble"
    log = tmp_path / "log"
    given = task(
        "attacks:scribble",
        code=code(attacks=ATTACKS),
        marker=marker,
        children=40,
        processes=64,
    )
    for _ in range(3):
        outcome = await sandbox.execute(replace(given, log=str(log)))
        assert living(marker) == []
        made = [(one.path, one.path.read_bytes()) for one in getattr(outcome, "made", ())]
        written = log.read_bytes()
        await asyncio.sleep(0.1)
        assert [(path, path.read_bytes()) for path, _ in made] == made
        assert log.read_bytes() == written
