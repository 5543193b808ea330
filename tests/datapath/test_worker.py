"""The turn: bounded, fair, woken by what it should be, silent when there is nothing to do."""

from __future__ import annotations

import os
import threading

import pytest

from tests.datapath.rig import MODERN, Bench, Ring, V, frame
from tests.datapath.wires import Wire, started
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.vring import RingEnabled
from vhostuser.datapath.worker import EventKind, Worker, paused
from vhostuser.errors import EnvironmentLacksError

TURN_PACKETS = 256
"""A pair's bound; one more burst may begin before it is reached."""
BURST = 64


def busy_sink(bench: Bench, chains: int, features: V = MODERN) -> Ring:
    """A transmit ring with one chain offered over and over."""
    _, tx = bench.guest(features).pair(PortKind.SINK, 32768)
    tx.start()
    tx.send(frame(0))
    for slot in range(chains):
        tx.queue.write_avail_entry(slot, 0)
    tx.queue.write_avail_index(chains)
    return tx


def test_idle_worker_wakes_nobody(bench: Bench) -> None:
    rx, tx = bench.guest().pair(PortKind.ECHO)
    bench.settle()
    assert not bench.wakes()
    rx.start()
    tx.start()
    assert bench.wakes(), "the first scan of a ring needs no kick"
    bench.settle()

    assert not bench.wakes()
    assert bench.worker.turn() == (False, False)


def test_kick_wakes_and_one_turn_sends_it_to_sleep(bench: Bench) -> None:
    _, tx = bench.guest().pair(PortKind.SINK)
    tx.start()
    bench.settle()
    tx.send(frame(1))
    tx.publish()

    assert bench.wakes()
    assert not bench.turn()
    assert not bench.wakes()
    assert len(tx.take()) == 1


def test_turn_that_waits_returns_with_the_kick(bench: Bench) -> None:
    _, tx = bench.guest().pair(PortKind.SINK)
    tx.start()
    bench.settle()
    tx.send(frame(1))
    tx.queue.publish()
    kicker = threading.Timer(0.02, tx.kick)
    kicker.start()

    # A signal may end the wait before it.
    while not tx.used_index:
        bench.worker.turn(60_000)

    kicker.join()
    assert tx.used_index == 1


def test_turn_is_bounded_for_each_pair(bench: Bench) -> None:
    rings = [busy_sink(bench, 10_000) for _ in range(3)]
    done = [0, 0, 0]

    while bench.turn():
        now = [ring.used_index for ring in rings]
        for before, after in zip(done, now, strict=True):
            assert after - before < TURN_PACKETS + BURST
        done = now

    assert [ring.used_index for ring in rings] == [10_000] * 3


def test_busy_pairs_take_turns(bench: Bench) -> None:
    """Eight devices with as much work each: none is ever more than its turn ahead of another."""
    rings = [busy_sink(bench, 5000) for _ in range(8)]

    while bench.turn():
        positions = [ring.used_index for ring in rings]
        assert max(positions) - min(positions) <= TURN_PACKETS + BURST

    assert [ring.used_index for ring in rings] == [5000] * 8


def test_bytes_bound_a_turn_too(bench: Bench) -> None:
    _, tx = bench.guest().pair(PortKind.SINK, 256)
    tx.start()
    for number in range(256):
        tx.queue.offer_raw(0) if number else tx.send(frame(0, 60_000))
    tx.publish()
    tx.queue.write_avail_index(256)

    bench.turn()

    assert tx.used_index * 60_000 < 524_288 + BURST * 60_000
    bench.settle()
    assert tx.used_index == 256


def test_newcomer_is_served_in_the_next_turn(bench: Bench) -> None:
    for _ in range(4):
        busy_sink(bench, 30_000)
    bench.turn()
    _, late = bench.guest().pair(PortKind.SINK)
    late.start()
    late.send(frame(1))
    late.publish()

    turns = 0
    while late.used_index == 0:
        assert bench.turn()
        turns += 1

    assert turns <= 2


def test_both_directions_of_a_pair_are_served(bench: Bench, wire: Wire) -> None:
    """A guest that sends without end still receives."""
    rx, tx = started(bench, wire, size=1024)
    rx.add_writable([2048])
    rx.publish()
    for number in range(1000):
        tx.send(frame(number))
    tx.publish()
    wire.put(frame(7))

    bench.turn()

    assert [content for _, content in rx.receive()] == [frame(7)]


