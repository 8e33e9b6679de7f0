"""Templates as their supervisor sees them: processes that have imported what steps need, of which steps are clones.

Owns: `Templates`, which decides which steps are warm and when a template has served long enough; `Template`, from
bubblewrap's start to its end.
Must not touch: what is inside. A template has loaded no code of a step, but a clone of it will.

starting -> ready -> (retired: no new steps, ends with its last) -> gone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

from sovrun.sandbox import launch, outside, watch, wire
from sovrun.sandbox.detached import FILES_MAX
from sovrun.sandbox.exchange import (
    CODE,
    INPUTS,
    LIBRARY,
    WORK,
    fixed_environment,
    reproducible_environment,
)
from sovrun.sandbox.hub import Hub
from sovrun.sandbox.refusals import explain
from sovrun.sandbox.seal import CONTROL
from sovrun.sandbox.standby import Standby, close_all, end_of, said_in
from sovrun.sandbox.verdicts import cut

TEMPLATES_MAX: Final = 16
"""At a time; the one that has been idle longest makes room."""

_CHUNK: Final = 1 << 16
_FIX: Final = "change SOVRUN_WARM_MODULES, or switch SOVRUN_WARM off"
_SAID_MAX: Final = 4 << 10
_PROBLEMS_MAX: Final = 32
_SECOND_US: Final = 1_000_000


class Templates:
    """The templates of one supervisor, one for each tenant.

    All else that tells one from another (the installed distributions, the interpreter, the walls, what is preloaded) is
    the same for all that a supervisor runs.

    Args:
        configuration: the engine's `warm`, `warm_modules`, `warm_steps`, `warm_us`.
        take_uid, give_uid: a host user id for a template, and back; None for an ordinary user.
    """

    def __init__(
        self,
        hub: Hub,
        configuration: Mapping[str, Any],
        take_uid: Callable[[], int | None],
        give_uid: Callable[[int | None], None],
    ) -> None:
        self.hub = hub
        self.modules: list[str] = list(configuration["warm_modules"])
        self._is_on: bool = configuration["warm"]
        self._steps_max: int = configuration["warm_steps"]
        self._age_max: float = configuration["warm_us"] / _SECOND_US
        self._take_uid = take_uid
        self._give_uid = give_uid
        self._current: dict[str, Template] = {}
        self._numbers = count(1)

    def takes(self, task: Mapping[str, Any]) -> bool:
        """Whether a step is warm.

        A program has no interpreter that could be kept; fixed addresses depend on what a process did before; two clones
        of one memory agree where two interpreters would not; and more files than a message holds descriptors cannot be
        handed over. All these are cold.
        """
        is_exact = task["reproducible"] or task["verified"]
        is_small = len(task["files"]) + len(task["trusted"]) < FILES_MAX
        return self._is_on and task["kind"] == "python" and not is_exact and is_small

    def of(self, tenant: str) -> Template:
        """Return the template for a tenant's next step, perhaps a new one. Raises: OSError."""
        now = time.monotonic()
        found = self._current.get(tenant)
        if found is not None and (found.served >= self._steps_max or now - found.began >= self._age_max):
            found.retire()
            found = None
        if found is None:
            self._make_room()
            found = self._current[tenant] = Template(self, tenant, self._take_uid())
            try:
                found.start()
            except OSError:
                self.forget(found)
                raise
        found.served += 1
        found.used_at = now
        return found

    def _make_room(self) -> None:
        idle = [template for template in self._current.values() if template.is_idle]
        if len(self._current) >= TEMPLATES_MAX and idle:
            min(idle, key=lambda template: template.used_at).retire()

    def next_number(self) -> int:
        """Return a number that no clone of any template has."""
        return next(self._numbers)

    def leave(self, template: Template) -> None:
        """Give a template no more steps."""
        if self._current.get(template.tenant) is template:
            del self._current[template.tenant]

    def forget(self, template: Template) -> None:
        """Nothing of a template is left."""
        self.leave(template)
        self._give_uid(template.uid)


