"""Ring set-up that must be refused or borne: indices, sizes, bases, addresses, fds, order, repetition."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from tests.site import FRAME, Site, wait
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.wire.constants import Request
from vhostuser.wire.features import VirtioFeature

NOFD = 0x100
RING_REQUESTS = (
    Request.SET_VRING_NUM,
    Request.SET_VRING_BASE,
    Request.SET_VRING_ENABLE,
)
FD_REQUESTS = (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR)


def answer(driver: VirtioNetDriver, request: int, body: bytes, fds: tuple[int, ...] = ()) -> int:
    """The u64 that an acknowledged request is answered with."""
    driver.frontend.send_raw(struct.pack("=III", request, 9, len(body)) + body, fds)
    reply = driver.frontend.receive_reply()
    assert reply.request == request
    return int(getattr(reply.payload, "value", -1))


@pytest.mark.parametrize("index", [256, 65536, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("request_number", RING_REQUESTS)
def test_index_is_compared_in_full_width(
    site: Site, caplog: pytest.LogCaptureFixture, request_number: Request, index: int
) -> None:
    # CVE-2020-10723: an index cut to 8 or 16 bits passed the check.
    with site.running() as driver:
        assert answer(driver, request_number, struct.pack("=II", index, 1)) != 0

    assert str(index) in caplog.text


@pytest.mark.parametrize("index", [256, 0xFFFFFFFF])
def test_get_vring_base_of_no_ring_ends_the_connection(site: Site, index: int) -> None:
    with site.driver() as driver:
        body = struct.pack("=II", index, 0)
        driver.frontend.send_raw(struct.pack("=III", Request.GET_VRING_BASE, 1, 8) + body)
        driver.frontend.wait_closed()


@pytest.mark.parametrize("num", [0, 3, 255, 32769, 65536, 0xFFFFFFFF])
def test_size_that_no_split_ring_has_is_refused(site: Site, num: int) -> None:
    with site.running() as driver:
        assert answer(driver, Request.SET_VRING_NUM, struct.pack("=II", 4, num)) != 0


@pytest.mark.parametrize("base", [65536, 0x80008000, 0xFFFFFFFF])
def test_base_beyond_16_bits_is_refused(site: Site, base: int) -> None:
    with site.running() as driver:
        assert answer(driver, Request.SET_VRING_BASE, struct.pack("=II", 4, base)) != 0


@pytest.mark.parametrize(
    ("desc", "used", "avail"),
    [(0x1008, 0x3000, 0x2000), (0x1000, 0x3002, 0x2000), (0x1000, 0x3000, 0x2001), (0x1000, 0x1000, 0x2000)],
    ids=["desc unaligned", "used unaligned", "avail unaligned", "desc is used"],
)
def test_addresses_that_cannot_be_a_ring_are_refused(site: Site, desc: int, used: int, avail: int) -> None:
    with site.running() as driver:
        body = struct.pack("=IIQQQQ", 4, 0, desc, used, avail, 0)
        assert answer(driver, Request.SET_VRING_ADDR, body) != 0


def test_ring_at_addresses_outside_memory_does_not_start_and_says_where(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.running() as driver:
        assert answer(driver, Request.SET_VRING_NUM, struct.pack("=II", 3, 256)) == 0
        body = struct.pack("=IIQQQQ", 3, 0, 0x10, 0x1000, 0x2000, 0)
        assert answer(driver, Request.SET_VRING_ADDR, body) == 0
        kick = os.eventfd(0)
        assert answer(driver, Request.SET_VRING_KICK, struct.pack("=Q", 3), (kick,)) == 0
        os.close(kick)
        wait(lambda: "ring 3 does not start" in caplog.text)

    assert "0x10" in caplog.text


def test_ring_that_ends_behind_its_region_does_not_start(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.running() as driver:
        region = driver.memory.regions[0]
        end = (region.uva or 0) + region.size
        assert answer(driver, Request.SET_VRING_NUM, struct.pack("=II", 3, 256)) == 0
        body = struct.pack("=IIQQQQ", 3, 0, end - 16 * 128, end - 4096 * 2, end - 4096 * 4, 0)
        assert answer(driver, Request.SET_VRING_ADDR, body) == 0
        kick = os.eventfd(0)
        assert answer(driver, Request.SET_VRING_KICK, struct.pack("=Q", 3), (kick,)) == 0
        os.close(kick)
        wait(lambda: "ring 3 does not start" in caplog.text)


def test_addresses_may_not_move_while_the_ring_runs(site: Site) -> None:
    with site.running() as driver:
        body = struct.pack("=IIQQQQ", 1, 0, 0x1000, 0x3000, 0x2000, 0)
        assert answer(driver, Request.SET_VRING_ADDR, body) != 0


@pytest.mark.parametrize("request_number", [Request.SET_VRING_NUM, Request.SET_VRING_BASE])
def test_size_and_base_may_not_change_while_the_ring_runs(site: Site, request_number: Request) -> None:
    with site.running() as driver:
        assert answer(driver, request_number, struct.pack("=II", 1, 64)) != 0


@pytest.mark.parametrize(
    "request_number", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR]
)
@pytest.mark.parametrize("word", [1, NOFD | 1, 0x201])
def test_nofd_bit_and_fd_must_agree(site: Site, request_number: Request, word: int) -> None:
    with site.running() as driver:
        fds = () if word == 1 else (os.eventfd(0),)
        assert answer(driver, request_number, struct.pack("=Q", word), fds) != 0
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize(
    "request_number", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR]
)
def test_fd_that_cannot_notify_is_refused_and_the_old_one_stays(
    site: Site, caplog: pytest.LogCaptureFixture, request_number: Request
) -> None:
    with site.running() as driver:
        fd = os.memfd_create("file")
        assert answer(driver, request_number, struct.pack("=Q", 1), (fd,)) != 0
        os.close(fd)

    assert "expected an eventfd" in caplog.text


def test_kick_may_come_twice(site: Site) -> None:
    with site.running() as driver:
        kick = driver.nic.rings[1].kick_fd
        assert kick is not None
        for _ in range(3):
            assert answer(driver, Request.SET_VRING_KICK, struct.pack("=Q", 1), (kick,)) == 0


def test_kick_fd_whose_peer_has_gone_is_borne(site: Site) -> None:
    with site.running() as driver:
        reader, writer = os.pipe()
        assert answer(driver, Request.SET_VRING_KICK, struct.pack("=Q", 1), (reader,)) == 0
        os.close(reader)
        os.close(writer)
        kick = driver.nic.rings[1].kick_fd
        assert kick is not None
        assert answer(driver, Request.SET_VRING_KICK, struct.pack("=Q", 1), (kick,)) == 0


def test_ring_without_kick_fd_is_polled(site: Site) -> None:
    with site.running() as driver:
        assert answer(driver, Request.SET_VRING_KICK, struct.pack("=Q", NOFD | 1)) == 0
        for _ in range(3):
            driver.send(FRAME)
            assert driver.recv().frame == FRAME


def test_kick_through_a_pipe_is_drained(site: Site) -> None:
    with site.running() as driver:
        reader, writer = os.pipe()
        assert answer(driver, Request.SET_VRING_KICK, struct.pack("=Q", 1), (reader,)) == 0
        os.write(writer, b"k" * 4096)
        driver.send(FRAME)
        os.write(writer, b"k")
        assert driver.recv().frame == FRAME
        # A non-blocking read by the back-end leaves nothing behind.
        os.set_blocking(reader, False)
        wait(lambda: _is_empty(reader))
        kick = driver.nic.rings[1].kick_fd
        assert kick is not None
        assert answer(driver, Request.SET_VRING_KICK, struct.pack("=Q", 1), (kick,)) == 0
        os.close(reader)
        os.close(writer)


def _is_empty(reader: int) -> bool:
    import select

    return not select.select([reader], [], [], 0)[0]


@pytest.mark.parametrize("kind", ["full pipe", "closed socket"])
def test_call_fd_that_cannot_be_written_stops_nothing(site: Site, kind: str) -> None:
    with site.driver() as driver:
        if kind == "full pipe":
            reader, fd = os.pipe()
            os.set_blocking(fd, False)
            try:
                while os.write(fd, bytes(4096)):
                    pass
            except BlockingIOError:
                os.set_blocking(fd, True)
            kept = [reader]
        else:
            left, right = socket.socketpair()
            right.close()
            fd, kept = left.detach(), []
        assert answer(driver, Request.SET_VRING_CALL, struct.pack("=Q", 0), (fd,)) == 0
        driver.send(FRAME)
        wait(lambda: driver.recv_now() is not None)
        for number in (fd, *kept):
            os.close(number)


@pytest.mark.parametrize("num", [2, 0xFFFFFFFF])
def test_enable_is_0_or_1(site: Site, num: int) -> None:
    with site.running() as driver:
        assert answer(driver, Request.SET_VRING_ENABLE, struct.pack("=II", 1, num)) != 0


def test_enable_of_a_ring_that_is_not_set_up_is_stored(site: Site) -> None:
    with site.running() as driver:
        assert answer(driver, Request.SET_VRING_ENABLE, struct.pack("=II", 9, 1)) == 0


def test_features_that_were_not_offered_are_refused(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.running() as driver:
        features = int(driver.features | VirtioFeature.RING_PACKED)
        assert answer(driver, Request.SET_FEATURES, struct.pack("=Q", features)) != 0

    assert "RING_PACKED" in caplog.text


def test_header_size_may_not_change_while_rings_run(site: Site) -> None:
    with site.running() as driver:
        features = int(driver.features & ~VirtioFeature.VERSION_1 & ~VirtioFeature.MRG_RXBUF)
        assert answer(driver, Request.SET_FEATURES, struct.pack("=Q", features)) != 0


def test_get_vring_base_before_anything_and_twice(site: Site) -> None:
    with site.driver() as driver:
        frontend = driver.frontend
        assert frontend.get_vring_base(7) == 0
        driver.send(FRAME)
        assert driver.recv().frame == FRAME
        assert frontend.get_vring_base(1) == frontend.get_vring_base(1) == 1


def test_get_vring_base_in_traffic_answers_the_used_index(site: Site) -> None:
    with site.driver() as driver:
        for _ in range(50):
            driver.send(FRAME)
        base = driver.frontend.get_vring_base(1)

        assert base == driver.transmit_queue(0).read_used_index()


def test_set_mtu_outside_its_range_is_refused(site: Site) -> None:
    with site.running() as driver:
        for mtu in (0, 67, 65536, 1 << 63):
            assert answer(driver, Request.NET_SET_MTU, struct.pack("=Q", mtu)) != 0
