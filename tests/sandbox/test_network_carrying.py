"""What is said to a declared endpoint arrives whole, ends as its sender ends it, and is told, whatever becomes of the step."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import cast

import pytest

from sovrun.sandbox import wire
from sovrun.sandbox.attempt import Attempt
from sovrun.sandbox.careful import CarefulExecutor
from sovrun.sandbox.executor import request_of
from sovrun.sandbox.hub import Hub
from sovrun.sandbox.network_relay import CHUNK, DRAIN, OPEN_MAX, TOLD_MAX, Relay
from sovrun.sandbox.secrets import SecretSources
from support.endpoints import CLIENT, all_of, declaring, sandbox_allowing, server, told
from support.supervised import supervisor_of
from support.tasks import failure_of, task, value_of


@pytest.fixture
def client(code) -> Path:
    return code(client=CLIENT)


# --- what is carried --------------------------------------------------------------------------------------------------


async def test_each_side_may_end_before_the_other(client, tmp_path: Path) -> None:
    def answer(made: socket.socket) -> bytes:
        heard = all_of(made)  # the end of what the step says, while the step still listens
        made.sendall(b"you said " + heard)
        return heard

    def speak(made: socket.socket) -> bytes:
        made.sendall(b"listen")
        made.shutdown(socket.SHUT_WR)
        return all_of(made)

    with server(answer) as answering, server(speak) as speaking:
        names = [f"a.test:{answering.port}", f"a.test:{speaking.port}"]
        async with sandbox_allowing(tmp_path, *(f"{name}=127.0.0.1" for name in names)) as executor:
            first = await executor.execute(
                declaring(names, "client:say", code=client, host="a.test", port=answering.port, text="hello")
            )
            second = await executor.execute(
                declaring(names, "client:listen", code=client, host="a.test", port=speaking.port)
            )
        assert (value_of(first), answering.results(1)) == ("you said hello", [b"hello"])
        assert (value_of(second), speaking.results(1)) == ("listen", [b"heard listen"])
    assert [(one.end, one.sent, one.received) for one in first.connections] == [("closed", 5, 14)]
    assert [(one.end, one.sent, one.received) for one in second.connections] == [("closed", 12, 6)]


async def test_large_transfers_both_ways_arrive_whole_though_nobody_reads_for_a_while(
    client, tmp_path: Path
) -> None:
    size = 1 << 25

    def send_all_then_read(made: socket.socket) -> tuple[int, str]:
        made.sendall(bytes(reversed(range(256))) * (size // 256))  # the step's own bytes pile up meanwhile
        made.shutdown(socket.SHUT_WR)
        data = all_of(made)
        return len(data), sha256(data).hexdigest()

    with server(send_all_then_read) as far:
        name = f"a.test:{far.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1") as executor:
            step = declaring(name, "client:both_ways", code=client, host="a.test", port=far.port, size=size)
            outcome = await executor.execute(step)
        expected = sha256(bytes(reversed(range(256))) * (size // 256)).hexdigest()
        assert value_of(outcome) == [size, expected]
        assert far.results(1) == [(size, sha256(bytes(range(256)) * (size // 256)).hexdigest())]
    assert [(one.end, one.sent, one.received) for one in outcome.connections] == [("closed", size, size)]


def test_a_peer_that_does_not_read_fills_one_buffer_and_no_more() -> None:
    link, supervisor = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as far, socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        route = {"host": "a.test", "port": far.getsockname()[1], "addresses": ["127.0.0.1"]}
        relay = Relay(link, [route], [listening])
        relay._listen()
        with socket.create_connection(listening.getsockname()) as calling:
            calling.settimeout(0)
            taken = idle = 0
            while idle < 3 and taken < 1 << 30:
                ready = relay._selector.select(0)
                for key, events in ready:
                    key.data(events)
                try:
                    taken += calling.send(bytes(1 << 16))
                except BlockingIOError:
                    idle = 0 if ready else idle + 1
        [connection] = relay._open
        assert taken < 1 << 30
        assert 0 < len(connection.out.pending) <= CHUNK
        connection.end("cut")
    link.close()
    supervisor.close()


async def test_a_peer_that_does_not_read_holds_up_nobody_else(client, tmp_path: Path) -> None:
    answered = threading.Event()

    def wait_then_read(made: socket.socket) -> int:
        assert answered.wait(60)
        return len(all_of(made))

    def answer(made: socket.socket) -> None:
        made.sendall(all_of(made))
        answered.set()

    with server(wait_then_read) as slow, server(answer) as quick:
        names = [f"a.test:{slow.port}", f"a.test:{quick.port}"]
        async with sandbox_allowing(tmp_path, *(f"{name}=127.0.0.1" for name in names)) as executor:
            outcome = await executor.execute(
                declaring(
                    names, "client:beside", code=client, host="a.test", slow=slow.port, quick=quick.port
                )
            )
        assert (value_of(outcome), slow.results(1)) == ("go on", [1 << 25])


async def test_more_connections_than_are_open_at_a_time_are_carried_in_turn_and_summed(
    client, tmp_path: Path
) -> None:
    count = OPEN_MAX + 60
    with server(lambda made: made.sendall(all_of(made))) as far:
        name = f"a.test:{far.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1") as executor:
            outcome = await executor.execute(
                declaring(
                    name,
                    "client:many",
                    code=client,
                    host="a.test",
                    port=far.port,
                    count=count,
                    open_files=1024,
                )
            )
    assert value_of(outcome) is True
    *single, summed = outcome.connections
    assert [one.count for one in single] == [1] * TOLD_MAX
    assert (summed.end, summed.count) == ("closed", count - TOLD_MAX)
    digits = sum(len(str(number)) for number in range(count))
    assert sum(one.sent for one in outcome.connections) == digits
    assert sum(one.received for one in outcome.connections) == digits


# --- ends that are none -----------------------------------------------------------------------------------------------


async def test_a_call_that_cannot_be_carried_through_is_reset_and_told(client, tmp_path: Path) -> None:
    with server(all_of) as far:
        port = far.port
    name = f"a.test:{port}"  # where nobody listens any more
    async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1,127.0.0.2") as executor:
        outcome = await executor.execute(
            declaring(name, "client:knock", code=client, host="a.test", port=port)
        )
    assert value_of(outcome).startswith("ConnectionResetError")
    assert told(outcome) == [("a.test", port, "refused", 1)]


async def test_the_next_pinned_address_is_tried_when_one_does_not_answer(client, tmp_path: Path) -> None:
    with server(lambda made: made.sendall(b"here"), "127.0.0.3") as far:
        name = f"a.test:{far.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1,::1,127.0.0.3") as executor:
            step = declaring(name, "client:knock", code=client, host="a.test", port=far.port)
            outcome = await executor.execute(step)
    assert value_of(outcome) == "here"
    assert told(outcome) == [("a.test", far.port, "closed", 1)]


async def test_a_reset_by_the_other_side_is_no_end_to_the_step(client, tmp_path: Path) -> None:
    def break_off(made: socket.socket) -> None:
        made.recv(1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with server(break_off) as far:
        name = f"a.test:{far.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1") as executor:
            step = declaring(name, "client:hold", code=client, host="a.test", port=far.port)
            outcome = await executor.execute(step)
    assert failure_of(outcome).error == "ConnectionResetError"
    assert told(outcome) == [("a.test", far.port, "reset", 1)]


@pytest.mark.parametrize("size", [3, 1 << 19])
async def test_what_a_step_had_sent_when_it_ended_is_delivered(client, tmp_path: Path, size: int) -> None:
    with server(lambda made: len(all_of(made))) as far:
        name = f"a.test:{far.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1") as executor:
            step = declaring(name, "client:leave", code=client, host="a.test", port=far.port, size=size)
            outcome = await executor.execute(step)
        assert value_of(outcome) == "left"
        assert far.results(1) == [size]
    assert [(one.end, one.sent) for one in outcome.connections] == [("closed", size)]


async def test_calls_that_a_step_had_made_when_it_ended_are_taken(client, tmp_path: Path) -> None:
    count = OPEN_MAX + 40  # so that some still wait for room
    with server(lambda made: len(all_of(made))) as far:
        name = f"a.test:{far.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1") as executor:
            more = {"host": "a.test", "port": far.port, "count": count, "open_files": 1024}
            outcome = await executor.execute(declaring(name, "client:call_and_leave", code=client, **more))
        assert far.results(count) == [0] * count
    assert {one.end for one in outcome.connections} == {"closed"}
    assert sum(one.count for one in outcome.connections) == count


def test_calls_that_nobody_has_taken_yet_when_the_step_is_dead_are_taken_then() -> None:
    link, supervisor = socket.socketpair()
    with server(lambda made: len(all_of(made))) as far, socket.create_server(("127.0.0.1", 0)) as listening:
        for _ in range(5):
            socket.create_connection(listening.getsockname()).close()
        supervisor.send(DRAIN)
        listening.settimeout(0)
        Relay(link, [{"host": "a.test", "port": far.port, "addresses": ["127.0.0.1"]}], [listening]).run()
        assert far.results(5) == [0] * 5
    _, (head, _) = wire.Decoder(body_max=0).feed(supervisor.recv(1 << 16))
    assert [entry[2:4] for entry in head["connections"]] == [["closed", 1]] * 5
    link.close()
    supervisor.close()


async def test_a_step_that_is_stopped_leaves_a_reset_to_the_other_side_and_is_told(
    client, tmp_path: Path
) -> None:
    with server(all_of) as far:
        name = f"a.test:{far.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1") as executor:
            outcome = await executor.execute(
                declaring(name, "client:hold", code=client, host="a.test", port=far.port, wall_us=1_000_000)
            )
        assert far.results(1) == ["ConnectionResetError"]
    assert failure_of(outcome).reason == "wall_limit"
    assert [(one.end, one.sent) for one in outcome.connections] == [("cut", 7)]


async def test_cancelling_in_the_middle_of_a_transfer_ends_it_and_leaves_no_process(
    client, tmp_path: Path
) -> None:
    began = threading.Event()

    def read(made: socket.socket) -> bytes:
        made.recv(1)
        began.set()
        return all_of(made)

    with server(read) as far:
        name = f"a.test:{far.port}"
        async with sandbox_allowing(tmp_path, f"{name}=127.0.0.1") as executor:
            step = declaring(name, "client:endless", code=client, host="a.test", port=far.port)
            running = asyncio.create_task(executor.execute(step))
            assert await asyncio.to_thread(began.wait, 60)
            assert len(carriers(executor)) == 1
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert carriers(executor) == []
            assert far.results(1) == ["ConnectionResetError"]


# --- the carrier ------------------------------------------------------------------------------------------------------


def carriers(executor) -> list[int]:
    """Return the processes that carry connections: the supervisor's children that are no bubblewrap."""
    supervisor = supervisor_of(executor)
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    found = []
    for child in children:
        with suppress(OSError):
            if "supervisor" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
    return found


