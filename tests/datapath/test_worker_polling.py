"""Workers that look into rings instead of being kicked: for a while, or for ever."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.datapath.rig import MODERN, Ring, V, frame
from tests.datapath.test_worker_threads import Threads, goes, meanwhile, running, sink, status
from tests.site import wait
from tests.threads import tasks
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind, Poll
from vhostuser.frontend.guest_memory import Region
from vhostuser.wire.features import VirtioFeature

FORMATS = [
    pytest.param(MODERN, id="split"),
    pytest.param(MODERN | V.EVENT_IDX, id="split-events"),
    pytest.param(MODERN | V.RING_PACKED, id="packed"),
    pytest.param(MODERN | V.RING_PACKED | V.EVENT_IDX, id="packed-events"),
]
MIB = 1 << 20


@pytest.fixture
def busy() -> Iterator[Threads]:
    with running(1, Poll.BUSY) as threads:
        yield threads


@pytest.fixture
def adaptive() -> Iterator[Threads]:
    with running(1, Poll.ADAPTIVE) as threads:
        yield threads


def pair_of(threads: Threads, features: VirtioFeature) -> tuple[Ring, Ring]:
    rx, tx = threads.guest(features).pair(PortKind.ECHO)
    rx.start()
    tx.start()
    return rx, tx


def arrived(rx: Ring) -> bytes:
    """The next frame for the guest."""
    got: list[bytes] = []

    def there() -> bool:
        got.extend(content for _, content in rx.receive())
        return bool(got)

    wait(there)
    [content] = got
    return content


def there_and_back(rx: Ring, tx: Ring, number: int, *, kicks: bool = True) -> None:
    """With the kicks that are asked for, or without any."""
    rx.add_writable([2048])
    tx.send(frame(number))
    for ring in (rx, tx):
        if kicks:
            ring.publish()
        else:
            ring.queue.publish()
    assert arrived(rx) == frame(number)
    wait(lambda: len(tx.take()) == 1)


def sleeps(threads: Threads) -> None:
    """The worker has nothing more to look at."""
    [task] = tasks("test-worker-0")

    def still() -> bool:
        before = status(task, "voluntary_ctxt_switches")
        time.sleep(0.02)
        return "S" in status(task, "State") and status(task, "voluntary_ctxt_switches") == before

    wait(still)


@pytest.mark.parametrize("features", FORMATS)
def test_busy_worker_finds_what_nobody_kicks_for(busy: Threads, features: VirtioFeature) -> None:
    rx, tx = pair_of(busy, features)
    for number in range(100):
        there_and_back(rx, tx, number, kicks=False)

    wait(lambda: (tx.counters.packets, rx.counters.packets) == (100, 100))
    assert (tx.counters.kicks, rx.counters.kicks) == (0, 0)


@pytest.mark.parametrize("features", FORMATS)
def test_busy_worker_asks_for_no_kick(busy: Threads, features: VirtioFeature) -> None:
    rx, tx = pair_of(busy, features)
    there_and_back(rx, tx, 0)

    for number in range(1, 100):
        rx.add_writable([2048])
        assert not rx.publish()
        tx.send(frame(number))
        assert not tx.publish()
        assert arrived(rx) == frame(number)
        wait(lambda: len(tx.take()) == 1)


@pytest.mark.parametrize("features", FORMATS)
def test_adaptive_worker_sleeps_and_is_kicked_awake(adaptive: Threads, features: VirtioFeature) -> None:
    rx, tx = pair_of(adaptive, features)
    for number in range(10):
        there_and_back(rx, tx, number)
        sleeps(adaptive)
        tx.send(frame(number))
        assert tx.publish()
        wait(lambda: len(tx.take()) == 1)
        sleeps(adaptive)

    wait(lambda: tx.counters.packets == 20)


@pytest.mark.parametrize("features", FORMATS)
def test_adaptive_worker_loses_no_wakeup_however_long_the_guest_waits(
    adaptive: Threads, features: VirtioFeature
) -> None:
    """Around the end of its window: a kick that is not asked for and a frame that is not seen would hang."""
    rx, tx = pair_of(adaptive, features)
    for number in range(2000):
        until = time.perf_counter_ns() + number * 100
        while time.perf_counter_ns() < until:
            pass
        there_and_back(rx, tx, number)


def test_starved_port_goes_on_when_buffers_are_found(busy: Threads) -> None:
    ours, theirs = os.pipe2(os.O_NONBLOCK)
    rx, _ = busy.guest().pair(PortKind.FD, fd=ours)
    rx.start()
    os.write(theirs, bytes(12) + frame(1))
    time.sleep(0.05)
    rx.add_writable([2048])
    rx.queue.publish()

    assert arrived(rx) == frame(1)
    rx.stop()
    os.close(theirs)
    os.close(ours)


@pytest.mark.parametrize("poll", [Poll.ADAPTIVE, Poll.BUSY])
def test_memory_that_goes_away_under_a_look_faults_its_device_alone(poll: Poll) -> None:
    with running(1, poll) as threads:
        other = sink(threads)
        guest = threads.guest(regions=[Region(0, 4 * MIB, file="low")])
        _, tx = guest.pair(PortKind.SINK)
        tx.start()
        goes(tx)
        with meanwhile(lambda: goes(other)):
            guest.memory.truncate("low", 0)
            if poll is Poll.ADAPTIVE:
                tx.kick()
            threads.collect(EventKind.DEVICE_FAULTED)
        assert [event.device for event in threads.reported(EventKind.DEVICE_FAULTED)] == [guest.number]


def test_pair_that_moves_to_a_worker_that_sleeps_asks_for_kicks_again() -> None:
    with running(2, Poll.BUSY) as threads:
        tx = sink(threads)
        goes(tx)
        (sleeper,) = (worker for worker in threads.workers if worker is not tx.pair.worker)
        sleeper.stop()
        sleeper.start("test-worker-9", threads.told)
        tx.guest.device.move([sleeper])
        for _ in range(20):
            goes(tx)


def test_rings_are_started_and_stopped_under_the_eyes_of_a_busy_worker(busy: Threads) -> None:
    other = sink(busy)
    rx, tx = pair_of(busy, MODERN | V.EVENT_IDX)
    with meanwhile(lambda: goes(other)):
        for number in range(100):
            there_and_back(rx, tx, number, kicks=False)
            base = tx.stop()
            assert base == number + 1
            tx.start(base=base)


def test_time_of_a_busy_worker_is_accounted_for(busy: Threads) -> None:
    rx, tx = pair_of(busy, MODERN)
    there_and_back(rx, tx, 0)
    [worker] = busy.workers
    begun, before = time.monotonic_ns(), worker.counters()
    for number in range(200):
        there_and_back(rx, tx, number)
    after, lasted = worker.counters(), time.monotonic_ns() - begun

    assert after.sleeps == before.sleeps
    assert after.turns > before.turns
    awake = after.busy_ns + after.idle_ns - before.busy_ns - before.idle_ns
    assert 0 < after.busy_ns - before.busy_ns < awake
    assert 0.5 * lasted < awake < 1.5 * lasted


def test_load_of_a_busy_worker_is_only_the_time_that_it_had_work(busy: Threads) -> None:
    """It is never off its CPU, and still the one to give a pair to."""
    rx, tx = pair_of(busy, MODERN)
    [worker] = busy.workers
    began = worker.counters().turns
    wait(lambda: worker.counters().turns > began + 1000)
    assert worker.load_ns == 0

    for number in range(100):
        there_and_back(rx, tx, number)
    load = worker.load_ns
    assert 0 < load <= worker.counters().busy_ns


def test_sleep_of_an_adaptive_worker_is_not_time_awake(adaptive: Threads) -> None:
    rx, tx = pair_of(adaptive, MODERN)
    there_and_back(rx, tx, 0)
    sleeps(adaptive)
    [worker] = adaptive.workers
    before = worker.counters()
    time.sleep(0.2)
    there_and_back(rx, tx, 1)
    sleeps(adaptive)
    after = worker.counters()

    assert after.sleeps > before.sleeps
    assert after.idle_ns - before.idle_ns < 100_000_000
