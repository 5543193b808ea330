from __future__ import annotations

import asyncio
import os

from tests.server.conftest import until
from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.vring import PacketDevice, RingEnabled, VringSetup
from vhostuser.datapath.worker import EventKind, Worker, WorkerEvent
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.virtqueue import Segment, SplitVirtqueue
from vhostuser.server.runner import LoopRunner
from vhostuser.wire.features import VirtioFeature
from vhostuser.wire.payloads import MemoryRegion


async def test_kick_makes_the_loop_turn_the_worker_and_hand_out_events() -> None:
    worker, events = Worker(), list[WorkerEvent]()
    runner = LoopRunner(worker, events.append)
    memory = GuestMemory(1 << 20)
    rows = tuple(MemoryRegion(row.gpa, row.size, row.uva or 0, row.mmap_offset) for row in memory.regions)
    mapped = MappedMemory(rows, [os.dup(fd) for fd in memory.fds()])
    queue: SplitVirtqueue[int] = SplitVirtqueue(memory, 1024)
    device = PacketDevice(7, worker)
    device.set_features(VirtioFeature.VERSION_1)
    device.set_memory(mapped)
    kick = os.eventfd(0)
    place = queue.user_place
    setup = VringSetup(place.desc, place.avail, place.used, 1024, 0, kick, False, -1, -1)
    device.pair(0).set_port(PortKind.SINK)
    device.pair(0).set_enabled(1, RingEnabled.ENABLED)

    device.pair(0).start(1, setup)
    await until(lambda: bool(events))
    # More than one turn's budget, so that the runner has to come back for the rest by itself.
    buffer = memory.alloc(64)
    for token in range(1000):
        queue.add([Segment(buffer, 64)], [], token)
    queue.publish()
    os.eventfd_write(kick, 1)
    await until(lambda: queue.read_used_index() == 1000)

    assert [(event.kind, event.device, event.ring) for event in events] == [(EventKind.RING_STARTED, 7, 1)]
    device.pair(0).stop(1)
    device.set_memory(None)
    mapped.close()
    device.close()
    runner.close()
    worker.close()
    os.close(kick)
    memory.close()


async def test_close_leaves_nothing_with_the_loop() -> None:
    worker = Worker()
    runner = LoopRunner(worker, lambda event: None)

    runner.close()

    assert not asyncio.get_running_loop().remove_reader(worker.epoll_fd)
    worker.close()
