"""Front-ends that flood, stop, come in crowds or go away: nobody else notices."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading

import pytest

from tests.conformance import fds
from tests.conformance.messages import SERVED, Row
from tests.integration.loglines import complaints
from tests.plain_frontend import HEADER, VERSION, PlainFrontend, state
from tests.site import InProcessSite, Site, echo
from vhostuser.server import backend


def test_front_end_that_does_not_read_its_replies_stops_only_itself(site: Site, plain: PlainFrontend) -> None:
    plain.sock.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 64 << 20:
            sent += plain.sock.send(HEADER.pack(1, VERSION, 0) * 100)
    assert sent < 64 << 20, "the back-end reads on and on, and keeps what nobody takes"
    for _ in range(20):
        echo(site.neighbour)


def test_replies_that_waited_come_whole_and_in_order(plain: PlainFrontend) -> None:
    count = 3000
    writer = threading.Thread(target=lambda: plain.sock.sendall(HEADER.pack(1, VERSION, 0) * count))
    writer.start()
    got = b""
    while len(got) < 20 * count:
        piece = plain.sock.recv(65536)
        assert piece
        got += piece
    writer.join()

    assert got == got[:20] * count


def test_flood_of_messages_does_not_stop_a_neighbour(site: Site, talk: PlainFrontend) -> None:
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            talk.sock.sendall((HEADER.pack(8, VERSION, 8) + state(0, 256)) * 200)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(50):
            echo(site.neighbour)
    finally:
        stop.set()
        thread.join()


def test_flood_of_refusals_does_not_stop_a_neighbour(site: Site, talk: PlainFrontend) -> None:
    for _ in range(200):
        assert talk.number(8, state(0, 3)) != 0
    echo(site.neighbour)


@pytest.mark.parametrize("content", [b"", b"\x01", HEADER.pack(2, VERSION, 8) + b"\0"])
def test_front_end_that_stops_is_let_go_in_time(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(backend, "MESSAGE_SECONDS", 0.05)
    monkeypatch.setattr(backend, "SILENCE_SECONDS", 0.05)
    with PlainFrontend(site.path) as plain:
        plain.sock.sendall(content)
        plain.assert_ended()

    lines = [line for line in caplog.messages if "stopped in the middle" in line]
    assert len(lines) == 1
    monkeypatch.undo()


def test_front_end_that_is_quiet_between_messages_stays(
    site: InProcessSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A guest that runs for weeks says nothing at all.
    monkeypatch.setattr(backend, "MESSAGE_SECONDS", 0.02)
    monkeypatch.setattr(backend, "SILENCE_SECONDS", 0.02)
    with PlainFrontend(site.path) as plain:
        plain.ask(1)
        passed = threading.Event()
        site.loop.call_soon_threadsafe(site.loop.call_later, 0.1, passed.set)
        assert passed.wait(20)
        plain.ask(1)
    monkeypatch.undo()


def test_a_thousand_front_ends_that_say_nothing(site: Site) -> None:
    for _ in range(1000):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(site.path))
    echo(site.neighbour)


def test_two_hundred_front_ends_at_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(PlainFrontend(site.path)) for _ in range(200)]
        first, *others = many
        first.ask(1)
        for one in others:
            one.assert_ended()
        first.ask(1)
    assert len(complaints(caplog)) == 199


@pytest.mark.parametrize("row", SERVED, ids=[row.name for row in SERVED])
def test_front_end_that_goes_after_a_message_leaves_nothing(site: Site, row: Row) -> None:
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        with fds.for_row(row) as mine:
            plain.send(row.number, row.body, mine)


def test_front_end_that_goes_after_each_step_of_a_start_leaves_nothing(site: Site) -> None:
    steps = ("features", "memory", "num", "base", "addr", "err", "call", "kick", "enable")
    for count in range(len(steps) + 1):
        with site.stepping() as driver:
            for step in steps[:count]:
                driver.say(step)


def test_front_end_that_goes_in_traffic_leaves_nothing(site: Site) -> None:
    for _ in range(10):
        with site.driver() as driver:
            for _ in range(10):
                driver.send(bytes(60))
            driver.frontend.close()
