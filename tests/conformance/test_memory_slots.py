"""Memory slots (vhost-user: "Memory access", CONFIGURE_MEM_SLOTS). Bad ones are in integration/."""

from __future__ import annotations

import os
import struct
import threading

import pytest

from tests.conformance.fds import memfd
from tests.conftest import live_regions, open_fds
from tests.plain_frontend import NEED_REPLY, VERSION, PlainFrontend, close_all, single, table
from tests.site import RING_SIZE, InProcessSite, Site, echo, frame, wait
from vhostuser.frontend import calls
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.guest_memory import GuestMemory, Region
from vhostuser.frontend.virtqueue import Segment
from vhostuser.wire.messages import MemoryRegion

PAGE = 4096
MIB = 1 << 20
GIB4 = 1 << 32
SET_MEM_TABLE, GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG = 5, 36, 37, 38


def add(talk: PlainFrontend, gpa: int, uva: int, *, size: int = PAGE, offset: int = 0) -> int:
    fd = memfd(offset + size)
    try:
        return talk.number(ADD_MEM_REG, single(gpa, size, uva, offset), [fd])
    finally:
        os.close(fd)


def test_number_of_slots_is_answered_with_and_without_need_reply(talk: PlainFrontend) -> None:
    for flags in (VERSION, VERSION | NEED_REPLY):
        assert struct.unpack("=Q", talk.ask(GET_MAX_MEM_SLOTS, flags=flags)) == (509,)
    talk.assert_no_reply()


def test_as_many_regions_as_there_are_slots_can_be_added_and_no_more(
    site: InProcessSite, talk: PlainFrontend
) -> None:
    neighbours = live_regions()
    for slot in range(509):
        assert add(talk, slot << 32, slot << 32) == 0
    assert live_regions() == neighbours + 509
    assert add(talk, 509 << 32, 509 << 32) != 0
    assert talk.number(REM_MEM_REG, single(7 << 32, PAGE, 7 << 32)) == 0
    assert add(talk, 509 << 32, 509 << 32) == 0
    wait(lambda: live_regions() == neighbours + 509)


def test_region_is_known_by_its_addresses_and_size_not_by_its_offset(talk: PlainFrontend) -> None:
    neighbours = live_regions()
    assert add(talk, GIB4, 0x100000, offset=PAGE) == 0
    assert talk.number(REM_MEM_REG, single(GIB4, PAGE, 0x100000, 0x1234)) == 0
    wait(lambda: live_regions() == neighbours)


def test_removal_may_bring_an_fd_which_is_closed(site: InProcessSite, talk: PlainFrontend) -> None:
    assert add(talk, GIB4, 0x100000) == 0
    fds = [memfd()]
    before = open_fds().keys() - set(fds)
    assert talk.number(REM_MEM_REG, single(GIB4, PAGE, 0x100000), fds) == 0
    close_all(fds)
    # The region's own fd has gone as well.
    wait(lambda: len(open_fds()) == len(before) - 1)


def test_regions_may_be_added_to_a_table(site: InProcessSite, talk: PlainFrontend) -> None:
    # As Cloud Hypervisor does when memory is plugged.
    neighbours, fds = live_regions(), [memfd(), memfd()]
    assert talk.number(SET_MEM_TABLE, table((0, PAGE, 0, 0), (PAGE, PAGE, PAGE, 0)), fds) == 0
    close_all(fds)
    assert add(talk, GIB4, GIB4) == 0
    assert live_regions() == neighbours + 3
    fds = [memfd()]
    assert talk.number(SET_MEM_TABLE, table((0, PAGE, 0, 0)), fds) == 0
    close_all(fds)
    wait(lambda: live_regions() == neighbours + 1)


