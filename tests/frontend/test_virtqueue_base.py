"""What virtqueues of both formats have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.packed_virtqueue import PackedVirtqueue
from vhostuser.frontend.virtqueue import SplitVirtqueue
from vhostuser.frontend.virtqueue_base import DescFlag, RingPlace, Segment, Virtqueue, chain_rows, user_place

both = pytest.mark.parametrize("format_", [SplitVirtqueue, PackedVirtqueue])
PIECE = Segment(0x1000, 1)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(1 << 20) as memory:
        yield memory


def test_rows_are_readable_ones_and_then_writable_ones() -> None:
    other = Segment(0x2000, 2)
    assert chain_rows([PIECE], [other, PIECE]) == [
        (PIECE, DescFlag(0)),
        (other, DescFlag.WRITE),
        (PIECE, DescFlag.WRITE),
    ]


def test_user_place_is_where_the_front_end_says_the_parts_are(memory: GuestMemory) -> None:
    place = RingPlace(0x1000, 0x2000, 0x3000)
    uva = memory.regions[0].uva
    assert uva is not None
    assert user_place(memory, place) == RingPlace(uva + 0x1000, uva + 0x2000, uva + 0x3000)


@both
def test_empty_chain_is_refused(memory: GuestMemory, format_: type[Virtqueue[str]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        make(format_, memory).add([], [], "nothing")


@both
def test_parts_lie_in_memory_of_the_ring_and_are_aligned(
    memory: GuestMemory, format_: type[Virtqueue[str]]
) -> None:
    place = make(format_, memory).place
    assert (place.desc % 16, place.avail % 4, place.used % 4) == (0, 0, 0)
    assert len({place.desc, place.avail, place.used}) == 3


@both
def test_close_gives_back_ring_and_indirect_tables(
    memory: GuestMemory, format_: type[Virtqueue[str]]
) -> None:
    before = memory.alloc(16)
    memory.free(before)
    queue = make(format_, memory)
    queue.add([PIECE, PIECE], [], "frame", indirect=True)
    assert queue.close() == ["frame"]
    assert queue.close() == []
    assert memory.alloc(16) == before


@both
def test_close_leaves_a_place_of_the_callers_alone(
    memory: GuestMemory, format_: type[Virtqueue[str]]
) -> None:
    place = RingPlace(*(memory.alloc(length) for length in format_.part_sizes(8)))
    queue = make(format_, memory, place)
    queue.close()
    memory.free(place.desc)


def make(
    format_: type[Virtqueue[str]], memory: GuestMemory, place: RingPlace | None = None
) -> Virtqueue[str]:
    if issubclass(format_, SplitVirtqueue):
        return SplitVirtqueue(memory, 8, place=place)
    return PackedVirtqueue(memory, 8, place=place)
