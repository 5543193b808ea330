"""A packed ring that is started where it stood long ago, as QEMU does after a back-end that died."""

from __future__ import annotations

import random

import pytest

from tests.datapath.rig import Bench, Ring, V, frame
from vhostuser.datapath.faults import ERROR_NAMES
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind

PACKED = V.VERSION_1 | V.RING_PACKED | V.MRG_RXBUF | V.INDIRECT_DESC
SIZE = 16
NEW = 0x8000_8000


def broken_by(bench: Bench) -> list[str]:
    return [ERROR_NAMES[event.error] for event in bench.reported(EventKind.RING_BROKEN)]


def echo(bench: Bench, rx: Ring, tx: Ring, frames: int) -> None:
    """So many, with the receive ring full before and after."""
    for number in range(frames):
        while rx.queue.free_descriptors:
            rx.add_writable([256])
        rx.publish()
        tx.send(frame(number))
        tx.publish()
        bench.settle()
        assert len(rx.receive()) == len(tx.take()) == 1
    while rx.queue.free_descriptors:
        rx.add_writable([256])
    rx.publish()


# In the first lap and the next ones: the place of the start is used, lent again, or not yet reached again.
@pytest.mark.parametrize("frames", [2, 7, 14, 16, 18, 25, 30, 40, 50])
def test_regression_stale_base_is_refused(bench: Bench, frames: int) -> None:
    rx, tx = bench.guest(PACKED).pair(PortKind.ECHO, SIZE)
    rx.start()
    tx.start()
    echo(bench, rx, tx, frames)
    assert rx.stop() == rx.queue.device_base()
    assert tx.stop() == tx.queue.device_base()

    rx.start(base=NEW)
    tx.start(base=NEW)
    bench.settle()
    assert broken_by(bench) == ["base", "base"]
    assert rx.queue.take_used() == tx.queue.take_used() == []


@pytest.mark.parametrize("seed", range(4))
def test_right_base_is_taken_whatever_chains_there_were(bench: Bench, seed: int) -> None:
    rng = random.Random(seed)
    _, tx = bench.guest(PACKED).pair(PortKind.SINK, SIZE)
    base = NEW
    for number in range(300):
        tx.start(base=base)
        sent = 0
        for _ in range(rng.randint(0, 4)):
            pieces = rng.choice([[72], [12, 60], [12, 20, 40], [12, 20, 20, 20]])
            if tx.queue.free_descriptors >= len(pieces):
                tx.send(frame(number), pieces=pieces, indirect=rng.random() < 0.3)
                sent += 1
        if rng.random() < 0.7:
            # Else they are not looked at before the next start.
            tx.publish()
            bench.settle()
            assert len(tx.take()) == sent
        base = tx.stop()
        tx.publish()
        tx.start(base=base)
        bench.settle()
        tx.take()
        base = tx.stop()
    assert broken_by(bench) == []
