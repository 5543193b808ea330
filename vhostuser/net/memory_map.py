"""The guest memory, the dirty log and the inflight region of one front-end, as C has them now."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from vhostuser.datapath.dirty_log import DirtyLog
from vhostuser.datapath.inflight import InflightRegion, make_file
from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.reaper import reaper
from vhostuser.datapath.vring import PacketDevice
from vhostuser.errors import RequestError
from vhostuser.memory.inflight import region_bytes
from vhostuser.memory.regions import RegionIdentity, identity_of
from vhostuser.wire.constants import MAX_MEM_SLOTS
from vhostuser.wire.payloads import Inflight, MemoryRegion


class MemoryMap:
    """Owns the mappings. Rings may run while memory or log is swapped, not while the inflight region is.

    QEMU before 8.0 says each region once a queue pair, and takes each back as often, a pair that is started
    late long after the first (seen with 7.2). So what is there already may be added again, and what was
    removed be removed again: nothing happens then.
    """

    def __init__(self, packet: PacketDevice, log: logging.LoggerAdapter[logging.Logger]) -> None:
        self._packet = packet
        self._log = log
        self._memory: MappedMemory | None = None
        self._dirty_log: DirtyLog | None = None
        self._removed: dict[RegionIdentity, None] = {}
        """Not there, but once were; the last ones, as many as there are slots."""
        self._inflight: InflightRegion | None = None

    @property
    def memory(self) -> MappedMemory | None:
        """What rings and buffers may lie in; None before the first region has come and after the last."""
        return self._memory

    def plus(self, region: MemoryRegion, fd: int) -> MappedMemory:
        """The memory with one more region; as it is, if it has just that one. ``fd`` is taken, also with
        RequestError."""
        if self._memory is None:
            memory = MappedMemory([region], [fd])
        elif self._memory.has(region, fd):
            reaper.close([fd])
            return self._memory
        else:
            memory = self._memory.plus(region, fd)
        self._removed.pop(identity_of(region), None)
        return memory

    def minus(self, region: MemoryRegion) -> MappedMemory | None:
        """The memory without this region; None when nothing is left. RequestError if it never was there."""
        identity = identity_of(region)
        if identity in self._removed:
            return self._memory
        if self._memory is None:
            raise RequestError(
                f"there is no memory, so none of {region.size:#x} bytes at guest address {region.gpa:#x}"
            )
        memory = self._memory.minus(region)
        self._removed[identity] = None
        if len(self._removed) > MAX_MEM_SLOTS:
            del self._removed[next(iter(self._removed))]
        return memory

    def set_memory(self, memory: MappedMemory | None) -> None:
        """Takes ``memory`` over in place of the one before, which is given back."""
        old, self._memory = self._memory, memory
        self._packet.set_memory(memory)
        if old is not None:
            old.close()

    def set_log(self, fd: int, size: int, offset: int) -> None:
        """Nothing goes to the old log afterwards. ``fd`` is taken, also when RequestError is raised."""
        self._swap_log(DirtyLog(fd, size, offset))

    def make_inflight(self, wanted: Inflight, is_packed: bool) -> tuple[Inflight, int]:
        """A new region, in use from now on: its layout and an fd, which is the caller's."""
        size = region_bytes(wanted.num_queues, wanted.queue_size, is_packed)
        layout = replace(wanted, mmap_size=size, mmap_offset=0)
        fd = make_file(size)
        try:
            self.set_inflight(os.dup(fd), layout, is_packed)
        except BaseException:
            os.close(fd)
            raise
        return layout, fd

    def set_inflight(self, fd: int, layout: Inflight, is_packed: bool) -> None:
        """``fd`` is taken, also when RequestError is raised: then the old region stays."""
        self._swap_inflight(InflightRegion(fd, layout, is_packed))

    def clear(self) -> None:
        """The front-end has gone."""
        self.set_memory(None)
        self._removed.clear()
        self._swap_log(None)
        self._swap_inflight(None)

    def _swap_inflight(self, region: InflightRegion | None) -> None:
        old, self._inflight = self._inflight, region
        self._packet.set_inflight(region)
        if old is not None:
            old.close()

    def _swap_log(self, log: DirtyLog | None) -> None:
        old, self._dirty_log = self._dirty_log, log
        self._packet.set_log(log)
        if old is not None:
            if old.outside:
                self._log.warning("%d bytes were written beyond the dirty log, unmarked", old.outside)
            old.close()
