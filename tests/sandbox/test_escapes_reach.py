"""Escapes, third part: reaching what belongs to others. Each attack fails by the wall that is named."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.attacker import CANARY, Attacker, has_landlock
from support.ordinary import SESSION_KEY

DENIED = "EACCES" if has_landlock() else "EROFS"
"""What a write is answered with that two walls forbid: Landlock is asked first."""


def test_no_process_of_the_host_is_seen_and_nobodys_environment_holds_a_secret(attacker: Attacker) -> None:
    """By the process namespace with a /proc of its own, and by the empty environment that bubblewrap is started with."""
    found = attacker.value("processes")
    assert len(found["seen"]) == 2
    assert CANARY not in str(found)
    assert found["own"]["HOME"] == "/work"


def test_the_environment_of_the_first_process_is_refused_where_landlock_stands(attacker: Attacker) -> None:
    assert ("PermissionError" in attacker.value("processes")["environments"]) == has_landlock()


def test_the_launchers_keyring_is_out_of_reach(attacker: Attacker) -> None:
    """By the filter; that the keyring is another one as well is shown where the filter is taken away."""
    found = attacker.value("keyring", description=SESSION_KEY.decode())
    assert found == {"search": "EPERM", "add": "EPERM"}


def test_nothing_can_be_written_outside_of_the_three_places(attacker: Attacker) -> None:
    """By read-only mounts, and by Landlock."""
    folders = [
        "/",
        "/usr",
        "/etc",
        "/code",
        "/sovrun",
        "/sovrun/lib/sovrun",
        "/dev",
        "/dev/pts",
        "/inputs",
        "/bin",
    ]
    found = attacker.value("write_into", folders=folders)
    assert set(found.values()) <= {DENIED, "EROFS", "ENOENT", "EACCES"}
    own = ["/work", "/tmp", "/dev/shm"]  # noqa: S108 -- inside
    assert attacker.value("write_into", folders=own) == dict.fromkeys(own, "written")


def test_the_kernels_settings_cannot_be_opened_for_writing(attacker: Attacker) -> None:
    """By the user id that the sandbox has on the host, which is never 0, and by Landlock."""
    paths = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/swappiness",
        "/proc/self/mem",
    ]
    assert set(attacker.value("open_for_writing", paths=paths).values()) <= {"EACCES", "EROFS", "EPERM"}


def test_files_of_other_steps_and_tenants_do_not_exist(attacker: Attacker) -> None:
    """By mounting only what the step declares."""
    other = attacker.folder / "other-tenant"
    other.mkdir(exist_ok=True)
    (other / "secret").write_text("secret")
    paths = [
        str(other / "secret"),
        str(attacker.code / "attacks.py"),
        "/etc/shadow",
        "/root/.profile",
        "/var/log/dpkg.log",
    ]
    assert set(attacker.value("read_all", paths=paths).values()) == {"ENOENT"}


def test_neither_devices_nor_links_to_mounted_files_can_be_made(attacker: Attacker) -> None:
    """By the user namespace, which may make no device, and by mounts, across which nothing is linked."""
    assert attacker.value("make_nodes") == {
        "device": "EACCES" if has_landlock() else "EPERM",
        "link": "EXDEV",
    }


PROGRAMS = {
    "symbolic link": "ln -s /etc/passwd outputs/stolen",
    "link to another directory": "ln -s / outputs/stolen",
    "magic link": "ln -s /proc/self/root/etc/passwd outputs/stolen",
    "named pipe": "mkfifo outputs/stolen",
    "hard link": "echo x > a; ln a outputs/stolen",
    "link within a directory": "mkdir outputs/d; ln -s /etc/passwd outputs/d/stolen",
    "socket": "/usr/bin/python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"outputs/stolen\")'",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_no_plain_file_is_not_collected(attacker: Attacker, name: str) -> None:
    """By the collector, which opens nothing through a link and takes regular files with one name only."""
    assert attacker.reason(["/bin/sh", "-c", PROGRAMS[name]]) == "bad_output_file"


def test_a_collected_file_has_no_privileges(attacker: Attacker) -> None:
    found = attacker.run(["/bin/sh", "-c", "echo x > outputs/f; chmod 6777 outputs/f"])
    assert (found["ok"], [int(mode, 8) & 0o7111 for mode in found["modes"]]) == (True, [0])


@contextmanager
def listening(family: int, address: object) -> Iterator[socket.socket]:
    with socket.socket(family) as server:
        server.bind(address)
        server.listen()
        yield server


def test_the_hosts_loopback_is_not_there(attacker: Attacker) -> None:
    """By the network namespace."""
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as server:
        assert attacker.value("connect", address="127.0.0.1", port=server.getsockname()[1]) == "ECONNREFUSED"


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "169.254.169.254"])
def test_no_address_outside_can_be_reached(attacker: Attacker, address: str) -> None:
    """By the network namespace, which has no route and no interface but the loopback."""
    assert attacker.value("connect", address=address, port=443) == "ENETUNREACH"
    assert attacker.value("send_datagram", address=address, port=53) == "ENETUNREACH"


def test_no_name_is_resolved_and_nothing_waits_for_it(attacker: Attacker) -> None:
    """By nsswitch.conf, which knows only /etc/hosts, and by the network namespace."""
    assert attacker.value("resolve", name="example.org", wall_us=20_000_000) in ("EAI_NONAME", "EAI_AGAIN")


def test_abstract_sockets_of_the_host_are_out_of_reach(attacker: Attacker) -> None:
    """By the network namespace, and by Landlock from version 6 on."""
    name = f"sovrun-test-{os.getpid()}-{attacker.uid}"
    with listening(socket.AF_UNIX, "\0" + name):
        assert attacker.value("connect_abstract", name=name) in ("ECONNREFUSED", "EPERM")


def test_only_the_families_of_local_and_internet_sockets_exist(attacker: Attacker) -> None:
    """By the filter: AF_VSOCK (40) reaches the machine's host through every network namespace."""
    found = attacker.value("sockets", families=[40, 16, 17, 38, 1, 2, 10])
    assert found == {
        "40": "EPERM",
        "16": "EPERM",
        "17": "EPERM",
        "38": "EPERM",
        "1": "done",
        "2": "done",
        "10": "done",
    }


def test_nobody_is_held_up_by_a_lease_on_a_file_that_is_shown(attacker: Attacker) -> None:
    """By the filter; an ordinary user's files belong to the step's own host user."""
    assert attacker.value("lease") == "EPERM"
