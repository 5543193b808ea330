from __future__ import annotations

import asyncio
import os

import pytest

from tests.server.conftest import until
from tests.threads import tasks
from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.vring import PacketDevice, RingEnabled, VringSetup
from vhostuser.datapath.worker import EventKind, Worker, WorkerEvent
from vhostuser.errors import EnvironmentLacksError
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.virtqueue import Segment, SplitVirtqueue
from vhostuser.server.runner import LoopRunner, ThreadRunner
from vhostuser.wire.features import VirtioFeature
from vhostuser.wire.payloads import MemoryRegion


async def test_kick_makes_the_loop_turn_the_worker_and_hand_out_events() -> None:
    worker, events = Worker(), list[WorkerEvent]()
    runner = LoopRunner(worker, events.append)
    memory = GuestMemory(1 << 20)
    rows = tuple(MemoryRegion(row.gpa, row.size, row.uva or 0, row.mmap_offset) for row in memory.regions)
    mapped = MappedMemory(rows, [os.dup(fd) for fd in memory.fds()])
    queue: SplitVirtqueue[int] = SplitVirtqueue(memory, 1024)
    device = PacketDevice(7, [worker])
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


def cpus_of_threads() -> dict[str, set[int]]:
    """The worker threads by name, and the CPUs that each may use."""
    return {
        (task / "comm").read_text().strip(): os.sched_getaffinity(int(task.name))
        for task in tasks("vu-worker")
    }


async def test_threads_run_their_workers_and_the_loop_hears_of_each() -> None:
    workers, events = [Worker() for _ in range(3)], list[WorkerEvent]()
    runner = ThreadRunner(workers, events.append)
    assert cpus_of_threads().keys() == {"vu-worker-0", "vu-worker-1", "vu-worker-2"}
    memory = GuestMemory(1 << 20)
    rows = tuple(MemoryRegion(row.gpa, row.size, row.uva or 0, row.mmap_offset) for row in memory.regions)
    mapped = MappedMemory(rows, [os.dup(fd) for fd in memory.fds()])
    device = PacketDevice(0, workers)
    device.set_features(VirtioFeature.VERSION_1)
    device.set_memory(mapped)
    for n in range(3):
        place = SplitVirtqueue[int](memory, 64).user_place
        device.pair(n).start(1, VringSetup(place.desc, place.avail, place.used, 64, 0, -1, False, -1, -1))

    await until(lambda: len(events) == 3)

    assert sorted(event.ring for event in events) == [1, 3, 5]
    for n in range(3):
        device.pair(n).stop(1)
    device.set_memory(None)
    device.close()
    runner.close()
    await until(lambda: tasks("vu-worker") == [])
    mapped.close()
    for worker in workers:
        worker.close()
    memory.close()


async def test_cpus_go_round() -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    workers = [Worker() for _ in range(3)]
    runner = ThreadRunner(workers, lambda event: None, cpus)

    assert cpus_of_threads() == {f"vu-worker-{n}": {cpus[n % len(cpus)]} for n in range(3)}
    runner.close()
    for worker in workers:
        worker.close()


async def test_cpu_that_is_not_there_leaves_no_thread() -> None:
    workers = [Worker() for _ in range(2)]
    with pytest.raises(EnvironmentLacksError, match="no CPU 1023"):
        ThreadRunner(workers, lambda event: None, [min(os.sched_getaffinity(0)), 1023])

    await until(lambda: tasks("vu-worker") == [])
    for worker in workers:
        worker.close()


async def test_lent_worker_has_a_thread_until_it_is_taken_back() -> None:
    worker = Worker()
    runner = ThreadRunner([worker], lambda event: None)
    lent = runner.lend(lambda: None)
    assert len(tasks("vu-postcopy")) == 1

    runner.take_back(lent)

    await until(lambda: tasks("vu-postcopy") == [])
    runner.close()
    worker.close()
