"""Guest memory as the driver side owns it: memfds mapped here and described to the back-end region by region.

Here: the memfds, the mapping, an allocator for rings and buffers, and single aligned loads and stores. Not
here: what the bytes mean (`virtqueue.py`) and how a table of regions is sent (`frontend.py`).

Two address kinds are plain integers named by their suffix: `gpa` is what descriptors carry, `uva` is what
SET_VRING_ADDR carries. They differ by default, as they do under QEMU; a layout can make them equal, as
DPDK's virtio-user does.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

_MFD_HUGE_SHIFT = 26
_FIRST_ALLOCATION = 4096
"""Nothing is allocated at guest address 0: a front-end takes a ring at 0 for one that was never set up."""


@dataclass(frozen=True, slots=True)
class Region:
    """One row of a memory table, and which memfd backs it."""

    gpa: int
    size: int
    mmap_offset: int = 0
    """Where the region begins in its file; it need not be a multiple of the page size."""
    uva: int | None = None
    """The front-end's address of the region; None means where this process maps it, as QEMU has it."""
    file: str = "ram"
    """Regions with the same name share one memfd."""

    @property
    def end(self) -> int:
        return self.gpa + self.size


class Allocator:
    """First fit over the holes of some address ranges; knows numbers only."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._holes = sorted((start, end) for start, end in ranges if start < end)
        self._taken: dict[int, int] = {}

    def alloc(self, length: int, align: int) -> int:
        """Take `length` bytes at a multiple of `align`; MemoryError when no hole is large enough."""
        if length <= 0 or align <= 0:
            raise ValueError(f"cannot allocate {length} bytes aligned to {align}")
        for index, (start, end) in enumerate(self._holes):
            at = -(-start // align) * align
            if at + length <= end:
                self._holes[index : index + 1] = [
                    hole for hole in ((start, at), (at + length, end)) if hole[0] < hole[1]
                ]
                self._taken[at] = length
                return at
        raise MemoryError(f"guest memory has no hole of {length} bytes aligned to {align}")

    def free(self, at: int) -> None:
        """Give back what `alloc` returned; KeyError for anything else."""
        start, end = at, at + self._taken.pop(at)
        kept = []
        for hole in self._holes:
            if hole[1] == start:
                start = hole[0]
            elif hole[0] == end:
                end = hole[1]
            else:
                kept.append(hole)
        self._holes = sorted([*kept, (start, end)])


class GuestMemory:
    """Memory that a guest would have. Owns its memfds and mappings until `close`.

    A context manager. The fds given out by `fds()` stay owned here: a message passes on copies.
    """

    def __init__(
        self, size: int = 64 << 20, *, regions: Sequence[Region] | None = None, huge_page: int = 0
    ) -> None:
        """Make `size` bytes in two regions around a hole, as a PC has it, or exactly `regions`.

        `huge_page` is 0 or a huge page size in bytes that this host has pages of.
        """
        self._files: dict[str, tuple[int, mmap.mmap]] = {}
        self._page = huge_page or mmap.PAGESIZE
        layout = default_layout(size, self._page) if regions is None else tuple(regions)
        try:
            for name in dict.fromkeys(region.file for region in layout):
                self._make_file(name, max(r.mmap_offset + r.size for r in layout if r.file == name))
        except BaseException:
            self.close()
            raise
        self.regions: tuple[Region, ...] = tuple(self._placed(region) for region in layout)
        """The table, in the order given, every `uva` filled in."""
        self._allocator = Allocator([(max(r.gpa, _FIRST_ALLOCATION), r.end) for r in self.regions])

    def _make_file(self, name: str, size: int) -> None:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        if self._page != mmap.PAGESIZE:
            flags |= os.MFD_HUGETLB | ((self._page.bit_length() - 1) << _MFD_HUGE_SHIFT)
        fd = os.memfd_create(f"guest-{name}", flags)
        length = -(-size // self._page) * self._page
        try:
            os.ftruncate(fd, length)
            self._files[name] = (fd, mmap.mmap(fd, length))
        except BaseException:
            os.close(fd)
            raise

    def _placed(self, region: Region) -> Region:
        if region.uva is not None:
            return region
        return replace(region, uva=self._base(region.file) + region.mmap_offset)

    def _base(self, file: str) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self._files[file][1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap and close everything; pointers given out by `host_pointer` dangle from here on."""
        files, self._files = self._files, {}
        for fd, mapping in files.values():
            mapping.close()
            os.close(fd)

    @property
    def page_size(self) -> int:
        """Bytes of a page of its files."""
        return self._page

    def fds(self) -> list[int]:
        """One fd a region, in table order; the same number twice where two regions share a file."""
        return [self._files[region.file][0] for region in self.regions]

    def truncate(self, file: str, size: int) -> None:
        """Cut a backing file short under whoever has it mapped, this process included."""
        os.ftruncate(self._files[file][0], size)

    def punch(self, gpa: int, length: int) -> None:
        """Give whole pages back to the kernel: the file has a hole there until somebody touches it."""
        mapping, offset = self._locate(gpa, length)
        mapping.madvise(mmap.MADV_REMOVE, offset, length)

    def alloc(self, length: int, align: int = 64) -> int:
        """Guest address of `length` unused bytes inside one region; MemoryError when there is no room."""
        return self._allocator.alloc(length, align)

    def free(self, gpa: int) -> None:
        """Give back what `alloc` returned."""
        self._allocator.free(gpa)

    def guest_address(self, at: int) -> int:
        """Where a driver's address lies: with no IOMMU between them, there."""
        return at

    def region_of(self, gpa: int, length: int = 1) -> Region:
        """The region that holds the whole range; IndexError when none does."""
        for region in self.regions:
            if region.gpa <= gpa and gpa + length <= region.end:
                return region
        raise IndexError(f"guest range {gpa:#x}+{length:#x} is not inside one region")

    def user_address(self, gpa: int, length: int = 1) -> int:
        """What SET_VRING_ADDR must say for this guest address."""
        region = self.region_of(gpa, length)
        assert region.uva is not None
        return region.uva + gpa - region.gpa

    def host_pointer(self, gpa: int, length: int = 1) -> int:
        """Where this process has the range mapped, for C; valid until `close`."""
        region = self.region_of(gpa, length)
        return self._base(region.file) + region.mmap_offset + gpa - region.gpa

    def _locate(self, gpa: int, length: int) -> tuple[mmap.mmap, int]:
        region = self.region_of(gpa, length)
        return self._files[region.file][1], region.mmap_offset + gpa - region.gpa

    def read(self, gpa: int, length: int) -> bytes:
        """Copy bytes out; the range may run over adjacent regions."""
        parts = []
        for at, piece in self._pieces(gpa, length):
            mapping, offset = self._locate(at, piece)
            parts.append(mapping[offset : offset + piece])
        return b"".join(parts)

    def write(self, gpa: int, content: bytes) -> None:
        """Copy bytes in; the range may run over adjacent regions. Never for words of a live ring."""
        done = 0
        for at, piece in self._pieces(gpa, len(content)):
            mapping, offset = self._locate(at, piece)
            mapping[offset : offset + piece] = content[done : done + piece]
            done += piece

    def _pieces(self, gpa: int, length: int) -> list[tuple[int, int]]:
        pieces = []
        while length:
            piece = min(length, self.region_of(gpa).end - gpa)
            pieces.append((gpa, piece))
            gpa, length = gpa + piece, length - piece
        return pieces

    # Ring words. ctypes copies a simple value in one machine store; struct.pack_into clears the bytes
    # first, and a polling back-end that sees an index of 0 in between takes thousands of stale chains.

    def load_u16(self, gpa: int) -> int:
        mapping, offset = self._locate(gpa, 2)
        return _little16(ctypes.c_uint16.from_buffer(mapping, offset).value)

    def store_u16(self, gpa: int, value: int) -> None:
        mapping, offset = self._locate(gpa, 2)
        ctypes.c_uint16.from_buffer(mapping, offset).value = _little16(value)

    def load_u32(self, gpa: int) -> int:
        mapping, offset = self._locate(gpa, 4)
        return _little32(ctypes.c_uint32.from_buffer(mapping, offset).value)

    def store_u32(self, gpa: int, value: int) -> None:
        mapping, offset = self._locate(gpa, 4)
        ctypes.c_uint32.from_buffer(mapping, offset).value = _little32(value)

    def load_u64(self, gpa: int) -> int:
        mapping, offset = self._locate(gpa, 8)
        return _little64(ctypes.c_uint64.from_buffer(mapping, offset).value)

    def store_u64(self, gpa: int, value: int) -> None:
        mapping, offset = self._locate(gpa, 8)
        ctypes.c_uint64.from_buffer(mapping, offset).value = _little64(value)


