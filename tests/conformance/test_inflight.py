"""Inflight regions (vhost-user: "Inflight I/O tracking", GET_INFLIGHT_FD, SET_INFLIGHT_FD)."""

from __future__ import annotations

import os
import struct

import pytest

from tests.plain_frontend import VERSION_1, PlainFrontend, inflight
from tests.site import RING_SIZE, Site, echo, frame, wait
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.orders import Order
from vhostuser.wire.features import VirtioFeature as V

RX, TX = 0, 1
FORMATS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


def tracked(site: Site, packed: bool) -> VirtioNetDriver:
    features = DEFAULT_FEATURES | (V.RING_PACKED if packed else V(0))
    return VirtioNetDriver.connect(
        site.path, order=Order.CLOUD_HYPERVISOR, queue_size=RING_SIZE, features=features
    )


def part(driver: VirtioNetDriver, index: int) -> bytes:
    """What the region says of one ring."""
    assert driver.nic.inflight is not None
    layout, fd = driver.nic.inflight
    size = layout.mmap_size // layout.num_queues
    return os.pread(fd, size, layout.mmap_offset + index * size)


@pytest.mark.parametrize(
    ("features", "size"), [(VERSION_1, 4160), (VERSION_1 | 1 << 34, 8256)], ids=["split", "packed"]
)
def test_region_has_a_part_for_each_ring_of_the_negotiated_format(
    site: Site, features: int, size: int
) -> None:
    with PlainFrontend(site.path) as plain:
        plain.negotiate(features=features | 1 << 30)
        assert plain.ask(31, inflight(0, 0, 4, 256)) == inflight(4 * size, 0, 4, 256)
        (fd,) = plain.fds
        assert os.fstat(fd).st_size == 4 * size
        assert os.pread(fd, 4 * size, 0) == bytes(4 * size), "version 0: nobody has used it"


def test_region_that_was_got_is_used_without_being_set(site: Site) -> None:
    with site.stepping() as driver:
        layout, fd = driver.frontend.get_inflight_fd(2, RING_SIZE)
        driver.say_all()
        echo(driver)
        version, _, _, used_idx = struct.unpack_from("=HHHH", os.pread(fd, 320, 320), 8)
        wait(lambda: driver.transmit_queue().read_used_index() == 1)
        assert (version, layout.mmap_size) == (1, 640)
        assert used_idx <= 1
        os.close(fd)


@FORMATS
def test_version_is_1_and_the_entries_are_counted_once_rings_run(site: Site, packed: bool) -> None:
    with tracked(site, packed) as driver:
        echo(driver)
        for index in (RX, TX):
            assert struct.unpack_from("=QHH", part(driver, index)) == (0, 1, RING_SIZE)


@FORMATS
def test_stopped_ring_has_nothing_in_flight_and_its_position_in_the_region(site: Site, packed: bool) -> None:
    with tracked(site, packed) as driver:
        for number in range(RING_SIZE + 3):
            echo(driver, frame(number))
        driver.stop()
        for index in (RX, TX):
            content = part(driver, index)
            head, each = (32, 32) if packed else (16, 16)
            assert not any(content[head + each * entry] for entry in range(RING_SIZE))
            if packed:
                assert struct.unpack_from("=HHBB", content, 16) == (3, 3, 0, 0)
            else:
                assert struct.unpack_from("=H", content, 14) == (RING_SIZE + 3,)
        driver.start()
        echo(driver)


@FORMATS
def test_lost_back_end_is_followed_by_one_that_goes_on_with_the_region(site: Site, packed: bool) -> None:
    with tracked(site, packed) as driver:
        for life in range(4):
            for number in range(RING_SIZE + 5):
                echo(driver, frame(100 * life + number))
            driver.frontend.close()
            # What is sent meanwhile waits, and the buffers that were lent are still lent.
            driver.resume(Frontend.connect(site.path))
        echo(driver)
        driver.wait_sent()
        assert driver.virtqueues[RX].outstanding == RING_SIZE


@FORMATS
def test_guest_that_reboots_gets_a_new_region(site: Site, packed: bool) -> None:
    with tracked(site, packed) as driver:
        for number in range(5):
            echo(driver, frame(number))
        driver.reset()
        assert driver.nic.inflight is None
        driver.start()
        echo(driver)
        if not packed:
            wait(lambda: struct.unpack_from("=H", part(driver, TX), 14) == (1,))


def test_region_may_be_brought_before_the_features_and_the_memory(site: Site) -> None:
    with site.stepping() as driver:
        layout, fd = driver.frontend.get_inflight_fd(2, RING_SIZE)
        driver.frontend.set_inflight_fd(layout, fd)
        os.close(fd)
        driver.say_all()
        echo(driver)
