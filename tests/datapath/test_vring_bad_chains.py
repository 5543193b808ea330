"""Chains that break a rule break their ring and nothing else."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from tests.datapath.rig import MODERN, RX, TX, Bench, Ring, V, frame
from vhostuser.datapath.faults import ERROR_NAMES, explain
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind
from vhostuser.errors import GuestError
from vhostuser.frontend.guest_memory import Region
from vhostuser.frontend.net_header import PLAIN

NEXT, WRITE, INDIRECT = 1, 2, 4
SIZE = 256
GOOD = 3
"""Good chains in front of the bad one, in the same burst."""
HEAD = 100
"""A descriptor that the good chains do not use; those from here on are free for a test."""

END = 1 << 64
SMALL, LARGE = 1 << 20, 8 << 20
REGIONS = (
    Region(gpa=0, size=LARGE),
    # Adjacent for the guest, in another file for us.
    Region(gpa=LARGE, size=SMALL, file="second"),
    Region(gpa=1 << 32, size=SMALL, file="third"),
)
BORDER = LARGE
HOLE = LARGE + SMALL


@dataclass
class Victim:
    """A running ring of one direction, and a neighbour that must not notice anything."""

    bench: Bench
    ring: Ring
    other: Ring
    neighbour: tuple[Ring, Ring]
    number: int = 0

    @property
    def flags(self) -> int:
        """WRITE on a receive ring."""
        return WRITE if self.ring.which == RX else 0

    def buffer(self, length: int = 100) -> int:
        return self.ring.segments([length])[0].gpa

    def good_chain(self) -> None:
        if self.ring.which == RX:
            assert self.ring.add_writable([100]) is not None
        else:
            self.ring.send(frame(self.number))
        self.number += 1

    def describe(self, index: int, gpa: int, length: int, flags: int, following: int = 0) -> None:
        self.ring.queue.write_descriptor(index, gpa, length, flags, following)

    def table(self, rows: list[tuple[int, int, int, int]], *, at: int | None = None) -> int:
        """An indirect table of (address, length, flags, next)."""
        gpa = self.ring.guest.memory.alloc(16 * max(len(rows), 1), 16) if at is None else at
        for index, (address, length, flags, following) in enumerate(rows):
            row = address.to_bytes(8, "little") + length.to_bytes(4, "little")
            row += flags.to_bytes(2, "little") + following.to_bytes(2, "little")
            self.ring.guest.memory.write(gpa + 16 * index, row)
        return gpa

    def offer(self, head: int = HEAD) -> None:
        self.ring.queue.offer_raw(head)
        self.ring.kick()
        self.bench.settle()

    def expect_broken(self, name: str, *values: int, done: int = GOOD) -> None:
        """One event with the reason, the err fd written once, the good chains given back, no more."""
        [event] = self.bench.reported(EventKind.RING_BROKEN)
        assert ERROR_NAMES[event.error] == name
        assert (event.device, event.ring) == (0, self.ring.which)
        assert event.values[: len(values)] == values
        assert explain(event.error, event.values) != name
        assert self.ring.errors() == 1
        assert self.ring.used_index == done
        assert self.ring.counters.packets == self.ring.counters.chains == done
        assert self.ring.queue.read_used_entry(done) == (0, 0), "a used entry for the bad chain"

        # It stays broken, however correct what follows is.
        self.ring.queue.write_avail_index(done)
        self.ring.kick()
        self.bench.settle()
        self.ring.queue.write_avail_entry(done, 0)
        self.ring.queue.write_avail_index(done + 1)
        self.ring.kick()
        self.bench.settle()
        assert self.ring.used_index == done
        assert len(self.bench.reported(EventKind.RING_BROKEN)) == 1
        self.expect_others_go_on()

        # Until it is stopped and started again.
        assert self.ring.stop() == done
        self.ring.start(base=done)
        self.bench.settle()
        assert self.ring.used_index == done + 1

    def expect_others_go_on(self) -> None:
        if self.other.which == TX:
            self.other.send(frame(99))
            self.other.publish()
        rx, tx = self.neighbour
        rx.add_writable([2048])
        tx.send(frame(98))
        rx.publish()
        tx.publish()
        self.bench.settle()
        assert [content for _, content in rx.receive()] == [frame(98)]
        assert len(self.other.take()) == (1 if self.other.which == TX else 0)

    def expect_taken(self, drop: str = "") -> None:
        """The chain in question is legal: a frame of the good ones' kind, or a counted drop."""
        assert self.bench.reported(EventKind.RING_BROKEN) == []
        counters = self.ring.counters
        assert self.ring.used_index == counters.chains == GOOD + 1
        assert counters.drops == ({drop: 1} if drop else {})
        assert counters.packets == (GOOD if drop else GOOD + 1)


