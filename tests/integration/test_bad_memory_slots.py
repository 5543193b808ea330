"""Slots that must be refused: a nack, one log line, nothing mapped, no fd kept, and the rings go on."""

from __future__ import annotations

import os
import struct

import pytest

from tests.conftest import live_regions, open_fds
from tests.integration.loglines import assert_one_line, complaints
from tests.integration.test_bad_memory import make_epoll, make_pipe, make_sealed, make_socket, memfd
from tests.plain_frontend import PlainFrontend, single
from tests.site import Site, echo, frame, wait
from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.memory.regions import MAX_TABLE_BYTES
from vhostuser.wire.payloads import MemoryRegion

PAGE = 4096
END = 1 << 64
FAR = 1 << 40
GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG = 36, 37, 38


def assert_not_added(driver: VirtioNetDriver, region: MemoryRegion, fd: int) -> None:
    mapped, fds = live_regions(), open_fds().keys() - {fd}
    with pytest.raises(PeerError, match="refused ADD_MEM_REG"):
        driver.frontend.run(calls.add_mem_reg(region, fd), need_reply=True)
    os.close(fd)
    assert live_regions() == mapped
    assert open_fds().keys() == fds


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ((FAR, 0, PAGE, 0), ("guest address 0x10000000000 is empty",)),
        ((END - PAGE, 2 * PAGE, PAGE, 0), ("guest address", "0xfffffffffffff000")),
        ((FAR, 2 * PAGE, END - PAGE, 0), ("user address", "0xfffffffffffff000")),
        ((FAR, 2 * PAGE, PAGE, (1 << 63) - PAGE), ("file offset", "0x7ffffffffffff000")),
        ((FAR, PAGE, PAGE, 4 * PAGE), ("0x5000", "0x4000")),
        ((FAR, MAX_TABLE_BYTES, PAGE, 0), ("bytes together", "0x100000000000")),
        ((0, PAGE, PAGE, 0), ("guest 0x0", "overlaps region 2")),
        (((1 << 32) - PAGE, 2 * PAGE, PAGE, 0), ("guest 0xfffff000", "overlaps")),
    ],
    ids=[
        "empty",
        "guest address wraps",
        "user address wraps",
        "file offset wraps",
        "behind the end of the file",
        "more than all tables may have",
        "in a region",
        "into a region",
    ],
)
def test_region_that_cannot_be_is_not_added(
    site: Site, caplog: pytest.LogCaptureFixture, region: tuple[int, int, int, int], words: tuple[str, ...]
) -> None:
    with site.running() as driver:
        assert_not_added(driver, MemoryRegion(*region), memfd())

    assert_one_line(caplog, "ADD_MEM_REG", *words)


