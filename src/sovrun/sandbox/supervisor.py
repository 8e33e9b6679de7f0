"""The process that owns all sandboxes of one engine. One thread, standard library only, started by the executor.

Owns: the loop, the link to the engine. When the link closes, for whatever reason, everything dies.
Must not touch: the engine's interpreter: whatever computes or waits for a step does it here.
"""

from __future__ import annotations

import os
import selectors
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from sovrun.sandbox import landlock, reaper, wire
from sovrun.sandbox.attempt import CHUNK, SECOND_US, Attempt
from sovrun.sandbox.cgroups import Groups, find
from sovrun.sandbox.filters import own_filter, template_filter_of
from sovrun.sandbox.templates import Templates
from sovrun.sandbox.users import HostUsers, NoUser
from sovrun.sandbox.verdicts import failure
from sovrun.sandbox.warm import WarmAttempt

BODY_MAX: Final = 1 << 30
NO_FILTER: Final = (
    "there is no filter of system calls for this machine. Use an x86_64 or aarch64 machine, or add its architecture to "
    "tools/assemble_filters.py"
)


class Supervisor:
    """Runs attempts for one engine.

    Args:
        link: descriptor of the socket to the engine.
        configuration: the engine's first frame: `bwrap`, `frame`, `spool`, `handshake_us`, `control_groups`.
        users: what host user ids steps get, or why there are none; None for an ordinary user, who stays.
        guard: descriptor that is readable once the guard has gone, see `reaper`.
    """

    def __init__(
        self, link: int, configuration: Mapping[str, Any], users: HostUsers | NoUser | None, guard: int
    ) -> None:
        self.bwrap: str = configuration["bwrap"]
        self.frame: Mapping[str, Any] = configuration["frame"]
        self.spool = Path(configuration["spool"])
        self.groups = Groups(find() if configuration["control_groups"] else {})
        found = own_filter(memory_is_counted=self.groups.memory_is_counted)
        self.filter = "" if found is None else str(found.path)
        template = template_filter_of(os.uname().machine)
        self.template_filter = "" if template is None else str(template.path)
        self.landlock = landlock.version()
        self._walls = {
            "filter": "" if found is None else found.digest,
            "landlock": self.landlock,
            "memory": "hard" if self.groups.memory_is_counted else "best-effort",
        }
        self.handshake_s = configuration["handshake_us"] / SECOND_US
        self._users = users
        self._guard = guard
        self._link = link
        self._decoder = wire.Decoder(body_max=BODY_MAX)
        self._sending = bytearray()
        self._attempts: dict[int, Attempt] = {}
        self._selector = selectors.DefaultSelector()
        self._templates = Templates(self, configuration, self._free_uid, self._give_uid)
        self._write_callbacks: dict[int, Callable[[], None]] = {}

    def run(self) -> NoReturn:
        """Serve until the engine has gone."""
        os.set_blocking(self._link, False)
        self.watch(self._link, self._on_engine)
        self.watch(self._guard, self._die)
        while True:
            for key, events in self._selector.select(self._patience()):
                if events & selectors.EVENT_WRITE:
                    self._on_writable(key.fd)
                if events & selectors.EVENT_READ and self._still_watched(key):
                    key.data()
            now = time.monotonic()
            for attempt in list(self._attempts.values()):
                if attempt.wake_at is not None and attempt.wake_at <= now:
                    attempt.wake(now)

    def _patience(self) -> float | None:
        wakes = [wake for attempt in self._attempts.values() if (wake := attempt.wake_at) is not None]
        return max(0.0, min(wakes) - time.monotonic()) if wakes else None

    def _still_watched(self, key: selectors.SelectorKey) -> bool:
        # A callback of the same round may have closed the descriptor, and another may have been given its number.
        current = self._selector.get_map().get(key.fd)
        return current is not None and current.data is key.data

    # --- what attempts use --------------------------------------------------------------------------------------------

    def watch(self, descriptor: int, on_ready: Callable[[], object]) -> None:
        """Call `on_ready` whenever the descriptor can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, on_ready)

    def watch_write(self, descriptor: int, on_ready: Callable[[], None] | None) -> None:
        """Call `on_ready` also when a watched descriptor can be written, or no longer."""
        if (on_ready is None) == (descriptor not in self._write_callbacks):
            return
        events = selectors.EVENT_READ
        if on_ready is None:
            del self._write_callbacks[descriptor]
        else:
            self._write_callbacks[descriptor] = on_ready
            events |= selectors.EVENT_WRITE
        self._selector.modify(descriptor, events, self._selector.get_key(descriptor).data)

    def unwatch(self, descriptor: int) -> None:
        """Forget the descriptor; before it is closed."""
        self._write_callbacks.pop(descriptor, None)
        self._selector.unregister(descriptor)

    def done(self, attempt: Attempt, head: dict[str, Any], *parts: bytes) -> None:
        """Take an attempt's reply; nothing of it is left."""
        del self._attempts[attempt.ident]
        if not attempt.is_warm:  # its user is that of its template
            self._give_uid(attempt.uid)
        walls = {**self._walls, "warm": True} if attempt.is_warm else self._walls
        self._send({**head, "walls": walls}, *parts)

    # --- the engine ---------------------------------------------------------------------------------------------------

    def _on_engine(self) -> None:
        try:
            data = os.read(self._link, CHUNK)
        except ConnectionResetError:
            data = b""
        if not data:
            self._die()
        for head, parts in self._decoder.feed(data):
            if head["do"] == "run":
                self._start(head, parts)
            elif head["id"] in self._attempts:
                attempt = self._attempts[head["id"]]
                end = attempt.kill if head["do"] == "kill" else attempt.stop
                end("cancelled", "the attempt was cancelled")

    def _start(self, head: dict[str, Any], parts: list[bytes]) -> None:
        attempt: Attempt
        if self._templates.takes(head["task"]):
            attempt = WarmAttempt(self, head["id"], head["task"], parts, self._templates)
        else:
            attempt = Attempt(self, head["id"], head["task"], parts, None)
        self._attempts[attempt.ident] = attempt
        try:
            if head["task"]["memory_hard"] and not self.groups.memory_is_counted:
                self._refuse(attempt, "memory_not_hard", f"memory: {self.groups.kinds()['memory']}")
            elif not self.filter:
                self._refuse(attempt, "sandbox_error", NO_FILTER)
            else:
                if not attempt.is_warm:
                    attempt.uid = self._free_uid()
                attempt.start()
        except NoUser as error:
            self._refuse(attempt, "sandbox_error", str(error))
        except OSError as error:
            text = f"this machine has no room for another sandbox: {error.strerror or error}"
            self._refuse(attempt, "sandbox_error", text)

    def _refuse(self, attempt: Attempt, reason: str, message: str) -> None:
        head = {"id": attempt.ident, "failure": failure(reason, message), "made": [], "connections": []}
        self.done(attempt, {**head, "usage": [0, 0, 0]}, b"", b"")

    def _free_uid(self) -> int | None:
        """Return a host user that nobody is; None for an ordinary user, who stays. Raises: NoUser."""
        if isinstance(self._users, NoUser):
            raise self._users
        return None if self._users is None else self._users.take()

    def _give_uid(self, uid: int | None) -> None:
        if isinstance(self._users, HostUsers) and uid is not None:
            self._users.give(uid)

    def _send(self, head: dict[str, Any], *parts: bytes) -> None:
        self._sending += wire.encode(head, *parts)
        self._flush()

    def _on_writable(self, descriptor: int) -> None:
        callback = self._write_callbacks.get(descriptor)
        if callback is not None:
            callback()

    def _flush(self) -> None:
        try:
            while self._sending:
                del self._sending[: os.write(self._link, self._sending)]
        except BlockingIOError:
            pass
        except OSError:
            self._die()
        self.watch_write(self._link, self._flush if self._sending else None)

    def _die(self) -> NoReturn:
        reaper.end_children()
        self.groups.close()
        os._exit(0)


def _users(configuration: Mapping[str, Any]) -> HostUsers | NoUser | None:
    if os.getuid() != 0:
        return None
    first, count = configuration["uid_first"], configuration["uid_count"]
    try:
        return HostUsers(range(first, first + count), Path(configuration["uid_folder"]))
    except NoUser as refusal:  # told with each step
        return refusal


def main() -> NoReturn:
    """Serve the engine at the other end of the socket whose descriptor is the first argument; the second is its process."""
    link, engine = int(sys.argv[1]), int(sys.argv[2])
    configuration, _ = wire.receive(link, body_max=0)
    users = _users(configuration)  # before the fork: the guard holds the ids, too, as long as anything lives
    guard = reaper.guarded(link, engine)
    Supervisor(link, configuration, users, guard).run()


if __name__ == "__main__":
    main()
