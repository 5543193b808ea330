"""The inflight region: what we keep in it, what another life left in it, and words that lie.

The other life is played by the test, which writes the region and the ring as a back-end would that completes
out of order, and died.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import struct
from collections.abc import Iterator, Sequence
from typing import cast

import pytest

from tests.datapath.rig import Bench, Chain, Ring, V, frame
from vhostuser.datapath.faults import ERROR_NAMES, explain
from vhostuser.datapath.inflight import InflightRegion, make_file
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind
from vhostuser.errors import GuestError, RequestError
from vhostuser.frontend.packed_virtqueue import PackedVirtqueue
from vhostuser.frontend.ring_position import RingPosition, build_base
from vhostuser.memory.inflight import part_bytes, region_bytes
from vhostuser.wire.payloads import Inflight

SIZE = 16
MODERN = V.VERSION_1 | V.MRG_RXBUF | V.INDIRECT_DESC
FORMATS = [
    pytest.param(MODERN, id="split-flags"),
    pytest.param(MODERN | V.EVENT_IDX, id="split-events"),
    pytest.param(MODERN | V.RING_PACKED, id="packed-flags"),
    pytest.param(MODERN | V.RING_PACKED | V.EVENT_IDX, id="packed-events"),
]
PACKED = MODERN | V.RING_PACKED
RX, TX = 0, 1

FIELDS = {
    False: {"version": (8, "H"), "desc_num": (10, "H"), "last_batch_head": (12, "H"), "used_idx": (14, "H")},
    True: {
        "version": (8, "H"),
        "desc_num": (10, "H"),
        "free_head": (12, "H"),
        "old_free_head": (14, "H"),
        "used_idx": (16, "H"),
        "old_used_idx": (18, "H"),
        "used_wrap": (20, "B"),
        "old_used_wrap": (21, "B"),
    },
}
ENTRY_FIELDS = {
    False: {"inflight": (0, "B"), "next": (6, "H"), "counter": (8, "Q")},
    True: {
        "inflight": (0, "B"),
        "next": (2, "H"),
        "last": (4, "H"),
        "num": (6, "H"),
        "counter": (8, "Q"),
        "id": (16, "H"),
        "flags": (18, "H"),
        "len": (20, "I"),
        "addr": (24, "Q"),
    },
}
"""The specification's structs once more: offset and kind of each word."""


class Kept:
    """A region in a file, as its front-end keeps it, and what it says of one ring."""

    def __init__(self, packed: bool, size: int = SIZE, rings: int = 2, fd: int | None = None) -> None:
        self.packed = packed
        self.size = size
        self.layout = Inflight(region_bytes(rings, size, packed), 0, rings, size)
        self.fd = make_file(self.layout.mmap_size) if fd is None else fd
        self.mapped = InflightRegion(os.dup(self.fd), self.layout, packed)

    def _at(self, ring: int, field: str, entry: int | None) -> tuple[int, str]:
        part = ring * part_bytes(self.size, self.packed)
        if entry is None:
            at, kind = FIELDS[self.packed][field]
            return part + at, "=" + kind
        at, kind = ENTRY_FIELDS[self.packed][field]
        head, each = (32, 32) if self.packed else (16, 16)
        return part + head + each * entry + at, "=" + kind

    def get(self, ring: int, field: str, entry: int | None = None) -> int:
        at, kind = self._at(ring, field, entry)
        (value,) = struct.unpack(kind, os.pread(self.fd, struct.calcsize(kind), at))
        return int(value)

    def put(self, ring: int, field: str, value: int, entry: int | None = None) -> None:
        at, kind = self._at(ring, field, entry)
        os.pwrite(self.fd, struct.pack(kind, value), at)

    def marked(self, ring: int) -> list[int]:
        return [entry for entry in range(self.size) if self.get(ring, "inflight", entry)]

    def begin(self, ring: int) -> None:
        """As a back-end leaves it that has done nothing yet."""
        self.put(ring, "version", 1)
        self.put(ring, "desc_num", self.size)
        if self.packed:
            self.put(ring, "used_wrap", 1)
            self.put(ring, "old_used_wrap", 1)
            for entry in range(self.size):
                self.put(ring, "next", entry + 1, entry)

    def mark(self, ring: int, entry: int, counter: int) -> None:
        self.put(ring, "inflight", 1, entry)
        self.put(ring, "counter", counter, entry)

    def close(self) -> None:
        self.mapped.close()
        os.close(self.fd)