async def held(executor, client, far) -> tuple[asyncio.Task, int]:
    """Start a step that holds a connection; return it and its carrier."""
    step = declaring(f"a.test:{far.port}", "client:hold", code=client, host="a.test", port=far.port)
    running = asyncio.create_task(executor.execute(step))
    await asyncio.to_thread(far.began.wait, 60)
    [carrier] = carriers(executor)
    return running, carrier


@pytest.fixture
def far():
    began = threading.Event()

    def read(made: socket.socket) -> bytes:
        heard = made.recv(7)
        began.set()
        return heard + all_of(made)

    with server(read) as made:
        made.began = began
        yield made


def test_a_sandbox_that_dies_while_listeners_are_placed_never_counts_as_a_step_that_ran() -> None:
    attempt = Attempt(cast("Hub", None), 1, request_of(task("client:names")), [b"{}"], None)
    attempt._ended = 1.0
    attempt.on_listening()
    assert attempt._started == 0.0


async def test_a_step_whose_carrier_dies_fails_for_what_was_carried_is_not_known(
    client, tmp_path: Path, far
) -> None:
    async with sandbox_allowing(tmp_path, f"a.test:{far.port}=127.0.0.1") as executor:
        running, carrier = await held(executor, client, far)
        os.kill(carrier, signal.SIGKILL)
        failed = failure_of(await running)
        assert (failed.reason, failed.connections) == ("sandbox_error", ())
        assert "carries" in failed.message
        again = await executor.execute(task("client:names", code=client))
        assert value_of(again)


