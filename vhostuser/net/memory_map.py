"""The guest memory and the dirty log that one front-end has given, as C has them now."""

from __future__ import annotations

import logging

from vhostuser.datapath.dirty_log import DirtyLog
from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.vring import PacketDevice


class MemoryMap:
    """Owns both mappings. Rings may run while either is swapped."""

    def __init__(self, packet: PacketDevice, log: logging.LoggerAdapter[logging.Logger]) -> None:
        self._packet = packet
        self._log = log
        self._memory: MappedMemory | None = None
        self._dirty_log: DirtyLog | None = None

    @property
    def memory(self) -> MappedMemory | None:
        """What rings and buffers may lie in; None before the first region has come and after the last."""
        return self._memory

    def set_memory(self, memory: MappedMemory | None) -> None:
        """Takes ``memory`` over in place of the one before, which is given back."""
        old, self._memory = self._memory, memory
        self._packet.set_memory(memory)
        if old is not None:
            old.close()

    def set_log(self, fd: int, size: int, offset: int) -> None:
        """Nothing goes to the old log afterwards. ``fd`` is taken, also when RequestError is raised."""
        self._swap_log(DirtyLog(fd, size, offset))

    def clear(self) -> None:
        """The front-end has gone."""
        self.set_memory(None)
        self._swap_log(None)

    def _swap_log(self, log: DirtyLog | None) -> None:
        old, self._dirty_log = self._dirty_log, log
        self._packet.set_log(log)
        if old is not None:
            if old.outside:
                self._log.warning("%d bytes were written beyond the dirty log, unmarked", old.outside)
            old.close()