@pytest.fixture
def split() -> Iterator[Kept]:
    kept = Kept(packed=False)
    yield kept
    kept.close()


@pytest.fixture
def packed() -> Iterator[Kept]:
    kept = Kept(packed=True)
    yield kept
    kept.close()


def sink(bench: Bench, kept: Kept, size: int = SIZE) -> Ring:
    """A transmit ring whose device has this region, not started."""
    guest = bench.guest(PACKED if kept.packed else MODERN)
    guest.device.set_inflight(kept.mapped)
    _, tx = guest.pair(PortKind.SINK, size)
    return tx


def broken_by(bench: Bench) -> list[str]:
    return [ERROR_NAMES[event.error] for event in bench.reported(EventKind.RING_BROKEN)]


def used_heads(ring: Ring, first: int, count: int) -> list[int]:
    return [ring.queue.read_used_entry(slot)[0] for slot in range(first, first + count)]


def give_back_raw(ring: Ring, heads: Sequence[int]) -> None:
    """As the other life did: used entries and index of a split ring, and nothing else."""
    memory, place = ring.guest.memory, ring.queue.place
    index = ring.queue.read_used_index()
    for head in heads:
        at = place.used + 4 + 8 * (index % ring.queue.size)
        memory.store_u32(at, head)
        memory.store_u32(at + 4, 0)
        index += 1
    memory.store_u16(place.used + 2, index & 0xFFFF)


class TestFile:
    def test_is_of_zeros_and_keeps_its_size(self) -> None:
        fd = make_file(8192)
        assert os.pread(fd, 10000, 0) == bytes(8192)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        for size in (0, 4096, 16384):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        os.close(fd)

    def test_takes_no_memory_before_it_is_used(self) -> None:
        fd = make_file(region_bytes(256, 32768, True))
        assert os.fstat(fd).st_blocks == 0
        os.close(fd)

    def test_that_the_kernel_does_not_give_is_a_refusal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(fd: int, length: int) -> None:
            raise OSError(errno.EFBIG, "File too large")

        monkeypatch.setattr(os, "ftruncate", full)
        with pytest.raises(RequestError, match="no inflight region of 0x1000 bytes: File too large"):
            make_file(4096)


class TestMapping:
    def test_of_a_short_file_is_refused_and_the_fd_closed(self) -> None:
        with pytest.raises(RequestError, match="needs a file of"):
            InflightRegion(make_file(64), Inflight(region_bytes(1, 16, False), 0, 1, 16), False)

    @pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY])
    def test_of_a_file_that_is_not_read_write_is_refused(self, flags: int) -> None:
        layout = Inflight(region_bytes(1, 16, False), 0, 1, 16)
        fd = make_file(layout.mmap_size)
        other = os.open(f"/proc/self/fd/{fd}", flags)
        with pytest.raises(RequestError, match="cannot be mapped read-write"):
            InflightRegion(other, layout, False)
        os.close(fd)

    def test_may_begin_within_a_page(self, bench: Bench) -> None:
        size = region_bytes(2, SIZE, False)
        fd = make_file(4096 + size + 64)
        region = InflightRegion(os.dup(fd), Inflight(size, 4096 + 64, 2, SIZE), False)
        guest = bench.guest(MODERN)
        guest.device.set_inflight(region)
        _, tx = guest.pair(PortKind.SINK, SIZE)
        tx.start()
        bench.settle()
        assert struct.unpack("=HH", os.pread(fd, 4, 4096 + 64 + part_bytes(SIZE, False) + 8)) == (1, SIZE)
        region.close()
        os.close(fd)