@pytest.fixture(params=[TX, RX], ids=["tx", "rx"])
def victim(bench: Bench, request: pytest.FixtureRequest) -> Victim:
    return make_victim(bench, request.param)


@pytest.fixture
def tx(bench: Bench) -> Victim:
    return make_victim(bench, TX)


@pytest.fixture
def rx(bench: Bench) -> Victim:
    return make_victim(bench, RX)


def make_victim(bench: Bench, which: int, features: V = MODERN | V.INDIRECT_DESC) -> Victim:
    guest = bench.guest(features, regions=REGIONS)
    rings = guest.pair(PortKind.SINK if which == TX else PortKind.SOURCE, SIZE)
    neighbour = bench.guest().pair(PortKind.ECHO)
    for ring in (*rings, *neighbour):
        ring.start()
    victim = Victim(bench, rings[which], rings[1 - which], neighbour)
    bench.settle()
    for _ in range(GOOD):
        victim.good_chain()
    return victim


# avail->idx and avail->ring[]


@pytest.mark.parametrize("jump", [SIZE + 1, SIZE + 2, 32768, 65535], ids=lambda jump: f"by-{jump}")
def test_avail_index_jumps_too_far(victim: Victim, jump: int) -> None:
    """Forwards by more than the ring is long, which going back is as well."""
    victim.ring.publish()
    victim.bench.settle()
    wrong = (GOOD + jump) & 0xFFFF

    victim.ring.queue.write_avail_index(wrong)
    victim.ring.kick()
    victim.bench.settle()

    victim.expect_broken("avail index", wrong, GOOD, SIZE)


@pytest.mark.parametrize("head", [SIZE, SIZE + 1, 65535])
def test_head_outside_the_table(victim: Victim, head: int) -> None:
    victim.offer(head)

    victim.expect_broken("head", head, GOOD, SIZE)


# Links


@pytest.mark.parametrize("following", [SIZE, 65535])
def test_next_outside_the_table(victim: Victim, following: int) -> None:
    victim.describe(HEAD, victim.buffer(), 10, NEXT | victim.flags, following)
    victim.offer()

    victim.expect_broken("next", HEAD, following, 10, NEXT | victim.flags)


def test_descriptor_that_links_to_itself(victim: Victim) -> None:
    victim.describe(HEAD, victim.buffer(), 1, NEXT | victim.flags, HEAD)
    victim.offer()

    victim.expect_broken("chain length", HEAD, SIZE)


def test_two_descriptors_that_link_to_each_other(victim: Victim) -> None:
    victim.describe(HEAD, victim.buffer(), 1, NEXT | victim.flags, HEAD + 1)
    victim.describe(HEAD + 1, victim.buffer(), 1, NEXT | victim.flags, HEAD)
    victim.offer()

    victim.expect_broken("chain length", HEAD, SIZE)


def test_loop_of_empty_descriptors(victim: Victim) -> None:
    victim.describe(HEAD, 0, 0, NEXT | victim.flags, HEAD)
    victim.offer()

    victim.expect_broken("chain length", HEAD, SIZE)


@pytest.mark.parametrize("last", [0, NEXT], ids=["N", "N-plus-1"])
def test_chain_as_long_as_the_ring(bench: Bench, last: int) -> None:
    _, ring = bench.guest().pair(PortKind.SINK, SIZE)
    ring.start()
    at = ring.segments([SIZE])[0].gpa
    for index in range(SIZE):
        more = NEXT if index < SIZE - 1 else last
        ring.queue.write_descriptor(index, at + index, 1, more, (index + 1) % SIZE)
    ring.queue.offer_raw(0)
    ring.kick()
    bench.settle()

    broken = bench.reported(EventKind.RING_BROKEN)
    if last == NEXT:
        assert [ERROR_NAMES[event.error] for event in broken] == ["chain length"]
        assert ring.used_index == 0
    else:
        assert broken == []
        assert (ring.counters.packets, ring.counters.bytes) == (1, SIZE - 12)


