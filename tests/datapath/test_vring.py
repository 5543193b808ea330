"""The rings in C against the oracle in plain Python, over every negotiation and any layout."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from tests.datapath.rig import MODERN, Bench, Ring, V, frame, start_at
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.vring import RingEnabled
from vhostuser.datapath.worker import EventKind
from vhostuser.errors import GuestError
from vhostuser.frontend.net_header import NetHeader
from vhostuser.wire.features import VirtioFeature

NEGOTIATIONS = [
    pytest.param(header | merging | indirect | event_idx, id="-".join(words))
    for (header, *w1), (merging, *w2), (indirect, *w3), (event_idx, *w4) in itertools.product(
        [(V.VERSION_1, "modern"), (V(0), "legacy")],
        [(V.MRG_RXBUF, "mergeable"), (V(0), "single")],
        [(V.INDIRECT_DESC, "indirect"), (V(0), "direct")],
        [(V.EVENT_IDX, "events"), (V(0), "flags")],
    )
    if (words := [*w1, *w2, *w3, *w4])
] + [
    pytest.param(
        V.VERSION_1 | V.RING_PACKED | merging | indirect | event_idx, id="-".join(["packed", *words])
    )
    for (merging, *w2), (indirect, *w3), (event_idx, *w4) in itertools.product(
        [(V.MRG_RXBUF, "mergeable"), (V(0), "single")],
        [(V.INDIRECT_DESC, "indirect"), (V(0), "direct")],
        [(V.EVENT_IDX, "events"), (V(0), "flags")],
    )
    if (words := [*w2, *w3, *w4])
]
SIZES = [1, 2, 256, 32768]
LEFT_OVER = 0
"""The last piece of a layout: whatever is left."""


def cut(total: int, pieces: Sequence[int]) -> list[int]:
    """`pieces` as far as they go, the rest in one."""
    lengths: list[int] = []
    for piece in pieces:
        if total - sum(lengths) <= piece:
            break
        lengths.append(piece)
    return [*lengths, total - sum(lengths)]


def even(total: int, count: int) -> list[int]:
    """`total` bytes in `count` pieces."""
    return [total // count + (1 if i < total % count else 0) for i in range(count)]


class EchoModel:
    """What an echo port owes the guest, counted beside it."""

    def __init__(self, rx: Ring, tx: Ring, rng: random.Random) -> None:
        self.rx = rx
        self.tx = tx
        self.rng = rng
        self.sent: list[bytes] = []
        self.frames = 0
        self.bytes = 0

    @property
    def indirect(self) -> bool:
        return V.INDIRECT_DESC in self.rx.guest.features and self.rng.random() < 0.5

    def refill(self) -> None:
        """Receive buffers until the ring is full: large ones, since not every guest merges."""
        while self.rx.queue.outstanding < 64:
            split = [2048] if self.rng.random() < 0.5 else [12, 500, 1536]
            given = self.rx.add_writable(split, indirect=self.indirect)
            if given is None and self.rx.add_writable([2048]) is None:
                break
        self.rx.publish()

    def send_some(self) -> None:
        """As many frames as there are buffers for them, in any layout."""
        for _ in range(self.rng.randint(1, self.rx.queue.outstanding)):
            length = self.rng.randint(14, 1514)
            content = frame(self.frames + len(self.sent), length)
            whole = self.tx.guest.header_size + length
            layout = self.rng.choice(
                [
                    [whole],
                    cut(whole, [self.tx.guest.header_size]),
                    cut(whole, [1] * self.tx.guest.header_size),
                    cut(whole, [self.tx.guest.header_size + 14, 20, 40]),
                    even(whole, 7),
                ]
            )
            indirect = self.indirect
            if not indirect and len(layout) > self.tx.queue.free_descriptors:
                layout = [whole]
            if self.tx.queue.free_descriptors == 0:
                break
            self.tx.send(content, pieces=layout, indirect=indirect)
            self.sent.append(content)
        self.tx.publish()

    def compare(self) -> None:
        assert [chain.length for chain in self.tx.take()] == [0] * len(self.sent)
        received = self.rx.receive()
        assert [content for _, content in received] == self.sent
        assert {header for header, _ in received} <= {NetHeader(num_buffers=1), NetHeader()}
        self.frames += len(self.sent)
        self.bytes += sum(map(len, self.sent))
        self.sent = []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("features", NEGOTIATIONS)
def test_echo_gives_back_what_was_sent(bench: Bench, features: VirtioFeature, size: int) -> None:
    rx, tx = bench.guest(features).pair(PortKind.ECHO, size)
    model = EchoModel(rx, tx, random.Random(f"{int(features)} {size}"))
    for ring in (rx, tx):
        if V.RING_PACKED not in features:
            start_at(ring.queue, 65500)
        ring.start()
    bench.settle()

    for _ in range(60 if size <= 2 else 6):
        model.refill()
        model.send_some()
        bench.settle()
        model.compare()

    assert model.frames >= 60
    for ring in (rx, tx):
        counters = ring.counters
        assert (counters.packets, counters.bytes) == (model.frames, model.bytes)
        assert counters.chains == model.frames
        assert counters.drops == {}
        assert counters.offloads == 0
        base = ring.stop()
        assert base == ring.queue.device_base()
        assert V.RING_PACKED in features or base == (65500 + model.frames) & 0xFFFF
    assert bench.reported(EventKind.RING_BROKEN) == []


@pytest.mark.parametrize("count", [*range(1, 12), 63, 64, 65, 200, 256])
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_frame_in_any_number_of_pieces(bench: Bench, count: int, indirect: bool) -> None:
    rx, tx = bench.guest(MODERN | V.INDIRECT_DESC).pair(PortKind.ECHO, 256)
    rx.start()
    tx.start()
    rx.add_writable([2048])
    content = frame(count, 700)

    tx.send(content, pieces=even(712, count), indirect=indirect)
    rx.publish()
    tx.publish()
    bench.settle()

    assert rx.receive() == [(NetHeader(num_buffers=1), content)]
    assert len(tx.take()) == 1


@pytest.mark.parametrize("size", [256, 32768])
def test_ring_full_of_single_chains(bench: Bench, size: int) -> None:
    """As many chains in flight as the ring is long, all of them at once."""
    rx, tx = bench.guest().pair(PortKind.SINK, size)
    tx.start()
    for number in range(size):
        tx.send(frame(number, 14))
    assert tx.queue.free_descriptors == 0

    tx.publish()
    bench.settle()

    assert len(tx.take()) == size
    assert tx.counters.packets == tx.counters.chains == size
    del rx


@pytest.mark.parametrize("event_idx", [V.EVENT_IDX, V(0)], ids=["events", "flags"])
def test_indices_wrap_around(bench: Bench, event_idx: VirtioFeature) -> None:
    """70,000 chains: the same one over and over, for the driver's books cost more than the device."""
    _, tx = bench.guest(MODERN | event_idx).pair(PortKind.SINK, 256)
    tx.start()
    head = tx.send(frame(1))
    tx.queue.write_avail_index(0)
    for slot in range(256):
        tx.queue.write_avail_entry(slot, head)
    sent = 0

    for step in itertools.cycle([256, 255, 1, 100]):
        sent += step
        tx.queue.write_avail_index(sent)
        tx.kick()
        bench.settle()
        assert tx.used_index == sent & 0xFFFF
        if sent > 70_000:
            break

    assert tx.counters.packets == sent
    assert tx.stop() == sent & 0xFFFF


