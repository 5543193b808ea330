"""Kick, call and err fds of the wrong kind, or that block or hang up: the ring goes on or says why not."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.loglines import assert_one_line, complaints
from tests.plain_frontend import HEADER, NEED_REPLY, VERSION, PlainFrontend, close_all, u64
from tests.site import RING_SIZE, Site, Stepper, echo, frame, wait
from vhostuser.frontend import calls
from vhostuser.wire.messages import U64

RUNNERS = ("loop", "event")

RX, TX = 0, 1
REQUESTS = {"SET_VRING_KICK": 12, "SET_VRING_CALL": 13, "SET_VRING_ERR": 14}
every_request = pytest.mark.parametrize("name", REQUESTS)

MAKE = {"SET_VRING_KICK": calls.set_vring_kick, "SET_VRING_CALL": calls.set_vring_call}


def make_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def make_epoll() -> int:
    with select.epoll() as epoll:
        return os.dup(epoll.fileno())


WRONG: dict[str, Callable[[], int]] = {
    "file": make_file,
    "memfd": lambda: os.memfd_create("x"),
    "directory": lambda: os.open("/", os.O_RDONLY),
    "device": lambda: os.open("/dev/null", os.O_RDWR),
    "epoll": make_epoll,
    "pidfd": lambda: os.pidfd_open(os.getpid()),
    "path of a socket": lambda: os.open("/proc/self/exe", os.O_PATH),
}


@pytest.mark.parametrize("kind", WRONG)
@every_request
def test_fd_that_cannot_notify_is_refused_and_the_old_one_stays(
    site: Site, caplog: pytest.LogCaptureFixture, name: str, kind: str
) -> None:
    with site.running() as driver:
        fd = WRONG[kind]()
        driver.frontend.send_raw(HEADER.pack(REQUESTS[name], VERSION | NEED_REPLY, 8) + u64(TX), [fd])
        os.close(fd)
        assert driver.frontend.receive_reply().payload != U64(0)

    assert_one_line(caplog, f"{name} ring 1", "expected an eventfd, a pipe or a socket")


@every_request
@pytest.mark.parametrize(
    ("word", "count"), [(0x001, 0), (0x101, 1), (0x101, 2), (0x201, 1), (0x1_0000_0001, 1), (1 << 63, 1)]
)
def test_payload_and_fds_must_agree(
    site: Site, caplog: pytest.LogCaptureFixture, name: str, word: int, count: int
) -> None:
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        fds = [os.eventfd(0) for _ in range(count)]
        assert plain.number(REQUESTS[name], u64(word), fds) != 0
        close_all(fds)
        plain.assert_no_reply()

    assert_one_line(caplog, name)


@contextmanager
def started(site: Site, item: str, fd: int, rings: tuple[int, ...] = (RX, TX)) -> Iterator[Stepper]:
    """A device some of whose rings have this fd for kick or call."""
    with site.stepping() as driver:
        driver.say_all("kick", "call")
        for index in (RX, TX):
            for each in ("call", "kick"):
                if each != item or index not in rings:
                    driver.say(each, index)
                else:
                    driver.do(MAKE[f"SET_VRING_{item.upper()}"](index, fd))
        yield driver


def full_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, bytes(4096)):
            pass
    os.set_blocking(writer, True)
    return writer, reader


def closed_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.close(reader)
    return writer, -1


def read_end() -> tuple[int, int]:
    reader, writer = os.pipe()
    return reader, writer


def closed_socket() -> tuple[int, int]:
    left, right = socket.socketpair()
    right.close()
    return left.detach(), -1


def full_socket() -> tuple[int, int]:
    left, right = socket.socketpair()
    left.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while left.send(bytes(65536)):
            pass
    left.setblocking(True)
    return left.detach(), right.detach()


def full_eventfd() -> tuple[int, int]:
    fd = os.eventfd(0)
    os.eventfd_write(fd, 2**64 - 2)
    return fd, -1


def unconnected_socket() -> tuple[int, int]:
    return socket.socket(socket.AF_UNIX).detach(), -1


DEAF = {
    make.__name__.replace("_", " "): make
    for make in (
        full_pipe,
        closed_pipe,
        read_end,
        closed_socket,
        full_socket,
        full_eventfd,
        unconnected_socket,
    )
}


@pytest.mark.parametrize("kind", DEAF)
def test_call_fd_that_cannot_be_written_stops_nothing(site: Site, kind: str) -> None:
    fd, other = DEAF[kind]()
    with started(site, "call", fd) as driver:
        driver.receive_queue().enable_calls()
        for number in range(2 * RING_SIZE):
            driver.send(frame(number))
            wait(lambda: driver.receive_queue().read_used_index() == (number + 1))  # noqa: B023
            received = driver.recv_now()
            assert received is not None
            assert received.frame == frame(number)
            driver.receive_queue().enable_calls()
            driver.transmit_queue().enable_calls()
    close_all([one for one in (fd, other) if one >= 0])


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_call_through_a_pipe_or_socket_is_read(site: Site, kind: str) -> None:
    # User-Mode Linux sends pipes.
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        left, right = socket.socketpair()
        reader, writer = left.detach(), right.detach()
    with started(site, "call", writer) as driver:
        driver.receive_queue().enable_calls()
        driver.send(frame(1))
        assert select.select([reader], [], [], 20)[0]
        wait(lambda: driver.recv_now() is not None)
    close_all([reader, writer])


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_kick_through_a_pipe_or_socket_is_drained(site: Site, kind: str) -> None:
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        left, right = socket.socketpair()
        reader, writer = left.detach(), right.detach()
    # Of one ring: whoever reads first takes the other's kicks, which an eventfd, never read, cannot lose.
    with started(site, "kick", reader, (TX,)) as driver:
        for number in range(3 * RING_SIZE):
            driver.send(frame(number))
            os.write(writer, b"kickkick" * 64)
            assert driver.recv().frame == frame(number)
        wait(lambda: not select.select([reader], [], [], 0)[0])
    close_all([reader, writer])


@pytest.mark.parametrize("kind", ["closed pipe", "closed socket", "full eventfd", "unconnected socket"])
def test_kick_fd_that_never_tells_anything_harms_nobody(
    site: Site, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    fd, _ = DEAF[kind]()
    with started(site, "kick", fd) as driver:
        site.assert_neighbour_unharmed()
        # One that works in its place: all is well again.
        driver.say("kick")
        echo(driver)
    os.close(fd)
    assert not any("our own bug" in line for line in complaints(caplog))


@pytest.mark.parametrize("kind", ["closed pipe", "closed socket", "unconnected socket"])
def test_kick_fd_that_has_hung_up_costs_no_cpu(kind: str) -> None:
    """A hang-up is told for ever: a loop that listened to it would never sleep again."""
    program = str(Path(sys.executable).with_name("vhostuser"))
    with (
        tempfile.TemporaryDirectory(prefix="vhu-") as folder,
        subprocess.Popen(
            [program, "serve", "-s", "a.sock", "--port", "echo"],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stderr is not None
        assert any("listening" in line for line in process.stderr)
        fd, _ = DEAF[kind]()
        with Stepper.at(Path(folder) / "a.sock") as driver:
            driver.say_all("kick")
            for index in (RX, TX):
                driver.do(calls.set_vring_kick(index, fd))
            driver.do(calls.get_features())
            before = cpu_ticks(process.pid)
            time.sleep(0.5)  # what is measured is this stretch
            spent = cpu_ticks(process.pid) - before
        os.close(fd)
        process.terminate()
        process.communicate(timeout=20)

    assert spent < 0.2 * os.sysconf("SC_CLK_TCK")


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_one_eventfd_for_kick_call_and_err_of_both_rings(site: Site) -> None:
    # Every call is then a kick. It may not go round for ever: a burst without packets calls nobody.
    fd = os.eventfd(0)
    with site.stepping() as driver:
        driver.say_all("kick", "call")
        for index in (RX, TX):
            driver.do(calls.set_vring_err(index, fd))
            driver.do(calls.set_vring_call(index, fd))
            driver.do(calls.set_vring_kick(index, fd))
        for number in range(5):
            driver.send(frame(number))
            os.eventfd_write(fd, 1)
            wait(lambda: driver.recv_now() is not None)
        site.assert_neighbour_unharmed()
    os.close(fd)


def test_backend_channel_may_be_any_fd_and_is_closed_with_the_connection(site: Site) -> None:
    for make in WRONG.values():
        with PlainFrontend(site.path) as plain:
            plain.negotiate()
            fd = make()
            plain.number(21, b"", [fd])
            os.close(fd)


# O_NONBLOCK belongs to the file, which the front-end shares: it may be cleared after we looked


def assert_ended_for_blocking(site: Site, caplog: pytest.LogCaptureFixture, ring: int) -> None:
    wait(lambda: any(f"an fd of ring {ring} blocks" in line for line in complaints(caplog)))
    site.assert_neighbour_unharmed()


def test_regression_call_fd_that_is_made_to_block_ends_its_front_end(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    fd = os.eventfd(0)
    with started(site, "call", fd) as driver:
        driver.say("enable")
        os.eventfd_write(fd, 2**64 - 2 - _drained(fd))
        os.set_blocking(fd, True)
        driver.send(frame(1))
        assert_ended_for_blocking(site, caplog, RX)
    os.close(fd)
    site.assert_serves()


def _drained(fd: int) -> int:
    """Empties an eventfd that we have made non-blocking."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(fd)
    return 0


def test_regression_kick_pipe_that_is_made_to_block_ends_its_front_end(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = os.pipe()
    with site.stepping() as driver:
        driver.say_all("kick")
        driver.do(calls.set_vring_kick(TX, reader))
        site.assert_neighbour_unharmed()
        os.set_blocking(reader, True)
        os.write(writer, bytes(512))
        assert_ended_for_blocking(site, caplog, TX)
    close_all([reader, writer])
    site.assert_serves()
