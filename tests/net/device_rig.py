"""NetDevice with a real worker and real memory, a port that remembers, and no session in between."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from tests.net.fakes import FakeChannel, FakePort, StepChannel, StepHelper
from vhostuser.datapath.port_ops import PortKind, PortOps
from vhostuser.datapath.vring import PacketDevice
from vhostuser.datapath.worker import Worker, WorkerEvent
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.virtqueue import SplitVirtqueue
from vhostuser.net.config_space import ConfigSpace
from vhostuser.net.device import NetDevice
from vhostuser.session.states import RingState
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.payloads import MemoryRegion, VringAddr

SIZE = 16
STARTED = RingState.STARTED_ENABLED


class Rig:
    """One device with port `sink` (or fds), 1 MiB of memory, a virtqueue for each ring that is asked for."""

    def __init__(self, queues: int = 1, ops: PortOps | None = None, offer: V = V.VERSION_1) -> None:
        self.worker = Worker()
        self.port = FakePort(queues)
        self.helper = StepHelper()
        self.channel = StepChannel()
        self.packet = PacketDevice(0, [self.worker])
        self.device = NetDevice(
            self.packet,
            self.port,
            ops or PortOps(PortKind.SINK),
            queues=queues,
            offer=offer | V.EVENT_IDX | V.ACCESS_PLATFORM,
            protocol_offer=P.REPLY_ACK | P.BACKEND_REQ,
            config_space=ConfigSpace(bytes(6), queues, 0),
            helper=self.helper,
            state_channel=self.channel,
            open_channel=self.open_channel,
            log=logging.LoggerAdapter(logging.getLogger("vhostuser"), {}),
        )
        self.memory = GuestMemory(1 << 20)
        self.channels: list[FakeChannel] = []
        self.queues: dict[int, SplitVirtqueue[int]] = {}

    def open_channel(self, fd: int, acked: P, on_lost: Callable[[], None]) -> FakeChannel:
        self.channels.append(FakeChannel(fd, acked, on_lost))
        return self.channels[-1]

    def virtqueue(self, index: int) -> SplitVirtqueue[int]:
        if index not in self.queues:
            self.queues[index] = SplitVirtqueue(self.memory, SIZE)
        return self.queues[index]

    def items(self, index: int) -> dict[str, Callable[[], None]]:
        """What has to be said so that a ring runs, each said by a call."""
        place = self.virtqueue(index).user_place
        addr = VringAddr(index, 0, place.desc, place.used, place.avail, 0)

        def kick() -> None:
            self.device.set_vring_kick(index, os.eventfd(0))
            self.device.set_vring_states({index: STARTED})

        return {
            "features": lambda: self.device.set_features(V.VERSION_1),
            "memory": self.say_memory,
            "num": lambda: self.device.set_vring_num(index, SIZE),
            "base": lambda: self.device.set_vring_base(index, 0),
            "addr": lambda: self.device.set_vring_addr(addr),
            "kick": kick,
        }

    def say_memory(self) -> None:
        regions = self.memory.regions
        table = tuple(MemoryRegion(row.gpa, row.size, row.uva or 0, row.mmap_offset) for row in regions)
        self.device.set_mem_table(table, [os.dup(fd) for fd in self.memory.fds()])

    def start(self, *indices: int) -> None:
        for index in indices:
            for say in self.items(index).values():
                say()
        self.settle()

    def settle(self) -> list[WorkerEvent]:
        self.helper.run()
        while self.worker.turn()[0]:
            pass
        return list(self.worker.events())

    def stop(self, index: int) -> int:
        self.device.set_vring_states({index: RingState.STOPPED_ENABLED})
        return self.device.get_vring_base(index)

    def close(self) -> None:
        for index in list(self.queues):
            self.device.set_vring_states({index: RingState.STOPPED_DISABLED})
        self.device.disconnect()
        self.helper.run()
        self.device.close()
        self.worker.close()
        self.memory.close()
