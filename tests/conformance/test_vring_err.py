"""The err fd of a ring (vhost-user: VHOST_USER_SET_VRING_ERR), signalled "when error occurs".

What the specification leaves open is decided so: an error is signalled once, also one that keeps a ring from
starting; an fd that comes after it was signalled to the one before, or to nobody, hears of the next.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.site import RING_SIZE, Site, Stepper, echo, make_site, wait
from vhostuser.frontend import calls
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.virtqueue import DescFlag, SplitVirtqueue
from vhostuser.frontend.virtqueue_base import Segment
from vhostuser.wire.features import VirtioFeature as V

RX, TX = 0, 1
NOWHERE = 1 << 60
Queue = SplitVirtqueue[Segment]


def err_fd(driver: Stepper, index: int = TX) -> int:
    fd = driver.nic.rings[index].err_fd
    assert fd is not None
    return fd


def was_signalled(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def assert_signalled_once(site: Site, driver: Stepper, index: int = TX) -> None:
    fd = err_fd(driver, index)
    assert select.select([fd], [], [], 20)[0]
    for _ in range(3):
        driver.kick(index)
        site.assert_neighbour_unharmed()
    assert was_signalled(fd) == 1


@dataclass(frozen=True)
class Break:
    """A way to break a running transmit ring from the guest's side."""

    name: str
    write: Callable[[Queue], None]


def descriptor(
    flags: int, gpa: int = NOWHERE, length: int = 64, following: int = 0
) -> Callable[[Queue], None]:
    def write(queue: Queue) -> None:
        queue.write_descriptor(0, gpa, length, flags, following)
        queue.offer_raw(0)

    return write


def mixed(queue: Queue) -> None:
    at = queue.memory.alloc(64)
    queue.write_descriptor(0, at, 32, DescFlag.WRITE | DescFlag.NEXT, 1)
    queue.write_descriptor(1, at + 32, 32, 0, 0)
    queue.offer_raw(0)


def table(flags: int, length: int = 16, following: int = 0) -> Callable[[Queue], None]:
    """A chain through an indirect table of one entry."""

    def write(queue: Queue) -> None:
        at = queue.memory.alloc(16, 16)
        queue.write_table_entry(at, 0, at, 16, flags, following)
        queue.write_descriptor(0, at, length, DescFlag.INDIRECT, 0)
        queue.offer_raw(0)

    return write


BREAKS = [
    Break("avail index", lambda queue: queue.write_avail_index(1000)),
    Break("head", lambda queue: queue.offer_raw(RING_SIZE)),
    Break("next", descriptor(DescFlag.NEXT, gpa=0, following=RING_SIZE)),
    Break("loop", descriptor(DescFlag.NEXT, gpa=0, following=0)),
    Break("address", descriptor(0)),
    Break("direction", mixed),
    Break("indirect table nowhere", descriptor(DescFlag.INDIRECT)),
    Break("indirect length", table(0, length=15)),
    Break("indirect and next", descriptor(DescFlag.INDIRECT | DescFlag.NEXT)),
    Break("indirect nested", table(DescFlag.INDIRECT)),
    Break("indirect next", table(DescFlag.NEXT, following=9)),
]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
def test_each_kind_of_break_is_signalled_once(site: Site, broken: Break) -> None:
    with site.stepping() as driver:
        driver.say("err")
        driver.say_all()
        echo(driver)
        driver.reclaim()

        broken.write(driver.transmit_queue())
        driver.kick(TX)

        assert_signalled_once(site, driver)
        assert was_signalled(err_fd(driver, RX)) == 0


def test_ring_that_lies_in_no_memory_is_signalled_when_it_is_to_start(site: Site) -> None:
    with site.stepping() as driver:
        driver.say("err")
        driver.say_all("addr", "kick")
        driver.do(calls.set_vring_addr(TX, NOWHERE, NOWHERE + 0x2000, NOWHERE + 0x1000))
        driver.say("kick")

        assert_signalled_once(site, driver)


def test_memory_that_leaves_a_ring_for_a_while_is_no_error(site: Site) -> None:
    with site.stepping() as driver:
        driver.say("err")
        driver.say_all()
        echo(driver)
        whole = calls.memory_table(driver.memory)
        fds = driver.memory.fds()
        place = driver.nic.rings[TX].place
        assert place is not None
        kept = [
            index
            for index, region in enumerate(whole.regions)
            if not region.uva <= place.desc < region.uva + region.size
        ]
        table = type(whole)(tuple(whole.regions[index] for index in kept))
        driver.do(calls.set_mem_table(table, [fds[index] for index in kept]))

        site.assert_neighbour_unharmed()
        assert was_signalled(err_fd(driver)) == 0

        driver.do(calls.set_mem_table(whole, fds))
        echo(driver)


def test_packed_ring_with_a_base_beyond_it_is_signalled() -> None:
    features = V.VERSION_1 | V.RING_PACKED | V.PROTOCOL_FEATURES
    with make_site() as site:
        driver = Stepper(Frontend.connect(site.path), queue_size=RING_SIZE, features=features)
        with driver:
            driver.negotiate()
            driver._prepare()
            driver.nic.rings[TX].base = RING_SIZE | RING_SIZE << 16
            driver.say("err")
            driver.say_all()

            assert_signalled_once(site, driver)


def test_ring_breaks_anew_after_it_was_started_anew(site: Site) -> None:
    with site.stepping() as driver:
        driver.say("err")
        driver.say_all()
        for _ in range(3):
            driver.transmit_queue().write_avail_index(1000)
            driver.kick(TX)
            assert_signalled_once(site, driver)
            driver.do(calls.get_vring_base(TX))
            driver.transmit_queue().write_avail_index(0)
            for item in ("addr", "call", "kick"):
                driver.say(item, TX)
            driver.do(calls.get_features())
        echo(driver)


def test_err_fd_that_comes_after_the_break_hears_of_the_next(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.stepping() as driver:
        driver.do(calls.set_vring_err(TX, None))  # QEMU's order has given one already
        driver.say_all()
        driver.transmit_queue().write_avail_index(1000)
        driver.kick(TX)
        wait(lambda: "ring 1 is broken" in caplog.text)

        driver.say("err")
        site.assert_neighbour_unharmed()
        assert was_signalled(err_fd(driver)) == 0

        driver.do(calls.get_vring_base(TX))
        for item in ("addr", "call", "kick"):
            driver.say(item, TX)
        assert_signalled_once(site, driver)


def test_err_fd_that_is_withdrawn_hears_nothing(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.stepping() as driver:
        driver.say("err")
        driver.say_all()
        echo(driver)
        # Bit 8: no fd comes with this message.
        driver.do(calls.set_vring_err(TX, None))
        driver.transmit_queue().write_avail_index(1000)
        driver.kick(TX)
        wait(lambda: "ring 1 is broken" in caplog.text)

        site.assert_neighbour_unharmed()
        assert was_signalled(err_fd(driver)) == 0


def test_ring_without_an_err_fd_breaks_alone(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.stepping() as driver:
        driver.do(calls.set_vring_err(TX, None))  # QEMU's order has given one already
        driver.say_all()
        driver.transmit_queue().write_avail_index(1000)
        driver.kick(TX)
        wait(lambda: "ring 1 is broken" in caplog.text)

        assert driver.do(calls.get_vring_base(RX)) == 0