# Addresses


@pytest.mark.parametrize(
    ("gpa", "length"),
    [
        pytest.param(4096, 0xFFFFFFFF, id="length-of-all-ones"),
        pytest.param(END - 1, 1, id="last-address"),
        pytest.param(END - 16, 32, id="wraps-around"),
        pytest.param(END - 0xFFFFFFFF, 0xFFFFFFFF, id="up-to-the-end"),
        pytest.param(HOLE, 1, id="first-of-the-hole"),
        pytest.param(HOLE - 10, 11, id="runs-into-the-hole"),
        pytest.param((1 << 32) - 1, 2, id="begins-in-the-hole"),
        pytest.param((1 << 32) + SMALL - 8, 16, id="half-mapped-at-the-end"),
        pytest.param(BORDER - 10, SMALL + 11, id="over-the-border-into-the-hole"),
    ],
)
def test_buffer_not_in_memory(victim: Victim, gpa: int, length: int) -> None:
    victim.describe(HEAD, victim.buffer(12), 12, NEXT | victim.flags, HEAD + 1)
    victim.describe(HEAD + 1, gpa, length, victim.flags)
    victim.offer()

    victim.expect_broken("address", HEAD, gpa, length, victim.flags)


def test_buffer_across_adjacent_regions(victim: Victim) -> None:
    memory = victim.ring.guest.memory
    content = PLAIN.build(12) + frame(7)
    if victim.ring.which == TX:
        memory.write(BORDER - 20, content)
    victim.describe(HEAD, BORDER - 20, len(content), victim.flags)
    victim.offer()

    victim.expect_taken()
    if victim.ring.which == RX:
        assert victim.ring.queue.read_used_entry(GOOD) == (HEAD, len(content))
        assert memory.read(BORDER - 20 + 12, 14) == frame(0)[:14]
        assert memory.read(BORDER - 20 + 12 + 14, 8) == GOOD.to_bytes(8, "little")


def test_empty_descriptors_are_skipped(victim: Victim) -> None:
    """Wherever they point."""
    half = victim.buffer(72)
    victim.describe(HEAD, END - 1, 0, NEXT | victim.flags, HEAD + 1)
    victim.describe(HEAD + 1, half, 12, NEXT | victim.flags, HEAD + 2)
    victim.describe(HEAD + 2, HOLE, 0, NEXT | victim.flags, HEAD + 3)
    victim.describe(HEAD + 3, half + 12, 60, NEXT | victim.flags, HEAD + 4)
    victim.describe(HEAD + 4, 0, 0, victim.flags)
    victim.offer()

    victim.expect_taken()


# Direction


def test_readable_after_writable(tx: Victim) -> None:
    gpa = tx.buffer()
    tx.describe(HEAD, gpa, 50, WRITE | NEXT, HEAD + 1)
    tx.describe(HEAD + 1, gpa, 50, 0)
    tx.offer()

    tx.expect_broken("direction", HEAD, gpa, 50, 0)


def test_writable_part_of_a_transmit_chain_is_not_used(tx: Victim) -> None:
    """Legal, and useless: not even its address is looked at."""
    gpa = tx.buffer()
    tx.describe(HEAD, gpa, 72, NEXT, HEAD + 1)
    tx.describe(HEAD + 1, HOLE, 0xFFFFFFFF, WRITE)
    tx.offer()

    tx.expect_taken()


def test_transmit_chain_that_is_only_writable(tx: Victim) -> None:
    gpa = tx.buffer()
    tx.ring.guest.memory.write(gpa, b"\xee" * 100)
    tx.describe(HEAD, gpa, 100, WRITE)
    tx.offer()

    tx.expect_taken("header_truncated")
    assert tx.ring.guest.memory.read(gpa, 100) == b"\xee" * 100


