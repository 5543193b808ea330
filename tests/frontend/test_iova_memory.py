from __future__ import annotations

import pytest

from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.iova_memory import IOVA_BASE, PAGE, IovaMemory, pages_of


def test_pages_of_a_range() -> None:
    assert list(pages_of(PAGE - 1, 2)) == [0, PAGE]
    assert list(pages_of(PAGE, PAGE)) == [PAGE]


def test_large_allocation_is_scattered_and_reads_as_one() -> None:
    with IovaMemory(4 << 20) as memory:
        iova = memory.alloc(20 * PAGE)
        places = [memory.guest_address(page) for page in pages_of(iova, 20 * PAGE)]
        content = bytes(range(256)) * 300
        memory.write(iova + 100, content)

        assert iova >= IOVA_BASE
        assert [place + PAGE for place in places[:-1]] != places[1:]
        assert len(set(places)) == 20
        assert memory.read(iova + 100, len(content)) == content
        mapping, offset = GuestMemory._locate(memory, places[1], 4)
        assert mapping[offset : offset + 4] == content[PAGE - 100 : PAGE - 96]


@pytest.mark.parametrize("length", [1, 64, 518, 2054, 4096])
def test_small_allocation_lies_within_a_page(length: int) -> None:
    with IovaMemory(4 << 20) as memory:
        for _ in range(20):
            iova = memory.alloc(length)
            assert len(pages_of(iova, length)) == 1


def test_words_are_stored_where_the_page_lies() -> None:
    with IovaMemory(4 << 20) as memory:
        iova = memory.alloc(64)
        memory.store_u32(iova + 8, 0x12345678)
        assert memory.load_u32(iova + 8) == 0x12345678
        memory.move_page(iova)
        assert memory.load_u32(iova + 8) == 0x12345678


def test_moved_page_lies_elsewhere() -> None:
    with IovaMemory(4 << 20) as memory:
        iova = memory.alloc(64)
        before = memory.guest_address(iova)
        memory.move_page(iova)
        assert memory.guest_address(iova) != before
        assert memory.guest_address(iova) % PAGE == iova % PAGE


def test_what_is_not_mapped_cannot_be_touched() -> None:
    with IovaMemory(4 << 20) as memory:
        iova = memory.alloc(64)
        for address in (iova + PAGE, 0x1000, memory.guest_address(iova)):
            with pytest.raises(IndexError, match="not mapped"):
                memory.read(address, 1)


def test_ring_addresses_are_said_as_they_are() -> None:
    with IovaMemory(4 << 20) as memory:
        iova = memory.alloc(64)
        assert memory.user_address(iova) == iova
        assert memory.page_user_address(iova) == GuestMemory.user_address(
            memory, memory.guest_address(iova) & -PAGE
        )


def test_in_one_piece_it_is_one_piece() -> None:
    with IovaMemory(4 << 20, in_one_piece=True) as memory:
        iova = memory.alloc(20 * PAGE, PAGE)
        pointer = memory.host_pointer(iova, 20 * PAGE)
        assert memory.host_pointer(iova + 7 * PAGE) == pointer + 7 * PAGE
        memory.free(iova)
        assert memory.alloc(20 * PAGE, PAGE) == iova


def test_pointer_into_scattered_memory_is_refused() -> None:
    with IovaMemory(4 << 20) as memory:
        iova = memory.alloc(20 * PAGE)
        with pytest.raises(IndexError, match="not in one piece"):
            memory.host_pointer(iova, 20 * PAGE)


def test_memory_that_is_given_back_is_given_out_again() -> None:
    with IovaMemory(1 << 20) as memory:
        for _ in range(100):
            memory.free(memory.alloc(100 * PAGE))