class Template:
    """One template: bubblewrap around a process that clones itself. `uid` is its host user, and that of its steps."""

    def __init__(self, owner: Templates, tenant: str, uid: int | None) -> None:
        self.tenant = tenant
        self.uid = uid
        self.began = self.used_at = time.monotonic()
        self.served = 0
        self.clones: dict[int, Standby] = {}
        self.filters = 0
        """How many filters of system calls it has, those around Sovrun too; a clone adds one."""
        self.process = -1
        """The first process of its namespace, once it is known; the template is below it."""
        self._owner = owner
        self._hub = owner.hub
        self._pending: list[tuple[bytes, list[int]]] = []
        self._is_ready = False
        self._is_retired = False
        self._outer = self._pidfd = self._first_pidfd = -1
        self._streams: dict[str, int] = {}
        self._link: socket.socket | None = None
        self._said = self._info = b""
        self._problems: list[str] = []

    def start(self) -> None:
        """Start it. Raises: OSError when this machine has no room for it."""
        wanted = template_order(self._hub, self.uid)
        with ExitStack() as theirs, ExitStack() as ours:
            ours_link, theirs_link = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.enter_context(ours_link)
            theirs.enter_context(theirs_link)
            numbers = {CONTROL: theirs_link.fileno()}
            for number, descriptor in (
                (0, os.open(os.devnull, os.O_RDWR)),
                (launch.ARGUMENTS, launch.memory_file(wanted.options)),
                (
                    launch.FILTER,
                    os.open(self._hub.template_filter, os.O_RDONLY | os.O_CLOEXEC),
                ),
            ):
                theirs.callback(os.close, descriptor)
                numbers[number] = descriptor
            for number, name in ((2, "stderr"), (launch.INFO, "info")):
                reading, writing = os.pipe()
                ours.callback(os.close, reading)
                theirs.callback(os.close, writing)
                self._streams[name] = reading
                numbers[number] = writing
            numbers[1] = numbers[2]
            parent = os.getpid()
            self._outer = os.fork()
            if self._outer == 0:
                launch.launch(wanted, numbers, parent)
            ours.pop_all()
        self._pidfd = os.pidfd_open(self._outer)
        self._link = ours_link
        ours_link.settimeout(0)
        self._hub.watch(ours_link.fileno(), self._on_said)
        for name, reading in self._streams.items():
            os.set_blocking(reading, False)
            self._hub.watch(reading, lambda name=name: self._on_stream(name))  # type: ignore[misc]
        self._hub.watch(self._pidfd, self._on_exit)
        head = {"site": self._hub.frame["site"], "modules": self._owner.modules}
        ours_link.send(wire.encode(head, Path(self._hub.filter).read_bytes()))

    # --- steps --------------------------------------------------------------------------------------------------------

    def standby(self) -> Standby:
        """Return a clone for a step, which is made unless one stands by. Raises: OSError."""
        found = next((clone for clone in self.clones.values() if clone.is_free), None) or self._cloned()
        found.is_free = False
        return found

    def _cloned(self) -> Standby:
        made = Standby(self._hub, self._owner.next_number())
        self.clones[made.ident] = made
        self._pending.append((json.dumps({"id": made.ident}).encode(), [made.end]))
        self._flush()
        return made

    def _prepare(self) -> None:
        """Have one more stand by when none does; after a step, so that it costs none its time."""
        if not self._is_retired and self._is_ready and not any(one.is_free for one in self.clones.values()):
            with suppress(OSError):  # the next step will say that there is no room
                self._cloned()

    def _flush(self) -> None:
        if not self._is_ready or self._link is None:
            return
        while self._pending:
            message, descriptors = self._pending[0]
            try:
                socket.send_fds(self._link, [message], descriptors)
            except BlockingIOError:
                break
            except OSError:  # it has gone, which is about to be noticed
                return
            del self._pending[0]
            close_all(descriptors)
        self._hub.watch_write(self._link.fileno(), self._flush if self._pending else None)

    def drop(self, ident: int) -> bool:
        """Take back an order that was not given yet; return whether there was one."""
        for position, (message, descriptors) in enumerate(self._pending):
            if json.loads(message)["id"] == ident:
                del self._pending[position]
                close_all(descriptors)
                self.clones.pop(ident).close()
                self._end_if_done()
                return True
        return False

    def last_words(self) -> str:
        """Return what it, or a clone that had no step yet, wrote to standard error."""
        while self._on_stream("stderr"):
            pass
        return self._said.decode(errors="replace")

    @property
    def is_idle(self) -> bool:
        """Whether no step of it runs."""
        return all(clone.is_free for clone in self.clones.values())

    def retire(self) -> None:
        """Take no further steps, and end with the last one."""
        self._is_retired = True
        self._owner.leave(self)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._is_retired and self.is_idle:
            self._close_link()

    # --- what it says -------------------------------------------------------------------------------------------------

    def _on_said(self) -> None:
        if self._link is None:
            return
        try:
            data = self._link.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close_link()
            return
        try:  # a preloaded module may have written it
            head = said_in(data)
            said, ident = head.get("say"), head.get("id")
            end = end_of(head) if said == "gone" else None
        except ValueError as error:
            self.distrust(f"what the template says is {error}")
            return
        if said == "ready":
            self._on_ready()
        elif said == "refused":
            self._problems = _told(head.get("problems"))
        elif end is not None and type(ident) is int and ident in self.clones:
            self.clones.pop(ident).on_gone(*end)
            self._end_if_done()
            self._prepare()

    def _on_ready(self) -> None:
        try:
            self._problems = self._outside_problems()
        except OSError as error:  # it has ended meanwhile
            self._problems = [f"the template cannot be looked at: {error.strerror}"]
        if self._problems:
            self._kill()
            return
        self._is_ready = True
        self._flush()

    def _outside_problems(self) -> list[str]:
        """Return what the host sees of it that must not be."""
        while self.process < 0 and self._on_stream("info"):
            pass
        if self.process < 0:
            return ["bubblewrap did not say which process is its first"]
        problems = [f"its {space} namespace is ours" for space in watch.shared_spaces(self.process, "self")]
        for pid in watch.descendants(self.process):
            status = outside.status_of(pid)
            problems += outside.user_problems(status, self.uid) + outside.power_problems(status)
            self.filters = max(self.filters, outside.filters_of(status))
            if status["Threads"] != "1":
                problems.append(f"the template has {status['Threads']} threads, and a clone would have one")
        return problems

    def _on_stream(self, name: str) -> bool:
        descriptor = self._streams.get(name)
        if descriptor is None:
            return False
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            del self._streams[name]
            self._hub.unwatch(descriptor)
            os.close(descriptor)
            return False
        if name == "stderr":
            self._said = (self._said + data)[-_SAID_MAX:]
        else:
            self._info = (self._info + data)[:_SAID_MAX]
            with suppress(ValueError, ProcessLookupError):  # it comes in pieces
                process = json.loads(self._info)["child-pid"]
                self._first_pidfd = os.pidfd_open(process)
                self.process = process
        return True

    # --- ending -------------------------------------------------------------------------------------------------------

    def distrust(self, problem: str) -> None:
        """Kill it, with every step that it has."""
        self._problems = [problem]
        self._kill()

    def _kill(self) -> None:
        if self._pidfd < 0:  # it has ended, and its number may be another's
            return
        with suppress(ProcessLookupError):
            os.killpg(self._outer, signal.SIGKILL)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _close_link(self) -> None:
        if self._link is not None:
            self._hub.unwatch(self._link.fileno())
            self._link.close()
            self._link = None

    def _on_exit(self) -> None:
        while self._link is not None and self._has_more():
            pass
        self._hub.unwatch(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        os.waitpid(self._outer, 0)
        while self.process < 0 and self._on_stream("info"):
            pass
        if self._first_pidfd < 0:
            self._on_all_dead()
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._first_pidfd, signal.SIGKILL)
        self._hub.watch(self._first_pidfd, self._on_all_dead)

    def _on_all_dead(self) -> None:
        """The first process of its namespace has ended, and every step that lived there before it."""
        if self._first_pidfd >= 0:
            self._hub.unwatch(self._first_pidfd)
            os.close(self._first_pidfd)
            with suppress(ChildProcessError):  # bubblewrap may have waited for it
                os.waitpid(self.process, os.WNOHANG)
        for name in list(self._streams):
            while self._on_stream(name):
                pass
        for name in list(self._streams):
            descriptor = self._streams.pop(name)
            self._hub.unwatch(descriptor)
            os.close(descriptor)
        self._close_link()
        for _, descriptors in self._pending:
            close_all(descriptors)
        self._pending.clear()
        self._owner.forget(self)
        reason, message = self._why()
        for clone in list(self.clones.values()):
            clone.on_template_gone(reason, message)
        self.clones.clear()

    def _has_more(self) -> bool:
        before = len(self.clones), len(self._problems)
        self._on_said()
        return before != (len(self.clones), len(self._problems))

    def _why(self) -> tuple[str, str]:
        if self._problems:
            return (
                "warm_unavailable",
                f"warm mode is not possible: {'; '.join(self._problems)}. {_FIX}",
            )
        if self._is_ready:
            return (
                "sandbox_error",
                "the template that the step was cloned from died, and the step with it",
            )
        refusal = explain(self._said.decode(errors="replace"))
        return "sandbox_error", f"{refusal.detail}. {refusal.fix}"