@pytest.mark.parametrize("before", [0, 1], ids=["first", "after-writable"])
def test_readable_descriptor_in_a_receive_chain(rx: Victim, before: int) -> None:
    gpa = rx.buffer()
    rx.describe(HEAD, gpa, 50, WRITE | NEXT, HEAD + 1)
    rx.describe(HEAD + 1, gpa, 60, 0)
    rx.offer(HEAD + 1 - before)

    rx.expect_broken("direction", HEAD + 1 - before, gpa, 60, 0)


# Indirect tables


@pytest.mark.parametrize("length", [0, 1, 15, 17, 16 * 1025, 1 << 31, 0xFFFFFFF0, 0xFFFFFFFF])
def test_indirect_table_of_a_wrong_length(victim: Victim, length: int) -> None:
    table = victim.table([(victim.buffer(), 72, victim.flags, 0)])
    victim.describe(HEAD, table, length, INDIRECT)
    victim.offer()

    victim.expect_broken("indirect length", HEAD, table, length, INDIRECT)


def test_nested_indirect_table(victim: Victim) -> None:
    inner = victim.table([(victim.buffer(), 72, victim.flags, 0)])
    outer = victim.table([(victim.buffer(), 12, victim.flags | NEXT, 1), (inner, 16, INDIRECT, 0)])
    victim.describe(HEAD, outer, 32, INDIRECT)
    victim.offer()

    victim.expect_broken("indirect nested", HEAD, outer + 16, 1, INDIRECT)


def test_indirect_and_next(victim: Victim) -> None:
    table = victim.table([(victim.buffer(), 72, victim.flags, 0)])
    victim.describe(HEAD, table, 16, INDIRECT | NEXT, HEAD + 1)
    victim.offer()

    victim.expect_broken("indirect next", HEAD, table, 16, INDIRECT | NEXT)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(HOLE, id="in-the-hole"),
        pytest.param(END - 16, id="last-address"),
        pytest.param((1 << 32) + SMALL, id="behind-the-last-region"),
    ],
)
def test_indirect_table_not_in_memory(victim: Victim, table: int) -> None:
    victim.describe(HEAD, table, 32, INDIRECT)
    victim.offer()

    victim.expect_broken("address", HEAD, table, 16, INDIRECT)


