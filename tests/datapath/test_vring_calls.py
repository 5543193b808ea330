"""When the guest is called and when it is asked to kick: each decision held against the oracle's."""

from __future__ import annotations

import itertools
import os
import random
import socket

import pytest

from tests.datapath.rig import MODERN, Bench, Ring, V, frame, start_at
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind, paused
from vhostuser.frontend.virtqueue import need_event

PERIOD = 1 << 16


def sink(bench: Bench, features: V, index: int = 0, size: int = 256) -> Ring:
    _, tx = bench.guest(features).pair(PortKind.SINK, size)
    start_at(tx.queue, index)
    tx.start(base=index)
    bench.settle()
    return tx


def send(tx: Ring, count: int) -> None:
    """`count` frames in one turn, whether or not a kick is wanted."""
    for _ in range(count):
        tx.send(frame(0))
    tx.publish()
    tx.kick()
    tx.guest.bench.settle()
    assert len(tx.take()) == count


# Calls


@pytest.mark.parametrize("start", [0, 1, 100, 32767, 65400, 65530, 65535])
@pytest.mark.parametrize("behind", [0, 1, 2, 9, 10, 11, 100, 32768, 65525, 65526, 65535])
@pytest.mark.parametrize("count", [1, 10])
def test_call_decision_by_event_index(bench: Bench, start: int, behind: int, count: int) -> None:
    """The truth table of need_event, across the wrap: used_event lies `behind` after the old used->idx."""
    tx = sink(bench, MODERN | V.EVENT_IDX, (start - 1) % PERIOD)
    send(tx, 1)
    assert tx.calls() == 1, "the first decision after a start always calls"

    event = (start + behind) % PERIOD
    tx.queue.write_used_event(event)
    before = tx.counters
    send(tx, count)

    wanted = need_event(event, (start + count) % PERIOD, start)
    assert tx.calls() == wanted
    assert tx.counters.calls - before.calls == wanted
    assert tx.counters.calls_suppressed - before.calls_suppressed == (not wanted)


def test_calls_of_many_bursts_follow_the_oracle(bench: Bench) -> None:
    rng = random.Random(1)
    tx = sink(bench, MODERN | V.EVENT_IDX, 65000)
    old = 65000
    send(tx, 1)
    tx.calls()
    for _ in range(300):
        old = tx.used_index
        event = (old + rng.randint(-3, 12)) % PERIOD
        tx.queue.write_used_event(event)
        count = rng.randint(1, 10)
        send(tx, count)
        assert tx.calls() == need_event(event, (old + count) % PERIOD, old)


@pytest.mark.parametrize("features", [MODERN | V.EVENT_IDX, MODERN], ids=["events", "flags"])
def test_one_call_for_one_burst(bench: Bench, features: V) -> None:
    tx = sink(bench, features)

    send(tx, 64)

    assert tx.calls() == 1
    assert tx.counters.bursts == 1


@pytest.mark.parametrize("features", [MODERN | V.EVENT_IDX, MODERN], ids=["events", "flags"])
def test_driver_that_wants_no_calls(bench: Bench, features: V) -> None:
    tx = sink(bench, features)
    send(tx, 1)
    tx.calls()

    tx.queue.disable_calls()
    send(tx, 5)
    assert tx.calls() == 0

    assert tx.queue.enable_calls() is False
    send(tx, 1)
    assert tx.calls() == 1


def test_event_index_makes_the_flag_mean_nothing(bench: Bench) -> None:
    tx = sink(bench, MODERN | V.EVENT_IDX)
    send(tx, 1)
    tx.calls()
    tx.queue.write_avail_flags(1)
    tx.queue.write_used_event(tx.used_index)

    send(tx, 1)

    assert tx.calls() == 1


def test_first_call_after_each_start(bench: Bench) -> None:
    """Whatever used_event was left behind: the off-by-one that has hung guests."""
    tx = sink(bench, MODERN | V.EVENT_IDX)
    for _ in range(3):
        tx.queue.write_used_event(tx.used_index - 1)
        send(tx, 1)
        assert tx.calls() == 1
        base = tx.stop()
        tx.start(base=base)
        bench.settle()


