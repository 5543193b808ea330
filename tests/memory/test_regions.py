from __future__ import annotations

import mmap
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhostuser.errors import RequestError
from vhostuser.memory.regions import (
    MAX_TABLE_BYTES,
    GuestAddr,
    MapPlan,
    Piece,
    RegionTable,
    UserAddr,
    check_file,
    map_plan,
)
from vhostuser.wire.messages import MemoryRegion

TOP = (1 << 64) - 1
GIB = 1 << 30
HUGE = 2 << 20
SMALL = 4096


def region(
    gpa: int = 0, size: int = 0x10000, uva: int = 0x7F0000000000, mmap_offset: int = 0
) -> MemoryRegion:
    return MemoryRegion(gpa, size, uva, mmap_offset)


LOW = region(0, 0xC0000000, 0x7F0000000000)
HIGH = region(0x100000000, GIB, 0x7F00C0000000, 0xC0000000)
"""QEMU's split of 4 GiB on x86: a hole in guest addresses, none in user addresses or in the file."""


class TestTable:
    def test_keeps_the_order_in_which_the_fds_came(self) -> None:
        assert RegionTable([HIGH, LOW]).regions == (HIGH, LOW)

    def test_holds_32_regions(self) -> None:
        regions = [region(n * 0x10000, uva=n * 0x10000) for n in range(32)]
        assert RegionTable(regions).regions == tuple(regions)

    @pytest.mark.parametrize("count", [0, 33])
    def test_of_no_regions_or_too_many_is_refused(self, count: int) -> None:
        regions = [region(n * 0x10000, uva=n * 0x10000) for n in range(count)]
        with pytest.raises(RequestError, match=f"{count} regions, expected 1 to 32"):
            RegionTable(regions)

    def test_with_an_empty_region_is_refused(self) -> None:
        with pytest.raises(RequestError, match="region 1 at guest address 0x5000 is empty"):
            RegionTable([region(), region(0x5000, size=0)])

    @pytest.mark.parametrize(
        ("wrapping", "what"),
        [
            (region(gpa=TOP - 0xFFFF), "guest address 0xffffffffffff0000"),
            (region(gpa=TOP), "guest address 0xffffffffffffffff"),
            (region(size=TOP), "user address"),
            (region(uva=TOP - 0xFFFF), "user address 0xffffffffffff0000"),
            (region(mmap_offset=(1 << 63) - 0x10000), "file offset 0x7fffffffffff0000"),
            (region(mmap_offset=TOP), "file offset 0xffffffffffffffff"),
        ],
    )
    def test_with_a_region_that_wraps_is_refused(self, wrapping: MemoryRegion, what: str) -> None:
        with pytest.raises(RequestError, match=f"region 0: .* bytes at {what}.* do not fit below"):
            RegionTable([wrapping])

    def test_may_reach_to_the_last_byte_but_one(self) -> None:
        RegionTable([region(gpa=TOP - 0x10000, uva=TOP - 0x10000)])

    @pytest.mark.parametrize(
        ("second", "space"),
        [
            (region(gpa=0xFFFF, uva=0x1000), "guest 0x0 to 0x10000"),
            (region(gpa=0, uva=0x1000), "guest"),
            (region(gpa=0x20000, uva=0x7F000000FFFF), "user 0x7f0000000000 to 0x7f0000010000"),
            (region(), "guest"),
        ],
    )
    def test_with_an_overlap_in_either_space_is_refused(self, second: MemoryRegion, space: str) -> None:
        for regions in ([region(), second], [second, region()]):
            with pytest.raises(RequestError, match=r"overlaps region"):
                RegionTable(regions)
        with pytest.raises(RequestError, match=space):
            RegionTable([region(), second])

    def test_may_have_the_same_place_in_a_file_twice(self) -> None:
        RegionTable([region(), region(gpa=0x10000, uva=0x1000)])

    def test_of_virtio_user_has_one_number_for_both_addresses(self) -> None:
        table = RegionTable([region(gpa=0x100338000, uva=0x100338000)])
        assert table.translate_user(UserAddr(0x100338010), 16) == Piece(0, 0x10, 16)
        assert table.translate_guest(GuestAddr(0x100338010), 16) == (Piece(0, 0x10, 16),)