async def test_a_carrier_dies_with_its_supervisor(client, tmp_path: Path, far) -> None:
    async with sandbox_allowing(tmp_path, f"a.test:{far.port}=127.0.0.1") as executor:
        running, carrier = await held(executor, client, far)
        pidfd = os.pidfd_open(carrier)
        executor._link._process.kill()
        assert failure_of(await running).reason == "sandbox_error"
        await asyncio.to_thread(select.select, [pidfd], [], [])  # which returns when it is dead
        os.close(pidfd)
        assert far.results(1)


def held_by(process: int) -> tuple[list[str], list[str]]:
    """Return what a process has open beyond the three of every process, and its user ids."""
    folder = Path(f"/proc/{process}")
    opened = {int(link.name): str(link.readlink()) for link in (folder / "fd").iterdir()}
    kinds = sorted(re.sub(r"(socket:).*", r"\1", link) for number, link in opened.items() if number > 2)
    return kinds, (folder / "status").read_text().partition("Uid:")[2].split()[:4]


async def test_a_carrier_holds_nothing_of_the_supervisor_and_is_nobody(client, tmp_path: Path, far) -> None:
    async with sandbox_allowing(tmp_path, f"a.test:{far.port}=127.0.0.1") as executor:
        running, carrier = await held(executor, client, far)
        opened, uids = held_by(carrier)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert len(set(uids)) == 1
    assert uids[0] != "0"
    # Its loop, its link to the supervisor, one listener, and the two ends of a connection.
    assert opened == ["anon_inode:[eventpoll]", *["socket:"] * 4]


async def test_a_step_that_runs_twice_tells_the_connections_of_both(client, tmp_path: Path) -> None:
    with server(lambda made: made.sendall(b"same")) as far:
        async with sandbox_allowing(tmp_path, f"a.test:{far.port}=127.0.0.1") as executor:
            step = declaring(f"a.test:{far.port}", "client:knock", code=client, host="a.test", port=far.port)
            twice = CarefulExecutor(executor, SecretSources())
            outcome = await twice.execute(replace(step, verified=True))
    assert value_of(outcome) == "same"
    assert told(outcome) == [("a.test", far.port, "closed", 1)] * 2
