"""Guest memory: regions over memfds, the allocator, single stores."""

from __future__ import annotations

import mmap
import os

import pytest

from vhostuser.frontend.guest_memory import Allocator, GuestMemory, Region, default_layout, identity_layout


def test_default_layout_has_two_regions_of_one_file_around_a_hole() -> None:
    low, high = default_layout(64 << 20)
    assert (low.gpa, low.size, low.mmap_offset) == (0, 32 << 20, 0)
    assert (high.gpa, high.size, high.mmap_offset) == (1 << 32, 32 << 20, 32 << 20)
    assert low.file == high.file


def test_default_layout_of_one_page_is_one_region() -> None:
    assert [region.size for region in default_layout(4096, 4096)] == [4096]


def test_identity_layout_has_equal_addresses() -> None:
    (region,) = identity_layout(1 << 20)
    with GuestMemory(regions=[region]) as memory:
        gpa = memory.alloc(4096)
        assert memory.user_address(gpa, 4096) == gpa


def test_user_address_differs_from_guest_address_by_default() -> None:
    with GuestMemory(1 << 20) as memory:
        gpa = memory.alloc(64)
        assert memory.user_address(gpa) == memory.host_pointer(gpa) != gpa


def test_fds_name_the_shared_file_once_a_region() -> None:
    with GuestMemory(1 << 20) as memory:
        first, second = memory.fds()
        assert first == second
        assert os.fstat(first).st_size == 1 << 20


def test_write_is_seen_through_the_file_at_an_offset_that_is_no_page_multiple() -> None:
    with GuestMemory(regions=[Region(gpa=0x10_0000, size=8192, mmap_offset=0x330)]) as memory:
        memory.write(0x10_0010, b"payload")
        assert os.pread(memory.fds()[0], 7, 0x330 + 0x10) == b"payload"
        assert memory.read(0x10_0010, 7) == b"payload"


def test_regions_with_names_have_files_of_their_own() -> None:
    regions = [Region(gpa=0, size=4096, file="a"), Region(gpa=4096, size=4096, file="b")]
    with GuestMemory(regions=regions) as memory:
        first, second = memory.fds()
        assert os.fstat(first).st_ino != os.fstat(second).st_ino


def test_read_and_write_run_over_adjacent_regions() -> None:
    regions = [Region(gpa=0, size=4096, file="a"), Region(gpa=4096, size=4096, file="b")]
    with GuestMemory(regions=regions) as memory:
        memory.write(4090, b"0123456789")
        assert memory.read(4090, 10) == b"0123456789"
        assert os.pread(memory.fds()[1], 4, 0) == b"6789"


def test_range_in_the_hole_is_refused_with_its_numbers() -> None:
    with GuestMemory(1 << 20) as memory, pytest.raises(IndexError, match="0xc0000000"):
        memory.read(0xC000_0000, 4)


def test_store_is_little_endian_and_load_gives_it_back() -> None:
    with GuestMemory(1 << 20) as memory:
        gpa = memory.alloc(16)
        memory.store_u16(gpa, 0x1234)
        memory.store_u32(gpa + 4, 0x12345678)
        memory.store_u64(gpa + 8, 0x1122334455667788)
        assert memory.read(gpa, 2) == b"\x34\x12"
        assert memory.read(gpa + 4, 12).hex() == "78563412" + "8877665544332211"
        assert (memory.load_u16(gpa), memory.load_u32(gpa + 4)) == (0x1234, 0x12345678)
        assert memory.load_u64(gpa + 8) == 0x1122334455667788


def test_truncate_shortens_the_file() -> None:
    with GuestMemory(1 << 20) as memory:
        memory.truncate("ram", 4096)
        assert os.fstat(memory.fds()[0]).st_size == 4096


def test_close_leaves_no_fd_and_may_be_repeated() -> None:
    before = len(os.listdir("/proc/self/fd"))
    memory = GuestMemory(1 << 20)
    memory.close()
    memory.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_memory_that_cannot_be_made_leaves_no_fd() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((OSError, ValueError, OverflowError)):
        GuestMemory(regions=[Region(gpa=0, size=4096, file="a"), Region(gpa=4096, size=1 << 62, file="b")])
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_is_allocated_at_guest_address_zero() -> None:
    with GuestMemory(1 << 20) as memory:
        assert memory.alloc(1, 1) >= mmap.PAGESIZE


def test_allocator_aligns_and_fills_the_gap_it_left() -> None:
    allocator = Allocator([(10, 100)])
    assert allocator.alloc(16, 16) == 16
    assert allocator.alloc(6, 1) == 10
    assert allocator.alloc(8, 8) == 32


def test_allocator_merges_what_comes_back() -> None:
    allocator = Allocator([(0, 64)])
    parts = [allocator.alloc(16, 16) for _ in range(4)]
    for at in (parts[1], parts[3], parts[0], parts[2]):
        allocator.free(at)
    assert allocator.alloc(64, 1) == 0


def test_allocator_refuses_what_does_not_fit() -> None:
    allocator = Allocator([(0, 32), (64, 96)])
    with pytest.raises(MemoryError, match="48"):
        allocator.alloc(48, 1)


def test_allocator_refuses_to_free_what_it_never_gave() -> None:
    with pytest.raises(KeyError):
        Allocator([(0, 32)]).free(4)


@pytest.mark.parametrize(("length", "align"), [(0, 1), (-1, 1), (1, 0)])
def test_allocator_refuses_nonsense(length: int, align: int) -> None:
    with pytest.raises(ValueError, match="cannot allocate"):
        Allocator([(0, 32)]).alloc(length, align)