class TestKeeping:
    @pytest.mark.parametrize("features", FORMATS)
    def test_says_after_each_turn_how_far_the_ring_is_and_that_nothing_is_in_flight(
        self, bench: Bench, features: V
    ) -> None:
        rng = random.Random(int(features))
        kept = Kept(V.RING_PACKED in features)
        guest = bench.guest(features)
        guest.device.set_inflight(kept.mapped)
        rx, tx = guest.pair(PortKind.ECHO, SIZE)
        rx.start()
        tx.start()
        bench.settle()
        sent: list[bytes] = []
        came: list[bytes] = []
        for number in range(120):
            while rx.queue.outstanding < 8 and rx.add_writable(rng.choice([[2048], [12, 1600]])) is not None:
                pass
            for _ in range(rng.randint(1, 4)):
                if tx.queue.free_descriptors and rx.queue.outstanding > len(sent) - len(came):
                    sent.append(frame(number, rng.choice([60, 1000])))
                    tx.send(sent[-1], indirect=rng.random() < 0.3)
            rx.publish()
            tx.publish()
            bench.settle()
            came += [content for _, content in rx.receive()]
            tx.take()
            for ring in (rx, tx):
                self.assert_kept(kept, ring)
        assert came == sent
        assert len(came) > 150
        kept.close()

    @staticmethod
    def assert_kept(kept: Kept, ring: Ring) -> None:
        index = ring.which
        assert kept.get(index, "version") == 1
        assert kept.get(index, "desc_num") == kept.size
        assert kept.marked(index) == []
        if not kept.packed:
            assert kept.get(index, "used_idx") == ring.used_index
            return
        position = cast(PackedVirtqueue[Chain], ring.queue).used_position
        for slot, wrap in (("used_idx", "used_wrap"), ("old_used_idx", "old_used_wrap")):
            assert RingPosition(kept.get(index, slot), bool(kept.get(index, wrap))) == position
        free, entries = kept.get(index, "free_head"), set()
        assert kept.get(index, "old_free_head") == free
        while free < kept.size:
            entries.add(free)
            free = kept.get(index, "next", free)
        assert entries == set(range(kept.size)), "every entry is in the free list"

    def test_rings_beyond_the_region_run_without(self, bench: Bench) -> None:
        kept = Kept(packed=False, rings=1)
        tx = sink(bench, kept)
        tx.start()
        tx.send(frame(1))
        tx.publish()
        bench.settle()
        assert len(tx.take()) == 1
        kept.close()

    @pytest.mark.parametrize("features", [MODERN, PACKED], ids=["split", "packed"])
    def test_ring_with_more_entries_than_the_region_has_does_not_start(
        self, bench: Bench, features: V
    ) -> None:
        kept = Kept(V.RING_PACKED in features, size=8)
        tx = sink(bench, kept)
        with pytest.raises(GuestError, match=r"for rings of 8 entries, has no room .* it has 16 entries"):
            tx.start()
        kept.close()

    def test_region_made_for_split_rings_has_no_room_for_packed_ones(self, bench: Bench) -> None:
        kept = Kept(packed=False)
        guest = bench.guest(PACKED)
        guest.device.set_inflight(kept.mapped)
        _, tx = guest.pair(PortKind.SINK, SIZE)
        with pytest.raises(GuestError, match="has no room for this one"):
            tx.start()
        kept.close()