def test_sink_counts_and_gives_back(bench: Bench) -> None:
    rx, tx = bench.guest().pair(PortKind.SINK)
    rx.start()
    tx.start()
    rx.add_writable([2048])
    rx.publish()

    for number in range(10):
        tx.send(frame(number, 100 + number))
    tx.publish()
    bench.settle()

    assert len(tx.take()) == 10
    assert (tx.counters.packets, tx.counters.bytes) == (10, sum(range(100, 110)))
    assert rx.receive() == []


@pytest.mark.parametrize("features", NEGOTIATIONS)
def test_source_fills_every_buffer_in_order(bench: Bench, features: VirtioFeature) -> None:
    rx, _ = bench.guest(features).pair(PortKind.SOURCE, 256, frame_size=300)
    rx.start()
    numbers = []

    for batch in (1, 7, 256, 0, 100):
        for _ in range(batch):
            rx.add_writable([300 + rx.guest.header_size])
        rx.publish()
        bench.settle()
        for header, content in rx.receive():
            assert len(content) == 300
            assert header.num_buffers == (1 if rx.guest.header_size == 12 else 0)
            assert content[:14] == b"\xff" * 6 + b"\x02\0\0\0\0\1\x88\xb5"
            numbers.append(int.from_bytes(content[14:22], "little"))

    assert numbers == list(range(364))
    assert rx.counters.packets == 364
    assert rx.counters.drops == {}


