"""The guest memory and the dirty log that one front-end has given, as C has them now."""

from __future__ import annotations

import logging

from vhostuser.datapath.dirty_log import DirtyLog
from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.vring import PacketDevice
from vhostuser.wire.payloads import MemoryRegion


class MemoryMap:
    """Owns both mappings. Rings may run while either is swapped."""

    def __init__(self, packet: PacketDevice, log: logging.LoggerAdapter[logging.Logger]) -> None:
        self._packet = packet
        self._log = log
        self._memory: MappedMemory | None = None
        self._dirty_log: DirtyLog | None = None

    @property
    def is_there(self) -> bool:
        """Whether there is memory for rings to lie in."""
        return self._memory is not None

    def set_table(self, regions: tuple[MemoryRegion, ...], fds: list[int]) -> None:
        """Replaces the whole table. The fds are taken, also with RequestError: then the old one stays."""
        self._swap_memory(MappedMemory(regions, fds))

    def set_log(self, fd: int, size: int, offset: int) -> None:
        """Nothing goes to the old log afterwards. ``fd`` is taken, also when RequestError is raised."""
        self._swap_log(DirtyLog(fd, size, offset))

    def clear(self) -> None:
        """The front-end has gone."""
        self._swap_memory(None)
        self._swap_log(None)

    def _swap_memory(self, memory: MappedMemory | None) -> None:
        old, self._memory = self._memory, memory
        self._packet.set_memory(memory)
        if old is not None:
            old.close()

    def _swap_log(self, log: DirtyLog | None) -> None:
        old, self._dirty_log = self._dirty_log, log
        self._packet.set_log(log)
        if old is not None:
            if old.outside:
                self._log.warning("%d bytes were written beyond the dirty log, unmarked", old.outside)
            old.close()
