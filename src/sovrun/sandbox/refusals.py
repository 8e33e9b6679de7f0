"""What it means when a sandbox does not come up, and what to change on the machine.

Owns: the table from what bubblewrap and the kernel say to a sentence with a remedy.
Standard library only: the supervisor uses it too.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Refusal(NamedTuple):
    """Why isolation is not available, and what to do."""

    detail: str
    fix: str


_TABLE: Final = (
    (
        ("max_*_namespaces exceeded", "No space left on device"),
        "user namespaces are exhausted or forbidden",
        "run `sysctl -w user.max_user_namespaces=15000` (0 forbids them), on the host where this is a container",
    ),
    (
        ("setting up uid map", "RTM_NEWADDR", "apparmor"),
        "user namespaces are restricted by the security module",
        "run `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or install an AppArmor profile for bwrap",
    ),
    (
        ("No permissions to create", "Creating new namespace failed", "clone failed"),
        "making namespaces is forbidden",
        "allow clone and unshare in the container's seccomp profile, or `sysctl -w kernel.unprivileged_userns_clone=1`",
    ),
    (
        ("mount proc",),
        "the container masks parts of /proc",
        "unmask /proc (for example --security-opt systempaths=unconfined)",
    ),
    (("overflowuid", "/proc/self"), "/proc is not mounted here", "mount /proc"),
    (
        ("uid range",),
        "the user ids for steps do not exist in this container",
        "set SOVRUN_UIDS=FIRST:COUNT to ids that /proc/self/uid_map and gid_map have",
    ),
    (
        ("private mounts",),
        "root here may not make mounts (CAP_SYS_ADMIN is missing)",
        "run Sovrun as an ordinary user, or give the container CAP_SYS_ADMIN",
    ),
    (
        ("fixed addresses",),
        "reproducible mode is forbidden here: addresses cannot be fixed",
        "allow personality(ADDR_NO_RANDOMIZE, 0x40000) in the container's seccomp profile",
    ),
    (
        ("drop the user id",),
        "root here may not change its user id (CAP_SETUID or CAP_SETGID is missing)",
        "run Sovrun as an ordinary user, or give the container CAP_SETUID and CAP_SETGID",
    ),
    (
        ("source path",),
        "a directory that the sandbox needs cannot be read",
        "make the directory in the message readable for the user that runs Sovrun",
    ),
    (
        ("execvp", "shared libraries", "init_fs_encoding", "No module named"),
        "the interpreter does not start inside the sandbox",
        "install Python where its directory and libraries can be mounted, and make a new virtual environment",
    ),
    (
        ("architecture",),
        "there is no filter of system calls for this machine",
        "use an x86_64 or aarch64 machine, or add the architecture to tools/assemble_filters.py",
    ),
    (
        ("PR_SET_SECCOMP",),
        "filters of system calls cannot be loaded",
        "use a kernel with CONFIG_SECCOMP_FILTER, and allow seccomp in the container",
    ),
    (
        ("unknown option", "Unknown option"),
        "this bubblewrap is too old",
        "install bubblewrap 0.8 or newer",
    ),
)


def explain(said: str) -> Refusal:
    """Return what a sandbox that did not come up means.

    Args:
        said: what bubblewrap, our launcher or the interpreter wrote to standard error.
    """
    text = said.strip()
    for patterns, detail, fix in _TABLE:
        if any(pattern in text for pattern in patterns):
            return Refusal(f"{detail}: {text[:500]}", fix)
    return Refusal(
        f"the sandbox did not come up: {text[:500] or 'it ended without a word'}",
        "run `sovrun doctor`; it says what this machine lacks",
    )