def test_source_drops_what_the_guest_sends(bench: Bench) -> None:
    _, tx = bench.guest().pair(PortKind.SOURCE)
    tx.start()
    tx.send(frame(1))
    tx.publish()

    bench.settle()

    assert len(tx.take()) == 1
    assert tx.counters.packets == 1


@pytest.mark.parametrize("kind", [None, PortKind.ECHO, PortKind.SINK, PortKind.SOURCE])
def test_disabled_transmit_ring_is_emptied(bench: Bench, kind: PortKind | None) -> None:
    rx, tx = bench.guest().pair(kind)
    rx.start(RingEnabled.DISABLED)
    tx.start(RingEnabled.DISABLED)
    rx.add_writable([2048])
    rx.publish()
    for number in range(300):
        tx.queue.offer_raw(0) if number else tx.send(frame(1))
        if number % 200 == 0:
            tx.publish()
            tx.kick()
            bench.settle()
    tx.kick()
    bench.settle()

    assert tx.used_index == 300
    assert tx.counters.drops == {"ring_disabled": 300}
    assert tx.counters.packets == 0
    assert rx.used_index == 0


def test_without_a_port_frames_are_dropped_and_counted(bench: Bench) -> None:
    _, tx = bench.guest().pair(None)
    tx.start()
    tx.send(frame(1))
    tx.publish()

    bench.settle()

    assert len(tx.take()) == 1
    assert tx.counters.drops == {"port_down": 1}


def test_held_rings_are_left_alone_until_enabled(bench: Bench) -> None:
    rx, tx = bench.guest().pair(PortKind.ECHO)
    rx.start(RingEnabled.HELD)
    tx.start(RingEnabled.HELD)
    rx.add_writable([2048])
    tx.send(frame(1))
    for ring in (rx, tx):
        ring.publish()
        ring.kick()
    bench.settle()
    assert (rx.used_index, tx.used_index) == (0, 0)

    for ring in (rx, tx):
        ring.pair.set_enabled(ring.which, RingEnabled.ENABLED)
    bench.settle()

    assert [content for _, content in rx.receive()] == [frame(1)]
    assert len(tx.take()) == 1


def test_echo_to_a_receive_ring_that_does_not_run(bench: Bench) -> None:
    rx, tx = bench.guest().pair(PortKind.ECHO)
    tx.start()
    tx.send(frame(1))
    tx.publish()

    bench.settle()

    assert len(tx.take()) == 1
    assert tx.counters.packets == 1
    assert rx.counters.drops == {"no_buffers": 1}


def test_echo_loses_nothing_that_was_sent_before_the_start(bench: Bench) -> None:
    rx, tx = bench.guest().pair(PortKind.ECHO)
    rx.add_writable([2048])
    tx.send(frame(1))
    rx.publish()
    tx.publish()

    rx.start()
    tx.start()
    bench.settle()

    assert [content for _, content in rx.receive()] == [frame(1)]


def test_start_position_is_the_used_index(bench: Bench) -> None:
    """virtio-user says 0 after our restart, Cloud Hypervisor the driver's avail->idx."""
    _, tx = bench.guest().pair(PortKind.SINK)
    start_at(tx.queue, 777)
    tx.send(frame(1))
    tx.publish()
    tx.start(base=0)

    bench.settle()

    [started] = bench.reported(EventKind.RING_STARTED)
    assert (started.device, started.ring, started.values) == (0, 1, (777, 0, 777, 778))
    assert len(tx.take()) == 1
    assert tx.stop() == 778


