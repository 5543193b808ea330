"""The driver's packed ring against a device that moves in lock-step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.lockstep import Fetched
from tests.frontend.packed_lockstep import AVAIL, INDIRECT, NEXT, USED, WRITE, PackedLockstepDevice
from vhostuser.errors import PeerError
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.packed_virtqueue import EventFlag, PackedDescriptor, PackedVirtqueue
from vhostuser.frontend.ring_position import FIRST, RingPosition, build_base
from vhostuser.frontend.virtqueue_base import RingPlace, Segment

Queue = PackedVirtqueue[str]

STARTS = [FIRST, RingPosition(0, False), RingPosition(6, True), RingPosition(6, False)]


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(4 << 20) as memory:
        yield memory


def pair_up(
    memory: GuestMemory,
    size: int = 7,
    *,
    event_idx: bool = False,
    in_order: bool = False,
    start: RingPosition = FIRST,
) -> tuple[Queue, PackedLockstepDevice]:
    queue = Queue(memory, size, event_idx=event_idx, in_order=in_order, start=start)
    base = build_base(start, start)
    return queue, PackedLockstepDevice(memory, size, queue.place, event_idx=event_idx, base=base)


def text(memory: GuestMemory, content: bytes) -> Segment:
    gpa = memory.alloc(max(len(content), 1))
    memory.write(gpa, content)
    return Segment(gpa, len(content))


def lend(queue: Queue, *tokens: str, segments: int = 1) -> None:
    """A published chain of 16 writable bytes in each segment for each token."""
    for token in tokens:
        assert queue.add([], [Segment(0x1000, 16)] * segments, token) is not None
    queue.publish()


def give_back(device: PackedLockstepDevice, chain: Fetched, length: int = 0) -> None:
    device.push(chain.head, length)
    device.publish()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("pieces", [[b"whole"], [b"a", b"", b"bc"], [b"%d" % n for n in range(7)]])
def test_readable_chain_of_any_layout_reaches_the_device_whole(
    memory: GuestMemory, pieces: list[bytes], indirect: bool, start: RingPosition
) -> None:
    queue, device = pair_up(memory, start=start)
    head = queue.add([text(memory, piece) for piece in pieces], [], "frame", indirect=indirect)
    queue.publish()
    chain = device.fetch()
    assert chain is not None
    assert chain.head == head
    assert device.read(chain) == b"".join(pieces)
    assert chain.writable == []
    assert queue.free_descriptors == 7 - (1 if indirect else len(pieces))


@pytest.mark.parametrize("start", STARTS)
def test_chain_around_the_end_changes_the_wrap_counter_in_the_middle(
    memory: GuestMemory, start: RingPosition
) -> None:
    queue, device = pair_up(memory, start=start)
    for turn in range(30):
        space = memory.alloc(64)
        queue.add([text(memory, b"ask")], [Segment(space, 16), Segment(space + 16, 48)], f"{turn}")
        queue.publish()
        chain = device.fetch()
        assert chain is not None
        assert device.read(chain) == b"ask"
        give_back(device, chain, device.fill(chain, b"x" * 40))
        (used,) = queue.take_used()
        assert (used.token, used.length, queue.outstanding) == (f"{turn}", 40, 0)
        assert memory.read(space, 40) == b"x" * 40
    assert device.fetch() is None
    assert queue.used_position == queue.avail_position
    assert queue.device_base() == device.base()


def test_batch_is_invisible_until_published_and_its_first_head_comes_last(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, device = pair_up(memory)
    stores: list[int] = []
    first_flags = queue.place.desc + 14
    store = memory.store_u16

    def recorded(gpa: int, value: int) -> None:
        stores.append(gpa)
        store(gpa, value)

    monkeypatch.setattr(memory, "store_u16", recorded)
    queue.add([text(memory, b"a")] * 2, [], "first")
    queue.add([text(memory, b"b")] * 2, [], "second")
    assert device.fetch() is None
    assert first_flags not in stores
    queue.publish()
    assert stores[-1] == first_flags
    assert len(device.fetch_all()) == 2


def test_id_stands_in_the_last_descriptor_of_a_chain(memory: GuestMemory) -> None:
    queue, _ = pair_up(memory)
    lend(queue, "first")
    lend(queue, "second", segments=3)
    rows = [queue.read_descriptor(slot) for slot in range(4)]
    assert [row.buffer_id for row in rows] == [0, 0, 0, 1]
    assert [row.flags for row in rows] == [
        WRITE | AVAIL,
        WRITE | NEXT | AVAIL,
        WRITE | NEXT | AVAIL,
        WRITE | AVAIL,
    ]


def test_indirect_table_says_write_and_nothing_else(memory: GuestMemory) -> None:
    queue, _ = pair_up(memory)
    queue.add([Segment(0x1000, 1)], [Segment(0x2000, 2), Segment(0x3000, 3)], "frame", indirect=True)
    queue.publish()
    row = queue.read_descriptor(0)
    assert (row.length, row.flags) == (48, INDIRECT | AVAIL)
    assert [memory.load_u16(row.gpa + 16 * entry + 14) for entry in range(3)] == [0, WRITE, WRITE]
    assert [memory.load_u16(row.gpa + 16 * entry + 12) for entry in range(3)] == [0, 0, 0]


def test_add_without_room_gives_none_and_changes_nothing(memory: GuestMemory) -> None:
    queue, device = pair_up(memory, 5)
    piece = text(memory, b"x")
    assert queue.add([piece] * 3, [], "first") == 0
    assert queue.add([piece] * 3, [], "second") is None
    assert (queue.outstanding, queue.free_descriptors) == (1, 2)
    queue.publish()
    assert len(device.fetch_all()) == 1


@pytest.mark.parametrize("size", [0, 32769])
def test_impossible_size_is_refused(memory: GuestMemory, size: int) -> None:
    with pytest.raises(ValueError, match=str(size)):
        Queue(memory, size)


def test_start_outside_the_ring_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(ValueError, match="no slot 7"):
        Queue(memory, 7, start=RingPosition(7, True))


@pytest.mark.parametrize("size", [1, 2, 3, 32768])
def test_ring_of_any_size_fills_up_and_drains(memory: GuestMemory, size: int) -> None:
    queue, device = pair_up(memory, size)
    for _ in range(3):
        while queue.add([], [Segment(0x1000, 16)], "buffer") is not None:
            pass
        queue.publish()
        assert queue.outstanding == size
        for chain in device.fetch_all():
            device.push(chain.head, 5)
        device.publish()
        assert len(queue.take_used()) == size
    assert device.base() == queue.device_base() == build_base(*[RingPosition(0, False)] * 2)


def test_chains_come_back_out_of_order(memory: GuestMemory) -> None:
    queue, device = pair_up(memory)
    lend(queue, "a", segments=3)
    lend(queue, "b", "c")
    a, b, c = device.fetch_all()
    for chain in (c, a, b):
        give_back(device, chain)
    assert [used.token for used in queue.take_used()] == ["c", "a", "b"]
    assert queue.used_position == RingPosition(5, True)


def test_in_order_batch_of_one_descriptor_gives_back_every_chain(memory: GuestMemory) -> None:
    queue, device = pair_up(memory, in_order=True)
    for _ in range(5):
        lend(queue, "a", "b", segments=2)
        lend(queue, "c", "d")
        heads = [chain.head for chain in device.fetch_all()]
        device.push(heads[2], 7, covers=3)
        device.push(heads[3], 9)
        device.publish()
        assert [(used.token, used.length) for used in queue.take_used()] == [
            ("a", 0),
            ("b", 0),
            ("c", 7),
            ("d", 9),
        ]
    assert queue.device_base() == device.base()


def test_in_order_ids_go_around(memory: GuestMemory) -> None:
    queue, device = pair_up(memory, 3, in_order=True)
    heads = []
    for _ in range(7):
        heads.append(queue.add([text(memory, b"x")], [], "frame"))
        queue.publish()
        chain = device.fetch()
        assert chain is not None
        give_back(device, chain)
        queue.take_used()
    assert heads == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("used", "message"),
    [
        (PackedDescriptor(0, 0, 6, AVAIL | USED), "buffer 6, not in flight"),
        (PackedDescriptor(0, 0, 0xFFFF, AVAIL | USED), "buffer 65535, not in flight"),
        (PackedDescriptor(0, 33, 0, AVAIL | USED | WRITE), "33 bytes written into 32"),
        (PackedDescriptor(0, 0, 0, 0), "flags 0x0000 with wrap counter 1"),
        (PackedDescriptor(0, 0, 0, USED), "flags 0x8000 with wrap counter 1"),
    ],
    ids=["id", "id-beyond", "length", "old-wrap", "never"],
)
def test_used_descriptor_that_cannot_be_is_a_fault_of_the_peer(
    memory: GuestMemory, used: PackedDescriptor, message: str
) -> None:
    queue, _ = pair_up(memory)
    lend(queue, "a", segments=2)
    queue.write_descriptor(0, used.gpa, used.length, used.buffer_id, used.flags)
    with pytest.raises(PeerError, match=message):
        queue.take_used()


@pytest.mark.parametrize("left", [0, NEXT, INDIRECT])
def test_regression_used_descriptor_keeps_what_the_driver_wrote(memory: GuestMemory, left: int) -> None:
    """DPDK 22.11 gives sent chains back with the length and the NEXT of their first descriptor."""
    queue, _ = pair_up(memory)
    queue.add([Segment(0x1000, 12), Segment(0x2000, 60)], [], "sent")
    queue.publish()
    queue.write_descriptor(0, 0x1000, 12, 0, AVAIL | USED | left)
    assert [(used.token, used.length) for used in queue.take_used()] == [("sent", 0)]


def test_chain_that_was_not_published_cannot_come_back(memory: GuestMemory) -> None:
    queue, device = pair_up(memory)
    lend(queue, "a")
    queue.add([], [Segment(0x1000, 16)], "b")
    device.fetch()
    device.push(1, 0)
    device.publish()
    with pytest.raises(PeerError, match="buffer 1, not in flight"):
        queue.take_used()


def test_what_lies_in_an_idle_ring_is_not_looked_at(memory: GuestMemory) -> None:
    queue, _ = pair_up(memory)
    queue.write_descriptor(0, 0, 0, 0, AVAIL | USED)
    assert queue.take_used() == []
    assert not queue.enable_calls()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("event_idx", [False, True])
def test_kick_is_needed_only_when_the_device_sleeps(
    memory: GuestMemory, event_idx: bool, start: RingPosition
) -> None:
    queue, device = pair_up(memory, event_idx=event_idx, start=start)
    for _ in range(6):
        device.sleep()
        lend(queue, "first")
        assert queue.needs_kick()
        assert not queue.needs_kick(), "nothing was published since"
        device.fetch_all()
        device.poll()
        lend(queue, "second", "third")
        assert not queue.needs_kick()
        for _ in range(3):
            device.fetch()
        device.sleep()
        lend(queue, "fourth", segments=2)
        assert queue.needs_kick()
        device.fetch_all()
        for buffer_id, _ in list(device.fetched):
            device.push(buffer_id, 0)
        device.publish()
        assert len(queue.take_used()) == 4


@given(
    size=st.integers(1, 12),
    start=st.integers(0, 11),
    wrap=st.booleans(),
    step=st.integers(1, 12),
    data=st.data(),
)
def test_kick_by_position_is_needed_when_that_descriptor_was_published(
    size: int, start: int, wrap: bool, step: int, data: st.DataObject
) -> None:
    """The event lies a number of descriptors behind or ahead of where the driver was."""
    ahead = data.draw(st.integers(-size, size - 1))
    step = min(step, size)
    with GuestMemory(1 << 20) as memory:
        queue, device = pair_up(memory, size, event_idx=True, start=RingPosition(start % size, wrap))
        memory.store_u32(queue.place.used, device.word_of(device.avail + ahead) | EventFlag.DESC << 16)
        lend(queue, "frame", segments=step)
        assert queue.needs_kick() == (0 <= ahead < step)


@pytest.mark.parametrize(
    ("event_idx", "word", "message"),
    [(False, 2 << 16, "flags 2"), (True, 3 << 16, "flags 3"), (True, 2 << 16 | 7, "slot=7.* of 7")],
)
def test_device_event_that_cannot_be_is_a_fault_of_the_peer(
    memory: GuestMemory, event_idx: bool, word: int, message: str
) -> None:
    queue, _ = pair_up(memory, event_idx=event_idx)
    memory.store_u32(queue.place.used, word)
    lend(queue, "frame")
    with pytest.raises(PeerError, match=message):
        queue.needs_kick()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("event_idx", [False, True])
def test_call_is_wanted_only_while_enabled(memory: GuestMemory, event_idx: bool, start: RingPosition) -> None:
    queue, device = pair_up(memory, event_idx=event_idx, start=start)

    def serve_one() -> bool:
        lend(queue, "frame", segments=2)
        chain = device.fetch()
        assert chain is not None
        give_back(device, chain)
        return device.wants_call()

    for _ in range(5):
        assert not queue.enable_calls()
        assert serve_one()
        queue.take_used()
        queue.disable_calls()
        assert not serve_one()
        assert queue.enable_calls(), "a chain came while calls were off"
        queue.take_used()
        assert not queue.enable_calls()
        assert serve_one()
        queue.take_used()


def test_event_areas_are_written_and_read_whole(memory: GuestMemory) -> None:
    queue, _ = pair_up(memory, event_idx=True, start=RingPosition(5, True))
    queue.enable_calls()
    assert memory.load_u32(queue.place.avail) == 0x8005 | 2 << 16
    queue.disable_calls()
    assert memory.load_u32(queue.place.avail) == 0x8005 | 1 << 16
    memory.store_u32(queue.place.used, 3 | 2 << 16)
    assert queue.read_device_event() == (RingPosition(3, False), EventFlag.DESC)


def test_fences_stand_before_publish_and_kick_and_after_the_flags(memory: GuestMemory) -> None:
    fences: list[int] = []
    queue = Queue(memory, 7, fence=lambda: fences.append(1))
    device = PackedLockstepDevice(memory, 7, queue.place)
    queue.add([text(memory, b"x")], [], "frame")
    chain = None
    for action in (queue.publish, queue.needs_kick, queue.enable_calls, queue.take_used):
        if action == queue.take_used:
            chain = device.fetch()
            assert chain is not None
            give_back(device, chain)
        before = len(fences)
        action()
        assert len(fences) == before + 1


def test_ring_can_be_placed_anywhere(memory: GuestMemory) -> None:
    space = memory.alloc(4096, 4096)
    place = RingPlace(desc=space + 16, avail=space + 512 + 4, used=space + 1024 + 8)
    queue = Queue(memory, 7, place=place)
    device = PackedLockstepDevice(memory, 7, place)
    queue.add([text(memory, b"here")], [], "frame")
    queue.publish()
    chain = device.fetch()
    assert chain is not None
    assert device.read(chain) == b"here"
    assert queue.user_place.avail == memory.user_address(place.avail)


@pytest.mark.parametrize("start", STARTS)
def test_reset_forgets_chains_and_begins_again_at_the_start(memory: GuestMemory, start: RingPosition) -> None:
    queue, device = pair_up(memory, start=start)
    fresh = memory.read(queue.place.desc, 7 * 16)
    lend(queue, "a", "b", segments=3)
    for chain in device.fetch_all():
        give_back(device, chain)
    queue.enable_calls()
    queue.reset()
    assert (queue.outstanding, queue.free_descriptors, queue.used_position) == (0, 7, start)
    assert memory.read(queue.place.desc, 7 * 16) == fresh
    assert memory.load_u32(queue.place.avail) == 0
    assert queue.device_base() == build_base(start, start)


def test_ring_at_a_start_looks_used_up_to_there(memory: GuestMemory) -> None:
    """What a back-end may check a base against."""
    old, device = pair_up(memory)
    for _ in range(11):
        lend(old, "frame")
        give_back(device, device.fetch_all()[0])
        old.take_used()
    new, _ = pair_up(memory, start=RingPosition(4, False))
    assert [new.read_flags(slot) for slot in range(7)] == [old.read_flags(slot) for slot in range(7)]


def test_device_base_is_behind_what_was_used_and_not_taken(memory: GuestMemory) -> None:
    queue, device = pair_up(memory)
    lend(queue, "a", segments=2)
    lend(queue, "b", "c", segments=2)
    a, b, _ = device.fetch_all()
    give_back(device, b)
    give_back(device, a)
    at = RingPosition(4, True)
    assert queue.device_base() == build_base(at, at)
    queue.take_used()
    assert queue.device_base() == build_base(at, at)


def test_device_base_follows_an_in_order_batch(memory: GuestMemory) -> None:
    queue, device = pair_up(memory, in_order=True)
    lend(queue, "a", "b", "c", segments=2)
    _, b, _ = device.fetch_all()
    device.push(b.head, 0, covers=2)
    device.publish()
    assert queue.device_base() == build_base(*[RingPosition(4, True)] * 2)
    assert len(queue.take_used()) == 2


def test_raw_chain_is_made_available_and_no_book_kept_of_it(memory: GuestMemory) -> None:
    queue, device = pair_up(memory, 3, start=RingPosition(2, True))
    queue.offer_raw(
        PackedDescriptor(0xFFFF_FFFF_FFFF_FFF0, 0xFFFF_FFFF, 4711, NEXT), PackedDescriptor(1, 2, 3, WRITE)
    )
    assert queue.read_descriptor(2) == PackedDescriptor(
        0xFFFF_FFFF_FFFF_FFF0, 0xFFFF_FFFF, 4711, NEXT | AVAIL
    )
    assert queue.read_descriptor(0) == PackedDescriptor(1, 2, 3, WRITE | USED)
    assert queue.outstanding == 0
    assert queue.needs_kick()
    chain = device.fetch()
    assert chain is not None
    assert chain.head == 3
    give_back(device, chain, 2)
    assert queue.take_used() == []
    used = queue.read_used(RingPosition(2, True))
    assert used is not None
    assert (used.buffer_id, used.length, used.flags) == (3, 2, AVAIL | USED | WRITE)


@settings(max_examples=150)
@given(
    size=st.integers(1, 20),
    start=st.integers(0, 19),
    wrap=st.booleans(),
    event_idx=st.booleans(),
    in_order=st.booleans(),
    data=st.data(),
)
def test_any_traffic_arrives_and_comes_back(
    size: int, start: int, wrap: bool, event_idx: bool, in_order: bool, data: st.DataObject
) -> None:
    """Chains of all kinds, in batches, given back in any order the features allow; both sides sleep."""
    with GuestMemory(1 << 20) as memory:
        queue, device = pair_up(
            memory, size, event_idx=event_idx, in_order=in_order, start=RingPosition(start % size, wrap)
        )
        space = memory.alloc(16 * 24)
        lent: deque[str] = deque()
        in_hand: list[tuple[str, Fetched]] = []
        number = 0
        device.sleep()
        for _ in range(data.draw(st.integers(1, 12))):
            added = 0
            for _ in range(data.draw(st.integers(0, 4))):
                counts = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any))
                indirect = data.draw(st.booleans()) and sum(counts) <= size
                memory.write(space, number.to_bytes(4, "little"))
                readable = [text(memory, number.to_bytes(4, "little"))] * counts[0]
                writable = [Segment(space, 4)] * counts[1]
                needed = 1 if indirect else sum(counts)
                fits = needed <= queue.free_descriptors
                assert (queue.add(readable, writable, f"{number}", indirect=indirect) is not None) == fits
                if fits:
                    lent.append(f"{number}")
                    added += 1
                number += 1
            queue.publish()
            assert queue.needs_kick() == bool(added)
            for chain in device.fetch_all():
                token = lent.popleft()
                whole = device.read(chain)
                assert whole == int(token).to_bytes(4, "little") * len(chain.readable)
                in_hand.append((token, chain))
            device.sleep()
            expected: list[tuple[str, int]] = []
            waiting = queue.enable_calls()
            assert not waiting
            for _ in range(data.draw(st.integers(0, len(in_hand)))):
                if not in_hand:
                    break
                if in_order:
                    covers = data.draw(st.integers(1, len(in_hand)))
                    gone, in_hand = in_hand[:covers], in_hand[covers:]
                else:
                    gone = [in_hand.pop(data.draw(st.integers(0, len(in_hand) - 1)))]
                length = min(3, sum(length for _, length in gone[-1][1].writable))
                device.push(gone[-1][1].head, length, covers=len(gone))
                expected += [(token, 0) for token, _ in gone[:-1]] + [(gone[-1][0], length)]
            device.publish()
            assert device.wants_call() == bool(expected)
            assert queue.device_base() >> 16 == device.word_of(device.used)
            assert [(used.token, used.length) for used in queue.take_used()] == expected
        assert queue.outstanding == len(in_hand)