@pytest.mark.parametrize("pairs", [1, 8, 128])
def test_many_pairs_of_one_device(bench: Bench, pairs: int) -> None:
    guest = bench.guest(size=64 << 20)
    rings = [guest.pair(PortKind.ECHO, 64) for _ in range(pairs)]
    for rx, tx in rings:
        rx.start()
        tx.start()
    bench.settle()
    for number, (rx, tx) in enumerate(rings):
        rx.add_writable([2048])
        tx.send(frame(number))
        rx.publish()
        tx.publish()

    bench.settle()

    for number, (rx, tx) in enumerate(rings):
        assert [content for _, content in rx.receive()] == [frame(number)]
        assert tx.counters.packets == 1


# Events


def test_events_come_in_order_and_once(bench: Bench) -> None:
    for _ in range(3):
        rx, tx = bench.guest().pair(PortKind.SINK)
        rx.start()
        tx.start()
    more, events = bench.worker.turn()
    assert (more, events) == (False, True)

    found = [(event.device, event.ring) for event in bench.worker.events()]

    assert sorted(found) == [(device, ring) for device in range(3) for ring in range(2)]
    assert list(bench.worker.events()) == []
    assert bench.worker.turn() == (False, False)


def test_events_that_nobody_reads_are_not_kept_for_ever(bench: Bench) -> None:
    """The queue is bounded; what did not fit is said by one OVERFLOW, and reporting goes on after it."""
    rx, _ = bench.guest().pair(PortKind.SINK)
    for _ in range(300):
        rx.start(RingEnabled.DISABLED)
        bench.worker.turn()
        rx.stop()

    kinds = [event.kind for event in bench.worker.events()]

    assert kinds.count(EventKind.RING_STARTED) == 256
    assert kinds.count(EventKind.OVERFLOW) == 1
    rx.start()
    bench.worker.turn()
    assert [event.kind for event in bench.worker.events()] == [EventKind.RING_STARTED]


# Pausing


def test_paused_worker_touches_nothing(bench: Bench) -> None:
    _, tx = bench.guest().pair(PortKind.SINK)
    tx.start()
    bench.settle()
    tx.send(frame(1))
    tx.publish()

    with paused([bench.worker]):
        with paused([bench.worker]):
            assert bench.worker.turn()[0]
        assert bench.worker.turn()[0], "pauses nest"
        assert tx.used_index == 0

    bench.settle()
    assert len(tx.take()) == 1


def test_what_came_while_paused_is_not_lost(bench: Bench, wire: Wire) -> None:
    """The turn that was refused has taken the edges off the epoll set: all is looked at afterwards."""
    rx, tx = started(bench, wire, size=1024)
    for number in range(1024):
        tx.send(frame(number))
    tx.publish()
    bench.settle()
    blocked_at = tx.used_index
    assert blocked_at < 1024
    out = wire.get()
    wire.put(frame(5))
    rx.add_writable([2048])
    rx.publish()

    with paused([bench.worker]):
        bench.worker.turn()
    assert bench.wakes() or bench.worker.turn()[0]
    while tx.used_index < 1024:
        assert bench.settle()
        out += wire.get()
    assert [content for _, content in out] == [frame(number) for number in range(len(out))]
    assert [content for _, content in rx.receive()] == [frame(5)]


def test_ring_that_is_started_while_paused_is_looked_at(bench: Bench) -> None:
    _, tx = bench.guest().pair(PortKind.SINK)
    tx.send(frame(1))
    tx.queue.publish()
    with paused([bench.worker]):
        tx.start()
        assert tx.used_index == 0

    assert bench.wakes()
    bench.settle()
    assert tx.used_index == 1


def test_pair_that_is_freed_with_work_queued(bench: Bench) -> None:
    first = bench.guest()
    _, tx = first.pair(PortKind.SINK)
    tx.start()
    tx.send(frame(1))
    tx.publish()
    neighbour = busy_sink(bench, 100)

    first.close()
    bench.settle()

    assert neighbour.used_index == 100


# Making one


def test_no_fds_left_for_a_worker() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    try:
        for spare in range(3):
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, hard))
            with pytest.raises(EnvironmentLacksError, match="ulimit -n"):
                Worker()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    Worker().close()


def test_closing_twice() -> None:
    worker = Worker()
    worker.close()
    worker.close()
