"""Guest memory behind an IOMMU: a driver sees I/O addresses only, and each page of them lies anywhere.

It takes the place of `GuestMemory` where a driver allocates, reads and writes; the memory table still has
guest addresses. Here: which page lies where. Not here: what a back-end is told of it (`iommu.py`).
"""

from __future__ import annotations

import mmap
import random
from collections.abc import Sequence

from vhostuser.frontend.guest_memory import Allocator, GuestMemory, Region

PAGE = 4096
"""Of the IOMMU, whatever the host's is."""
IOVA_BASE = 0x7700_0000_0000
"""No guest address and no user address is anywhere near, so that mixing them up is seen at once."""
_STASH = 32


class IovaMemory(GuestMemory):
    """As `GuestMemory`; where that says guest address, this means I/O address, regions excepted.

    Pages are mapped when an allocation first needs them and stay so, as in a driver's pool. An allocation of
    up to a page lies within one; a larger one is scattered. With `in_one_piece` an I/O address is the guest
    address and a constant, page by page all the same.
    """

    def __init__(
        self,
        size: int = 64 << 20,
        *,
        regions: Sequence[Region] | None = None,
        in_one_piece: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__(size, regions=regions)
        self._iovas = Allocator([(IOVA_BASE, IOVA_BASE + sum(region.size for region in self.regions))])
        self._in_one_piece = in_one_piece
        self._random = random.Random(seed)
        self._stash: list[int] = []
        self.pages: dict[int, int] = {}
        """I/O address of each mapped page -> its guest address."""

    def alloc(self, length: int, align: int = 64) -> int:
        if self._in_one_piece:
            iova = IOVA_BASE + super().alloc(length, align)
            self.pages.update({page: page - IOVA_BASE for page in pages_of(iova, length)})
            return iova
        page_or_less = PAGE if length > PAGE else 1 << (length - 1).bit_length()
        iova = self._iovas.alloc(length, max(align, page_or_less))
        for page in pages_of(iova, length):
            if page not in self.pages:
                self.pages[page] = self._take_page()
        return iova

    def free(self, gpa: int) -> None:
        if self._in_one_piece:
            super().free(gpa - IOVA_BASE)
        else:
            self._iovas.free(gpa)

    def move_page(self, iova: int) -> None:
        """Gives the page at `iova` another place in guest memory, its content with it.

        The back-end must have forgotten where it was.
        """
        page = iova & -PAGE
        old, new = self.pages[page], self._take_page()
        content = GuestMemory.read(self, page, PAGE)
        self.pages[page] = new
        GuestMemory.write(self, page, content)
        self._stash.insert(0, old)

    def guest_address(self, iova: int) -> int:
        """Where it lies; IndexError when its page is not mapped."""
        page = self.pages.get(iova & -PAGE)
        if page is None:
            raise IndexError(f"I/O address {iova:#x} is not mapped")
        return page + iova % PAGE

    def page_user_address(self, iova: int) -> int:
        """User address of the page, for whoever tells the back-end."""
        return GuestMemory.user_address(self, self.guest_address(iova & -PAGE))

    def user_address(self, gpa: int, length: int = 1) -> int:
        """SET_VRING_ADDR has I/O addresses, too."""
        return gpa

    def host_pointer(self, gpa: int, length: int = 1) -> int:
        at = self.guest_address(gpa)
        for page in pages_of(gpa, length):
            if self.pages.get(page) != (at - gpa % PAGE) + page - (gpa & -PAGE):
                raise IndexError(f"I/O range {gpa:#x}+{length:#x} is not in one piece")
        return super().host_pointer(at, length)

    def _take_page(self) -> int:
        if not self._stash:
            start = GuestMemory.alloc(self, PAGE * _STASH, PAGE)
            self._stash = [start + PAGE * n for n in range(_STASH)]
            self._random.shuffle(self._stash)
        return self._stash.pop()

    def _locate(self, gpa: int, length: int) -> tuple[mmap.mmap, int]:
        if gpa % PAGE + length > PAGE:
            raise IndexError(f"I/O range {gpa:#x}+{length:#x} crosses a page")
        return super()._locate(self.guest_address(gpa), length)

    def _pieces(self, gpa: int, length: int) -> list[tuple[int, int]]:
        pieces = []
        while length:
            piece = min(length, PAGE - gpa % PAGE)
            pieces.append((gpa, piece))
            gpa, length = gpa + piece, length - piece
        return pieces


def pages_of(iova: int, length: int) -> range:
    """The I/O addresses of the pages that the range touches."""
    return range(iova & -PAGE, iova + length, PAGE)