class TestSlots:
    def test_plus_is_another_table_with_one_more(self) -> None:
        table = RegionTable([LOW])
        larger = table.plus(HIGH)

        assert (table.regions, larger.regions) == ((LOW,), (LOW, HIGH))
        assert larger.translate_user(UserAddr(HIGH.uva), 1) == Piece(1, 0, 1)
        assert larger.translate_guest(GuestAddr(HIGH.gpa), 1) == (Piece(1, 0, 1),)

    def test_there_are_509_and_no_more(self) -> None:
        table = RegionTable([region()])
        for number in range(1, 509):
            table = table.plus(region(number * 0x10000, uva=number * 0x10000))
        assert len(table.regions) == 509
        with pytest.raises(RequestError, match="there are 509 regions, no more fit"):
            table.plus(region(509 * 0x10000, uva=509 * 0x10000))

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (LOW, "region 0 .* overlaps region 1"),
            (region(LOW.size - 1, uva=0x1000), "guest 0x0 to 0xc0000000.* overlaps region 1"),
            (region(0x200000000, uva=LOW.uva + 1), "user .* overlaps region 1"),
            (region(0x200000000, size=0), "region 1 at guest address 0x200000000 is empty"),
            (region(TOP - 1), "region 1: .* do not fit"),
            (region(LOW.size, MAX_TABLE_BYTES, 0x1000), "bytes together, at most"),
        ],
        ids=["the same again", "guest overlap", "user overlap", "empty", "wraps", "too much in all"],
    )
    def test_what_no_table_may_have_is_not_added(self, more: MemoryRegion, words: str) -> None:
        with pytest.raises(RequestError, match=words):
            RegionTable([LOW]).plus(more)

    def test_minus_knows_a_region_by_its_addresses_and_size(self) -> None:
        table = RegionTable([LOW, HIGH])
        elsewhere = region(LOW.gpa, LOW.size, LOW.uva, mmap_offset=0x1234)

        smaller = table.minus(elsewhere)

        assert smaller is not None
        assert smaller.regions == (HIGH,)
        assert smaller.minus(HIGH) is None

    @pytest.mark.parametrize(
        "other",
        [
            region(LOW.gpa, LOW.size, LOW.uva + 0x1000),
            region(LOW.gpa, LOW.size - 0x1000, LOW.uva),
            region(LOW.gpa + 0x1000, LOW.size, LOW.uva),
        ],
        ids=["user address", "size", "guest address"],
    )
    def test_minus_of_what_is_not_there_is_refused(self, other: MemoryRegion) -> None:
        with pytest.raises(RequestError, match=f"no region has {other.size:#x} bytes at guest address"):
            RegionTable([LOW, HIGH]).minus(other)


class TestUserAddresses:
    table = RegionTable([HIGH, LOW])

    def test_first_and_last_byte_are_found(self) -> None:
        assert self.table.translate_user(UserAddr(LOW.uva), 1) == Piece(1, 0, 1)
        assert self.table.translate_user(UserAddr(HIGH.uva + GIB - 1), 1) == Piece(0, GIB - 1, 1)

    def test_whole_region_is_one_piece(self) -> None:
        assert self.table.translate_user(UserAddr(LOW.uva), LOW.size) == Piece(1, 0, LOW.size)

    @pytest.mark.parametrize(
        ("uva", "length"),
        [
            (LOW.uva - 1, 1),
            (HIGH.uva - 1, 2),
            (HIGH.uva + GIB - 1, 2),
            (HIGH.uva + GIB, 1),
            (LOW.uva, TOP),
            (TOP, 16),
            (0, 1),
        ],
    )
    def test_what_is_not_wholly_in_one_region_is_refused(self, uva: int, length: int) -> None:
        """CVE-2018-1059: only the first byte was checked. Regions that touch here may lie apart in ours."""
        with pytest.raises(RequestError, match=f"{length} bytes at user address {uva:#x} are not within one"):
            self.table.translate_user(UserAddr(uva), length)


class TestGuestAddresses:
    table = RegionTable(
        [region(0x30000, uva=0x1000), region(0x10000, uva=0x100000), region(0x20000, uva=0x50000)]
    )

    def test_piece_within_a_region(self) -> None:
        assert self.table.translate_guest(GuestAddr(0x10010), 0x20) == (Piece(1, 0x10, 0x20),)

    def test_range_over_regions_that_touch_is_split_at_the_borders(self) -> None:
        assert self.table.translate_guest(GuestAddr(0x1FFFF), 0x10002) == (
            Piece(1, 0xFFFF, 1),
            Piece(2, 0, 0x10000),
            Piece(0, 0, 1),
        )

    @pytest.mark.parametrize(
        ("gpa", "length"), [(0, 1), (0xFFFF, 2), (0x3FFFF, 2), (0x40000, 1), (0x10000, TOP), (TOP, 1)]
    )
    def test_range_that_is_not_all_memory_is_refused(self, gpa: int, length: int) -> None:
        with pytest.raises(RequestError, match=f"{length} bytes at guest address {gpa:#x} are not all in"):
            self.table.translate_guest(GuestAddr(gpa), length)

    def test_range_over_the_hole_is_refused(self) -> None:
        table = RegionTable([LOW, HIGH])
        with pytest.raises(RequestError):
            table.translate_guest(GuestAddr(0xC0000000 - 1), 2)
        with pytest.raises(RequestError):
            table.translate_guest(GuestAddr(0xD0000000), 1)


_SIZE = 0x100


