"""Hostile guests behind a port whose frames are cut up for them: what that costs the others is bounded."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from tests.datapath.packets import TCPV4, Packet, content
from tests.datapath.rig import MODERN, Bench, Ring, V
from tests.datapath.turns import MOST_MS, longest_turn
from tests.datapath.wires import Wire, started
from vhostuser.datapath.faults import ERROR_NAMES
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind
from vhostuser.wire.features import VirtioFeature

PORTS = [PortKind.FD, PortKind.PACKET]
INDIRECT, NEXT_WRITE = 4, 3
RING = 4096
SEGMENTS = 33


@pytest.fixture
def deep() -> Iterator[Wire]:
    wire = Wire(socket.SOCK_SEQPACKET)
    yield wire
    wire.close()


def long_chains(bench: Bench, wire: Wire, kind: PortKind, features: VirtioFeature) -> Ring:
    """All of its RX chains are one and the same table of 1024 descriptors, of which the last has bytes."""
    rx, _ = started(
        bench, wire, MODERN | V.MRG_RXBUF | V.INDIRECT_DESC | features, 256, rx_size=RING, kind=kind
    )
    memory = rx.guest.memory
    table, buffer = memory.alloc(16 * 1024, 16), memory.alloc(8192, 16)
    rows = b"".join(
        bytes(12) + NEXT_WRITE.to_bytes(2, "little") + i.to_bytes(2, "little") for i in range(1, 1024)
    )
    memory.write(table, rows + buffer.to_bytes(8, "little") + (8192).to_bytes(4, "little") + b"\2\0\0\0")
    for index in range(RING):
        rx.queue.write_descriptor(index, table, 16 * 1024, INDIRECT, 0)
    return rx


def sixty_four_wait(rx: Ring, wire: Wire, kind: PortKind, first: int) -> None:
    """Frames of many segments, and chains for all of them."""
    packet = Packet(4, True, content(100 * SEGMENTS))
    rx.pair.set_port(None)
    for _ in range(64):
        wire.put(packet.build(), packet.header(100, TCPV4))
    for number in range(first, first + 64 * SEGMENTS):
        rx.queue.offer_raw(number % RING)
    rx.pair.set_port(kind, wire.fd)
    rx.kick()


@pytest.mark.parametrize("kind", PORTS, ids=lambda kind: kind.value)
@pytest.mark.parametrize("features", [V(0), V.LOG_ALL], ids=["fast", "general"])
def test_segments_into_long_chains(bench: Bench, deep: Wire, kind: PortKind, features: VirtioFeature) -> None:
    """14 ms, once: each frame could begin bursts of its own."""
    rx = long_chains(bench, deep, kind, features)
    found = []
    for turn in range(5):
        sixty_four_wait(rx, deep, kind, 64 * SEGMENTS * turn)
        found.append(longest_turn(bench))
        # What is left was not needed: the ring ends where it would.
        lost = sum(rx.counters.drops.values())
        assert rx.counters.packets + lost >= 64 * (turn + 1)
        while rx.used_index != 64 * SEGMENTS * (turn + 1) % 65536:
            packet = Packet(4, True, content(100))
            deep.put(packet.build(), packet.header())
            bench.settle()
    rx.pair.set_port(None)

    assert min(found) < MOST_MS
    assert bench.reported(EventKind.RING_BROKEN) == []


@pytest.mark.parametrize("kind", PORTS, ids=lambda kind: kind.value)
def test_call_fd_that_blocks_stops_the_worker_once(bench: Bench, deep: Wire, kind: PortKind) -> None:
    """And not for each burst that a frame begins: 50 calls, once, of 2 ms each, for three frames."""
    rx = long_chains(bench, deep, kind, V(0))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    rx.pair.set_call(rx.which, writer)
    sixty_four_wait(rx, deep, kind, 0)
    bench.settle()

    assert rx.counters.calls == 1
    assert [ERROR_NAMES[event.error] for event in bench.reported(EventKind.DEVICE_FAULTED)] == ["notify"]
    rx.pair.set_call(rx.which, rx.call_fd)
    rx.pair.set_port(None)
    os.close(reader)
    os.close(writer)
