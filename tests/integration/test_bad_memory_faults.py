"""Guest memory that goes away under traffic: its device is disconnected, and no other device notices."""

from __future__ import annotations

import ctypes
import os
import threading

import pytest

from tests.conftest import open_fds
from tests.integration.loglines import assert_one_line, complaints
from tests.site import RING_SIZE, Site, echo, frame, traffic, wait
from vhostuser.errors import PeerError
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.guest_memory import GuestMemory, Region

RUNNERS = ("loop", "event", "adaptive", "busy")

PAGE = 4096
MIB = 1 << 20
GIB4 = 1 << 32

KEEP_SIZE, PUNCH_HOLE = 0x01, 0x02


def punch(fd: int, start: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    assert libc.fallocate(fd, KEEP_SIZE | PUNCH_HOLE, start, length) == 0


@pytest.mark.parametrize("left", [0, PAGE, 32 * PAGE])
def test_truncated_file_costs_its_device_only(
    site: Site, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    with traffic(site.neighbour), site.driver() as driver:
        echo(driver)
        driver.memory.truncate("ram", left)
        driver.kick(1)
        driver.kick(0)
        if left > 16 * PAGE:
            # The rings are still there: only a buffer beyond the end shows it.
            address = driver.memory.regions[-1].gpa
            queue = driver.transmit_queue()
            queue.write_descriptor(0, address, 60, 0, 0)
            queue.offer_raw(0)
            driver.kick(1)
        driver.frontend.wait_closed()

    assert_one_line(caplog, "memory region", "truncated its file")


@pytest.mark.parametrize("ring", [0, 1])
def test_buffers_that_are_gone_cost_their_device_only(
    site: Site, caplog: pytest.LogCaptureFixture, ring: int
) -> None:
    # Rings in one file, buffers in another that is cut: the fault is in the middle of a copy.
    regions = [Region(0, MIB, file="rings"), Region(GIB4, MIB, file="buffers")]
    with (
        traffic(site.neighbour),
        GuestMemory(regions=regions) as memory,
        VirtioNetDriver.connect(site.path, memory=memory, queue_size=RING_SIZE) as driver,
    ):
        echo(driver)
        queue = driver.queues[ring]
        memory.truncate("buffers", PAGE)
        if ring == 0:
            for index in range(RING_SIZE):
                descriptor = queue.read_descriptor(index)
                queue.write_descriptor(index, GIB4 + 2 * PAGE, 2048, descriptor.flags, descriptor.next)
            driver.send(frame(1))
        else:
            queue.write_descriptor(0, GIB4 + PAGE - 40, 80, 0, 0)
            queue.offer_raw(0)
        driver.kick(1)
        driver.frontend.wait_closed()

    assert_one_line(caplog, "0x100000 bytes at guest address 0x100000000", "truncated its file")


def test_truncated_again_and_again_leaves_nothing(site: Site) -> None:
    for _ in range(20):
        with site.driver() as driver:
            echo(driver)
            driver.memory.truncate("ram", 0)
            driver.kick(1)
            driver.frontend.wait_closed()
    site.assert_nothing_left()


def test_file_that_shrinks_in_the_middle_of_a_flood_costs_its_device_only(site: Site) -> None:
    with traffic(site.neighbour), site.driver() as driver:
        echo(driver)
        fds = driver.memory.fds()
        cut = threading.Timer(0.02, lambda: os.ftruncate(fds[0], 0))
        cut.start()
        fd = driver.nic.rings[1].kick_fd
        assert fd is not None
        # Kicks without end, and no touch of our own: this process is as dead as the file.
        os.set_blocking(fd, False)
        while not is_closed(driver):
            os.eventfd_write(fd, 1)
        cut.join()


def is_closed(driver: VirtioNetDriver) -> bool:
    try:
        driver.frontend.wait_closed(0.001)
    except PeerError:
        return False
    return True


def test_truncation_between_two_tables_is_found_by_the_next(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    from vhostuser.frontend import calls

    with site.running() as driver:
        other = GuestMemory(regions=[Region(0, MIB)])
        with other:
            table, fds = calls.memory_table(other), other.fds()
            other.truncate("ram", MIB // 2)
            with pytest.raises(PeerError, match="refused SET_MEM_TABLE"):
                driver.frontend.run(calls.set_mem_table(table, fds), need_reply=True)

    assert_one_line(caplog, "SET_MEM_TABLE", hex(MIB), hex(MIB // 2))


def test_hole_in_all_of_memory_reads_as_zeros(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """avail->idx goes back to 0: that is a jump, which breaks the ring and nothing else."""
    with traffic(site.neighbour), site.driver() as driver:
        for number in range(5):
            echo(driver, frame(number))
        (fd,) = set(driver.memory.fds())
        punch(fd, 0, os.fstat(fd).st_size)
        driver.kick(1)
        wait(lambda: bool(complaints(caplog)))

        assert driver.frontend.get_features()

    assert all("is broken" in line and "avail->idx 0" in line for line in complaints(caplog))


def test_hole_in_the_buffers_is_filled_again(site: Site) -> None:
    # As a balloon or virtio-mem does it: what is not there is zeros, and may be written.
    regions = [Region(0, MIB, file="rings"), Region(GIB4, MIB, file="buffers")]
    with (
        GuestMemory(regions=regions) as memory,
        VirtioNetDriver.connect(site.path, memory=memory, queue_size=RING_SIZE) as driver,
    ):
        echo(driver)
        punch(memory.fds()[1], 0, MIB)
        for index in range(RING_SIZE):
            queue = driver.receive_queue()
            descriptor = queue.read_descriptor(index)
            buffer = GIB4 + 2048 * index
            queue.write_descriptor(index, buffer, 2048, descriptor.flags, descriptor.next)
        driver.send(frame(7))
        wait(lambda: driver.receive_queue().read_used_index() == 2)

        head, length = driver.receive_queue().read_used_entry(1)
        assert memory.read(GIB4 + 2048 * head + 12, length - 12) == frame(7)


def test_fds_are_the_same_before_and_after_a_fault(site: Site) -> None:
    with site.driver() as driver:
        echo(driver)
        driver.memory.truncate("ram", 0)
        driver.kick(1)
        driver.frontend.wait_closed()
    wait(lambda: open_fds().keys() <= site.fds)