class TestSplitRecovery:
    def test_chains_of_another_life_are_served_first_in_its_order_and_once(
        self, bench: Bench, split: Kept
    ) -> None:
        tx = sink(bench, split)
        heads = [tx.send(frame(number)) for number in range(4)]
        tx.publish()
        # It took three, and gave the second back, which now stands where the first was promised.
        give_back_raw(tx, [heads[1]])
        split.begin(TX)
        split.put(TX, "used_idx", 1)
        split.mark(TX, heads[0], counter=9)
        split.mark(TX, heads[2], counter=5)
        tx.start(base=3)
        bench.settle()

        assert used_heads(tx, 1, 3) == [heads[2], heads[0], heads[3]]
        assert len(tx.take()) == 4
        assert split.marked(TX) == []
        assert split.get(TX, "used_idx") == 4
        assert tx.counters.bases_corrected == 0
        (event,) = bench.reported(EventKind.RING_STARTED)
        assert event.values == (1, 1, 1, 4 | 2 << 32)

    def test_batch_that_was_published_is_not_served_again(self, bench: Bench, split: Kept) -> None:
        tx = sink(bench, split)
        heads = [tx.send(frame(number)) for number in range(4)]
        tx.publish()
        # Killed between used->idx and the marks: of three in flight the last two were given back.
        give_back_raw(tx, [heads[1], heads[2]])
        split.begin(TX)
        for counter, head in enumerate(heads[:3]):
            split.mark(TX, head, counter)
        split.put(TX, "next", heads[1], heads[2])
        split.put(TX, "last_batch_head", heads[2])
        tx.start()
        bench.settle()

        assert used_heads(tx, 2, 2) == [heads[0], heads[3]]
        assert len(tx.take()) == 4

    def test_killed_while_it_serves_them_again_the_list_of_the_batch_is_right(
        self, bench: Bench, split: Kept
    ) -> None:
        tx = sink(bench, split)
        heads = [tx.send(frame(number)) for number in range(3)]
        tx.publish()
        split.begin(TX)
        split.mark(TX, heads[0], 1)
        split.mark(TX, heads[1], 2)
        tx.start()
        bench.settle()

        assert split.get(TX, "last_batch_head") == heads[2]
        assert [split.get(TX, "next", head) for head in heads[:0:-1]] == heads[1::-1]

    def test_receive_chains_stay_marked_until_a_frame_comes_and_across_a_stop(
        self, bench: Bench, split: Kept
    ) -> None:
        guest = bench.guest(MODERN)
        guest.device.set_inflight(split.mapped)
        rx, tx = guest.pair(PortKind.ECHO, SIZE)
        heads = [rx.add_writable([2048]) for _ in range(4)]
        rx.publish()
        split.begin(RX)
        assert heads[0] is not None
        assert heads[1] is not None
        split.mark(RX, heads[1], 1)
        split.mark(RX, heads[0], 2)
        rx.start()
        tx.start()
        tx.send(frame(1))
        tx.publish()
        bench.settle()
        assert used_heads(rx, 0, 1) == [heads[1]]
        assert split.marked(RX) == [heads[0]]

        assert rx.stop() == 2, "what the driver has made available and nobody took"
        rx.start(base=2)
        tx.send(frame(2))
        tx.publish()
        bench.settle()

        assert used_heads(rx, 1, 1) == [heads[0]]
        assert [content for _, content in rx.receive()] == [frame(1), frame(2)]
        assert rx.counters.bases_corrected == 0

    def test_region_of_an_earlier_ring_means_nothing(self, bench: Bench, split: Kept) -> None:
        tx = sink(bench, split)
        split.begin(TX)
        split.put(TX, "used_idx", 5000)
        tx.start()
        tx.send(frame(1))
        tx.publish()
        bench.settle()
        assert len(tx.take()) == 1
        assert split.get(TX, "used_idx") == 1

    @pytest.mark.parametrize(
        ("field", "entry", "value", "words"),
        [
            ("version", None, 2, "holds 2 at byte 8"),
            ("version", None, 0xFFFF, "holds 65535 at byte 8"),
            ("desc_num", None, 0, "holds 0 at byte 10"),
            ("desc_num", None, SIZE + 1, "holds 17 at byte 10 of this ring's part, where at most 16"),
            ("last_batch_head", None, SIZE, "holds 16 at byte 12"),
            ("last_batch_head", None, 0xFFFF, "holds 65535 at byte 12"),
            ("next", 0, SIZE, "holds 16 at byte 22"),
            ("next", 0, 0xFFFF, "holds 65535 at byte 22"),
            ("used_idx", None, 5000, "at byte 14"),
        ],
    )
    def test_word_that_cannot_be_breaks_the_ring(
        self, bench: Bench, split: Kept, field: str, entry: int | None, value: int, words: str
    ) -> None:
        tx = sink(bench, split)
        heads = [tx.send(frame(number)) for number in range(3)]
        tx.publish()
        give_back_raw(tx, heads[:2])
        split.begin(TX)
        split.mark(TX, heads[2], 1)
        split.put(TX, field, value, entry)
        tx.start()
        bench.settle()

        assert broken_by(bench) == ["inflight"]
        (event,) = bench.reported(EventKind.RING_BROKEN)
        assert words in explain(event.error, event.values)
        assert tx.used_index == 2, "nothing was given back"
        assert tx.errors() == 1

    def test_more_marks_than_chains_that_wait_break_the_ring(self, bench: Bench, split: Kept) -> None:
        tx = sink(bench, split)
        tx.send(frame(1))
        tx.publish()
        split.begin(TX)
        split.mark(TX, 0, 1)
        split.mark(TX, 7, 2)
        tx.start()
        bench.settle()
        assert broken_by(bench) == ["inflight"]

    def test_mark_beyond_the_ring_breaks_it(self, bench: Bench) -> None:
        kept = Kept(packed=False, size=64)
        tx = sink(bench, kept)
        tx.send(frame(1))
        tx.publish()
        kept.begin(TX)
        kept.mark(TX, 40, 1)
        tx.start()
        bench.settle()
        assert broken_by(bench) == ["inflight"]
        kept.close()


