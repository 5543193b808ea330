"""Workers on threads of their own: woken, paused, moved, ended, and a fault on one is none on another."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import live_regions
from tests.datapath.rig import Bench, Ring, frame, mapped
from tests.datapath.test_worker import busy_sink
from tests.datapath.wires import Wire
from tests.site import wait
from tests.threads import tasks
from vhostuser.datapath.faults import ERROR_NAMES
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind, Poll, Worker, paused
from vhostuser.errors import EnvironmentLacksError
from vhostuser.frontend.guest_memory import Region

WORKERS = 3
MIB = 1 << 20


class Threads(Bench):
    """A bench whose workers turn by themselves."""

    def __init__(self, workers: int = WORKERS, poll: Poll = Poll.EVENT) -> None:
        super().__init__([Worker() for _ in range(workers)])
        self.told = os.eventfd(0, os.EFD_NONBLOCK)
        for number, worker in enumerate(self.workers):
            worker.start(f"test-worker-{number}", self.told, poll=poll)

    def collect(self, kind: EventKind, count: int = 1) -> None:
        """Waits for so many reports of a kind, as the loop does."""

        def there() -> bool:
            if select.select([self.told], [], [], 0)[0]:
                os.eventfd_read(self.told)
                for worker in self.workers:
                    self.events += worker.events()
            return len(self.reported(kind)) >= count

        wait(there)

    def finish(self) -> None:
        """Nothing is reported that was not yet collected."""
        with paused(self.workers):
            for worker in self.workers:
                self.events += worker.events()


@contextmanager
def running(workers: int = WORKERS, poll: Poll = Poll.EVENT) -> Iterator[Threads]:
    before = live_regions()
    with Threads(workers, poll) as bench:
        yield bench
    os.close(bench.told)
    assert live_regions() == before
    wait(lambda: tasks("test-worker") == [])


@pytest.fixture
def threads() -> Iterator[Threads]:
    with running() as bench:
        yield bench


def status(task: Path, key: str) -> str:
    return (task / "status").read_text().split(f"\n{key}:")[1].split("\n")[0].strip()


def sink(bench: Bench) -> Ring:
    """The transmit ring of a new device, running."""
    _, tx = bench.guest().pair(PortKind.SINK)
    tx.start()
    return tx


def goes(tx: Ring, count: int = 1) -> None:
    """So many frames leave the guest; the driver kicks when it is asked to."""
    for number in range(count):
        tx.send(frame(number))
    tx.publish()
    wait(lambda: tx.used_index == tx.queue.read_avail_index())
    assert len(tx.take()) == count


def echoes(rx: Ring, tx: Ring, number: int = 0) -> None:
    rx.add_writable([2048])
    rx.publish()
    tx.send(frame(number))
    tx.publish()
    wait(lambda: rx.used_index == rx.queue.read_avail_index())
    assert [content for _, content in rx.receive()] == [frame(number)]
    wait(lambda: tx.used_index == tx.queue.read_avail_index())
    tx.take()


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """``work`` again and again on another thread; what it raises is raised here."""
    stop, failures = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failures == []


# The thread


def test_kick_wakes_it_and_what_it_reports_is_told(threads: Threads) -> None:
    tx = sink(threads)
    threads.collect(EventKind.RING_STARTED)

    for _ in range(20):
        goes(tx)

    wait(lambda: tx.counters.packets == 20)
    assert [event.ring for event in threads.events] == [1]


def test_idle_threads_never_wake_up(threads: Threads) -> None:
    goes(sink(threads), 3)

    def switches() -> list[str]:
        return [status(task, "voluntary_ctxt_switches") for task in tasks("test-worker")]

    # The last turn ends in a sleep, and the watchdog's timer ends by itself.
    wait(lambda: all("S" in status(task, "State") for task in tasks("test-worker")))
    time.sleep(0.1)
    before = switches()
    time.sleep(0.5)

    assert switches() == before


def test_signals_of_the_process_do_not_reach_it(threads: Threads) -> None:
    # The kernel does not let SIGKILL and SIGSTOP be blocked, glibc not its own two (32 and 33).
    always = {signal.SIGKILL, signal.SIGSTOP, 32, 33}

    def free(task: Path) -> set[int]:
        blocked = int(status(task, "SigBlk"), 16)
        return {number for number in range(1, signal.SIGRTMAX + 1) if not blocked >> (number - 1) & 1}

    for task in tasks("test-worker"):
        # A thread that has just begun blocks all of them.
        assert free(task) <= always | {signal.SIGBUS, signal.SIGRTMAX - 3}
        wait(lambda task=task: free(task) - always == {signal.SIGBUS, signal.SIGRTMAX - 3})  # type: ignore[misc]


def test_cpu_of_its_own() -> None:
    cpu = max(os.sched_getaffinity(0))
    worker, told = Worker(), os.eventfd(0)
    worker.start("test-pinned", told, cpu)

    assert [status(task, "Cpus_allowed_list") for task in tasks("test-pinned")] == [str(cpu)]
    worker.close()
    os.close(told)


def test_cpu_that_is_not_there() -> None:
    worker, told = Worker(), os.eventfd(0)
    with pytest.raises(EnvironmentLacksError, match="there is no CPU 1023 for a packet worker"):
        worker.start("test-nowhere", told, 1023)

    wait(lambda: tasks("test-nowhere") == [])
    worker.close()
    os.close(told)


def test_stop_ends_it_with_work_left_and_the_next_thread_goes_on() -> None:
    worker, told = Worker(), os.eventfd(0, os.EFD_NONBLOCK)
    with Bench([worker]) as bench:
        tx = busy_sink(bench, 30_000)
        worker.start("test-first", told)
        worker.stop()
        wait(lambda: tasks("test-first") == [])
        worker.stop()

        worker.start("test-second", told)
        wait(lambda: tx.used_index == 30_000)
    os.close(told)


def test_stop_while_paused() -> None:
    worker, told = Worker(), os.eventfd(0, os.EFD_NONBLOCK)
    with Bench([worker]) as bench:
        worker.start("test-paused", told)
        with paused([worker]):
            tx = sink(bench)
            worker.stop()
        wait(lambda: tasks("test-paused") == [])
        with paused([worker]):
            assert tx.used_index == 0
    os.close(told)


# Pausing


def test_paused_worker_burns_no_cpu_and_misses_nothing(threads: Threads) -> None:
    tx = sink(threads)
    goes(tx)
    [task] = [task for task in tasks("test-worker-0")]

    with paused(threads.workers):
        with paused(threads.workers):
            tx.send(frame(1))
            tx.publish()
            # Its kick wakes it, it finds itself paused, and sleeps until that is over.
            wait(lambda: "S" in status(task, "State"))
            time.sleep(0.05)
            before = status(task, "voluntary_ctxt_switches")
            time.sleep(0.2)
            assert status(task, "voluntary_ctxt_switches") == before
            assert "S" in status(task, "State")
        assert tx.used_index == 1

    wait(lambda: tx.used_index == 2)


# Several workers


def test_pairs_are_spread(threads: Threads) -> None:
    for number in range(WORKERS + 1):
        guest = threads.guest()
        rings = [guest.pair(PortKind.ECHO) for _ in range(4)]
        found = [threads.workers.index(rx.pair.worker) for rx, _ in rings]
        assert found == [(number + n) % WORKERS for n in range(4)]
        for rx, tx in rings:
            rx.start()
            tx.start()
        for n, (rx, tx) in enumerate(rings):
            echoes(rx, tx, n)


def test_memory_is_swapped_under_pairs_on_several_workers(threads: Threads) -> None:
    guest = threads.guest()
    rings = [guest.pair(PortKind.ECHO) for _ in range(WORKERS)]
    for rx, tx in rings:
        rx.start()
        tx.start()
    with meanwhile(lambda: guest.swap(mapped(guest.memory))):
        for number in range(100):
            for rx, tx in rings:
                echoes(rx, tx, number)

    threads.finish()
    assert threads.reported(EventKind.RING_BROKEN) == []


def test_counters_are_read_while_they_are_written(threads: Threads) -> None:
    _, tx = threads.guest().pair(PortKind.SINK)
    tx.start()
    last = 0

    def look() -> None:
        nonlocal last
        now = tx.counters.packets
        assert last <= now
        last = now

    with meanwhile(look):
        for _ in range(50):
            goes(tx, 100)
    assert tx.stop() == 5000
    assert tx.counters.packets == 5000
    assert tx.counters.bytes == 5000 * 60


# Moving


def test_device_moves_to_a_worker_of_its_own_and_back_in_traffic(threads: Threads) -> None:
    guest = threads.guest()
    rings = [guest.pair(PortKind.ECHO) for _ in range(3)]
    for rx, tx in rings:
        rx.start()
        tx.start()
    own, shared = threads.workers[2:], threads.workers[:2]

    def to_and_fro() -> None:
        guest.device.move(own)
        assert {rx.pair.worker for rx, _ in rings} == set(own)
        guest.device.move(shared)
        assert [shared.index(rx.pair.worker) for rx, _ in rings] == [0, 1, 0]

    with meanwhile(to_and_fro):
        for number in range(200):
            for rx, tx in rings:
                echoes(rx, tx, number)
    for n, (rx, tx) in enumerate(rings):
        assert rx.stop() == tx.stop() == 200, n
        assert tx.counters.packets == rx.counters.packets == 200
        assert (tx.counters.drops, rx.counters.drops) == ({}, {})

    threads.finish()
    assert len(threads.reported(EventKind.RING_STARTED)) == len(threads.events) == 6


def test_load_of_a_worker_that_sleeps_is_what_the_kernel_says(threads: Threads) -> None:
    guest = threads.guest()
    rx, tx = guest.pair(PortKind.ECHO)
    rx.start()
    tx.start()
    before = rx.pair.worker.load_ns
    for number in range(100):
        echoes(rx, tx, number)
    assert rx.pair.worker.load_ns > before

    never_started = Worker()
    assert never_started.load_ns == 0
    never_started.close()


def test_worker_that_all_have_left_can_be_closed() -> None:
    told = os.eventfd(0, os.EFD_NONBLOCK)
    first, second = Worker(), Worker()
    with Bench([first, second]) as bench:
        for worker in (first, second):
            worker.start("test-leaving", told)
        guest = bench.guest()
        rx, tx = guest.pair(PortKind.ECHO)
        rx.start(kick_fd=-1)  # polled: the timer moves along
        tx.start()
        echoes(rx, tx)

        guest.device.move([second])
        first.close()

        for number in range(10):
            echoes(rx, tx, number)
    os.close(told)


def test_pair_that_was_never_started_and_one_that_broke_move(threads: Threads) -> None:
    guest = threads.guest()
    _, silent = guest.pair(PortKind.SINK)
    _, broken = guest.pair(PortKind.SINK)
    broken.start()
    broken.queue.write_avail_index(5000)
    broken.kick()
    threads.collect(EventKind.RING_BROKEN)

    guest.device.move(threads.workers[2:])

    silent.start()
    goes(silent, 3)
    broken.kick()
    threads.finish()
    assert len(threads.reported(EventKind.RING_BROKEN)) == 1


def test_port_moves_along(threads: Threads) -> None:
    wire = Wire()
    guest = threads.guest()
    rx, tx = guest.pair(PortKind.FD, fd=wire.fd)
    rx.start()
    tx.start()
    for number in range(20):
        guest.device.move([threads.workers[number % WORKERS]])
        rx.add_writable([2048])
        rx.publish()
        wire.put(frame(number))
        wait(lambda: rx.used_index == rx.queue.read_avail_index())
        assert [content for _, content in rx.receive()] == [frame(number)]
        goes(tx)
        assert [content for _, content in wire.get()] == [frame(0)]
    tx.pair.set_port(None)
    wire.close()


# What goes wrong


def test_truncated_memory_costs_no_neighbour_on_the_same_worker_or_another(threads: Threads) -> None:
    rings, buffers = Region(gpa=0, size=4 * MIB, file="rings"), Region(gpa=1 << 32, size=MIB, file="buffers")
    victim = threads.guest(regions=[rings, buffers])
    pairs = [victim.pair(PortKind.SINK) for _ in range(WORKERS)]
    neighbours = []
    for _ in range(WORKERS):
        pair = threads.guest().pair(PortKind.ECHO)
        for ring in pair:
            ring.start()
        neighbours.append(pair)
    victim.memory.write(buffers.gpa, bytes(12) + frame(1))
    for _, tx in pairs:
        tx.queue.write_descriptor(0, buffers.gpa, 72, 0, 0)
        tx.start()
        tx.queue.offer_raw(0)
        tx.kick()
        wait(lambda tx=tx: tx.used_index == 1)  # type: ignore[misc]

    victim.memory.truncate("buffers", 0)
    # All workers of the device find it at about the same time; it is said once.
    for _, tx in pairs:
        tx.queue.offer_raw(0)
        tx.kick()
    threads.collect(EventKind.DEVICE_FAULTED)

    for number in range(20):
        for rx, tx in neighbours:
            echoes(rx, tx, number)
    threads.finish()
    [event] = threads.reported(EventKind.DEVICE_FAULTED)
    assert (event.device, ERROR_NAMES[event.error], event.values[1]) == (0, "memory fault", 1 << 32)
    assert [tx.used_index for _, tx in pairs] == [1] * WORKERS


def test_call_fd_that_blocks_costs_its_device_only(threads: Threads) -> None:
    """The watchdog's signal goes to the thread that sleeps in the write."""
    tx, neighbour = sink(threads), sink(threads)
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    while True:
        try:
            os.write(theirs, bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(theirs, True)
    tx.pair.set_call(tx.which, theirs)
    tx.send(frame(1))
    tx.publish()

    threads.collect(EventKind.DEVICE_FAULTED)

    [event] = threads.reported(EventKind.DEVICE_FAULTED)
    assert (event.device, ERROR_NAMES[event.error], event.values[0]) == (0, "notify", 1)
    goes(neighbour, 5)
    tx.pair.set_call(tx.which, tx.call_fd)
    os.close(ours)
    os.close(theirs)


def test_ring_that_breaks_on_one_worker_is_reported_from_there(threads: Threads) -> None:
    rings = [sink(threads) for _ in range(WORKERS)]
    for tx in rings:
        tx.queue.write_avail_index(5000)
        tx.kick()

    threads.collect(EventKind.RING_BROKEN, WORKERS)

    assert sorted(event.device for event in threads.reported(EventKind.RING_BROKEN)) == [0, 1, 2]