@pytest.mark.parametrize("inside", [16, 8, 17], ids=["one-entry", "half-an-entry", "odd"])
def test_indirect_table_half_in_memory(victim: Victim, inside: int) -> None:
    table = (1 << 32) + SMALL - inside
    gpa = victim.buffer()
    row = gpa.to_bytes(8, "little") + (8).to_bytes(4, "little")
    row += (NEXT | victim.flags).to_bytes(2, "little") + (1).to_bytes(2, "little")
    victim.ring.guest.memory.write(table, row[:inside])
    victim.describe(HEAD, table, 32, INDIRECT)
    victim.offer()

    victim.expect_broken("address", HEAD, table + 16 * (inside // 16), 16, INDIRECT)


@pytest.mark.parametrize(
    "at", [BORDER - 16, BORDER - 8, BORDER - 33, BORDER - 41], ids=lambda at: str(BORDER - at)
)
def test_indirect_table_across_adjacent_regions(victim: Victim, at: int) -> None:
    gpa = victim.buffer(72)
    victim.table(
        [
            (gpa, 12, victim.flags | NEXT, 1),
            (gpa + 12, 30, victim.flags | NEXT, 2),
            (gpa + 42, 30, victim.flags, 0),
        ],
        at=at,
    )
    victim.describe(HEAD, at, 48, INDIRECT | WRITE)
    victim.offer()

    victim.expect_taken()


def test_direct_descriptors_in_front_of_a_table(victim: Victim) -> None:
    gpa = victim.buffer(72)
    table = victim.table([(gpa + 30, 42, victim.flags, 0)])
    victim.describe(HEAD, gpa, 12, victim.flags | NEXT, HEAD + 1)
    victim.describe(HEAD + 1, gpa + 12, 18, victim.flags | NEXT, HEAD + 2)
    victim.describe(HEAD + 2, table, 16, INDIRECT)
    victim.offer()

    victim.expect_taken()


def test_table_entries_in_any_order(victim: Victim) -> None:
    """`next` inside a table indexes the table, and need not go up."""
    gpa = victim.buffer(72)
    table = victim.table(
        [
            (gpa, 12, victim.flags | NEXT, 3),
            (gpa + 42, 30, victim.flags, 0),
            (HOLE, 1, INDIRECT, 77),
            (gpa + 12, 30, victim.flags | NEXT, 1),
        ]
    )
    victim.describe(HEAD, table, 64, INDIRECT)
    victim.offer()

    victim.expect_taken()


def test_table_longer_than_the_ring(victim: Victim) -> None:
    """The specification says N, drivers have come to rely on 1024."""
    gpa = victim.buffer(1024)
    table = victim.table(
        [(gpa + i, 1, victim.flags | (NEXT if i < 1023 else 0), (i + 1) % 1024) for i in range(1024)]
    )
    victim.describe(HEAD, table, 16 * 1024, INDIRECT)
    victim.offer()

    victim.expect_taken()


@pytest.mark.parametrize("following", [2, 255, 65535])
def test_next_outside_its_indirect_table(victim: Victim, following: int) -> None:
    """Though inside the ring's."""
    table = victim.table([(victim.buffer(), 12, victim.flags | NEXT, following), (0, 0, 0, 0)])
    victim.describe(HEAD, table, 32, INDIRECT)
    victim.offer()

    victim.expect_broken("next", HEAD, following, 2, victim.flags | NEXT)


@pytest.mark.parametrize("back", [0, 1], ids=["to-the-start", "to-itself"])
def test_loop_inside_an_indirect_table(victim: Victim, back: int) -> None:
    gpa = victim.buffer()
    table = victim.table([(gpa, 1, victim.flags | NEXT, 1), (gpa, 1, victim.flags | NEXT, back)])
    victim.describe(HEAD, table, 32, INDIRECT)
    victim.offer()

    victim.expect_broken("chain length", HEAD, 2)


def test_address_in_an_indirect_table_not_in_memory(victim: Victim) -> None:
    table = victim.table([(HOLE - 1, 2, victim.flags, 0)])
    victim.describe(HEAD, table, 16, INDIRECT)
    victim.offer()

    victim.expect_broken("address", HEAD, HOLE - 1, 2, victim.flags)


def test_wrong_direction_in_an_indirect_table(victim: Victim) -> None:
    gpa = victim.buffer()
    table = victim.table([(gpa, 50, WRITE | NEXT, 1), (gpa, 50, 0, 0)])
    victim.describe(HEAD, table, 32, INDIRECT)
    victim.offer()

    victim.expect_broken("direction", HEAD, gpa, 50, 0)


def test_order_of_directions_spans_chain_and_table(tx: Victim) -> None:
    gpa = tx.buffer()
    table = tx.table([(gpa, 50, 0, 0)])
    tx.describe(HEAD, gpa, 50, WRITE | NEXT, HEAD + 1)
    tx.describe(HEAD + 1, table, 16, INDIRECT)
    tx.offer()

    tx.expect_broken("direction", HEAD, gpa, 50, 0)


@pytest.mark.parametrize("which", [TX, RX], ids=["tx", "rx"])
def test_indirect_without_the_feature(bench: Bench, which: int) -> None:
    victim = make_victim(bench, which, MODERN)
    table = victim.table([(victim.buffer(), 72, victim.flags, 0)])
    victim.describe(HEAD, table, 16, INDIRECT)
    victim.offer()

    victim.expect_broken("indirect feature", HEAD, table, 16, INDIRECT)


# What a chain may cost


def table_of_nothing(ring: Ring, entries: int) -> int:
    """An indirect table that is walked to its end and holds no byte."""
    table = ring.guest.memory.alloc(16 * entries, 16)
    flags = NEXT | (WRITE if ring.which == RX else 0)
    rows = [(flags if i < entries - 1 else flags & ~NEXT).to_bytes(2, "little") for i in range(entries)]
    ring.guest.memory.write(
        table,
        b"".join(bytes(12) + row + ((i + 1) % entries).to_bytes(2, "little") for i, row in enumerate(rows)),
    )
    return table


def test_empty_descriptors_are_not_free(bench: Bench) -> None:
    """A walk over descriptors without bytes costs its sender its budget as any other does."""
    guest = bench.guest(MODERN | V.INDIRECT_DESC)
    _, tx = guest.pair(PortKind.SINK, 32768)
    table = table_of_nothing(tx, 32768)
    tx.start()
    bench.settle()
    tx.queue.write_descriptor(0, table, 16 * 32768, INDIRECT, 0)
    for _ in range(300):
        tx.queue.offer_raw(0)
    tx.kick()

    bench.turn()
    assert 1 <= tx.used_index <= 8, "300 chains of 32768 descriptors each in one turn"
    bench.settle()
    assert tx.used_index == 300
    assert tx.counters.drops == {"header_truncated": 300}


def test_empty_receive_buffers_are_not_free(bench: Bench) -> None:
    guest = bench.guest(MODERN | V.INDIRECT_DESC | V.MRG_RXBUF)
    rx, tx = guest.pair(PortKind.ECHO, 32768)
    table = table_of_nothing(rx, 32768)
    rx.start()
    tx.start()
    bench.settle()
    rx.queue.write_descriptor(0, table, 16 * 32768, INDIRECT, 0)
    for _ in range(2000):
        rx.queue.offer_raw(0)
    for number in range(64):
        tx.send(frame(number))
    tx.publish()

    bench.turn()

    assert 1 <= tx.used_index <= 8, "each of 64 frames walked 32 million descriptors"


def test_chain_in_more_pieces_than_a_burst_holds(bench: Bench) -> None:
    """Each of 32768 legal descriptors lies across a border: 65536 pieces, and 4 GiB are not even near."""
    _, tx = bench.guest(MODERN | V.INDIRECT_DESC, regions=REGIONS).pair(PortKind.SINK, 32768)
    table = tx.guest.memory.alloc(16 * 32768, 16)
    row = (BORDER - 1).to_bytes(8, "little") + (2).to_bytes(4, "little")
    rows = [(row + NEXT.to_bytes(2, "little") + i.to_bytes(2, "little")) for i in range(1, 32768)]
    tx.guest.memory.write(table, b"".join(rows) + row + bytes(4))
    tx.queue.write_descriptor(0, table, 16 * 32768, INDIRECT, 0)
    tx.start()
    bench.settle()
    tx.queue.offer_raw(0)
    tx.kick()
    bench.settle()

    [event] = bench.reported(EventKind.RING_BROKEN)
    assert ERROR_NAMES[event.error] == "pieces"
    assert tx.used_index == 0


# Broken from the start


@pytest.mark.parametrize("ahead", [SIZE + 1, 65535])
def test_avail_index_too_far_at_the_first_look(bench: Bench, ahead: int) -> None:
    _, tx = bench.guest().pair(PortKind.SINK, SIZE)
    tx.queue.write_avail_index(ahead)
    tx.start(base=7)

    bench.settle()

    [event] = bench.reported(EventKind.RING_BROKEN)
    assert (ERROR_NAMES[event.error], event.values) == ("avail index", (ahead, 0, SIZE, 7))
    assert bench.reported(EventKind.RING_STARTED) == []
    assert (tx.errors(), tx.used_index) == (1, 0)


def test_error_goes_to_the_err_fd_of_now(tx: Victim) -> None:
    newer = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        tx.ring.pair.set_err(tx.ring.which, newer)
        tx.offer(SIZE)
        assert (tx.ring.errors(), os.eventfd_read(newer)) == (0, 1)
    finally:
        tx.ring.stop()
        os.close(newer)


def test_ring_without_err_fd(tx: Victim) -> None:
    tx.ring.pair.set_err(tx.ring.which, -1)
    tx.offer(SIZE)

    assert len(tx.bench.reported(EventKind.RING_BROKEN)) == 1
    assert tx.ring.errors() == 0


def test_new_kick_fd_that_cannot_be_watched(tx: Victim) -> None:
    """The ring would never be served again: it breaks and says so, twice over."""
    with open("/proc/self/status") as file, pytest.raises(GuestError, match="the kernel refused: errno 1"):
        tx.ring.pair.set_kick(tx.ring.which, file.fileno(), is_drained=False)
    tx.bench.settle()

    [event] = tx.bench.reported(EventKind.RING_BROKEN)
    assert (ERROR_NAMES[event.error], event.values[0]) == ("system", 1)
    assert tx.ring.errors() == 1
    tx.expect_others_go_on()