def test_ring_without_call_fd(bench: Bench) -> None:
    """A guest that polls: nothing is written anywhere; a real fd that comes later is signalled once."""
    _, tx = bench.guest().pair(PortKind.SINK)
    tx.start(call_fd=-1)
    send(tx, 3)
    assert tx.counters.calls == 0

    tx.pair.set_call(tx.which, tx.call_fd)
    assert tx.calls() == 1
    send(tx, 3)
    assert tx.calls() == 1
    assert tx.counters.calls == 2


def test_new_call_fd_before_anything_was_used(bench: Bench) -> None:
    tx = sink(bench, MODERN)

    tx.pair.set_call(tx.which, tx.call_fd)

    assert tx.calls() == 0


def test_call_fd_that_is_full_or_closed(bench: Bench) -> None:
    """Full means that a wake-up is pending; a peer that has gone does not want to know."""
    tx = sink(bench, MODERN)
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    full = 0
    try:
        while True:
            full += os.write(write_end, bytes(4096))
    except BlockingIOError:
        pass
    try:
        tx.pair.set_call(tx.which, write_end)
        send(tx, 1)
        assert len(os.read(read_end, 1 << 20)) == full
        os.close(read_end)
        send(tx, 1)
        tx.pair.set_call(tx.which, tx.call_fd)
    finally:
        os.close(write_end)
    send(tx, 1)
    assert tx.calls() == 2


# Kicks


@pytest.mark.parametrize("start", [0, 65530])
def test_kick_is_asked_for_when_the_ring_is_empty(bench: Bench, start: int) -> None:
    for features in (MODERN | V.EVENT_IDX, MODERN):
        tx = sink(bench, features, start)
        for count in (1, 2, 200):
            assert tx.queue.read_avail_event() == tx.used_index or V.EVENT_IDX not in features
            assert tx.queue.read_used_flags() == 0
            for _ in range(count):
                tx.send(frame(0))
            assert tx.publish(), "an idle transmit ring wants the kick"
            bench.settle()
            assert len(tx.take()) == count


@pytest.mark.parametrize("features", [MODERN | V.EVENT_IDX, MODERN], ids=["events", "flags"])
def test_no_kick_is_asked_for_while_there_is_work(bench: Bench, features: V) -> None:
    """Between two turns of a busy ring the driver may add without a system call."""
    tx = sink(bench, features, size=2048)
    for _ in range(1000):
        tx.send(frame(0))
    assert tx.publish()
    assert bench.turn(), "1000 frames are more than one turn"

    tx.send(frame(0))
    assert not tx.publish()
    bench.settle()

    assert len(tx.take()) == 1001


@pytest.mark.parametrize("features", [MODERN | V.EVENT_IDX, MODERN], ids=["events", "flags"])
def test_receive_ring_wants_a_kick_only_when_starved(bench: Bench, features: V) -> None:
    rx, _ = bench.guest(features).pair(PortKind.SOURCE)
    rx.start()
    bench.settle()
    for _ in range(4):
        rx.add_writable([2048])
        assert rx.publish()
        bench.settle()
        assert len(rx.receive()) == 1

    echo_rx, echo_tx = bench.guest(features).pair(PortKind.ECHO)
    echo_rx.start()
    echo_tx.start()
    bench.settle()
    echo_rx.add_writable([2048])
    echo_rx.publish()
    bench.settle()
    echo_rx.add_writable([2048])
    assert not echo_rx.publish(), "an echo port looks for buffers when there is a frame"


def test_kicks_are_counted(bench: Bench) -> None:
    tx = sink(bench, MODERN)
    before = tx.counters.kicks

    for _ in range(3):
        tx.kick()
        bench.settle()

    assert tx.counters.kicks - before == 3


