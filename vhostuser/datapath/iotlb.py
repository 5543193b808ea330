"""The IOTLB's Python face: translations in, misses out. Who is asked for them is `vhostuser.net`'s."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vhostuser.datapath._datapath import ffi, lib
from vhostuser.datapath.vring import PacketDevice
from vhostuser.errors import RequestError

IOTLB_ENTRIES: Final = lib.VU_IOTLB_ENTRIES
"""Most ranges that are kept; one more evicts another."""
_AT_ONCE = 64


def view_pages() -> int:
    """Pages of rings that lie apart and are mapped a second time now, in the whole process."""
    return lib.vu_view_pages()


@dataclass(frozen=True, slots=True)
class Miss:
    """An I/O address that a ring waits for."""

    iova: int
    access: int
    """As in the messages: 1 read, 2 write, 3 both."""
    serial: int
    """Names it in `DeviceIotlb.refuse`."""


class DeviceIotlb:
    """The translations of one device, used while it has ACCESS_PLATFORM. Ranges are closed at both ends."""

    def __init__(self, packet: PacketDevice) -> None:
        self._packet = packet

    def __len__(self) -> int:
        return lib.vu_iotlb_count(self._packet.handle)

    def update(self, iova: int, last: int, uva: int, access: int) -> None:
        """The range lies at user address ``uva`` from now on; rings that waited for it go on.

        Raises RequestError when it is not wholly in one memory region.
        """
        with self._packet.paused():
            result = lib.vu_iotlb_update(self._packet.handle, iova, last, uva, access)
        if result == lib.VU_ERR_ADDRESS:
            length = last - iova + 1
            raise RequestError(f"{length:#x} bytes at user address {uva:#x} are not within one memory region")
        if result:
            raise MemoryError

    def invalidate(self, iova: int, last: int) -> None:
        """Nothing of the range is used any more when this returns."""
        with self._packet.paused():
            lib.vu_iotlb_invalidate(self._packet.handle, iova, last)

    def take_misses(self) -> Iterator[Miss]:
        """What rings wait for and was not reported yet, after an IOTLB_MISS event or a lost one."""
        misses = ffi.new("struct vu_miss[]", _AT_ONCE)
        count = _AT_ONCE
        while count == _AT_ONCE:
            with self._packet.paused():
                count = lib.vu_iotlb_take_misses(self._packet.handle, misses, _AT_ONCE)
            for i in range(count):
                yield Miss(misses[i].iova, misses[i].access, misses[i].serial)

    def refuse(self, miss: Miss) -> None:
        """There is no such translation: breaks the rings that still wait for it."""
        with self._packet.paused():
            lib.vu_iotlb_refuse(self._packet.handle, miss.serial)

    def ask_again(self) -> None:
        """Who was asked is gone: every ring's miss is reported once more."""
        with self._packet.paused():
            lib.vu_iotlb_ask_again(self._packet.handle)

    def waits_for(self, index: int) -> Miss | None:
        """What keeps ring ``index`` from going on; None when nothing does."""
        pair = self._packet.pairs.get(index // 2)
        miss = ffi.new("struct vu_miss *")
        if pair is None:
            return None
        with self._packet.paused():
            is_waiting = lib.vu_iotlb_waits_for(pair.handle, index % 2, miss)
        if not is_waiting:
            return None
        return Miss(miss.iova, miss.access, miss.serial)