def test_region_at_a_user_address_that_is_taken_is_not_added(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.running() as driver:
        taken = calls.memory_table(driver.memory).regions[0]
        assert_not_added(driver, MemoryRegion(FAR, PAGE, taken.uva + PAGE, 0), memfd())

    assert_one_line(caplog, "ADD_MEM_REG", "user", "overlaps", hex(taken.uva))


def test_same_region_of_another_file_is_refused(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.running() as driver:
        region = calls.memory_table(driver.memory).regions[1]
        assert_not_added(driver, region, memfd(region.mmap_offset + region.size))

    assert_one_line(caplog, "ADD_MEM_REG", "overlaps", hex(region.gpa))


@pytest.mark.parametrize(
    "make",
    [
        make_pipe,
        make_socket,
        make_epoll,
        make_sealed,
        lambda: os.eventfd(0),
        lambda: os.open("/", os.O_RDONLY),
    ],
    ids=["pipe", "socket", "epoll", "sealed", "eventfd", "directory"],
)
def test_fd_that_cannot_be_mapped_is_not_added(
    site: Site, caplog: pytest.LogCaptureFixture, make: pytest.FixtureRequest
) -> None:
    with site.running() as driver:
        assert_not_added(driver, MemoryRegion(FAR, PAGE, PAGE, 0), make())  # type: ignore[operator]

    assert_one_line(caplog, "ADD_MEM_REG")


@pytest.mark.parametrize("change", ["gpa", "size", "uva"])
def test_removal_of_what_is_not_there_is_refused(
    site: Site, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    with site.running() as driver:
        region = calls.memory_table(driver.memory).regions[0]
        other = {"gpa": region.gpa, "size": region.size, "uva": region.uva}
        other[change] += PAGE
        with pytest.raises(PeerError, match="refused REM_MEM_REG"):
            driver.frontend.run(calls.rem_mem_reg(MemoryRegion(**other, mmap_offset=0)), need_reply=True)

    assert_one_line(caplog, "REM_MEM_REG", *(hex(value) for value in other.values()))


def test_removal_before_any_memory_is_refused(
    site: Site, caplog: pytest.LogCaptureFixture, talk: PlainFrontend
) -> None:
    assert talk.number(REM_MEM_REG, single(0, PAGE, 0)) != 0
    assert_one_line(caplog, "REM_MEM_REG", "there is no memory", "0x1000")


@pytest.mark.parametrize("count", [0, 2, 3])
def test_addition_without_its_one_fd_is_refused(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    fds = [memfd() for _ in range(count)]
    before = open_fds().keys() - set(fds)
    assert talk.number(ADD_MEM_REG, single(FAR, PAGE, PAGE), fds) != 0
    for fd in fds:
        os.close(fd)
    assert open_fds().keys() == before
    assert_one_line(caplog, "ADD_MEM_REG", f"{count} fds came with it, expected 1")


def test_removal_with_two_fds_is_refused(talk: PlainFrontend, caplog: pytest.LogCaptureFixture) -> None:
    fds = [memfd(), memfd()]
    assert talk.number(REM_MEM_REG, single(FAR, PAGE, PAGE), fds) != 0
    for fd in fds:
        os.close(fd)
    assert_one_line(caplog, "REM_MEM_REG", "2 fds came with it, expected 0 to 1")


@pytest.mark.parametrize("size", [0, 8, 32, 36, 39, 41, 48])
@pytest.mark.parametrize("request_number", [ADD_MEM_REG, REM_MEM_REG])
def test_payload_of_another_size_is_refused(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture, request_number: int, size: int
) -> None:
    # 36 is what QEMU sent before 5.2 by mistake.
    assert talk.number(request_number, single(FAR, PAGE, PAGE).ljust(48, b"\0")[:size]) != 0
    assert_one_line(caplog, "_MEM_REG", f"payload of {size} bytes, expected 40")


@pytest.mark.parametrize("request_number", [GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG])
def test_without_the_feature_none_is_served(
    plain: PlainFrontend, caplog: pytest.LogCaptureFixture, request_number: int
) -> None:
    plain.negotiate(protocol=1 << 3)
    fds = [memfd()] if request_number == ADD_MEM_REG else []
    plain.send(request_number, b"" if request_number == GET_MAX_MEM_SLOTS else single(FAR, PAGE, PAGE), fds)
    for fd in fds:
        os.close(fd)
    if request_number == GET_MAX_MEM_SLOTS:
        plain.assert_ended()
    else:
        assert plain.reply(request_number) != struct.pack("=Q", 0)
    assert_one_line(caplog, "needs CONFIGURE_MEM_SLOTS")


def test_buffer_in_a_region_that_was_removed_breaks_its_ring_alone(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.driver() as driver:
        echo(driver)
        rows = calls.memory_table(driver.memory).regions
        driver.frontend.run(calls.rem_mem_reg(rows[1]), need_reply=True)
        queue = driver.transmit_queue()
        queue.write_descriptor(0, rows[1].gpa, 60, 0, 0)
        queue.offer_raw(0)
        driver.kick(1)
        wait(lambda: bool(complaints(caplog)))

        assert driver.frontend.get_features()
    assert_one_line(caplog, "ring 1 is broken", "0x100000000")


def test_region_is_removed_under_rings_that_are_in_full_use(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.driver() as driver:
        echo(driver)
        rows, fds = calls.memory_table(driver.memory).regions, driver.memory.fds()
        for number in range(10):
            for _ in range(8):
                driver.send(frame(number))
            driver.frontend.run(calls.rem_mem_reg(rows[0]), need_reply=True)
            driver.frontend.run(calls.add_mem_reg(rows[0], fds[0]), need_reply=True)
            for _ in range(8):
                assert driver.recv().frame == frame(number)

    # Not in each round: what comes back may have been delivered before.
    lines = complaints(caplog)
    assert len(lines) >= 2
    assert all("waits for its memory to come back: 256 bytes at user address" in line for line in lines)


def test_truncated_file_of_a_slot_costs_its_device_only(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.driver() as driver:
        echo(driver)
        fd = memfd(16 * PAGE)
        driver.frontend.run(calls.add_mem_reg(MemoryRegion(FAR, 16 * PAGE, PAGE, 0), fd), need_reply=True)
        os.ftruncate(fd, PAGE)
        os.close(fd)
        queue = driver.transmit_queue()
        queue.write_descriptor(0, FAR + PAGE, 80, 0, 0)
        queue.offer_raw(0)
        driver.kick(1)
        driver.frontend.wait_closed()

    assert_one_line(caplog, "region of 0x10000 bytes at guest address 0x10000000000 is gone", "truncated")