class OtherPacked:
    """Another back-end on a packed ring: takes chains, and gives them back in any order."""

    def __init__(self, ring: Ring, kept: Kept) -> None:
        self.ring, self.kept = ring, kept
        self.queue = cast(PackedVirtqueue[Chain], ring.queue)
        self.avail = self.used = RingPosition(0, True)
        self.free = list(range(kept.size))
        self.taken = 0
        kept.begin(TX)

    def take(self, slots: int) -> tuple[list[int], int]:
        """The entries of the next chain, and its buffer's id."""
        entries = []
        for number in range(slots):
            found = self.queue.read_descriptor(self.avail.slot)
            entry = self.free.pop(0)
            entries.append(entry)
            values = {"addr": found.gpa, "len": found.length, "flags": found.flags, "id": found.buffer_id}
            for field, value in values.items():
                self.kept.put(TX, field, value, entry)
            if number == 0:
                self.kept.mark(TX, entry, self.taken)
            self.avail = self.avail.moved(1, self.queue.size)
        self.kept.put(TX, "num", slots, entries[0])
        self.kept.put(TX, "last", entries[-1], entries[0])
        self.taken += 1
        self.say_free()
        return entries, found.buffer_id

    def say_free(self) -> None:
        for name in ("free_head", "old_free_head"):
            self.kept.put(TX, name, self.free[0] if self.free else self.kept.size)

    def give_back(self, entries: list[int], buffer_id: int) -> None:
        """Where the used position is, whatever chain stood there."""
        flags = 0x8080 if self.used.wrap else 0
        self.queue.write_descriptor(self.used.slot, 0, 0, buffer_id, flags)
        self.used = self.used.moved(len(entries), self.queue.size)
        self.kept.put(TX, "inflight", 0, entries[0])
        self.kept.put(TX, "next", self.free[0] if self.free else self.kept.size, entries[-1])
        self.free = entries + self.free
        self.say_free()
        self.say_place(self.used, self.used)

    def say_place(self, new: RingPosition, old: RingPosition) -> None:
        words = {"used_idx": new.slot, "used_wrap": int(new.wrap)}
        words |= {"old_used_idx": old.slot, "old_used_wrap": int(old.wrap)}
        for name, value in words.items():
            self.kept.put(TX, name, value)


