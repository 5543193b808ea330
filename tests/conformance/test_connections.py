"""Who connects to whom, and what a front-end finds that comes after another (vhost-user: "Communication")."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.plain_frontend import PlainFrontend, state
from tests.site import RING_SIZE, InProcessSite, Site, echo, frame, make_site, serving, wait
from vhostuser.config import DeviceConfig
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.orders import Order

PROGRAM = str(Path(sys.executable).with_name("vhostuser"))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vhu-") as name:
        yield Path(name)


def drive(sock: socket.socket) -> VirtioNetDriver:
    return VirtioNetDriver(Frontend(sock), queue_size=RING_SIZE)


@pytest.mark.parametrize("order", list(Order))
def test_front_end_that_reconnects_goes_on_where_it_was(site: Site, order: Order) -> None:
    with VirtioNetDriver.connect(site.path, order=order, queue_size=RING_SIZE) as driver:
        for _ in range(4):
            echo(driver)
            driver.frontend.close()
            driver.resume(Frontend.connect(site.path))
        echo(driver)


def test_new_front_end_finds_nothing_of_the_one_before(site: Site) -> None:
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        assert plain.number(10, state(0, 77)) == 0
    with PlainFrontend(site.path) as plain:
        plain.send(17, flags=1)
        plain.assert_ended()
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        assert plain.ask(11, state(0, 0)) == state(0, 0)


def test_counters_are_kept_over_front_ends(site: InProcessSite) -> None:
    for _ in range(3):
        with site.driver() as driver:
            echo(driver)
    wait(lambda: site.server.counters()["a"][1].packets == 3)


def test_second_front_end_is_closed_at_once_and_the_first_goes_on(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.running() as driver:
        for _ in range(5):
            with PlainFrontend(site.path) as second:
                second.assert_ended()
            echo(driver)

    lines = [record.message for record in caplog.records if "second front-end" in record.message]
    assert len(lines) == 5
    assert all(f"pid {os.getpid()}" in line for line in lines)


def test_front_end_may_come_as_soon_as_the_last_has_gone(site: Site) -> None:
    for _ in range(200):
        with PlainFrontend(site.path) as plain:
            assert len(plain.ask(1)) == 8


def test_back_end_that_connects_comes_again_and_again(folder: Path) -> None:
    path = folder / "a.sock"
    config = DeviceConfig(name="a", socket_path=str(path), port="echo", client=True, reconnect_ms=5)
    with serving([config]):
        driver = VirtioNetDriver.listen(path, queue_size=RING_SIZE)
        with driver:
            for number in range(3):
                echo(driver, frame(number))
                # The front-end restarts its end; QEMU listens and waits for the back-end.
                driver.frontend.close()
                driver.resume(Frontend.listen(path))
            echo(driver)


def test_back_end_that_connects_waits_for_its_front_end_with_one_line(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = folder / "a.sock"
    config = DeviceConfig(name="a", socket_path=str(path), port="echo", client=True, reconnect_ms=1)
    with serving([config]), VirtioNetDriver.listen(path, queue_size=RING_SIZE) as driver:
        echo(driver)

    lines = [record.message for record in caplog.records if "waiting for a front-end" in record.message]
    # One for "no such file"; between bind and listen the kernel may say "connection refused".
    assert 1 <= len(lines) <= 2 + 2, "the socket file is gone again once it is connected"


@contextmanager
def program(folder: Path, *words: str, fd: int | None = None) -> Iterator[subprocess.Popen[str]]:
    passed = () if fd is None else (fd,)
    process = subprocess.Popen(
        [PROGRAM, "serve", *words], stderr=subprocess.PIPE, text=True, cwd=folder, pass_fds=passed
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def await_line(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"the program ended without saying {text!r}")


@pytest.mark.parametrize("ending", ["clean", "in the middle of a message"])
def test_one_off_ends_with_its_front_end(folder: Path, ending: str) -> None:
    with program(folder, "-s", "a.sock", "--port", "echo", "--one-off") as process:
        await_line(process, "listening")
        with VirtioNetDriver.connect(folder / "a.sock", queue_size=RING_SIZE) as driver:
            echo(driver)
            if ending != "clean":
                driver.frontend.send_raw(b"\x01\0\0")
        _, log = process.communicate(timeout=20)

    assert process.returncode == (0 if ending == "clean" else 4)
    assert not (folder / "a.sock").exists()
    assert "so far: 1 frames" in log or "1 frame " in log


def test_one_off_front_end_that_breaks_the_protocol_is_status_4(folder: Path) -> None:
    with program(folder, "-s", "a.sock", "--port", "echo", "--one-off") as process:
        await_line(process, "listening")
        with PlainFrontend(folder / "a.sock") as plain:
            plain.send(1, flags=3)
            plain.assert_ended()
        process.communicate(timeout=20)

    assert process.returncode == 4


def test_inherited_connected_socket_is_served_and_then_the_program_ends(folder: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with program(folder, "--fd", str(theirs.fileno()), "--port", "echo", fd=theirs.fileno()) as process:
        theirs.close()
        with drive(ours) as driver:
            echo(driver)
        process.communicate(timeout=20)

    assert process.returncode == 0


def test_inherited_listening_socket_is_accepted_from_and_left_in_place(folder: Path) -> None:
    path = folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(4)
        fd = listener.fileno()
        with program(folder, "--fd", str(fd), "--port", "echo", fd=fd) as process:
            listener.close()
            for _ in range(2):
                with VirtioNetDriver.connect(path, queue_size=RING_SIZE) as driver:
                    echo(driver)
            process.terminate()
            process.communicate(timeout=20)

    assert process.returncode == 0
    assert path.exists()


def test_back_end_that_is_killed_and_started_again_is_gone_on_with(folder: Path) -> None:
    path = folder / "a.sock"
    with program(folder, "-s", "a.sock", "--port", "echo") as process:
        await_line(process, "listening")
        driver = VirtioNetDriver.connect(path, queue_size=RING_SIZE)
        driver.start()
        for number in range(20):
            echo(driver, frame(number))
        process.kill()
        process.wait()
    driver.frontend.wait_closed()
    driver.send(frame(99))
    with program(folder, "-s", "a.sock", "--port", "echo") as process, driver:
        await_line(process, "listening")
        driver.resume(Frontend.connect(path))
        driver.kick(1)
        assert driver.recv().frame == frame(99)
        echo(driver)


def test_devices_of_a_server_are_separate() -> None:
    with make_site() as site, site.driver() as driver:
        driver.send(frame(1))
        site.neighbour.send(frame(2))
        assert driver.recv().frame == frame(1)
        assert site.neighbour.recv().frame == frame(2)
