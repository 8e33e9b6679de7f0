"""Whether this machine can isolate steps: one real step through the whole launch path, and the facts around it.

Owns: `probe`, `require_isolation`, the report of `sovrun doctor`.
Must not touch: the decision to run without a sandbox; there is none.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from sovrun.core.errors import IsolationUnavailable
from sovrun.core.ids import RunId, StepId, Tenant
from sovrun.core.spec.model import Kind, Resources
from sovrun.core.walls import BEST_EFFORT, HARD
from sovrun.ports import Failed, Succeeded, Task
from sovrun.sandbox import landlock, runner, wire
from sovrun.sandbox.cgroups import DELEGATION, opened
from sovrun.sandbox.executor import outcome_of, request_of, start_supervisor
from sovrun.sandbox.filters import own_filter
from sovrun.sandbox.settings import SandboxSettings, make_frame
from sovrun.sandbox.users import HostUsers, NoUser, is_mapped, owners_within

NOT_STARTED_FIX: Final = (
    "look at standard error for what ended the process that supervises sandboxes; it needs a readable Python, a temporary "
    "directory with room (TMPDIR), and free memory and processes"
)
BWRAP_MIN: Final = (0, 8)
NO_FILTER_FIX: Final = (
    "use an x86_64 or aarch64 machine, or add the architecture to tools/assemble_filters.py"
)


@dataclass(frozen=True, slots=True)
class ProbeItem:
    """One fact about the machine.

    Args:
        name: stable, for programs.
        ok: False when something is missing that `fix` says how to get.
        detail: what was found.
        needed: without it there is no isolation; else it would only be one more wall.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    needed: bool = False


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What this machine can isolate."""

    items: tuple[ProbeItem, ...]

    @property
    def ok(self) -> bool:
        """Whether steps can be isolated here."""
        return all(item.ok for item in self.items if item.needed)

    def first_refusal(self) -> ProbeItem | None:
        """Return the first needed item that is missing."""
        return next((item for item in self.items if item.needed and not item.ok), None)


def probe(settings: SandboxSettings | None = None) -> ProbeReport:
    """Look at this machine and run one step in a sandbox. Takes about a tenth of a second; raises nothing of its own."""
    chosen = settings or SandboxSettings()
    bwrap, user = _bubblewrap(chosen), _user(chosen)
    groups, counted = _control_groups(chosen)
    facts = (
        *(bwrap, _user_namespaces(), _kernel(), user, groups, _landlock()),
        _filter(memory_is_counted=counted),
    )
    if not (bwrap.ok and user.ok):  # a step would only fail, and for a reason further away
        return ProbeReport(facts)
    return ProbeReport((*facts, _real_step(chosen)))


def require_isolation(settings: SandboxSettings) -> None:
    """Raise `IsolationUnavailable` unless a real step runs here; a good answer is remembered by the process."""
    settings = replace(settings, endpoints=(), caps=())  # what may be reached has no part in it
    if settings in _GOOD:
        return
    refusal = probe(settings).first_refusal()
    if refusal is not None:
        raise IsolationUnavailable(refusal.detail, hint=refusal.fix)
    _GOOD.add(settings)


_GOOD: Final[set[SandboxSettings]] = set()


def _real_step(settings: SandboxSettings) -> ProbeItem:
    name = "step in a sandbox"
    folder = Path(mkdtemp(prefix="sovrun-probe-"))
    task = Task(
        tenant=Tenant("probe"),
        run=RunId("0" * 32),
        step=StepId("probe"),
        attempt=1,
        kind=Kind.PYTHON,
        entry="builtins:dict",
        arguments=b'{"works":true}',
        resources=Resources(),
        epoch=0,
    )
    try:
        outcome = _run_alone(settings, folder, task)
    except (OSError, EOFError, ValueError, IsolationUnavailable) as error:
        return ProbeItem(
            name, ok=False, detail=f"cannot be started: {error}", fix=_fix_of(error), needed=True
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if isinstance(outcome, Failed):
        detail, _, fix = outcome.message.rpartition(". ")
        return ProbeItem(name, ok=False, detail=detail or outcome.message, fix=fix, needed=True)
    if outcome.output != b'{"works":true}':
        return ProbeItem(
            name, ok=False, detail=f"gave {outcome.output[:80]!r}", fix="report this", needed=True
        )
    return ProbeItem(name, ok=True, detail=_ran(outcome), needed=True)


def _fix_of(error: Exception) -> str:
    """Return what to change where not even the supervisor could be started."""
    if isinstance(error, IsolationUnavailable):
        return error.hint or NOT_STARTED_FIX
    path = getattr(error, "filename", None)
    if path == os.devnull:
        return f"chmod 0666 {path}, or make it anew: rm -f {path}; mknod -m 666 {path} c 1 3"
    if isinstance(error, PermissionError) and path is not None:
        return f"let the user that runs Sovrun read and write {os.fsdecode(path)}"
    return NOT_STARTED_FIX


def _ran(outcome: Succeeded) -> str:
    took = f"ran in {outcome.usage.wall_us / 1000:.1f} ms"
    if outcome.walls is None:
        return took
    walls = outcome.walls
    return f"{took} behind filter {walls.filter[:12]}, Landlock {walls.landlock or 'absent'}, memory {walls.memory}{', warm' * walls.warm}"


def _run_alone(settings: SandboxSettings, folder: Path, task: Task) -> Succeeded | Failed:
    process, link = start_supervisor(settings, make_frame(folder / "frame", warm=settings.warm), folder)
    with link:
        wire.send(link.fileno(), {"do": "run", "id": 1, "task": request_of(task)}, task.arguments)
        head, [output, log] = wire.receive(link.fileno(), body_max=runner.BODY_MAX)
    process.wait()
    return outcome_of(head, output, log)


# --- facts ------------------------------------------------------------------------------------------------------------


def _bubblewrap(settings: SandboxSettings) -> ProbeItem:
    name, fix = "bubblewrap", "install the package `bubblewrap`, version 0.8 or newer"
    path = settings.bubblewrap()
    if path is None:
        return ProbeItem(name, ok=False, detail="bubblewrap is not installed", fix=fix, needed=True)
    status = path.stat()
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        remedy = f"chmod u-s,g-s {path}, and let ordinary users make user namespaces"
        return ProbeItem(name, ok=False, detail=f"{path} is setuid", fix=remedy, needed=True)
    if status.st_mode & 0o022 or status.st_uid not in (0, os.getuid()):
        remedy = f"chown root {path}; chmod go-w {path}"
        return ProbeItem(name, ok=False, detail=f"{path} can be changed by others", fix=remedy, needed=True)
    try:
        said = subprocess.run(  # noqa: S603 -- the operator's bubblewrap
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True, env={}
        )
    except (OSError, subprocess.SubprocessError) as error:
        return ProbeItem(name, ok=False, detail=f"{path} does not run: {error}", fix=fix, needed=True)
    version = tuple(map(int, re.findall(r"\d+", said.stdout)[:2]))
    detail = f"{said.stdout.strip()} at {path}"
    return ProbeItem(
        name, ok=version >= BWRAP_MIN, detail=detail, fix="" if version >= BWRAP_MIN else fix, needed=True
    )


def _user_namespaces() -> ProbeItem:
    limit = _read("/proc/sys/user/max_user_namespaces")
    forbidden = [
        (f"{name}={bad}", f"sysctl -w {name}={good}")
        for name, bad, good in (
            ("kernel.unprivileged_userns_clone", "0", "1"),
            ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
            ("user.max_user_namespaces", "0", "15000"),
        )
        if _read("/proc/sys/" + name.replace(".", "/")) == bad
    ]
    if limit is None:
        forbidden.append(("there is no user.max_user_namespaces", "use a kernel with CONFIG_USER_NS"))
    detail = ", ".join(found for found, _ in forbidden) or f"user.max_user_namespaces={limit}"
    fix = "; ".join(remedy for _, remedy in forbidden)
    return ProbeItem("user namespaces", ok=not forbidden, detail=detail, fix=fix)


def _kernel() -> ProbeItem:
    return ProbeItem("kernel", ok=True, detail=f"{platform.release()} {platform.machine()}")


def _user(settings: SandboxSettings) -> ProbeItem:
    if os.getuid() != 0:
        return ProbeItem("user", ok=True, detail=f"ordinary user {os.getuid()}: steps run as that user")
    ids = settings.uids
    wanted = f"user ids {ids.start} to {ids.stop - 1} for steps"
    if not all(is_mapped(ids, _read(f"/proc/self/{name}") or "") for name in ("uid_map", "gid_map")):
        detail = (
            f"{wanted} do not exist here: this root is that of a user namespace (/proc/self/uid_map, gid_map)"
        )
        fix = "run Sovrun as an ordinary user, or set SOVRUN_UIDS=FIRST:COUNT to ids that both of these files map"
        return ProbeItem("user", ok=False, detail=detail, fix=fix, needed=True)
    owners = owners_within(ids)
    if owners:
        detail = f"{wanted} belong to others: {', '.join(owners[:8])}"
        fix = "set SOVRUN_UIDS=FIRST:COUNT to ids that nobody has and that are handed to nobody"
        return ProbeItem("user", ok=False, detail=detail, fix=fix, needed=True)
    try:
        HostUsers(ids, Path(settings.uid_folder)).close()
    except NoUser as error:
        detail, _, fix = str(error).rpartition(". ")
        return ProbeItem("user", ok=False, detail=detail, fix=fix, needed=True)
    detail = (
        "root: every running step has a host user id of its own on this machine, "
        f"of {ids.start} to {ids.stop - 1}, kept apart in {settings.uid_folder}"
    )
    return ProbeItem("user", ok=True, detail=detail)


def _control_groups(settings: SandboxSettings) -> tuple[ProbeItem, bool]:
    """Say for each purpose where its groups are made, and whether memory is counted.

    A machine may have some controllers in version 1 and some in version 2.
    """
    name = "control groups"
    if not settings.control_groups:
        return ProbeItem(name, ok=False, detail=f"switched off; memory is limited {BEST_EFFORT}"), False
    with opened() as groups:
        kinds = groups.kinds()
        hard = groups.memory_is_counted
    detail = ", ".join(f"{purpose}: {kind}" for purpose, kind in kinds.items())
    limited = HARD if hard else f"{BEST_EFFORT}, and steps that demand it hard are refused"
    missing = [purpose for purpose, kind in kinds.items() if kind not in ("v1", "v2")]
    fix = (
        f"delegate those for {', '.join(missing)} to the user that runs Sovrun (systemd: {DELEGATION})"
        if missing
        else ""
    )
    return ProbeItem(name, ok=not missing, detail=f"{detail}; memory is limited {limited}", fix=fix), hard


def _landlock() -> ProbeItem:
    version = landlock.version()
    if version < 1:
        detail = "not in this kernel: files are kept by mounts alone"
        return ProbeItem("landlock", ok=False, detail=detail, fix="enable Landlock (lsm=landlock,...)")
    scope = "files, abstract sockets, signals" if version >= 6 else "files"
    return ProbeItem("landlock", ok=True, detail=f"version {version}: {scope}")


def _filter(*, memory_is_counted: bool) -> ProbeItem:
    name = "system call filter"
    found = own_filter(memory_is_counted=memory_is_counted)
    if found is None:
        detail = f"none was made for {platform.machine()}"
        return ProbeItem(name, ok=False, detail=detail, fix=NO_FILTER_FIX, needed=True)
    if _read("/proc/sys/kernel/seccomp/actions_avail") is None:
        fix = "use a kernel with CONFIG_SECCOMP_FILTER"
        return ProbeItem(name, ok=False, detail="this kernel loads none", fix=fix, needed=True)
    detail = f"{found.path.stem}, {found.instructions} instructions, sha256 {found.digest}"
    return ProbeItem(name, ok=True, detail=detail, needed=True)


def _read(path: str) -> str | None:
    with suppress(OSError):
        return Path(path).read_text().strip()
    return None
