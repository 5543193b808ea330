"""The rings in C, one move at a time: beside the oracle in Python, each with a device of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.frontend.lockstep import Fetched, LockstepDevice, RingDevice
from tests.frontend.packed_lockstep import PackedLockstepDevice
from vhostuser.frontend.core import CData, ffi, lib
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.packed_virtqueue import PackedVirtqueue
from vhostuser.frontend.ring_position import RingPosition, build_base
from vhostuser.frontend.virtqueue import SplitVirtqueue
from vhostuser.frontend.virtqueue_base import RingPlace, Segment, Virtqueue

HEADER = 12
FRAME = bytes(range(64))

rings = st.fixed_dictionaries(
    {
        "packed": st.booleans(),
        "event_idx": st.booleans(),
        "in_order": st.booleans(),
        "indirect": st.booleans(),
        "segments": st.integers(1, 4),
        "size": st.integers(1, 17),
        "start": st.integers(0, 16),
        "wrap": st.booleans(),
    }
)


class Pair:
    """A ring in C and its device, in `memory`."""

    def __init__(self, memory: GuestMemory, kind: dict[str, int], *, receive: bool, buffer_size: int) -> None:
        size = kind["size"]
        self.start = RingPosition(kind["start"] % size, bool(kind["wrap"]))
        place = self._new_ring(memory, kind)
        config = ffi.new("struct vu_virtqueue_config *")
        config.desc, config.avail, config.used = (
            memory.host_pointer(gpa) for gpa in (place.desc, place.avail, place.used)
        )
        config.buffer_size = buffer_size
        config.header_size = HEADER
        config.size = size
        config.segments = kind["segments"]
        config.position = self.start.word
        config.kick_fd = config.call_fd = -1
        config.flags = (
            (lib.VU_VIRTQUEUE_PACKED if kind["packed"] else 0)
            | (lib.VU_VIRTQUEUE_EVENT_IDX if kind["event_idx"] else 0)
            | (lib.VU_VIRTQUEUE_IN_ORDER if kind["in_order"] else 0)
            | (lib.VU_VIRTQUEUE_INDIRECT if kind["indirect"] else 0)
            | (lib.VU_VIRTQUEUE_RECEIVE | lib.VU_VIRTQUEUE_MRG_RXBUF if receive else 0)
        )
        pool_size = lib.vu_virtqueue_pool_size(config)
        assume(pool_size)
        config.pool_gpa = memory.alloc(pool_size, 16)
        config.pool = memory.host_pointer(config.pool_gpa, pool_size)
        self.queue = ffi.gc(lib.vu_virtqueue_new(config), lib.vu_virtqueue_free)
        self.device = self.new_device(memory, kind, place)
        self.place = place
        self.result = ffi.new("struct vu_load_result *")
        self.options = ffi.new("struct vu_load_options *")
        self.options.duration_ns = 1
        self.options.frame_size = self.options.template_size = len(FRAME)
        self._template = ffi.from_buffer("uint8_t[]", FRAME)
        self.options.template_bytes = self._template

    def _new_ring(self, memory: GuestMemory, kind: dict[str, int]) -> RingPlace:
        """A place for a ring that looks as it has to at its start."""
        sizes = (PackedVirtqueue if kind["packed"] else SplitVirtqueue).part_sizes(kind["size"])
        place = RingPlace(*(memory.alloc(size) for size in sizes))
        if kind["packed"]:
            PackedVirtqueue[None](memory, kind["size"], place=place, start=self.start)
        return place

    def new_device(self, memory: GuestMemory, kind: dict[str, int], place: RingPlace) -> RingDevice:
        event_idx = bool(kind["event_idx"])
        if kind["packed"]:
            base = build_base(self.start, self.start)
            return PackedLockstepDevice(memory, kind["size"], place, event_idx=event_idx, base=base)
        return LockstepDevice(memory, kind["size"], place, event_idx=event_idx)

    def new_oracle(self, memory: GuestMemory, kind: dict[str, int]) -> Virtqueue[None]:
        event_idx, in_order = bool(kind["event_idx"]), bool(kind["in_order"])
        if kind["packed"]:
            return PackedVirtqueue(
                memory, kind["size"], event_idx=event_idx, in_order=in_order, start=self.start
            )
        return SplitVirtqueue(memory, kind["size"], event_idx=event_idx, in_order=in_order)

    def send(self, count: int) -> int:
        """Take back what there is and send up to `count` frames; how many were sent."""
        before = self.result.sent
        self.options.burst, self.options.packets = count, before + count
        self._run([self.queue], [])
        return int(self.result.sent - before)

    def receive(self) -> None:
        """Take in what there is and lend its buffers again."""
        self.options.burst, self.options.flags = 1000, lib.VU_LOAD_STAMP
        self.options.template_size = 0
        self._run([], [self.queue])

    def _run(self, transmit: list[CData], receive: list[CData]) -> None:
        queues = [ffi.new("struct vu_virtqueue *[]", [*each, ffi.NULL]) for each in (transmit, receive)]
        args = (queues[0], len(transmit), queues[1], len(receive), self.options, self.result)
        assert lib.vu_load_run(*args) == 0

    def counts(self) -> CData:
        counts = ffi.new("struct vu_virtqueue_counts *")
        lib.vu_virtqueue_count(self.queue, counts)
        return counts

    def base(self) -> int:
        return lib.vu_virtqueue_base(self.queue)


@contextmanager
def sensible(kind: dict[str, int]) -> Iterator[GuestMemory]:
    assume(kind["packed"] or kind["size"] & (kind["size"] - 1) == 0)
    with GuestMemory(1 << 20) as memory:
        yield memory


def wish(devices: list[RingDevice], data: st.DataObject) -> None:
    """The devices' word on kicks; by position, too, where packed rings have that."""
    first = devices[0]
    if isinstance(first, PackedLockstepDevice) and first.event_idx and data.draw(st.booleans()):
        at = first.word_of(first.avail + data.draw(st.integers(-first.size, first.size - 1)))
        for device in devices:
            assert isinstance(device, PackedLockstepDevice)
            device.memory.store_u32(device.place.used, at | 2 << 16)
        return
    asleep = data.draw(st.booleans())
    for device in devices:
        (device.sleep if asleep else device.poll)()


