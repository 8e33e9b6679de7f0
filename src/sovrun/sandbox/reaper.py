"""The process between an engine and its supervisor: whichever of them is killed, nothing of a sandbox lives on.

Owns: `guarded`, which makes it, and `end_children`, which both it and the supervisor end with. A process that dies with its
parent has to ask the kernel for that after it was made; when the parent is killed before, nobody ends it. Such an orphan
comes to the next process above it that takes orphans up: to the supervisor while it lives, then to this one.
Must not touch: steps while the supervisor lives. Both have to be killed at once for an orphan to be left.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import Final, NoReturn

from sovrun.sandbox import launch, watch

_FAREWELL_MS: Final = 5_000
"""How long a supervisor may take to end by itself once its engine has gone."""


def guarded(link: int, engine: int) -> int:
    """Go on as the supervisor, in a child whose parent guards it; return a descriptor that is readable once that has gone.

    Args:
        link: descriptor of the socket to the engine. The guard keeps it open, so the engine sees its end only when
            nothing lives; locks that this process holds are kept as long.
        engine: process id of the engine, our parent.
    Raises: NotLaunched when the engine has gone.
    """
    launch.adopt_orphans()
    watched = os.pidfd_open(engine)
    if os.getppid() != engine:
        raise launch.NotLaunched("the engine has gone")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            number, _ignore
        )  # the end of the link says when; unlike SIG_IGN this is not handed on by exec
    guard = os.getpid()
    supervisor = os.fork()
    if supervisor:
        _guard(link, watched, supervisor)
    os.close(watched)
    launch.adopt_orphans()
    above = os.pidfd_open(guard)
    if os.getppid() != guard:
        raise launch.NotLaunched("the guard has gone")
    return above


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing."""


def _guard(link: int, engine: int, supervisor: int) -> NoReturn:
    ended = os.pidfd_open(supervisor)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(engine, select.POLLIN)
    poll.register(link, 0)  # hung up; what it says is for the supervisor
    poll.poll()
    for other in (engine, link):
        poll.unregister(other)
    poll.poll(_FAREWELL_MS)
    end_children()
    os._exit(0)


def end_children() -> None:
    """Kill every child of this process, and whatever comes to it by that, until there is none.

    Only children are killed: nobody else's number may be given away before this process has waited for it.
    """
    own = os.getpid()
    while True:
        for pid in watch.descendants(own)[1:]:
            if _parent_of(pid) == own:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _parent_of(pid: int) -> int:
    with suppress(OSError), open(f"/proc/{pid}/stat") as source:  # noqa: PTH123 -- as in `watch`
        return int(source.read().rpartition(")")[2].split()[1])
    return 0