class TestPackedRecovery:
    def send(self, tx: Ring, count: int, pieces: Sequence[int] = (12, 60)) -> None:
        for number in range(count):
            tx.send(frame(number), pieces=pieces)
        tx.publish()

    def test_chains_of_another_life_are_served_first_from_their_copies(
        self, bench: Bench, packed: Kept
    ) -> None:
        tx = sink(bench, packed)
        self.send(tx, 4)
        other = OtherPacked(tx, packed)
        first, second, third = (other.take(2) for _ in range(3))
        other.give_back(*second)  # where the first one stood
        base = build_base(other.avail, other.used)
        tx.start(base=base)
        bench.settle()

        given_back = [chain.head for chain in tx.take()]
        assert given_back == [second[1], first[1], third[1], 3]
        assert tx.counters.packets == 3, "each a whole frame"
        assert tx.counters.drops == {}
        assert tx.counters.bases_corrected == 0
        assert packed.marked(TX) == []
        TestKeeping.assert_kept(packed, tx)
        (event,) = bench.reported(EventKind.RING_STARTED)
        assert event.values[3] >> 32 == 2

    @pytest.mark.parametrize("pieces", [(72,), (12, 60), (12, 30, 30)])
    def test_region_is_the_memory_of_the_position(
        self, bench: Bench, packed: Kept, pieces: tuple[int, ...]
    ) -> None:
        tx = sink(bench, packed)
        tx.start()
        for lap in range(5):
            self.send(tx, 4, pieces)
            bench.settle()
            assert len(tx.take()) == 4
            tx.stop()
            self.send(tx, 1, pieces)
            # The base of the last clean stop, as QEMU gives it after a loss.
            tx.start(base=0x80008000)
            bench.settle()
            assert len(tx.take()) == 1
            assert tx.counters.bases_corrected == lap + 1
        assert broken_by(bench) == []

    def test_update_that_was_published_is_carried_out(self, bench: Bench, packed: Kept) -> None:
        tx = sink(bench, packed)
        self.send(tx, 3)
        other = OtherPacked(tx, packed)
        other.give_back(*other.take(2))
        other.say_place(other.used, RingPosition(0, True))
        tx.start(base=0x80008000)
        bench.settle()
        assert len(tx.take()) == 3
        assert tx.counters.packets == 2

    def test_update_that_was_not_published_is_taken_back(self, bench: Bench, packed: Kept) -> None:
        tx = sink(bench, packed)
        self.send(tx, 3)
        other = OtherPacked(tx, packed)
        other.say_place(RingPosition(2, True), RingPosition(0, True))
        tx.start(base=0x80008000)
        bench.settle()
        assert len(tx.take()) == 3
        assert tx.counters.packets == 3

    def test_region_of_an_earlier_ring_gives_way_to_the_base(self, bench: Bench, packed: Kept) -> None:
        tx = sink(bench, packed)
        OtherPacked(tx, packed).say_place(RingPosition(5, True), RingPosition(5, True))
        self.send(tx, 2)
        tx.start(base=0x80008000)
        bench.settle()
        assert len(tx.take()) == 2
        TestKeeping.assert_kept(packed, tx)

    def test_without_a_place_that_the_ring_allows_it_does_not_start(self, bench: Bench, packed: Kept) -> None:
        tx = sink(bench, packed)
        tx.start()
        self.send(tx, 3)
        bench.settle()
        tx.stop()
        packed.put(TX, "version", 0)
        tx.start(base=0x80008000)
        bench.settle()
        assert broken_by(bench) == ["base"]

    @pytest.mark.parametrize(
        ("field", "entry", "value"),
        [
            ("version", None, 2),
            ("desc_num", None, 0),
            ("desc_num", None, SIZE + 1),
            ("used_idx", None, SIZE),
            ("old_used_idx", None, SIZE),
            ("used_wrap", None, 2),
            ("old_used_wrap", None, 0xFF),
            ("old_free_head", None, SIZE + 1),
            ("next", SIZE - 1, SIZE + 1),
            ("next", SIZE - 1, 2),
            ("num", 0, 0),
            ("num", 0, SIZE + 1),
            ("next", 0, SIZE),
            ("next", 0, 0xFFFF),
        ],
    )
    def test_word_that_cannot_be_breaks_the_ring(
        self, bench: Bench, packed: Kept, field: str, entry: int | None, value: int
    ) -> None:
        tx = sink(bench, packed)
        self.send(tx, 2)
        OtherPacked(tx, packed).take(2)
        packed.put(TX, field, value, entry)
        tx.start(base=build_base(RingPosition(2, True), RingPosition(0, True)))
        bench.settle()

        assert broken_by(bench) == ["inflight"]
        assert tx.take() == []
        assert tx.errors() == 1

    def test_marks_of_more_slots_than_the_ring_has_break_it(self, bench: Bench, packed: Kept) -> None:
        tx = sink(bench, packed)
        self.send(tx, 2)
        other = OtherPacked(tx, packed)
        other.take(2)
        other.take(2)
        for entry in (0, 2):
            packed.put(TX, "num", 9, entry)
        tx.start(base=build_base(RingPosition(4, True), RingPosition(0, True)))
        bench.settle()
        assert broken_by(bench) == ["inflight"]

    @pytest.mark.parametrize("address", [1 << 40, (1 << 64) - 1])
    def test_copy_of_a_descriptor_is_checked_like_a_descriptor(
        self, bench: Bench, packed: Kept, address: int
    ) -> None:
        tx = sink(bench, packed)
        self.send(tx, 1)
        OtherPacked(tx, packed).take(2)
        packed.put(TX, "addr", address, 1)
        tx.start(base=build_base(RingPosition(2, True), RingPosition(0, True)))
        bench.settle()
        assert broken_by(bench) == ["address"]