def _told(problems: Any) -> list[str]:
    if not isinstance(problems, list) or not problems:
        return ["the template refuses, and does not say why"]
    return [cut(str(one), _SAID_MAX) for one in problems[:_PROBLEMS_MAX]]


_BOUNDARY: Final = (
    *("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"),
    *(
        "--cap-drop",
        "ALL",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--hostname",
        "sovrun",
        "--clearenv",
    ),
    *("--info-fd", str(launch.INFO), "--seccomp", str(launch.FILTER)),
)
"""The walls of a template: a cold step's, but that it may make namespaces."""


def template_order(hub: Hub, uid: int | None) -> launch.Order:
    """Return how to start a template: as a cold step, but without places of its own and without code.

    The filter is another, too: it lets namespaces and mounts be made.
    """
    frame = hub.frame
    fixed = fixed_environment(0, home=WORK, tmp="/tmp", python_path=LIBRARY)  # noqa: S108 -- inside
    variables = reproducible_environment(fixed)  # a library that starts threads could not be cloned
    sources: list[str] = []
    shown = []
    for source, inside in frame["binds"]:
        if uid is None or launch.is_system(source):
            shown.append((source, inside))
        else:
            shown.append((launch.staged(len(sources)), inside))
            sources.append(source)
    options = [
        *_BOUNDARY,
        *(word for name, value in variables.items() for word in ("--setenv", name, value)),
        *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
        *(word for folder in (WORK, "/tmp", CODE, INPUTS) for word in ("--dir", folder)),  # noqa: S108 -- inside
        *(word for target, inside in frame["links"] for word in ("--symlink", target, inside)),
        *(word for source, inside in shown for word in ("--ro-bind", source, inside)),
        *("--remount-ro", "/", "--chdir", "/"),
    ]
    return launch.Order(
        bwrap=hub.bwrap,
        options=b"".join(word.encode() + b"\0" for word in options),
        command=(
            *frame["command"][:-1],
            frame["command"][-1].replace("run.pyc", "template.pyc"),
        ),
        sources=tuple(sources),
        rooms=(),
        uid=uid,
        fixed_addresses=False,
        read_only=(),
    )