@st.composite
def tables_with_ranges(draw: st.DrawFn) -> tuple[list[MemoryRegion], int, int]:
    """Regions of 0x100 bytes on a grid, in any order, and a range that begins somewhere near them."""
    slots = draw(st.lists(st.integers(0, 12), min_size=1, max_size=8, unique=True))
    places = draw(st.permutations(range(len(slots))))
    regions = [
        MemoryRegion(slot * _SIZE, _SIZE, place * _SIZE, 0) for slot, place in zip(slots, places, strict=True)
    ]
    return regions, draw(st.integers(0, 14 * _SIZE)), draw(st.integers(1, 4 * _SIZE))


@settings(deadline=None)
@given(tables_with_ranges())
def test_translation_agrees_with_a_map_of_every_byte(case: tuple[list[MemoryRegion], int, int]) -> None:
    regions, start, length = case
    guest = {r.gpa + at: (number, at) for number, r in enumerate(regions) for at in range(_SIZE)}
    user = {r.uva + at: (number, at) for number, r in enumerate(regions) for at in range(_SIZE)}
    table = RegionTable(regions)

    expected = [guest.get(address) for address in range(start, start + length)]
    if None in expected:
        with pytest.raises(RequestError):
            table.translate_guest(GuestAddr(start), length)
    else:
        pieces = table.translate_guest(GuestAddr(start), length)
        assert [(p.region, p.offset + at) for p in pieces for at in range(p.length)] == expected

    there = [user.get(address) for address in range(start, start + length)]
    if None in there or len({place[0] for place in there if place is not None}) > 1:
        with pytest.raises(RequestError):
            table.translate_user(UserAddr(start), length)
    else:
        assert table.translate_user(UserAddr(start), length) == (*(there[0] or ()), length)


class TestFile:
    def test_that_holds_the_region_is_fine(self) -> None:
        check_file(HIGH, 4 * GIB, HUGE)

    def test_that_is_a_byte_short_is_refused(self) -> None:
        with pytest.raises(
            RequestError,
            match="at offset 0xc0000000 needs a file of 0x100000000 bytes, this one has 0xffffffff",
        ):
            check_file(HIGH, 4 * GIB - 1, SMALL)

    def test_whose_last_page_has_no_place_is_refused(self) -> None:
        end = (1 << 63) - 1
        at_the_end = region(mmap_offset=end - 0x10000)
        with pytest.raises(RequestError, match=f"ends at {end:#x} of its file"):
            check_file(at_the_end, end, SMALL)


class TestMapPlan:
    @pytest.mark.parametrize(
        ("asked", "page_size", "plan"),
        [
            (region(), SMALL, MapPlan(0, 0x10000, 0)),
            (region(mmap_offset=0x3000), SMALL, MapPlan(0x3000, 0x10000, 0)),
            (region(mmap_offset=0x3001), SMALL, MapPlan(0x3000, 0x11000, 1)),
            (region(size=1), SMALL, MapPlan(0, SMALL, 0)),
            (region(size=SMALL + 1), SMALL, MapPlan(0, 2 * SMALL, 0)),
            (
                region(size=GIB, mmap_offset=0xC0000000 - 0x1000),
                HUGE,
                MapPlan(0xBFE00000, GIB + HUGE, 0x1FF000),
            ),
        ],
    )
    def test_is_whole_pages_around_the_region(
        self, asked: MemoryRegion, page_size: int, plan: MapPlan
    ) -> None:
        assert map_plan(asked, page_size) == plan

    @settings(deadline=None)
    @given(st.integers(1, 1 << 40), st.integers(0, 1 << 40), st.sampled_from([SMALL, HUGE, GIB]))
    def test_covers_the_region_with_less_than_two_pages_of_slack(
        self, size: int, mmap_offset: int, page_size: int
    ) -> None:
        plan = map_plan(region(size=size, mmap_offset=mmap_offset), page_size)
        assert plan.file_offset % page_size == plan.length % page_size == 0
        assert plan.file_offset + plan.delta == mmap_offset
        assert plan.delta + size <= plan.length < plan.delta + size + page_size
        assert plan.delta < page_size

    def test_leads_mmap_to_the_right_byte(self) -> None:
        asked = region(size=100, mmap_offset=0x1234)
        fd = os.memfd_create("regions")
        try:
            os.ftruncate(fd, 0x2000)
            os.pwrite(fd, b"here", 0x1234)
            plan = map_plan(asked, mmap.PAGESIZE)
            with mmap.mmap(fd, plan.length, offset=plan.file_offset) as mapping:
                assert mapping[plan.delta : plan.delta + 4] == b"here"
        finally:
            os.close(fd)


def test_table_of_more_than_any_host_has_is_refused() -> None:
    # A sparse file may be as long as its owner likes, and a process has 128 TiB of addresses for all guests.
    half = MAX_TABLE_BYTES // 2
    rows = [MemoryRegion(row * half, half, row * half, 0) for row in range(3)]

    assert RegionTable(rows[:2]).regions
    with pytest.raises(RequestError, match="at most 0x100000000000 are mapped"):
        RegionTable(rows)