def give_back(
    hands: list[list[Fetched]], devices: list[RingDevice], kind: dict[str, int], data: st.DataObject
) -> int:
    """The same chains on both sides, by their number: in any order, or with IN_ORDER in batches."""
    done = 0
    for _ in range(data.draw(st.integers(0, len(hands[0])))):
        if not hands[0]:
            break
        index = data.draw(st.integers(0, len(hands[0]) - 1))
        first = 0 if kind["in_order"] else index
        for hand, device in zip(hands, devices, strict=True):
            device.push(hand[index].head, 0, covers=index + 1 - first)
            del hand[first : index + 1]
        done += index + 1 - first
    for device in devices:
        device.publish()
    return done


@settings(max_examples=200, deadline=None)
@given(kind=rings, data=st.data())
def test_transmit_ring_moves_as_the_oracle_does(kind: dict[str, int], data: st.DataObject) -> None:
    """Chains, flags, kicks, and where a lost device stood."""
    with sensible(kind) as memory:
        ours = Pair(memory, kind, receive=False, buffer_size=HEADER + len(FRAME))
        oracle = ours.new_oracle(memory, kind)
        devices = [ours.device, ours.new_device(memory, kind, oracle.place)]
        hands: list[list[Fetched]] = [[], []]
        piece = Segment(0x1000, 16)
        for _ in range(data.draw(st.integers(1, 12))):
            wish(devices, data)
            saved, count = ours.counts().kicks_saved, data.draw(st.integers(1, 6))
            oracle.take_used()
            sent = ours.send(count)
            for number in range(count):
                added = oracle.add([piece] * kind["segments"], [], None, indirect=bool(kind["indirect"]))
                assert (added is not None) == (number < sent)
            oracle.publish()
            unwanted = not oracle.needs_kick() and sent > 0
            assert ours.counts().kicks_saved - saved == unwanted
            assert ours.counts().in_flight == oracle.outstanding
            if kind["packed"]:
                flags = [
                    [memory.load_u16(place.desc + 16 * slot + 14) for slot in range(kind["size"])]
                    for place in (ours.place, oracle.place)
                ]
                assert flags[0] == flags[1]
            for hand, device in zip(hands, devices, strict=True):
                hand += device.fetch_all()
            assert len(hands[0]) == len(hands[1])
            for chain in hands[0][len(hands[0]) - sent :]:
                assert devices[0].read(chain) == bytes(HEADER) + FRAME
                assert len(chain.readable) == kind["segments"]
            returned = ours.result.returned
            done = give_back(hands, devices, kind, data)
            assert ours.base() == oracle.device_base()
            assert ours.result.returned == returned
            assert len(oracle.take_used()) == done


@settings(max_examples=100, deadline=None)
@given(kind=rings, data=st.data())
def test_receive_ring_puts_every_frame_together(kind: dict[str, int], data: st.DataObject) -> None:
    """Out of as many buffers as it takes, which are lent again."""
    room = 64
    with sensible(kind) as memory:
        ours = Pair(memory, kind, receive=True, buffer_size=room)
        slots = lib.vu_virtqueue_fill(ours.queue)
        sequence = 0
        for _ in range(data.draw(st.integers(1, 12))):
            left = slots
            for _ in range(data.draw(st.integers(0, 6))):
                length = data.draw(st.integers(lib.VU_STAMP_SIZE, slots * room - HEADER))
                chains = -(-(length + HEADER) // room)
                if chains > left:
                    break
                left -= chains
                frame = ffi.new("uint8_t[]", length)
                lib.vu_stamp_write(frame, length, ours.options.run, sequence)
                content = bytes(10) + chains.to_bytes(2, "little") + bytes(frame)
                for _ in range(chains):
                    chain = ours.device.fetch()
                    assert chain is not None
                    written = ours.device.fill(chain, content)
                    ours.device.push(chain.head, written)
                    content = content[written:]
                assert content == b""
                ours.device.publish()
                sequence += 1
            ours.receive()
            result = ours.result
            assert (result.received, result.corrupt, result.foreign, result.skipped) == (sequence, 0, 0, 0)
            assert ours.counts().in_flight == slots
