"""Inflight regions that are too short, of impossible numbers, or full of lies: refused, or a ring breaks."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Callable

import pytest

from tests.conformance import fds
from tests.conformance.messages import of
from tests.conftest import open_fds
from tests.integration.loglines import assert_one_line, complaints
from tests.plain_frontend import PlainFrontend, close_all, inflight, u64
from tests.site import RING_SIZE, Site, echo, traffic, wait
from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.orders import Order
from vhostuser.wire.messages import Inflight

GET, SET = 31, 32
PART = 2112
"""Of one split ring with 128 entries: a head of 16 bytes and 128 of 16, in units of 64."""
REGION = Inflight(2 * PART, 0, 2, 128)
TX_PART = 320
"""The same with 16 entries, as the driver's rings here have: where ring 1's begins."""


@pytest.mark.parametrize(
    ("num_queues", "queue_size", "words"),
    [
        (0, 128, "0 rings"),
        (257, 128, "257 rings"),
        (65535, 128, "65535 rings"),
        (65535, 65535, "65535 rings"),
        (2, 0, "0 entries"),
        (2, 3, "3 entries"),
        (2, 32769, "32769 entries"),
        (2, 65535, "65535 entries"),
    ],
)
def test_numbers_that_no_device_has(
    site: Site, caplog: pytest.LogCaptureFixture, num_queues: int, queue_size: int, words: str
) -> None:
    """CVE-2021-3839. Asked for, they end the connection, for no answer says no; given, they are nacked."""
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        with fds.for_row(of(SET)) as mine:
            assert plain.number(SET, inflight(1 << 40, 0, num_queues, queue_size), mine) != 0
        assert_one_line(caplog, "SET_INFLIGHT_FD", words)
        caplog.clear()
        plain.send(GET, inflight(0, 0, num_queues, queue_size))
        plain.assert_ended()
    assert_one_line(caplog, "GET_INFLIGHT_FD", words)


@pytest.mark.parametrize(
    ("size", "offset"),
    [
        (0, 0),
        (2 * PART - 1, 0),
        (2 * PART, 8192),
        (8193, 0),
        (2 * PART, 8192 - 2 * PART + 64),
        (2 * PART, 1),
        (2 * PART, (1 << 64) - 64),
        ((1 << 64) - 1, 64),
        ((1 << 64) - 64, 0),
        (1 << 63, 0),
    ],
)
def test_region_that_the_file_does_not_hold_is_nacked(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture, size: int, offset: int
) -> None:
    fd = fds.memfd(8192)
    assert talk.number(SET, inflight(size, offset, 2, 128), [fd]) != 0
    os.close(fd)
    talk.assert_no_reply()
    assert_one_line(caplog, "SET_INFLIGHT_FD", "inflight region")


def make_socket() -> int:
    left, right = socket.socketpair()
    right.close()
    return left.detach()


def make_read_only() -> int:
    fd = fds.memfd(8192)
    other = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(fd)
    return other


@pytest.mark.parametrize(
    "make",
    [make_socket, make_read_only, lambda: os.eventfd(0), lambda: os.open("/", os.O_RDONLY)],
    ids=["socket", "read only", "eventfd", "directory"],
)
def test_fd_that_cannot_be_mapped_is_nacked_and_closed(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture, make: Callable[[], int]
) -> None:
    fd = make()
    assert talk.number(SET, inflight(2 * PART, 0, 2, 128), [fd]) != 0
    os.close(fd)
    assert_one_line(caplog, "SET_INFLIGHT_FD")


@pytest.mark.parametrize("request_number", [GET, SET])
def test_region_while_a_ring_is_started_is_refused(
    site: Site, caplog: pytest.LogCaptureFixture, request_number: int
) -> None:
    with site.stepping() as driver:
        driver.say_all()
        echo(driver)
        if request_number == SET:
            fd = fds.memfd(8192)
            with pytest.raises(PeerError, match="refused"):
                driver.do(calls.set_inflight_fd(REGION, fd))
            os.close(fd)
            echo(driver)
        else:
            with pytest.raises(PeerError, match="closed the connection"):
                driver.frontend.get_inflight_fd(2, 128)
    assert_one_line(caplog, "INFLIGHT_FD", "comes while ring")


def test_asked_for_a_thousand_times_there_is_one(site: Site) -> None:
    """CVE-2020-10726, CVE-2022-0669: no mapping, no fd and no memory stays of those before."""
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        for _ in range(1000):
            plain.ask(GET, inflight(0, 0, 256, 32768))
            close_all(plain.fds)
            plain.fds.clear()
        fd = fds.memfd(8192)
        for _ in range(1000):
            assert plain.number(SET, inflight(2 * PART, 0, 2, 128), [fd]) == 0
        os.close(fd)
        open_fds()  # when all is given back that is on its way
        with open("/proc/self/maps") as maps:
            assert sum("memfd:vhostuser-inflight" in line for line in maps) == 0
        # One region of the front-end's, the socket, and the one that this end has of it.
        wait(lambda: len(open_fds().keys() - site.fds) <= 2)


def test_short_form_is_answered_in_the_form_received(talk: PlainFrontend) -> None:
    """An i386 build has no padding behind the last number."""
    answer = talk.ask(GET, inflight(7, 7, 2, 128)[:20])
    assert answer == inflight(2 * PART, 0, 2, 128)[:20]
    assert talk.ask(GET, inflight(7, 7, 2, 128)) == inflight(2 * PART, 0, 2, 128)
    assert talk.number(SET, answer, [talk.fds[0]]) == 0


def tracked(site: Site) -> VirtioNetDriver:
    return VirtioNetDriver.connect(site.path, order=Order.CLOUD_HYPERVISOR, queue_size=RING_SIZE)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(8, 2), (8, 65535), (10, 0), (10, 15), (10, 17), (12, 16), (12, 65535)],
    ids=lambda value: str(value),
)
def test_word_that_cannot_be_breaks_its_ring_and_is_said_once(
    site: Site, caplog: pytest.LogCaptureFixture, offset: int, value: int
) -> None:
    with tracked(site) as driver:
        echo(driver)
        assert driver.nic.inflight is not None
        _, fd = driver.nic.inflight
        driver.stop()
        driver.frontend.close()
        os.pwrite(fd, struct.pack("=H", value), TX_PART + offset)
        if offset == 12:
            # Only a batch that may not have been finished is looked at.
            os.pwrite(fd, struct.pack("=H", 0), TX_PART + 14)
        driver.resume(Frontend.connect(site.path))
        wait(lambda: any("ring 1 is broken" in line for line in complaints(caplog)))
        site.assert_neighbour_unharmed()
    broken = [line for line in complaints(caplog) if "broken" in line]
    assert len(broken) == 1
    assert f"the inflight region holds {value} at byte {offset} of this ring's part" in broken[0]


def test_regions_of_any_bytes_cost_nobody_else_anything(site: Site) -> None:
    rng = random.Random(17)
    for _ in range(20):
        with tracked(site) as driver:
            echo(driver)
            assert driver.nic.inflight is not None
            region, fd = driver.nic.inflight
            driver.stop()
            driver.frontend.close()
            content = bytearray(os.pread(fd, region.mmap_size, 0))
            for _ in range(rng.randint(1, 30)):
                content[rng.randrange(len(content))] = rng.choice([0, 1, 2, 15, 16, 17, 255])
            os.pwrite(fd, content, 0)
            driver.resume(Frontend.connect(site.path))
            site.assert_neighbour_unharmed()


def test_region_that_is_truncated_costs_its_connection_alone(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.stepping() as driver:
        fd = fds.memfd(8192)
        driver.do(calls.set_inflight_fd(REGION, fd))
        driver.say_all()
        echo(driver)
        with traffic(site.neighbour):
            os.ftruncate(fd, 0)
            driver.send(bytes(60))
            driver.frontend.wait_closed()
        os.close(fd)
    lines = [line for line in complaints(caplog) if "inflight region is gone" in line]
    assert len(lines) == 1


def test_refused_region_leaves_the_one_before(talk: PlainFrontend) -> None:
    good, short = fds.memfd(8192), fds.memfd(64)
    assert talk.number(SET, inflight(2 * PART, 0, 2, 128), [good]) == 0
    assert talk.ask(SET, inflight(2 * PART, 0, 2, 128), [short]) != u64(0)
    assert talk.number(SET, inflight(2 * PART, 0, 2, 128), [good]) == 0
    close_all([good, short])
