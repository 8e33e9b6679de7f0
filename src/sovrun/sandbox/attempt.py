"""One running step as its supervisor sees it, from the fork to the reply.

Owns: `Attempt`: its processes, pipes and deadlines, the handshake, the caps, and the judgement of how it ended.
Must not touch: other attempts, and belief: whatever comes out of the sandbox after `go` may come from the step.

launching -> (ready/go) running -> stopping (told to end) -> ending (all are being killed) -> collecting -> done.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, Final

from sovrun.sandbox import collect, collector, launch, outside, watch, wire
from sovrun.sandbox.capture import Log
from sovrun.sandbox.cgroups import Group
from sovrun.sandbox.ending import Ending, believable, oom_kills
from sovrun.sandbox.exchange import WORK
from sovrun.sandbox.farewell import StepProcess
from sovrun.sandbox.hub import Hub
from sovrun.sandbox.listeners import Listeners
from sovrun.sandbox.openings import openings
from sovrun.sandbox.redaction import Redaction
from sovrun.sandbox.refusals import explain
from sovrun.sandbox.seal import WRITABLE
from sovrun.sandbox.verdicts import MESSAGE_MAX, failure
from sovrun.sandbox.watch import Watch

CHUNK: Final = 1 << 16
HEAD_MAX: Final = 256 << 10
TAIL_MAX: Final = 4 << 10
SECOND_US: Final = 1_000_000

Parts = tuple[bytes, ...]


class Attempt:
    """One attempt of one step.

    Args:
        ident: the engine's number for it.
        task: as the engine sent it: `kind`, `entry`, `code`, `files`, `limits`, `epoch`, `output_max`, `log_max`, `log`,
            `wall_us`, `grace_us`, `files_max`, `network`, `trusted`.
        parts: the arguments as canonical JSON, then the values of `task["secrets"]`.
        uid: host user id to run as; None when the supervisor is an ordinary user.
    """

    is_warm = False
    """Whether its processes are clones of a template, whose user they have."""

    def __init__(
        self, hub: Hub, ident: int, task: Mapping[str, Any], parts: list[bytes], uid: int | None
    ) -> None:
        self.ident = ident
        self.uid = uid
        self.deadline: float | None = None
        self._hub = hub
        self._task = task
        self._parts = parts
        self._verdict: dict[str, Any] | None = None
        self._answer: dict[str, Any] | None = None
        self._output: bytes | None = None
        self._log = Log(task["log_max"], task["log"], Redaction.of(parts[1:]))
        self._streams: dict[str, int] = {}
        self._info = b""
        self._sending = memoryview(b"")
        self._decoder = wire.Decoder(body_max=task["output_max"], head_max=HEAD_MAX)
        self._outer = self._outer_pidfd = self._init = self._init_pidfd = self._work = -1
        self._step: StepProcess | None = None
        self._collector = -1
        self._collected = False
        self._network: Listeners | None = None
        self._connections: list[Any] = []
        self._status: int | None = None
        self._started = self._ended = 0.0
        self._cpu_s = 0.0
        self._memory = 0
        self._oom_kills = 0
        self._group: Group | None = None
        self._alarm = -1
        self._watch: Watch | None = None
        self._places: tuple[int, ...] = ()

    # --- launching ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the sandbox. Raises: OSError when this machine has no room for it."""
        limits = self._task["limits"]
        # bubblewrap's outer process is in the group, too.
        self._group = self._hub.groups.make(
            str(self.ident), {"memory": limits["memory"], "processes": limits["processes"] + 1}
        )
        wanted = launch.order(self._hub.bwrap, self._hub.frame, self._task, self.uid)
        self._oom_kills = oom_kills()
        with ExitStack() as theirs, ExitStack() as ours:
            numbers, self._streams = openings(self._task, wanted.options, self._hub.filter, theirs, ours)
            parent = os.getpid()
            self._outer = os.fork()
            if self._outer == 0:
                launch.launch(wanted, numbers, parent)
            ours.pop_all()
        self._outer_pidfd = os.pidfd_open(self._outer)
        self._watch_streams()
        self._hub.watch(self._outer_pidfd, self._on_outer_exit)
        self.deadline = time.monotonic() + self._hub.handshake_s
        setup = {
            "limits": self._limits_inside(),
            "read_only": wanted.read_only,
            "landlock": self._hub.landlock,
            "reproducible": self._task["reproducible"],
        }
        self._send({**setup, **launch.call_numbers(), "site": self._hub.frame["site"]})

    def _limits_inside(self) -> dict[str, int]:
        """Return what each process is limited to.

        Where the group counts all memory, a process is limited in what it writes to, not in what it reserves: some
        runtimes reserve far more than they ever use.
        """
        limits = dict(self._task["limits"])
        if self._hub.groups.memory_is_counted:
            limits["data"] = limits.pop("memory")
        return limits

    def _watch_streams(self) -> None:
        for name, descriptor in self._streams.items():
            os.set_blocking(descriptor, False)
            self._hub.watch(descriptor, lambda name=name: self._on_stream(name))  # type: ignore[misc]
        alarm = None if self._group is None else self._group.watch_memory()
        if alarm is not None:
            self._alarm = alarm
            self._hub.watch(alarm, lambda: self.kill("memory_limit", _MEMORY_GONE))

    # --- running ------------------------------------------------------------------------------------------------------

    def _on_stream(self, name: str) -> bool:
        """Take what a stream has to give; return whether there may be more."""
        descriptor = self._streams.get(name)
        if descriptor is None:
            return False
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            self._close_stream(name)
            return False
        if name == "control":
            self._on_control(data)
        elif name == "info":
            self._on_info(data)
        else:
            self._on_print(name, data)
        return True

    def _close_stream(self, name: str) -> None:
        descriptor = self._streams.pop(name)
        self._hub.unwatch(descriptor)
        os.close(descriptor)

    def _on_print(self, name: str, data: bytes) -> None:
        if not self._log.take(name, data):
            cap = self._task["log_max"]
            self.kill("log_limit", f"the step printed more than {cap} bytes (resources.log)")

    def _on_info(self, data: bytes) -> None:
        self._info += data[: TAIL_MAX - len(self._info)]
        with suppress(ValueError):  # it comes in pieces
            pid = json.loads(self._info)["child-pid"]
            with suppress(ProcessLookupError):
                self._init_pidfd = os.pidfd_open(pid)
                self._init = pid
                if self._group is not None:
                    self._group.begin_entering((self._outer, pid))

    def _on_control(self, data: bytes) -> None:
        try:
            for head, parts in self._decoder.feed(data):
                self._on_frame(head, parts)
        except (ValueError, LookupError, TypeError, OSError) as error:
            if self._started:
                self.kill("output_not_json", f"the step wrote to the sandbox's own descriptor 3: {error}")
            else:
                self.kill("sandbox_error", f"what the sandbox says cannot be understood: {error}")

    def _on_frame(self, head: dict[str, Any], parts: list[bytes]) -> None:
        said = head.get("say")
        if self._verdict is not None:
            return
        if not self._started:
            self._go(said, head)
        elif self._answer is None and self._output is None:
            if said == "result" and self._task["kind"] == "python":
                self._output = parts[0] if parts else b""
            elif said == "failed":
                self._answer = believable(head)

    def _go(self, said: object, head: Mapping[str, Any]) -> None:
        if self._network is not None:  # it was ready before
            return
        while self._init < 0 and self._on_stream("info"):
            pass  # it was written before the runner could speak
        problems = [str(problem) for problem in head.get("problems", ())]
        if said == "ready" and not problems:
            problems = self._outside_problems()
        if problems:
            self.kill(
                "sandbox_error", f"the sandbox is not as it must be: {'; '.join(problems)[:MESSAGE_MAX]}"
            )
            return
        if self._task["network"]:
            self._network = Listeners(self._hub, self, self._task["network"])
            self._network.start(self._init, self.uid)
        else:
            self.on_listening()

    def on_listening(self) -> None:
        """Let the step go: nothing is missing any more."""
        if self._verdict is not None or self._ended:  # its sandbox may have died meanwhile
            return
        self._started = time.monotonic()
        self.deadline = self._started + self._task["wall_us"] / SECOND_US
        self._watch = Watch(
            {**self._task["limits"], "files": self._task["files_max"]},
            self._group,
            memory_is_counted=self._hub.groups.memory_is_counted,
            init=self._init,
            places=self._places,
            now=self._started,
        )
        task = {name: self._task[name] for name in ("kind", "entry", "output_max", "secrets")}
        self._send({**task, "files": sorted(self._task["files"])}, *self._parts)

    def _outside_problems(self) -> list[str]:
        """Return what the host sees of the sandbox that must not be, and hold on to its work directory."""
        if self._init < 0:
            return ["bubblewrap did not say which process is its first"]
        process = f"/proc/{self._init}"
        problems = outside.user_problems(outside.status_of(self._init), self.uid)
        problems += [f"its {space} namespace is ours" for space in watch.shared_spaces(self._init, "self")]
        self._work = os.open(f"{process}/root{WORK}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.fstat(self._work).st_uid != (os.getuid() if self.uid is None else self.uid):
            problems.append("its work directory belongs to somebody else")
        if self.uid is None:  # root has set the number of files, see `launch.stage`
            self._places = watch.held(process, WRITABLE)
        inside = watch.descendants(self._init)
        if len(inside) == 2:  # bubblewrap's, or the clone's, and what becomes the step
            self._step = StepProcess(inside[1])
        else:
            problems.append(f"{len(inside)} processes are in it before the step")
        if self._group is not None and self._group.finish_entering(
            [pid for pid in (self._outer, *inside) if pid > 0]  # a clone has nothing around it
        ):
            problems.append("it is not in its control group")
        return problems

    def _send(self, head: dict[str, Any], *parts: bytes) -> None:
        self._sending = memoryview(bytes(self._sending) + wire.encode(head, *parts))
        self._on_writable()

    def _on_writable(self) -> None:
        descriptor = self._streams.get("control")
        if descriptor is None:
            return
        try:
            while self._sending:
                self._sending = self._sending[os.write(descriptor, self._sending) :]
        except BlockingIOError:
            pass
        except OSError:  # it has gone; its exit is about to be noticed
            self._sending = memoryview(b"")
        self._hub.watch_write(descriptor, self._on_writable if self._sending else None)

    # --- ending -------------------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float | None:
        """When to be woken, in monotonic seconds."""
        if self._watch is None or self.deadline is None or self._ended:
            return self.deadline
        return min(self.deadline, self._watch.next_at)

    def wake(self, now: float) -> None:
        """Act on a deadline that has passed, or look whether the step keeps its limits."""
        if self._watch is not None and self.deadline is not None and now < self.deadline and not self._ended:
            verdict = self._watch.look(now)
            if verdict is not None:
                self.deadline = None
                self.kill(verdict["reason"], verdict["message"])
            return
        self.deadline = None
        if self._verdict is not None:
            self._kill_all()
        elif self._started:
            text = f"the step ran longer than {self._task['wall_us'] / SECOND_US:g} s (resources.wallSeconds)"
            self.stop("wall_limit", text)
        else:
            self.kill("sandbox_error", f"no sandbox within {self._hub.handshake_s:g} s: {self._said()}")

    def stop(self, reason: str, message: str) -> None:
        """Tell the step to end, and kill every process when its grace time is over; a second time changes nothing.

        Before its code runs, or after it, everything is killed at once.
        """
        if self._verdict is not None:
            return
        grace_us = self._task["grace_us"]
        if self._ended or self._step is None or not (self._started and grace_us):
            self.kill(reason, message)
            return
        self._verdict = failure(reason, message)
        self.deadline = time.monotonic() + grace_us / SECOND_US
        if self._network is not None and not self._step.will_hear():
            self._network.cut()  # else the far ends would take its death for an end of its own
        self._step.tell()

    def kill(self, reason: str, message: str) -> None:
        """Kill every process of the attempt; the first reason stands."""
        if self._verdict is None:
            self._verdict = failure(reason, message)
        self._kill_all()

    def _kill_all(self) -> None:
        if self._collector > 0:
            with suppress(ProcessLookupError):
                os.kill(self._collector, signal.SIGKILL)
        if self._network is not None:
            self._network.cut()
        self._kill_processes()

    def _kill_processes(self) -> None:
        if self._init_pidfd >= 0:
            _kill(self._init_pidfd)  # the first process of a pid namespace takes all others with it
        if self._status is None:
            with suppress(ProcessLookupError):  # bubblewrap before it has a namespace
                os.killpg(self._outer, signal.SIGKILL)
            _kill(self._outer_pidfd)

    def _on_outer_exit(self) -> None:
        while self._init < 0 and self._on_stream("info"):
            pass
        with suppress(ProcessLookupError):
            os.killpg(self._outer, signal.SIGKILL)  # while its number cannot be anybody else's
        _, self._status, used = os.wait4(self._outer, 0)
        self._count(used)
        self._hub.unwatch(self._outer_pidfd)
        if self._init_pidfd >= 0:
            _kill(self._init_pidfd)
            self._hub.watch(self._init_pidfd, self._on_init_exit)
        else:
            self._all_dead()

    def _on_init_exit(self) -> None:
        self._hub.unwatch(self._init_pidfd)
        with suppress(ChildProcessError):  # bubblewrap may have waited for it
            _, _, used = os.wait4(self._init, os.WNOHANG)
            self._count(used)
        self._all_dead()

    def _count(self, used: Any) -> None:
        self._cpu_s += used.ru_utime + used.ru_stime
        self._memory = max(self._memory, used.ru_maxrss * 1024)

    def _all_dead(self) -> None:
        self._ended = time.monotonic()
        if self._verdict is None:  # else what it has sent may be delivered for as long as it might have run
            self.deadline = None
        if self._alarm >= 0:
            self._hub.unwatch(self._alarm)
            os.close(self._alarm)
        for name in list(self._streams):
            while self._on_stream(name):
                pass
            if name in self._streams:
                self._close_stream(name)
        self._log.close()
        if self._network is None:
            self.on_network_ended([])
        else:
            self._network.end()

    def on_network_ended(self, connections: list[Any]) -> None:
        """Conclude: nothing of the attempt lives, and nothing it had sent is on its way."""
        self._connections = connections
        verdict = self._judge()
        self._settle()
        if verdict is None and self._needs_collecting():
            self._collect()
        else:
            self._reply(verdict, self._output or b"", [])

    def _settle(self) -> None:
        """Take the last figures of what all processes used together."""
        if self._watch is not None:
            self._memory = max(self._memory, self._watch.memory_peak)
            self._watch.close()
        if self._group is not None:
            self._memory = self._group.memory_peak() or self._memory
            cpu_us = self._group.cpu_us()
            self._cpu_s = self._cpu_s if cpu_us is None else cpu_us / SECOND_US
            self._group.remove()

    def _judge(self) -> dict[str, Any] | None:
        """Return how the attempt failed, or None."""
        if self._verdict is not None:
            return self._verdict
        if self._ran_out_of_memory():  # the kernel may have killed a part of the step only
            return failure("memory_limit", _MEMORY_GONE)
        if not self._started:
            refusal = explain(self._said())
            return failure("sandbox_error", f"{refusal.detail}. {refusal.fix}")
        if self._answer is not None:
            return self._answer
        ending = self._ending()
        if self._output is not None or (self._task["kind"] == "argv" and ending.code == 0):
            return None
        return ending.verdict()

    def _ending(self) -> Ending:
        return Ending(
            code=os.waitstatus_to_exitcode(self._status or 0),
            cpu_s=self._cpu_s,
            cpu_limit=self._task["limits"]["cpu_seconds"],
            out_of_memory=self._ran_out_of_memory() or oom_kills() > self._oom_kills,
            disk_is_full=self._is_disk_full(),
            said=self._said(),
        )

    def _ran_out_of_memory(self) -> bool:
        return self._group is not None and self._group.ran_out_of_memory()

    def _said(self) -> str:
        """Return the last lines of standard error."""
        return self._log.last_words()

    def _is_disk_full(self) -> bool:
        if self._work < 0:
            return False
        found = os.fstatvfs(self._work)
        return found.f_bavail == 0 or found.f_ffree == 0

    # --- collecting ---------------------------------------------------------------------------------------------------

    def _needs_collecting(self) -> bool:
        return self._output is None or collect.may_name_files(self._output)

    def _collect(self) -> None:
        self._collected = True
        self._collector, reading = collector.start(
            self._hub.spool, str(self.ident), self._work, self._task, self._output
        )
        self._decoder = wire.Decoder(body_max=self._task["output_max"])
        self._streams["collector"] = reading
        self._hub.watch(reading, self._on_collector)

    def _on_collector(self) -> None:
        data = os.read(self._streams["collector"], CHUNK)
        frames = self._decoder.feed(data) if data else []
        if data and not frames:
            return
        self._close_stream("collector")
        os.waitpid(self._collector, 0)
        self._collector = -1
        if self._verdict is not None or not frames:
            self._reply(self._verdict or failure("sandbox_error", "the collector died"), b"", [])
            return
        [(head, parts)] = frames
        self._reply(head["failure"], parts[0], head.get("made", []))

    def _reply(self, verdict: dict[str, Any] | None, output: bytes, made: list[Any]) -> None:
        for descriptor in (self._outer_pidfd, self._init_pidfd, self._work, *self._places):
            if descriptor >= 0:
                os.close(descriptor)
        if self._step is not None:
            self._step.close()
        if verdict is not None and self._collected:
            for path in self._hub.spool.glob(f"{self.ident}-*"):
                path.unlink()
        began = self._started or self._ended
        usage = [round(self._cpu_s * SECOND_US), round((self._ended - began) * SECOND_US), self._memory]
        head = {"id": self.ident, "failure": verdict, "made": made, "usage": usage}
        head["connections"] = self._connections
        self._hub.done(self, head, b"" if verdict else output, self._log.taken())


_MEMORY_GONE: Final = (
    "the step's processes together ran out of memory (resources.memory); files that they write count as well"
)


def _kill(pidfd: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