@pytest.mark.parametrize("is_packed", [False, True], ids=["split", "packed"])
def test_region_of_any_bytes_costs_its_ring_at_most(bench: Bench, is_packed: bool) -> None:
    rng = random.Random(7)
    for _ in range(150):
        kept = Kept(is_packed)
        guest = bench.guest(PACKED if is_packed else MODERN, size=1 << 20)
        guest.device.set_inflight(kept.mapped)
        _, tx = guest.pair(PortKind.SINK, SIZE)
        for number in range(6):
            tx.send(frame(number), pieces=[12, 60])
        tx.publish()
        kept.begin(TX)
        for _ in range(rng.randint(1, 40)):
            entry = rng.choice([None, rng.randrange(SIZE)])
            fields = FIELDS[is_packed] if entry is None else ENTRY_FIELDS[is_packed]
            field = rng.choice(sorted(fields))
            if field not in ("version", "desc_num"):
                kept.put(TX, field, rng.choice([0, 1, 2, 3, 8, SIZE - 1, SIZE, SIZE + 1, 255]), entry)
        tx.start(base=0x80008000 if is_packed else 0)
        bench.settle()
        started, broken = bench.reported(EventKind.RING_STARTED), bench.reported(EventKind.RING_BROKEN)
        assert started or broken
        bench.events.clear()
        guest.close()
        kept.close()


@pytest.mark.parametrize("is_packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("when", ["before the start", "in traffic"])
def test_region_that_vanishes_faults_its_device_and_no_other(
    bench: Bench, is_packed: bool, when: str
) -> None:
    fd = os.memfd_create("unsealed")
    os.ftruncate(fd, region_bytes(2, SIZE, is_packed))
    kept = Kept(is_packed, fd=fd)
    tx = sink(bench, kept)
    _, other = bench.guest(MODERN).pair(PortKind.SINK, SIZE)
    other.start()
    if when == "in traffic":
        tx.start()
        bench.settle()
    os.ftruncate(fd, 0)
    if when != "in traffic":
        tx.start()
    for ring in (tx, other):
        ring.send(frame(1))
        ring.publish()
        ring.kick()
    bench.settle()

    (event,) = bench.reported(EventKind.DEVICE_FAULTED)
    assert ERROR_NAMES[event.error] == "inflight fault"
    assert tx.guest.device.is_faulted
    assert len(other.take()) == 1
    kept.close()
