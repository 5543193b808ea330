"""Memory tables become mappings, and whatever goes wrong nothing stays open or mapped."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import live_regions, open_fds
from vhostuser.datapath._datapath import lib
from vhostuser.datapath.mapping import MappedMemory
from vhostuser.errors import RequestError
from vhostuser.wire.payloads import MemoryRegion

PAGE = mmap.PAGESIZE


def region(gpa: int = 0, size: int = 4 * PAGE, mmap_offset: int = 0) -> MemoryRegion:
    return MemoryRegion(gpa=gpa, size=size, uva=(1 << 40) + gpa, mmap_offset=mmap_offset)


def memfd(size: int = 4 * PAGE) -> int:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    return fd


def is_open(fd: int) -> bool:
    return fd in open_fds()


def mappings_of(name: str) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if name in line]


@pytest.fixture(autouse=True)
def nothing_stays_mapped() -> None:
    assert live_regions() == 0


def test_one_mapping_a_region_until_it_is_closed() -> None:
    fds = [memfd(), memfd()]
    memory = MappedMemory([region(), region(gpa=1 << 32)], fds)
    assert live_regions() == 2
    assert len(mappings_of("memfd:guest")) == 2

    memory.close()

    assert live_regions() == 0
    assert mappings_of("memfd:guest") == []
    assert not any(map(is_open, fds))
    memory.close()


def test_reference_of_a_device_outlives_the_owner() -> None:
    memory = MappedMemory([region()], [memfd()])
    handle = memory.handle
    memory.close()
    assert live_regions() == 1

    lib.vu_memory_put(handle)

    assert live_regions() == 0


def test_mapping_is_read_write_and_left_out_of_core_dumps() -> None:
    memory = MappedMemory([region()], [memfd()])
    try:
        [line] = mappings_of("memfd:guest")
        assert line.split()[1] == "rw-s"
        text = Path("/proc/self/smaps").read_text()
        flags = text[text.index(line) :].split("VmFlags:")[1].splitlines()[0].split()
        assert "dd" in flags
    finally:
        memory.close()


def test_offset_that_is_no_multiple_of_the_page() -> None:
    memory = MappedMemory([region(size=PAGE, mmap_offset=PAGE + 512)], [memfd()])
    try:
        [line] = mappings_of("memfd:guest")
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        assert end - start == 2 * PAGE
        assert int(line.split()[2], 16) == PAGE
    finally:
        memory.close()


UNFIT: dict[str, tuple[Callable[[], int], str]] = {
    "pipe": (lambda: _first(os.pipe()), "needs a file of"),
    "socket": (lambda: socket.socket(socket.AF_UNIX).detach(), "needs a file of"),
    "eventfd": (lambda: os.eventfd(0), "needs a file of"),
    "directory": (lambda: os.open("/", os.O_RDONLY), "needs a file of|cannot be mapped"),
    "read-only": (lambda: _read_only(), "cannot be mapped read-write: Permission denied"),
    "write-sealed": (lambda: _sealed(), "cannot be mapped read-write: Operation not permitted"),
    "too-short": (lambda: memfd(4 * PAGE - 1), f"needs a file of {4 * PAGE:#x} bytes, this one has 0x3fff"),
    "empty": (lambda: memfd(0), "this one has 0x0"),
}


def _first(pair: tuple[int, int]) -> int:
    os.close(pair[1])
    return pair[0]


def _read_only() -> int:
    fd = memfd()
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _sealed() -> int:
    fd = memfd()
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    return fd


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_file_that_cannot_back_a_region(name: str, place: int) -> None:
    """In any row of the table: what was mapped before it is unmapped, every fd is closed."""
    make, words = UNFIT[name]
    fds = [memfd(), memfd(), memfd()]
    os.close(fds[place])
    fds[place] = make()

    with pytest.raises(RequestError, match=words):
        MappedMemory([region(gpa=row << 32) for row in range(3)], fds)

    assert not any(map(is_open, fds))
    assert live_regions() == 0


def test_message_names_the_row_that_cannot_be_mapped() -> None:
    with pytest.raises(
        RequestError, match=r"region 1 \(guest address 0x100000000, 16384 bytes\) cannot be mapped"
    ):
        MappedMemory([region(), region(gpa=1 << 32)], [memfd(), _read_only()])


def test_table_that_contradicts_itself_closes_its_fds() -> None:
    fds = [memfd(), memfd()]
    with pytest.raises(RequestError, match="overlaps"):
        MappedMemory([region(), region(gpa=PAGE)], fds)

    assert not any(map(is_open, fds))


def test_thirty_two_regions_in_any_order() -> None:
    rows = [region(gpa=row << 32) for row in range(32)]
    fds = [memfd() for _ in rows]
    memory = MappedMemory(rows[::-1], fds)
    assert live_regions() == 32

    memory.close()
    assert not any(map(is_open, fds))


# Tables that are made from one another


def unfit_fds(fds: list[int]) -> list[int]:
    return [fd for fd in fds if is_open(fd)]


def test_plus_maps_the_new_region_and_no_other() -> None:
    fds = [memfd(), memfd()]
    first = MappedMemory([region()], fds[:1])
    before = mappings_of("memfd:guest")

    second = first.plus(region(gpa=1 << 32), fds[1])

    assert live_regions() == 2
    after = mappings_of("memfd:guest")
    assert [line for line in after if line in before] == before
    first.close()
    assert live_regions() == 2
    assert unfit_fds(fds) == fds
    second.close()
    assert live_regions() == 0
    assert unfit_fds(fds) == []


def test_minus_gives_back_one_region_with_the_last_table_that_has_it() -> None:
    fds = [memfd(), memfd(), memfd()]
    whole = MappedMemory([region(gpa=row << 32) for row in range(3)], fds)

    rest = whole.minus(region(gpa=1 << 32, mmap_offset=512))

    assert rest is not None
    assert live_regions() == 3
    whole.close()
    assert live_regions() == 2
    assert unfit_fds(fds) == [fds[0], fds[2]]
    smaller = rest.minus(region())
    assert smaller is not None
    rest.close()
    assert smaller.minus(region(gpa=2 << 32)) is None
    assert unfit_fds(fds) == [fds[2]]
    smaller.close()


def test_reference_of_a_device_keeps_all_of_its_table() -> None:
    whole = MappedMemory([region(), region(gpa=1 << 32)], [memfd(), memfd()])
    handle = whole.handle
    rest = whole.minus(region())
    assert rest is not None
    whole.close()
    assert live_regions() == 2

    lib.vu_memory_put(handle)

    assert live_regions() == 1
    rest.close()


@pytest.mark.parametrize("name", UNFIT)
def test_file_that_cannot_back_one_more_region(name: str) -> None:
    make, words = UNFIT[name]
    memory, fd = MappedMemory([region()], [memfd()]), make()

    with pytest.raises(RequestError, match=words):
        memory.plus(region(gpa=1 << 32), fd)

    assert not is_open(fd)
    assert live_regions() == 1
    memory.close()


def test_region_that_may_not_be_added_closes_its_fd() -> None:
    memory, fd = MappedMemory([region()], [memfd()]), memfd()

    with pytest.raises(RequestError, match="overlaps"):
        memory.plus(region(), fd)

    assert not is_open(fd)
    with pytest.raises(RequestError, match="no region has"):
        memory.minus(region(gpa=1 << 32))
    memory.close()


def test_every_slot_can_be_filled_and_emptied() -> None:
    memory = MappedMemory([region(size=PAGE)], [memfd()])
    for row in range(1, 509):
        larger = memory.plus(region(gpa=row << 32, size=PAGE), memfd())
        memory.close()
        memory = larger
    assert live_regions() == 509
    for row in range(508):
        smaller = memory.minus(region(gpa=row << 32, size=PAGE))
        assert smaller is not None
        memory.close()
        memory = smaller
    assert live_regions() == 1
    memory.close()


def test_table_has_a_region_with_its_file_and_not_with_another() -> None:
    fds = [memfd(), memfd()]
    again, other = os.dup(fds[1]), memfd()
    memory = MappedMemory([region(), region(gpa=1 << 32)], fds)
    assert memory.has(region(gpa=1 << 32), again)
    assert not memory.has(region(gpa=1 << 32), other)
    assert not memory.has(region(gpa=1 << 32, size=PAGE), again)
    rest = memory.minus(region(gpa=1 << 32))
    assert rest is not None
    assert not rest.has(region(gpa=1 << 32), again)
    larger = rest.plus(region(gpa=2 << 32), again)
    assert larger.has(region(gpa=2 << 32), again)
    for table in (memory, rest, larger):
        table.close()
    os.close(other)