def test_frames_pass_through_memory_that_came_in_slots(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all("memory")
        for region, fd in zip(calls.memory_table(driver.memory).regions, driver.memory.fds(), strict=True):
            driver.do(calls.add_mem_reg(region, fd))
        for number in range(40):
            echo(driver, frame(number))


def test_region_is_used_as_soon_as_it_is_added_and_rings_do_not_notice(site: Site) -> None:
    # The driver has all of its memory, the back-end gets the second half in traffic.
    layout = [Region(0, MIB, file="rings"), Region(GIB4, MIB, file="plugged")]
    with (
        GuestMemory(regions=layout) as memory,
        VirtioNetDriver.connect(site.path, memory=memory, queue_size=RING_SIZE) as driver,
    ):
        rows, fds = calls.memory_table(memory).regions, memory.fds()
        for number in range(20):
            driver.frontend.run(calls.rem_mem_reg(rows[1]), need_reply=True)
            echo(driver, frame(number))
            driver.frontend.run(calls.add_mem_reg(rows[1], fds[1]), need_reply=True)
            memory.write(GIB4 + 64, bytes(driver.header_size) + frame(100 + number))
            at = Segment(GIB4 + 64, driver.header_size + len(frame(0)))
            assert driver.transmit_queue().add([at], (), Segment(memory.alloc(64), 64)) is not None
            driver.transmit_queue().publish()
            driver.kick(1)
            assert driver.recv().frame == frame(100 + number)
            driver.wait_sent()


def test_other_regions_come_and_go_under_traffic_on_a_thread(site: Site) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()
    with site.driver() as driver:
        echo(driver)

        def plug() -> None:
            try:
                rounds = 0
                while not stop.is_set() or rounds < 30:
                    for slot in range(1, 4):
                        fd = memfd()
                        region = MemoryRegion(slot << 40, PAGE, slot * PAGE, 0)
                        driver.frontend.run(calls.add_mem_reg(region, fd), need_reply=True)
                        os.close(fd)
                    for slot in (2, 1, 3):
                        region = MemoryRegion(slot << 40, PAGE, slot * PAGE, 0)
                        driver.frontend.run(calls.rem_mem_reg(region), need_reply=True)
                    rounds += 1
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=plug)
        thread.start()
        try:
            for number in range(200):
                echo(driver, frame(number))
        finally:
            stop.set()
            thread.join()
    assert failures == []


def test_rings_go_on_where_they_were_when_their_region_is_replaced(site: Site) -> None:
    # As QEMU when the layout of memory changes: what has another shape now is removed and added anew.
    with site.driver() as driver:
        rows, fds = calls.memory_table(driver.memory).regions, driver.memory.fds()
        for number in range(20):
            echo(driver, frame(number))
            for region in rows[::-1]:
                driver.frontend.run(calls.rem_mem_reg(region), need_reply=True)
            driver.send(frame(1000 + number))
            first = rows[0]
            half = first.size // 2
            halves = [
                MemoryRegion(first.gpa, half, first.uva, first.mmap_offset),
                MemoryRegion(first.gpa + half, half, first.uva + half, first.mmap_offset + half),
            ]
            rows = (*halves, *rows[1:]) if number == 0 else rows
            fds = [fds[0], *fds] if number == 0 else fds
            for region, fd in zip(rows, fds, strict=True):
                driver.frontend.run(calls.add_mem_reg(region, fd), need_reply=True)
            assert driver.recv().frame == frame(1000 + number)


def test_each_queue_pair_may_say_the_same(site: InProcessSite) -> None:
    # As QEMU before 8.0: a pair that is started later says again what the first has said, also what has gone.
    with site.driver(2) as driver:
        echo(driver)
        mapped = live_regions()
        fd = memfd()
        more = MemoryRegion(1 << 40, PAGE, PAGE, 0)
        for _ in range(2):
            for region, number in zip(driver.nic.told, driver.memory.fds(), strict=True):
                driver.frontend.run(calls.add_mem_reg(region, number), need_reply=True)
            driver.frontend.run(calls.add_mem_reg(more, fd), need_reply=True)
        assert live_regions() == mapped + 1
        for _ in range(2):
            driver.frontend.run(calls.rem_mem_reg(more), need_reply=True)
        wait(lambda: live_regions() == mapped)
        os.close(fd)
        echo(driver)


def test_memory_stays_when_the_device_is_reset(site: Site) -> None:
    """QEMU sends only what has changed at the next start, for it believes that the back-end has the rest."""
    with site.driver() as driver:
        echo(driver)
        before = live_regions()
        driver.frontend.set_status(0)
        driver.frontend.reset_device()
        assert live_regions() == before


@pytest.mark.parametrize("keep", [0, 1])
def test_connection_that_ends_gives_every_slot_back(site: Site, keep: int) -> None:
    neighbours = live_regions()
    with PlainFrontend(site.path) as talk:
        talk.negotiate()
        for slot in range(5):
            assert add(talk, slot << 32, slot << 32) == 0
        for slot in range(5 - keep):
            assert talk.number(REM_MEM_REG, single(slot << 32, PAGE, slot << 32)) == 0
    wait(lambda: live_regions() == neighbours)
