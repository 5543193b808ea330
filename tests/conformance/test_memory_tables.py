"""Memory tables (vhost-user: "Memory regions description", SET_MEM_TABLE). Bad ones are in integration/."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from tests.conformance.fds import memfd
from tests.conftest import live_regions
from tests.plain_frontend import PlainFrontend, table
from tests.site import RING_SIZE, InProcessSite, Site, echo, frame, wait
from vhostuser.frontend import calls
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.guest_memory import GuestMemory, Region, identity_layout
from vhostuser.frontend.virtqueue import Segment
from vhostuser.wire.messages import MemoryRegion, MemTable

PAGE = 4096
MIB = 1 << 20
GIB4 = 1 << 32


def play(site: Site, memory: GuestMemory, *, frames: int = 40, size: int = 60) -> None:
    with memory, VirtioNetDriver.connect(site.path, memory=memory, queue_size=RING_SIZE) as driver:
        for number in range(frames):
            echo(driver, frame(number).ljust(size, b"x"))


LAYOUTS: dict[str, Sequence[Region]] = {
    "one region": [Region(0, MIB)],
    "guest addresses are user addresses": identity_layout(MIB),
    "two halves of one file": [Region(0, MIB), Region(GIB4, MIB, MIB)],
    "offset of no whole page": [Region(0x10000, MIB, 0x10), Region(GIB4, MIB, MIB + 0x1230)],
    "two files": [Region(0, MIB, file="low"), Region(GIB4, MIB, file="high")],
    "table out of order": [Region(GIB4, MIB, MIB), Region(0, MIB)],
    "size of no whole page": [Region(0, MIB + 0x50), Region(GIB4, MIB, 2 * MIB)],
    "32 regions of one file": [Region(n * MIB, 64 << 10, n * (64 << 10)) for n in range(32)],
    "32 files": [Region(n * MIB, 64 << 10, file=str(n)) for n in range(32)],
    "ends at the top of guest addresses": [Region((1 << 64) - MIB - PAGE, MIB)],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_frames_pass_through_any_layout(site: Site, layout: Sequence[Region]) -> None:
    play(site, GuestMemory(regions=layout))


def test_buffer_may_cross_regions_that_touch_in_guest_addresses(site: Site) -> None:
    # They touch for the guest; in the files, and so in the back-end's mapping, they lie apart.
    whole = [Region(0, MIB, file="rings"), *(Region(MIB + n * PAGE, PAGE, 2 * n * PAGE) for n in range(8))]
    with (
        GuestMemory(regions=whole) as memory,
        VirtioNetDriver.connect(site.path, memory=memory, queue_size=RING_SIZE) as driver,
    ):
        content = bytes(range(256)) * 40
        at = MIB + PAGE // 2
        header = bytes(driver.header_size)
        memory.write(at, header + content[:6000])
        queue = driver.transmit_queue()
        buffer = Segment(memory.alloc(64), 64)
        assert queue.add([Segment(at, len(header) + 6000)], (), buffer) is not None
        queue.publish()
        driver.kick(1)
        assert driver.recv().frame == content[:6000]


def test_table_is_replaced_whole_and_the_old_one_unmapped(site: InProcessSite) -> None:
    neighbours = live_regions()
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        for count in (1, 32, 3):
            fds = [memfd() for _ in range(count)]
            rows = [(n * PAGE, PAGE, 0x100000 + n * PAGE, 0) for n in range(count)]
            assert plain.number(5, table(*rows), fds) == 0
            for fd in fds:
                os.close(fd)
            wait(lambda: live_regions() == neighbours + count)  # noqa: B023 - waited for here and now


def test_table_may_grow_in_traffic(site: Site) -> None:
    # As memory is plugged: the old regions stay, one more comes, and frames go on.
    with site.running() as driver:
        rows = calls.memory_table(driver.memory).regions
        for count in range(1, 9):
            more = [MemoryRegion((64 << 30) + n * PAGE, PAGE, 0x1000 + n * PAGE, 0) for n in range(count)]
            fds = [memfd() for _ in more]
            driver.send(frame(count))
            driver.frontend.set_mem_table(MemTable((*rows, *more)), [*driver.memory.fds(), *fds])
            assert driver.recv().frame == frame(count)
            for fd in fds:
                os.close(fd)


def test_rings_follow_memory_that_moves_to_another_file(site: Site) -> None:
    # User addresses stay; what they mean is the new table's business.
    with (
        GuestMemory(4 * MIB) as memory,
        VirtioNetDriver.connect(site.path, memory=memory, queue_size=RING_SIZE) as driver,
    ):
        echo(driver, frame(1))
        moved = [Region(r.gpa, r.size, r.mmap_offset + 0x10000, r.uva) for r in memory.regions]
        with GuestMemory(regions=moved) as copy:
            for region in memory.regions:
                start = max(region.gpa, PAGE)
                copy.write(start, memory.read(start, region.end - start))
            copy._allocator = memory._allocator
            driver.nic.memory = copy
            for queue in driver.queues:
                queue.memory = copy
            driver.frontend.set_mem_table(calls.memory_table(copy), copy.fds())
            memory.truncate("ram", 0)

            for number in range(40):
                echo(driver, frame(number))
            driver.close()


def test_refused_table_leaves_the_old_one_and_its_rings(site: Site) -> None:
    with site.running() as driver:
        mapped = live_regions()
        fd = memfd()
        driver.frontend.send_raw(b"\x05\0\0\0\x09\0\0\0\x28\0\0\0" + table((0, 0, 0x1000, 0)), [fd])
        os.close(fd)
        assert getattr(driver.frontend.receive_reply().payload, "value", 0) != 0
        assert live_regions() == mapped
        echo(driver)


def test_connection_that_ends_unmaps_everything(site: InProcessSite) -> None:
    neighbours = live_regions()
    with site.driver() as driver:
        echo(driver)
        assert live_regions() == neighbours + len(driver.memory.regions)
    wait(lambda: live_regions() == neighbours)