def test_kick_without_new_chains(bench: Bench) -> None:
    tx = sink(bench, MODERN)
    for _ in range(3):
        tx.kick()
        bench.settle()

    assert tx.used_index == 0
    assert (tx.calls(), tx.counters.bursts) == (0, 0)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_kick_fd_that_is_no_eventfd(bench: Bench, kind: str) -> None:
    """User-Mode Linux sends pipes: they are read empty, or the guest would block."""
    _, tx = bench.guest().pair(PortKind.SINK)
    if kind == "pipe":
        ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    else:
        pair = socket.socketpair()
        for end in pair:
            end.setblocking(False)
        ours, theirs = (end.detach() for end in pair)
    try:
        tx.start()
        tx.pair.set_kick(tx.which, ours, is_drained=True)
        bench.settle()
        for _ in range(5):
            tx.send(frame(0))
            tx.queue.publish()
            assert os.write(theirs, bytes(3000)) == 3000
            bench.settle()
            assert len(tx.take()) == 1
            with pytest.raises(BlockingIOError):
                os.read(ours, 1)
        tx.pair.set_kick(tx.which, tx.kick_fd, is_drained=False)
    finally:
        os.close(ours)
        os.close(theirs)


def test_regression_kick_whose_event_met_a_pause_is_drained_too(bench: Bench) -> None:
    """The event was thrown away and the ring served, but the pipe kept its bytes, until it could be full."""
    _, tx = bench.guest().pair(PortKind.SINK)
    ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        tx.start()
        tx.pair.set_kick(tx.which, ours, is_drained=True)
        bench.settle()
        tx.send(frame(0))
        tx.queue.publish()
        os.write(theirs, bytes(3000))
        with paused([bench.worker]):
            assert bench.worker.turn() == (True, False)
        bench.settle()

        assert len(tx.take()) == 1
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
        tx.pair.set_kick(tx.which, tx.kick_fd, is_drained=False)
    finally:
        os.close(ours)
        os.close(theirs)


def test_kick_pipe_whose_writer_is_gone(bench: Bench) -> None:
    """No spinning on the hang-up."""
    _, tx = bench.guest().pair(PortKind.SINK)
    ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    tx.start()
    tx.pair.set_kick(tx.which, ours, is_drained=True)
    os.close(theirs)
    try:
        assert bench.settle() < 10
        assert bench.settle() == 1
        assert bench.worker.turn(0) == (False, False)
        tx.pair.set_kick(tx.which, tx.kick_fd, is_drained=False)
    finally:
        os.close(ours)


def test_ring_without_kick_fd_is_polled(bench: Bench) -> None:
    """Nobody kicks; the worker wakes by itself within its timer, and not any more after the stop."""
    rx, tx = bench.guest().pair(PortKind.ECHO)
    tx.start(kick_fd=-1)
    rx.start(kick_fd=-1)
    bench.settle()
    for number in range(5):
        rx.add_writable([2048])
        tx.send(frame(number))
        rx.queue.publish()
        tx.queue.publish()
        while tx.queue.read_used_index() != number + 1:
            bench.worker.turn(1000)
        assert [content for _, content in rx.receive()] == [frame(number)]
        tx.take()

    # A ring that is polled can be given an fd, and the other way round.
    tx.pair.set_kick(tx.which, tx.kick_fd, is_drained=False)
    tx.pair.set_kick(tx.which, -1, is_drained=False)
    tx.pair.set_kick(tx.which, tx.kick_fd, is_drained=False)
    rx.stop()
    bench.settle()
    turns = itertools.count()
    while next(turns) < 3:
        assert bench.worker.turn(5) == (False, False)
    assert tx.counters.kicks == 0
    assert bench.reported(EventKind.RING_BROKEN) == []


def test_regression_frame_that_needs_more_buffers_than_there_are_is_kicked_on(bench: Bench) -> None:
    # What is left in the ring does not hold a frame: the driver has to kick at the next buffer, though the
    # ring is not empty.
    features = V.VERSION_1 | V.MRG_RXBUF | V.EVENT_IDX
    rx, _ = bench.guest(features).pair(PortKind.SOURCE, 256, frame_size=9216)
    for _ in range(7):
        rx.add_writable([2048])
    rx.publish()
    rx.start()
    bench.settle()
    assert rx.used_index == 5

    for _ in range(3):
        rx.add_writable([2048])
        rx.publish()
    bench.settle()

    assert rx.used_index == 10
