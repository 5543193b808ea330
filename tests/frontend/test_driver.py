"""The driver in Python: frames in and out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frontend.backend_double import HEADER_SIZE, BackendDouble
from tests.frontend.lockstep import Fetched, RingDevice
from vhostuser.errors import PeerError
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.net_header import GsoType, HeaderFlag, NetHeader
from vhostuser.wire.features import VirtioFeature as V

FRAME = bytes(range(256)) * 5
PACKED = DEFAULT_FEATURES | V.RING_PACKED

formats = pytest.mark.parametrize("features", [DEFAULT_FEATURES, PACKED], ids=["split", "packed"])


def test_header_goes_out_in_front_of_the_frame(backend: BackendDouble) -> None:
    header = NetHeader(HeaderFlag.NEEDS_CSUM, GsoType.TCPV4, 54, 1448, 34, 16)
    with VirtioNetDriver.connect(backend.path) as nic:
        nic.send(FRAME, header)
        assert nic.recv().frame == FRAME
        chain = nic.transmit_queue().read_descriptor(0)
        assert chain.length == len(FRAME) + HEADER_SIZE
        assert nic.memory.read(chain.gpa, HEADER_SIZE) == header.build(HEADER_SIZE)


def test_header_may_be_raw_bytes_of_any_length(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path) as nic:
        nic.send(b"", b"\0" * 5)
        nic.wait_sent()
        assert nic.transmit_queue().read_descriptor(0).length == 5


@formats
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("layout", [[], [12], [1] * 12, [5, 20, 0, 300]])
def test_chain_of_any_layout_carries_the_frame(
    backend: BackendDouble, layout: list[int], indirect: bool, features: V
) -> None:
    with VirtioNetDriver.connect(backend.path, features=features) as nic:
        nic.send(FRAME, layout=layout, indirect=indirect)
        received = nic.recv()
    assert received.frame == FRAME
    assert received.header.num_buffers == received.chains == 1


@pytest.mark.parametrize("segments", [1, 2, 5])
@pytest.mark.parametrize("extra", [V(0), V.IN_ORDER, V.RING_PACKED, V.IN_ORDER | V.RING_PACKED])
def test_frames_of_all_sizes_come_back(backend: BackendDouble, segments: int, extra: V) -> None:
    features = DEFAULT_FEATURES | extra
    with VirtioNetDriver.connect(backend.path, segments=segments, features=features, queue_size=16) as nic:
        for size in (14, 15, 60, 1514, 2036):
            frame = (FRAME * 2)[:size]
            nic.send(frame)
            assert nic.recv().frame == frame


@formats
def test_large_frame_is_put_together_from_merged_buffers(backend: BackendDouble, features: V) -> None:
    frame = (FRAME * 8)[:9000]
    with VirtioNetDriver.connect(backend.path, features=features, buffer_size=1024) as nic:
        nic.send(frame)
        received = nic.recv()
    assert received.frame == frame
    assert received.chains == received.header.num_buffers == 9


def test_without_merging_one_buffer_holds_one_frame(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path, features=DEFAULT_FEATURES & ~V.MRG_RXBUF) as nic:
        nic.send(FRAME)
        assert nic.recv().chains == 1


@formats
def test_full_ring_is_waited_for(backend: BackendDouble, features: V) -> None:
    with VirtioNetDriver.connect(backend.path, features=features, queue_size=4) as nic:
        for number in range(64):
            nic.send(FRAME + bytes([number]), layout=[12, 100])
        assert backend.failure is None


@formats
def test_ring_that_stays_full_times_out(backend: BackendDouble, features: V) -> None:
    with VirtioNetDriver.connect(backend.path, features=features, queue_size=4) as nic:
        nic.enable(0, False)
        for _ in range(4):
            nic.send(FRAME)
        with pytest.raises(TimeoutError, match="transmit ring 1"):
            nic.send(FRAME, timeout=0.01)
        with pytest.raises(TimeoutError, match="used up"):
            nic.wait_sent(timeout=0.01)


def test_no_frame_times_out(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path) as nic:
        assert nic.recv_now() is None
        with pytest.raises(TimeoutError, match="no frame"):
            nic.recv(0.01)


@formats
def test_frames_come_in_on_the_pair_that_sent_them(backend: BackendDouble, features: V) -> None:
    with VirtioNetDriver.connect(backend.path, features=features | V.MQ, queue_pairs=4) as nic:
        for pair in (3, 0, 2):
            nic.send(FRAME + bytes([pair]), queue=pair)
            received = nic.recv()
            assert (received.queue, received.frame[-1]) == (pair, pair)


@formats
def test_many_frames_at_once_keep_their_order(backend: BackendDouble, features: V) -> None:
    with VirtioNetDriver.connect(backend.path, features=features, queue_size=64) as nic:
        for number in range(50):
            nic.send(FRAME + bytes([number]))
        assert [nic.recv().frame[-1] for _ in range(50)] == list(range(50))


@formats
def test_driver_asleep_in_recv_is_woken_by_the_call(backend: BackendDouble, features: V) -> None:
    with VirtioNetDriver.connect(backend.path, features=features & ~V.EVENT_IDX) as nic:
        for _ in range(20):
            nic.send(FRAME)
            assert nic.recv().frame == FRAME


def short(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    receiver.push(chain.head, 3)
    receiver.publish()
    return True


def too_long(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    receiver.push(chain.head, 100_000)
    receiver.publish()
    return True


def no_buffers(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    receiver.push(chain.head, receiver.fill(chain, bytes(HEADER_SIZE) + due[HEADER_SIZE:]))
    receiver.publish()
    return True


def alone(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    """Says two buffers and gives one back."""
    receiver.push(chain.head, receiver.fill(chain, due[:10] + b"\2\0" + due[12:]))
    receiver.publish()
    return True


def twice(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    for _ in range(2):
        receiver.push(chain.head, receiver.fill(chain, due))
    receiver.publish()
    return True


@pytest.mark.parametrize(
    ("mangle", "message"),
    [
        (short, "fewer than the header"),
        (too_long, "100000 bytes written into 2048"),
        (no_buffers, "num_buffers 0"),
        (alone, "num_buffers 2 with 1 buffers"),
        (twice, "(head|buffer) 0, not in flight"),
    ],
)
@formats
def test_back_end_that_breaks_the_ring_is_named(
    backend: BackendDouble, mangle: object, message: str, features: V
) -> None:
    backend.mangle = mangle  # type: ignore[assignment]
    with VirtioNetDriver.connect(backend.path, features=features) as nic:
        nic.send(FRAME)
        with pytest.raises(PeerError, match=message):
            nic.recv()


@formats
def test_nothing_stays_allocated_of_what_was_sent(backend: BackendDouble, features: V) -> None:
    with VirtioNetDriver.connect(backend.path, features=features, queue_size=8) as nic:
        nic.send(FRAME)
        nic.wait_sent()
        before = nic.memory.alloc(64)
        nic.memory.free(before)
        for _ in range(100):
            nic.send(FRAME, layout=[12], indirect=True)
            nic.recv()
        nic.wait_sent()
        assert nic.memory.alloc(64) == before


def test_failed_start_leaves_nothing_open(tmp_path: Path) -> None:
    with (
        BackendDouble(str(tmp_path / "one.sock"), queue_num=1) as backend,
        pytest.raises(PeerError, match="serves 1 queue pairs"),
        VirtioNetDriver.connect(backend.path, queue_pairs=2),
    ):
        pass


def test_queues_are_asked_for_by_their_format(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path) as nic:
        assert nic.queues == nic.virtqueues
        assert nic.receive_queue() is nic.virtqueues[0]
        with pytest.raises(TypeError, match="are split"):
            _ = nic.packed_queues
    with VirtioNetDriver.connect(backend.path, features=PACKED, queue_size=100) as nic:
        assert nic.packed_queues == nic.virtqueues
        with pytest.raises(TypeError, match="are packed"):
            nic.transmit_queue()


def test_packed_rings_are_split_ones_where_they_are_not_offered(backend: BackendDouble) -> None:
    backend.features &= ~V.RING_PACKED
    with VirtioNetDriver.connect(backend.path, features=PACKED) as nic:
        nic.send(FRAME)
        assert nic.recv().frame == FRAME
        assert len(nic.queues) == 2
