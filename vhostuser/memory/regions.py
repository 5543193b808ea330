"""The memory table: what a front-end may ask for, where an address lies, how a region is to be mapped.

Guest and user addresses never mix: rings are at user addresses, buffers at guest addresses. DPDK virtio-user
gives both the same value, QEMU does not. The mapping itself is made in C; here is the arithmetic that has to
hold before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, NewType, Self

from vhostuser.errors import RequestError
from vhostuser.wire.constants import MAX_MEM_SLOTS, MAX_REGIONS
from vhostuser.wire.payloads import MemoryRegion

GuestAddr = NewType("GuestAddr", int)
"""What descriptors hold."""
UserAddr = NewType("UserAddr", int)
"""What SET_VRING_ADDR holds: an address in the front-end's own process."""

_ADDRESS_END: Final = 1 << 64
_FILE_END: Final = 1 << 63
"""An off_t ends here."""
RegionIdentity = tuple[int, int, int]
"""Guest address, size and user address: what REM_MEM_REG knows a region by."""
MAX_TABLE_BYTES: Final = 1 << 44
"""16 TiB, more than any host has. A file is as long as its owner says and costs nothing until it is written,
and a process has 128 TiB of addresses for all its guests."""


class Piece(NamedTuple):
    """A stretch of memory within one region."""

    region: int
    """Position in the table as it was given."""
    offset: int
    """From the start of the region; its place in the file is that plus the region's mmap_offset."""
    length: int


class MapPlan(NamedTuple):
    """Arguments for mmap, and where in the mapping the region begins."""

    file_offset: int
    length: int
    """A multiple of the file's page size: munmap of hugetlbfs fails with EINVAL otherwise."""
    delta: int


class RegionTable:
    """A table of regions that passed every check that needs no fd. Immutable.

    Raises RequestError, with the values, for a table that is empty or too long, for a region that is empty or
    wraps an address space, and for regions that overlap in guest or in user addresses.
    """

    def __init__(self, regions: Sequence[MemoryRegion]) -> None:
        if not 1 <= len(regions) <= MAX_REGIONS:
            raise RequestError(f"{len(regions)} regions, expected 1 to {MAX_REGIONS}")
        for number, region in enumerate(regions):
            _check_region(number, region)
        self._arrange(regions)

    def plus(self, region: MemoryRegion) -> Self:
        """A table with one more, the last one. Raises RequestError as making a whole one does."""
        if len(self.regions) >= MAX_MEM_SLOTS:
            raise RequestError(f"there are {len(self.regions)} regions, no more fit: that is all the slots")
        _check_region(len(self.regions), region)
        larger = self.__new__(type(self))
        larger._arrange((*self.regions, region))
        return larger

    def minus(self, region: MemoryRegion) -> Self | None:
        """A table without the one at these guest and user addresses and of this size; None: it was the last.

        Where in its file it begins does not matter: QEMU does not say so here. RequestError if none is it.
        """
        key = identity_of(region)
        rest = [kept for kept in self.regions if identity_of(kept) != key]
        if len(rest) == len(self.regions):
            raise RequestError(
                f"no region has {region.size:#x} bytes at guest address {region.gpa:#x} and user address "
                f"{region.uva:#x}"
            )
        if not rest:
            return None
        smaller = self.__new__(type(self))
        smaller._arrange(rest)
        return smaller

    def _arrange(self, regions: Sequence[MemoryRegion]) -> None:
        total = sum(region.size for region in regions)
        if total > MAX_TABLE_BYTES:
            raise RequestError(
                f"the regions have {total:#x} bytes together, at most {MAX_TABLE_BYTES:#x} are mapped"
            )
        self.regions = tuple(regions)
        self._by_guest = _sorted_by(regions, lambda region: region.gpa)
        self._by_user = _sorted_by(regions, lambda region: region.uva)
        self._guest_starts = [regions[number].gpa for number in self._by_guest]
        self._user_starts = [regions[number].uva for number in self._by_user]
        self._check_overlap("guest", self._by_guest, self._guest_starts)
        self._check_overlap("user", self._by_user, self._user_starts)

    def translate_user(self, uva: UserAddr, length: int) -> Piece:
        """The piece at ``uva``. It has to lie in one region: a ring is one array in our address space."""
        position = bisect_right(self._user_starts, uva) - 1
        if position >= 0:
            number = self._by_user[position]
            offset = uva - self._user_starts[position]
            if offset + length <= self.regions[number].size:
                return Piece(number, offset, length)
        raise RequestError(f"{length} bytes at user address {uva:#x} are not within one memory region")

    def translate_guest(self, gpa: GuestAddr, length: int) -> tuple[Piece, ...]:
        """The pieces that make up the range; regions that touch in guest memory may lie apart in ours."""
        pieces: list[Piece] = []
        position = bisect_right(self._guest_starts, gpa) - 1
        at, left = int(gpa), length
        while 0 <= position < len(self._by_guest):
            number = self._by_guest[position]
            offset = at - self._guest_starts[position]
            room = self.regions[number].size - offset
            if offset < 0 or room <= 0:
                break
            pieces.append(Piece(number, offset, min(left, room)))
            if left <= room:
                return tuple(pieces)
            at, left, position = at + room, left - room, position + 1
        raise RequestError(f"{length} bytes at guest address {gpa:#x} are not all in memory regions")

    def _check_overlap(self, space: str, order: list[int], starts: list[int]) -> None:
        for (before, start), (after, next_start) in pairwise(zip(order, starts, strict=True)):
            end = start + self.regions[before].size
            if end > next_start:
                where = f"{space} {start:#x} to {end:#x}"
                raise RequestError(f"region {before} ({where}) overlaps region {after} at {next_start:#x}")