def default_layout(size: int, page: int = mmap.PAGESIZE) -> tuple[Region, ...]:
    """One file in two regions with a hole below 4 GiB between them, like QEMU's PC.

    Neither a back-end that takes guest addresses for offsets nor one that mixes up the two address
    kinds survives it.
    """
    low = -(-(size // 2) // page) * page
    high = -(-size // page) * page - low
    if high <= 0:
        return (Region(gpa=0, size=low),)
    return (Region(gpa=0, size=low), Region(gpa=1 << 32, size=high, mmap_offset=low))


def identity_layout(size: int, page: int = mmap.PAGESIZE) -> tuple[Region, ...]:
    """One region whose guest and user addresses are equal, as DPDK's virtio-user sends it."""
    base = 0x1_0000_0000
    return (Region(gpa=base, size=-(-size // page) * page, uva=base),)


if sys.byteorder == "little":

    def _little16(value: int) -> int:
        return value

    def _little32(value: int) -> int:
        return value

    def _little64(value: int) -> int:
        return value

else:

    def _little16(value: int) -> int:
        return int.from_bytes((value & 0xFFFF).to_bytes(2, "little"), "big")

    def _little32(value: int) -> int:
        return int.from_bytes((value & 0xFFFFFFFF).to_bytes(4, "little"), "big")

    def _little64(value: int) -> int:
        return int.from_bytes((value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little"), "big")