def test_stopped_ring_goes_on_where_it_was(bench: Bench) -> None:
    rx, tx = bench.guest().pair(PortKind.ECHO)
    for number in range(5):
        rx.start(base=number)
        tx.start(base=number)
        rx.add_writable([2048])
        tx.send(frame(number))
        rx.publish()
        tx.publish()
        bench.settle()

        assert [content for _, content in rx.receive()] == [frame(number)]
        assert (rx.stop(), tx.stop()) == (number + 1, number + 1)
        assert len(tx.take()) == 1


def test_stopped_ring_is_not_touched(bench: Bench) -> None:
    _, tx = bench.guest().pair(PortKind.SINK)
    tx.start()
    bench.settle()
    tx.stop()
    tx.send(frame(1))
    tx.publish()
    tx.kick()

    bench.settle()

    assert tx.used_index == 0


@pytest.mark.parametrize("part", ["desc", "avail", "used"])
def test_ring_outside_the_memory_table_does_not_start(bench: Bench, part: str) -> None:
    _, tx = bench.guest().pair(PortKind.SINK)
    place = {"desc": tx.setup().desc, "avail": tx.setup().avail, "used": tx.setup().used}
    region = tx.guest.memory.regions[0]
    assert region.uva is not None
    size = {"desc": 16 * 256, "avail": 6 + 2 * 256, "used": 6 + 8 * 256}[part]
    for at in (region.uva - 16, region.uva + region.size - size + 16, 16, (1 << 64) - 16):
        wrong = tx.setup()
        wrong = type(wrong)(
            **{name: getattr(wrong, name) for name in wrong.__dataclass_fields__} | place | {part: at}
        )
        number = ["desc", "avail", "used"].index(part)
        with pytest.raises(GuestError, match=f"ring part {number} at user address {at:#x} of {size} bytes"):
            tx.pair.start(tx.which, wrong)

    tx.start()
    bench.settle()


def test_kick_fd_that_cannot_be_watched(bench: Bench) -> None:
    _, tx = bench.guest().pair(PortKind.SINK)
    with open("/proc/self/status") as file, pytest.raises(GuestError, match="the kernel refused: errno 1"):
        tx.start(kick_fd=file.fileno())


def test_burst_of_segments_into_small_merged_buffers(bench: Bench) -> None:
    """64 frames of 60 kB take 2560 receive chains: more than one burst has room for, less than the ring."""
    offloads = V.CSUM | V.GUEST_CSUM | V.HOST_TSO4 | V.GUEST_TSO4
    rx, tx = bench.guest(MODERN | V.MRG_RXBUF | offloads).pair(PortKind.ECHO, 64, rx_size=4096)
    rx.start()
    tx.start()
    for _ in range(4096):
        rx.add_writable([1526])
    for number in range(64):
        tx.send(frame(number, 60_000))
    rx.publish()
    tx.publish()

    bench.settle()

    assert [content for _, content in rx.receive()] == [frame(number, 60_000) for number in range(64)]
    assert rx.counters.drops == {}


def test_receiving_into_what_is_being_sent(bench: Bench) -> None:
    """One buffer for both: the guest gets what it asked for, and nothing outside of it is touched."""
    rx, tx = bench.guest().pair(PortKind.ECHO)
    [buffer] = rx.segments([4096])
    rx.guest.memory.write(buffer.gpa, b"\xee" * 4096)
    rx.guest.memory.write(buffer.gpa + 1000, bytes(12) + frame(1, 500))
    tx.queue.write_descriptor(0, buffer.gpa + 1000, 512, 0, 0)
    rx.queue.write_descriptor(0, buffer.gpa + 900, 1000, 2, 0)
    rx.queue.offer_raw(0)
    tx.queue.offer_raw(0)
    rx.start()
    tx.start()

    bench.settle()

    assert rx.guest.memory.read(buffer.gpa + 912, 500) == frame(1, 500)
    assert rx.guest.memory.read(buffer.gpa, 900) == b"\xee" * 900
    assert rx.guest.memory.read(buffer.gpa + 1900, 2196) == b"\xee" * 2196