def check_file(region: MemoryRegion, file_size: int, page_size: int) -> None:
    """Raise RequestError unless the file holds the whole region: beyond its end lies SIGBUS.

    ``page_size`` is that of the file (hugetlbfs: its block size), in which the mapping is counted.
    """
    end = region.mmap_offset + region.size
    if end > file_size:
        where = f"{region.size:#x} bytes at offset {region.mmap_offset:#x}"
        raise RequestError(f"region of {where} needs a file of {end:#x} bytes, this one has {file_size:#x}")
    if _round_up(end, page_size) >= _FILE_END:
        raise RequestError(f"region ends at {end:#x} of its file, no page of {page_size:#x} bytes fits there")


def map_plan(region: MemoryRegion, page_size: int) -> MapPlan:
    """How to map ``region`` from a file with pages of ``page_size`` bytes, a power of two.

    QEMU puts memory below and above the PCI hole of x86 into one hugetlbfs file, and the second part need not
    start at a huge page.
    """
    return map_window(region.mmap_offset, region.size, page_size)


def map_window(offset: int, size: int, page_size: int) -> MapPlan:
    """How to map ``size`` bytes at ``offset``: the offset is rounded down and the length up."""
    file_offset = offset & -page_size
    delta = offset - file_offset
    return MapPlan(file_offset, _round_up(delta + size, page_size), delta)


def _round_up(number: int, page_size: int) -> int:
    return (number + page_size - 1) & -page_size


def _check_region(number: int, region: MemoryRegion) -> None:
    if region.size == 0:
        raise RequestError(f"region {number} at guest address {region.gpa:#x} is empty")
    # The last byte of the address space stays free, so that the end of a region is a number of 64 bits.
    limits = (
        ("guest address", region.gpa, _ADDRESS_END),
        ("user address", region.uva, _ADDRESS_END),
        ("file offset", region.mmap_offset, _FILE_END),
    )
    for what, start, end in limits:
        if start + region.size >= end:
            where = f"{region.size:#x} bytes at {what} {start:#x}"
            raise RequestError(f"region {number}: {where} do not fit below {end:#x}")


def identity_of(region: MemoryRegion) -> RegionIdentity:
    return region.gpa, region.size, region.uva


def _sorted_by(regions: Sequence[MemoryRegion], start: Callable[[MemoryRegion], int]) -> list[int]:
    return sorted(range(len(regions)), key=lambda number: start(regions[number]))
