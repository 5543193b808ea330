"""Postcopy: the guest runs while its memory is on its way, and nobody waits who need not."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
import threading
from collections.abc import Iterator

import pytest

from tests.postcopy import PAGE, arriving, arriving_whole, say_table, send_until_asked, stuck
from tests.site import InProcessSite, Site, echo, frame, make_site, wait
from vhostuser.frontend import calls
from vhostuser.frontend.guest_memory import GuestMemory, Region
from vhostuser.frontend.iommu import Answers, Iommu
from vhostuser.frontend.iova_memory import IovaMemory
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.wire.features import ProtocolFeature, VirtioFeature


@pytest.fixture
def site() -> Iterator[Site]:
    with make_site(workers=1, postcopy=True) as made:
        yield made


def test_postcopy_is_offered_in_place_of_memory_slots(site: Site) -> None:
    with site.driver() as driver:
        offered = driver.frontend.get_protocol_features()

    assert ProtocolFeature.PAGEFAULT in offered
    assert ProtocolFeature.CONFIGURE_MEM_SLOTS not in offered


def test_pages_come_when_they_are_touched(site: Site) -> None:
    with site.stepping() as driver, arriving(driver) as late:
        assert late.asked == []
        for number in range(100):
            echo(driver, frame(number))

        assert late.asked
        assert len(set(late.asked)) == len(late.asked)


def test_rings_and_frames_that_are_late_are_what_they_were(site: InProcessSite) -> None:
    with site.stepping() as driver:
        driver.send(frame(7))
        with arriving_whole(driver) as late:
            wait(lambda: site.server.counters()["a"][0].packets == 1)

            assert driver.recv().frame == frame(7)
            assert PAGE in late.asked


def test_packed_rings_that_are_late_are_what_they_were(site: InProcessSite) -> None:
    with site.stepping(features=DEFAULT_FEATURES | VirtioFeature.RING_PACKED) as driver:
        assert driver.packed
        driver.send(frame(7))
        with arriving_whole(driver) as late:
            wait(lambda: site.server.counters()["a"][0].packets == 1)

            assert driver.recv().frame == frame(7)
            assert PAGE in late.asked
            for number in range(100):
                echo(driver, frame(number))


def test_huge_pages_come_when_they_are_touched(site: InProcessSite, huge_pages: int) -> None:
    with (
        GuestMemory(regions=[Region(gpa=0, size=2 * huge_pages)], huge_page=huge_pages) as memory,
        site.stepping(memory=memory) as driver,
    ):
        driver.send(frame(7))
        with arriving_whole(driver) as late:
            wait(lambda: site.server.counters()["a"][0].packets == 1)

            assert driver.recv().frame == frame(7)
            assert late.asked == [0]
            for number in range(100):
                echo(driver, frame(number))


@pytest.mark.parametrize("features", [VirtioFeature(0), VirtioFeature.RING_PACKED], ids=["split", "packed"])
def test_rings_in_scattered_pages_behind_an_iommu_are_late(
    site: InProcessSite, features: VirtioFeature
) -> None:
    """Of 1024 entries: no table is in one page, so they are mapped a second time, as one piece."""
    with (
        IovaMemory(64 << 20) as memory,
        site.stepping(
            iommu=Iommu(memory, Answers.EAGER), queue_size=1024, features=DEFAULT_FEATURES | features
        ) as driver,
    ):
        driver.send(frame(7))
        with arriving_whole(driver) as late:
            wait(lambda: site.server.counters()["a"][0].packets == 1)

            assert driver.recv().frame == frame(7)
            rings = {memory.guest_address(ring.place.desc) for ring in driver.nic.rings if ring.place}
            assert rings <= set(late.asked)
            for number in range(100):
                echo(driver, frame(number))


def test_nobody_else_waits_for_a_page(site: Site) -> None:
    with site.stepping() as driver, stuck(driver) as late:
        # Two devices share the one ordinary worker, and one loop answers both.
        for number in range(100):
            echo(site.neighbour, frame(number))
        driver.frontend.get_features()
        site.neighbour.frontend.get_features()

        late.gate.set()
        assert driver.recv().frame == frame(1)


def is_read(sock: socket.socket) -> bool:
    """Whether the server has read all that was sent to it."""
    (waiting,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return bool(waiting == 0)


def test_change_is_answered_when_the_page_has_come_and_not_before(site: Site) -> None:
    with site.stepping() as driver, stuck(driver) as late:
        call = calls.set_vring_call(0, driver.nic.rings[0].call_fd)
        driver.frontend.send_raw(driver.frontend.dialogue.encode(call, True)[0], call.fds)
        wait(lambda: is_read(driver.frontend.socket))
        # Nor does the loop wait, which has the message now.
        site.neighbour.frontend.get_features()
        site.assert_neighbour_unharmed()
        assert select.select([driver.frontend.socket], [], [], 0)[0] == []

        late.gate.set()

        driver.frontend.dialogue.conclude(call, driver.frontend.receive_reply())
        assert driver.recv().frame == frame(1)
        echo(driver, frame(2))


def test_ring_is_stopped_when_the_page_has_come(site: Site) -> None:
    with site.stepping() as driver, stuck(driver) as late:
        release = threading.Timer(0.1, late.gate.set)
        release.start()

        assert driver.frontend.run(calls.get_vring_base(1)) == driver.virtqueues[1].device_base()
        release.join()


def test_table_is_replaced_in_postcopy(site: Site) -> None:
    with site.stepping() as driver, arriving(driver) as late:
        for number in range(20):
            echo(driver, frame(number))
            say_table(driver, late)
            echo(driver, frame(number))


def test_after_the_end_nothing_is_asked_for_any_more(site: Site) -> None:
    with site.stepping() as driver, arriving(driver) as late:
        echo(driver, frame(1))
        driver.frontend.postcopy_end()
        before = list(late.asked)
        late.gate.clear()
        for number in range(100):
            echo(driver, frame(number))
        driver.say("memory")
        echo(driver, frame(3))

        assert late.asked == before


def test_end_lets_go_of_who_waits_for_a_page(site: Site) -> None:
    with site.stepping() as driver, stuck(driver):
        driver.frontend.postcopy_end()

        assert driver.recv().frame == frame(1)
        echo(driver, frame(2))


def test_end_carries_out_what_waits_for_a_page(site: Site) -> None:
    """The port follows a second pair while the first one waits: nobody asks for that again."""
    with site.stepping(pairs=2) as driver, arriving(driver) as late:
        send_until_asked(driver, late)
        driver.frontend.postcopy_end()
        assert driver.recv().frame == frame(1)
        driver.send(frame(2), queue=1)
        assert driver.recv().frame == frame(2)


def test_postcopy_can_begin_again(site: Site) -> None:
    for _ in range(3):
        with site.stepping() as driver, arriving(driver):
            echo(driver, frame(1))
            driver.frontend.postcopy_end()


def test_sink_takes_frames_that_come_late() -> None:
    with make_site("sink", workers=1, postcopy=True) as site, site.stepping() as driver:
        driver.send(frame(7))
        with arriving_whole(driver) as late:
            wait(lambda: site.server.counters()["a"][1].packets == 1)
            assert late.asked
