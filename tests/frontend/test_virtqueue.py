"""The driver's split ring against a device that moves in lock-step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.frontend.lockstep import LockstepDevice
from vhostuser.errors import PeerError
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.virtqueue import (
    DescFlag,
    Descriptor,
    RingPlace,
    Segment,
    SplitVirtqueue,
    need_event,
)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(4 << 20) as memory:
        yield memory


def pair_up(
    memory: GuestMemory, size: int = 8, *, event_idx: bool = False, in_order: bool = False
) -> tuple[SplitVirtqueue[str], LockstepDevice]:
    queue: SplitVirtqueue[str] = SplitVirtqueue(memory, size, event_idx=event_idx, in_order=in_order)
    return queue, LockstepDevice(memory, size, queue.place, event_idx=event_idx)


def text(memory: GuestMemory, content: bytes) -> Segment:
    gpa = memory.alloc(max(len(content), 1))
    memory.write(gpa, content)
    return Segment(gpa, len(content))


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("pieces", [[b"whole"], [b"a", b"", b"bc"], [b"%d" % n for n in range(8)]])
def test_readable_chain_of_any_layout_reaches_the_device_whole(
    memory: GuestMemory, pieces: list[bytes], indirect: bool
) -> None:
    queue, device = pair_up(memory)
    head = queue.add([text(memory, piece) for piece in pieces], [], "frame", indirect=indirect)
    queue.publish()
    chain = device.fetch()
    assert chain is not None
    assert chain.head == head
    assert device.read(chain) == b"".join(pieces)
    assert chain.writable == []
    assert queue.free_descriptors == 8 - (1 if indirect else len(pieces))


def test_chain_comes_back_with_its_token_and_length(memory: GuestMemory) -> None:
    queue, device = pair_up(memory)
    space = memory.alloc(64)
    queue.add([], [Segment(space, 16), Segment(space + 16, 48)], "buffer")
    queue.publish()
    chain = device.fetch()
    assert chain is not None
    device.push(chain.head, device.fill(chain, b"x" * 40))
    device.publish()
    (used,) = queue.take_used()
    assert (used.token, used.length) == ("buffer", 40)
    assert memory.read(space, 40) == b"x" * 40
    assert queue.outstanding == 0
    assert queue.free_descriptors == 8


def test_chain_is_invisible_until_published(memory: GuestMemory) -> None:
    queue, device = pair_up(memory)
    queue.add([text(memory, b"x")], [], "frame")
    assert device.fetch() is None
    queue.publish()
    assert device.fetch() is not None


def test_add_without_room_gives_none_and_changes_nothing(memory: GuestMemory) -> None:
    queue, device = pair_up(memory, 4)
    piece = text(memory, b"x")
    assert queue.add([piece] * 3, [], "first") == 0
    assert queue.add([piece] * 2, [], "second") is None
    assert queue.outstanding == 1
    queue.publish()
    assert device.pending() == 1


def test_empty_chain_is_refused(memory: GuestMemory) -> None:
    queue, _ = pair_up(memory)
    with pytest.raises(ValueError, match="at least one"):
        queue.add([], [], "nothing")


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_size_that_is_no_power_of_two_is_refused(memory: GuestMemory, size: int) -> None:
    with pytest.raises(ValueError, match=str(size)):
        SplitVirtqueue(memory, size)


def test_indices_run_past_sixteen_bits(memory: GuestMemory) -> None:
    queue, device = pair_up(memory, 1)
    piece = text(memory, b"x")
    for turn in range(65536 + 3):
        queue.add([piece], [], "frame")
        queue.publish()
        chain = device.fetch()
        assert chain is not None
        device.push(chain.head, 0)
        device.publish()
        assert len(queue.take_used()) == 1, turn
    assert queue.used_index == queue.read_avail_index() == 3


def test_chains_come_back_out_of_order(memory: GuestMemory) -> None:
    queue, device = pair_up(memory)
    piece = text(memory, b"x")
    for name in ("a", "b", "c"):
        queue.add([piece], [], name)
    queue.publish()
    heads = [chain.head for chain in device.fetch_all()]
    for head in reversed(heads):
        device.push(head, 0)
    device.publish()
    assert [used.token for used in queue.take_used()] == ["c", "b", "a"]


def test_in_order_descriptors_are_used_in_table_order(memory: GuestMemory) -> None:
    queue, device = pair_up(memory, 4, in_order=True)
    piece = text(memory, b"x")
    heads = []
    for _ in range(10):
        heads.append(queue.add([piece], [], "frame"))
        queue.publish()
        chain = device.fetch()
        assert chain is not None
        device.push(chain.head, 0)
        device.publish()
        queue.take_used()
    assert heads == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_in_order_batch_of_one_entry_gives_back_every_chain(memory: GuestMemory) -> None:
    queue, device = pair_up(memory, 8, in_order=True)
    piece = text(memory, b"x")
    for name in "abcd":
        queue.add([piece], [], name)
    queue.publish()
    heads = [chain.head for chain in device.fetch_all()]
    device.push(heads[2], 0, covers=3)
    device.push(heads[3], 0)
    device.publish()
    assert [used.token for used in queue.take_used()] == ["a", "b", "c", "d"]
    assert queue.used_index == 4


def test_in_order_entry_that_covers_more_than_the_index_moved_is_a_fault_of_the_peer(
    memory: GuestMemory,
) -> None:
    queue, device = pair_up(memory, 8, in_order=True)
    piece = text(memory, b"x")
    for name in "abc":
        queue.add([piece], [], name)
    queue.publish()
    device.push(2, 0)
    device.publish()
    with pytest.raises(PeerError, match="covers 3"):
        queue.take_used()


def test_used_index_that_jumps_is_a_fault_of_the_peer(memory: GuestMemory) -> None:
    queue, device = pair_up(memory)
    device.used_index = 5
    device.publish()
    with pytest.raises(PeerError, match="jumped by 5"):
        queue.take_used()


def test_used_head_that_was_never_lent_is_a_fault_of_the_peer(memory: GuestMemory) -> None:
    queue, device = pair_up(memory)
    queue.add([text(memory, b"x")], [], "frame")
    queue.publish()
    device.push(7, 0)
    device.publish()
    with pytest.raises(PeerError, match="head 7"):
        queue.take_used()


@pytest.mark.parametrize("event_idx", [False, True])
def test_kick_is_needed_only_when_the_device_sleeps(memory: GuestMemory, event_idx: bool) -> None:
    queue, device = pair_up(memory, event_idx=event_idx)
    piece = text(memory, b"x")
    device.sleep()
    queue.add([piece], [], "first")
    queue.publish()
    assert queue.needs_kick()
    assert not queue.needs_kick(), "nothing was published since"
    device.fetch()
    device.poll()
    queue.add([piece], [], "second")
    queue.publish()
    assert not queue.needs_kick()
    device.fetch()
    device.sleep()
    queue.add([piece], [], "third")
    queue.publish()
    assert queue.needs_kick()


@pytest.mark.parametrize("event_idx", [False, True])
def test_call_is_wanted_only_while_enabled(memory: GuestMemory, event_idx: bool) -> None:
    queue, device = pair_up(memory, event_idx=event_idx)
    piece = text(memory, b"x")

    def serve_one() -> bool:
        queue.add([piece], [], "frame")
        queue.publish()
        chain = device.fetch()
        assert chain is not None
        device.push(chain.head, 0)
        device.publish()
        return device.wants_call()

    assert not queue.enable_calls()
    assert serve_one()
    queue.take_used()
    queue.disable_calls()
    assert not serve_one()
    assert queue.enable_calls(), "a chain came while calls were off"
    queue.take_used()
    assert not queue.enable_calls()
    assert serve_one()


@pytest.mark.parametrize(
    ("event", "new", "old", "needed"),
    [(0, 1, 0, True), (1, 1, 0, False), (0xFFFF, 0, 0xFFFF, True), (5, 10, 0, True), (10, 10, 0, False)],
)
def test_need_event_follows_the_formula(event: int, new: int, old: int, needed: bool) -> None:
    assert need_event(event, new, old) is needed


def test_fences_stand_before_publish_kick_and_after_the_used_index(memory: GuestMemory) -> None:
    fences: list[int] = []
    queue: SplitVirtqueue[str] = SplitVirtqueue(memory, 8, fence=lambda: fences.append(1))
    queue.add([text(memory, b"x")], [], "frame")
    for action in (queue.publish, queue.needs_kick, queue.take_used, queue.enable_calls):
        before = len(fences)
        action()
        assert len(fences) == before + 1


def test_ring_can_be_placed_anywhere(memory: GuestMemory) -> None:
    space = memory.alloc(4096, 4096)
    place = RingPlace(desc=space + 16, avail=space + 512 + 2, used=space + 1024 + 4)
    queue: SplitVirtqueue[str] = SplitVirtqueue(memory, 8, place=place)
    device = LockstepDevice(memory, 8, place)
    queue.add([text(memory, b"here")], [], "frame")
    queue.publish()
    chain = device.fetch()
    assert chain is not None
    assert device.read(chain) == b"here"
    assert queue.user_place.desc == memory.user_address(place.desc)


def test_reset_forgets_chains_and_zeroes_the_ring(memory: GuestMemory) -> None:
    queue, device = pair_up(memory)
    queue.add([text(memory, b"x")], [], "frame", indirect=True)
    queue.publish()
    device.push(0, 0)
    device.publish()
    queue.reset()
    assert (queue.outstanding, queue.used_index, queue.read_used_index()) == (0, 0, 0)
    assert queue.read_descriptor(0) == Descriptor(0, 0, 0, 0)


def test_close_gives_back_ring_and_indirect_tables(memory: GuestMemory) -> None:
    before = memory.alloc(16)
    memory.free(before)
    queue, _ = pair_up(memory)
    piece = Segment(0x1000, 1)
    queue.add([piece, piece], [], "frame", indirect=True)
    queue.close()
    assert memory.alloc(16) == before


def test_close_names_the_chains_that_never_came_back(memory: GuestMemory) -> None:
    queue, _ = pair_up(memory)
    queue.add([text(memory, b"x")], [], "lost")
    assert queue.close() == ["lost"]


def test_raw_writes_put_any_value_anywhere(memory: GuestMemory) -> None:
    queue, _ = pair_up(memory)
    queue.write_descriptor(3, 0xFFFF_FFFF_FFFF_FFF0, 0xFFFF_FFFF, DescFlag.NEXT | DescFlag.INDIRECT, 3)
    assert queue.read_descriptor(3) == Descriptor(0xFFFF_FFFF_FFFF_FFF0, 0xFFFF_FFFF, 5, 3)
    queue.offer_raw(0xFFFF)
    assert queue.read_avail_index() == 1
    assert memory.load_u16(queue.place.avail + 4) == 0xFFFF
    queue.write_avail_index(0x8000)
    assert queue.read_avail_index() == 0x8000
    assert queue.outstanding == 0
