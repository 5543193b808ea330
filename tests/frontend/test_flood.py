"""The driver in C, against a back-end that breaks rules on request."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.frontend.backend_double import HEADER_SIZE, BackendDouble
from tests.frontend.lockstep import Fetched, LockstepDevice, RingDevice
from tests.frontend.packed_lockstep import PackedLockstepDevice
from vhostuser.errors import PeerError
from vhostuser.frontend.flood import ETHERTYPE, Flood, Latency, Load, ethernet
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.wire.features import VirtioFeature as V

PACKED = DEFAULT_FEATURES | V.RING_PACKED

MODES = [
    (DEFAULT_FEATURES, 1, None),
    (DEFAULT_FEATURES & ~V.EVENT_IDX, 1, None),
    (DEFAULT_FEATURES | V.IN_ORDER, 1, None),
    (DEFAULT_FEATURES | V.IN_ORDER, 2, False),
    (DEFAULT_FEATURES | V.IN_ORDER, 3, True),
    (DEFAULT_FEATURES, 2, False),
    (DEFAULT_FEATURES, 3, False),
    (DEFAULT_FEATURES, 1, True),
    (DEFAULT_FEATURES, 5, True),
    (DEFAULT_FEATURES & ~V.MRG_RXBUF, 1, None),
    (DEFAULT_FEATURES & ~V.MRG_RXBUF, 2, None),
    (PACKED, 1, None),
    (PACKED & ~V.EVENT_IDX, 1, None),
    (PACKED | V.IN_ORDER, 1, None),
    (PACKED | V.IN_ORDER, 3, False),
    (PACKED | V.IN_ORDER, 3, True),
    (PACKED, 4, False),
    (PACKED, 5, True),
    (PACKED & ~V.MRG_RXBUF, 2, None),
]

formats = pytest.mark.parametrize("features", [DEFAULT_FEATURES, PACKED], ids=["split", "packed"])


@pytest.mark.parametrize("sleep", [False, True])
@pytest.mark.parametrize(("features", "segments", "indirect"), MODES)
def test_every_frame_comes_back_whole_and_in_order(
    backend: BackendDouble, features: V, segments: int, indirect: bool | None, sleep: bool
) -> None:
    with Flood.connect(
        backend.path, features=features, segments=segments, indirect=indirect or False, queue_size=64
    ) as flood:
        report = flood.run(Load(packets=500, frame_size=120, window=16, stamp=True, sleep=sleep))
    assert (report.sent, report.returned, report.received) == (500, 500, 500)
    assert (report.corrupt, report.skipped, report.late, report.foreign, report.lost) == (0, 0, 0, 0, 0)
    assert report.received_bytes == 500 * 120


@pytest.mark.parametrize("size", [5, 37, 64, 100])
@pytest.mark.parametrize("segments", [1, 3])
def test_packed_ring_has_any_size(backend: BackendDouble, size: int, segments: int) -> None:
    with Flood.connect(
        backend.path, features=PACKED, segments=segments, indirect=False, queue_size=size
    ) as flood:
        report = flood.run(Load(packets=500, frame_size=120, window=size // segments, stamp=True, sleep=True))
    assert (report.sent, report.returned, report.received) == (500, 500, 500)
    assert (report.corrupt, report.skipped, report.late, report.lost) == (0, 0, 0, 0)


@pytest.mark.parametrize("segments", [1, 4])
@pytest.mark.parametrize("features", [DEFAULT_FEATURES, PACKED])
def test_one_used_entry_gives_an_in_order_batch_back(
    backend: BackendDouble, features: V, segments: int
) -> None:
    backend.batches = True
    with Flood.connect(
        backend.path, features=features | V.IN_ORDER, segments=segments, indirect=False, queue_size=64
    ) as flood:
        report = flood.run(Load(packets=500, window=16, stamp=True, sleep=True))
    assert (report.returned, report.received, report.late) == (500, 500, 0)


@formats
def test_frames_over_several_buffers_are_put_together(backend: BackendDouble, features: V) -> None:
    with Flood.connect(backend.path, buffer_size=1024, features=features) as flood:
        report = flood.run(Load(packets=50, frame_size=1000, window=4, stamp=True, sleep=True))
        assert (report.received, report.received_chains) == (50, 50)
        report = flood.run(Load(packets=50, frame_size=1600, window=4, stamp=True, sleep=True))
        assert (report.received, report.received_chains, report.corrupt) == (50, 100, 0)


def test_flood_counts_what_the_device_gave_back(backend: BackendDouble) -> None:
    with Flood.connect(backend.path, queue_size=32) as flood:
        report = flood.flood(Load(packets=200, sleep=True))
    assert (report.sent, report.returned, report.received) == (200, 200, 0)


def test_drain_takes_what_another_thread_sends(backend: BackendDouble) -> None:
    with Flood.connect(backend.path) as flood:
        load = Load(packets=100, window=0, stamp=True, sleep=True)
        sender = threading.Thread(target=flood.flood, args=(load,))
        sender.start()
        report = flood.drain(load)
        sender.join()
    assert (report.received, report.sent) == (100, 0)


def test_drain_without_traffic_ends_with_what_it_has(backend: BackendDouble) -> None:
    with Flood.connect(backend.path) as flood:
        report = flood.drain(Load(packets=1, sleep=True, lost_after=0.01))
    assert report.received == 0


@formats
def test_several_pairs_carry_their_own_sequences(backend: BackendDouble, features: V) -> None:
    with Flood.connect(backend.path, features=features | V.MQ, queue_pairs=3) as flood:
        report = flood.run(Load(packets=300, window=24, stamp=True, sleep=True))
        assert (report.received, report.skipped, report.late) == (300, 0, 0)
        report = flood.run(Load(packets=30, window=3, stamp=True, sleep=True), transmit=[1], receive=[1])
        assert report.received == 30
        assert flood.counts(5).in_flight == 0


def test_time_limit_ends_a_run(backend: BackendDouble) -> None:
    with Flood.connect(backend.path) as flood:
        report = flood.run(Load(seconds=0.15, window=8, sleep=True))
    assert 0.1 < report.seconds < 5
    assert report.received_rate > 0
    assert report.sent_rate > 0


@formats
def test_rate_is_kept(backend: BackendDouble, features: V) -> None:
    with Flood.connect(backend.path, features=features, queue_size=64) as flood:
        report = flood.run(Load(seconds=0.5, rate=1000, settle=False, sleep=True))
    # By the schedule never a frame too early, and after a pause of this process all that are due.
    assert report.sent <= 1000 * report.seconds
    assert report.sent >= 400
    assert report.sleeps == 0


@pytest.mark.parametrize("rate", [-1, 1 << 32])
def test_rate_out_of_range_is_refused(backend: BackendDouble, rate: int) -> None:
    with Flood.connect(backend.path) as flood, pytest.raises(ValueError, match="out of range"):
        flood.flood(Load(packets=1, rate=rate))


@formats
def test_lost_frames_are_counted_and_the_window_goes_on(backend: BackendDouble, features: V) -> None:
    backend.swallow = 10
    with Flood.connect(backend.path, features=features) as flood:
        report = flood.run(Load(packets=100, window=4, stamp=True, sleep=True, lost_after=0.02))
    assert (report.sent, report.received, report.lost, report.skipped) == (100, 90, 10, 10)


def test_damaged_frames_are_counted_as_corrupt(backend: BackendDouble) -> None:
    backend.change = lambda content: content[:-1] + bytes([content[-1] ^ 1])
    with Flood.connect(backend.path) as flood:
        report = flood.run(Load(packets=20, window=4, stamp=True, sleep=True))
    assert (report.received, report.corrupt) == (0, 20)


def test_frames_of_others_are_counted_as_foreign(backend: BackendDouble) -> None:
    backend.change = lambda content: bytes(len(content))
    with Flood.connect(backend.path) as flood:
        report = flood.run(Load(packets=4, window=4, stamp=True, sleep=True, lost_after=0.02))
    assert (report.received, report.foreign, report.lost) == (0, 4, 4)


def test_doubled_frame_is_counted_as_late(backend: BackendDouble) -> None:
    def double(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
        second = receiver.fetch()
        assert second is not None
        for each in (chain, second):
            receiver.push(each.head, receiver.fill(each, due))
        receiver.publish()
        return True

    backend.mangle = double
    with Flood.connect(backend.path) as flood:
        report = flood.run(Load(packets=5, window=1, stamp=True, sleep=True, settle=False))
    assert report.late >= 1


@formats
def test_ping_measures_every_frame(backend: BackendDouble, features: V) -> None:
    with Flood.connect(backend.path, features=features) as flood:
        report, latency = flood.ping(Load(packets=50, stamp=True, sleep=True))
    assert report.received == latency.count == 50
    assert 0 < latency.percentile(50) <= latency.percentile(99)


def test_ping_goes_by_size_without_stamps(backend: BackendDouble) -> None:
    with Flood.connect(backend.path) as flood:
        _, latency = flood.ping(Load(packets=5, frame_size=100))
    assert latency.count == 5


def test_ping_counts_what_does_not_come_back(backend: BackendDouble) -> None:
    backend.swallow = 2
    with Flood.connect(backend.path) as flood:
        report, latency = flood.ping(Load(packets=5, stamp=True, sleep=True, lost_after=0.02))
    assert (report.lost, latency.count) == (2, 3)


def test_ping_ends_when_the_ring_never_comes_back(backend: BackendDouble) -> None:
    with Flood.connect(backend.path, queue_size=2) as flood:
        flood.enable(0, False)
        report, latency = flood.ping(Load(seconds=0.1, stamp=True, lost_after=0.01))
    assert latency.count == 0
    assert report.sent == 2


@pytest.mark.parametrize(("percent", "expected"), [(0, 10), (50, 10), (90, 10), (95, 20), (100, 20)])
def test_percentile_is_the_bucket_that_holds_it(percent: float, expected: int) -> None:
    buckets = [0] * 100
    buckets[10], buckets[20] = 9, 1
    assert Latency(tuple(buckets)).percentile(percent) == expected


def test_percentile_without_samples_is_zero() -> None:
    assert Latency((0, 0)).percentile(50) == 0


def jumps(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    assert isinstance(receiver, LockstepDevice)
    receiver.used_index += 1000
    receiver.publish()
    return True


def unknown(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    receiver.push(4711, 60)
    receiver.publish()
    return True


def twice(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    for _ in range(2):
        receiver.push(chain.head, receiver.fill(chain, due))
    receiver.publish()
    return True


def short(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    receiver.push(chain.head, 3)
    receiver.publish()
    return True


def too_long(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    receiver.push(chain.head, 1 << 20)
    receiver.publish()
    return True


def no_buffers(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    receiver.push(chain.head, receiver.fill(chain, bytes(HEADER_SIZE) + due[HEADER_SIZE:]))
    receiver.publish()
    return True


def alone(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    receiver.push(chain.head, receiver.fill(chain, due[:10] + b"\2\0" + due[12:]))
    receiver.publish()
    return True


def wrong_lap(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    assert isinstance(receiver, PackedLockstepDevice)
    receiver.used += receiver.size
    receiver.push(chain.head, receiver.fill(chain, due))
    receiver.publish()
    return True


BROKEN = [
    (unknown, "a chain that it does not have"),
    (short, "less than a header"),
    (too_long, "more than a buffer holds"),
    (no_buffers, "all buffers of a frame"),
    (alone, "all buffers of a frame"),
]


@pytest.mark.parametrize(
    ("features", "mangle", "message"),
    [
        *((features, *row) for features in (DEFAULT_FEATURES, PACKED) for row in BROKEN),
        (DEFAULT_FEATURES, jumps, "more chains than it has"),
        (DEFAULT_FEATURES, twice, "a chain that it does not have"),
        (PACKED, twice, "a chain that it does not have"),
        (PACKED, wrong_lap, "neither available nor used"),
    ],
)
def test_back_end_that_breaks_the_ring_is_named(
    backend: BackendDouble, features: V, mangle: object, message: str
) -> None:
    backend.mangle = mangle  # type: ignore[assignment]
    with Flood.connect(backend.path, features=features) as flood, pytest.raises(PeerError, match=message):
        flood.run(Load(packets=10, window=1, sleep=True))


def batch(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    """The in-order shortcut on a receive ring: the first of two chains is passed over."""
    second = receiver.fetch()
    assert second is not None
    receiver.push(second.head, receiver.fill(second, due), covers=2)
    receiver.publish()
    return True


def beyond(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
    second = receiver.fetch()
    assert second is not None
    receiver.push(second.head, receiver.fill(second, due), covers=1)
    receiver.publish()
    return True


@pytest.mark.parametrize(
    ("mangle", "message"), [(batch, "less than a header"), (beyond, "less than a header|more chains")]
)
@formats
def test_in_order_shortcut_on_a_receive_ring_is_refused(
    backend: BackendDouble, mangle: object, message: str, features: V
) -> None:
    """A chain that is passed over has no length, and a frame cannot do without (virtio 1.x, 2.7.9)."""
    backend.mangle = mangle  # type: ignore[assignment]
    with (
        Flood.connect(backend.path, features=features | V.IN_ORDER) as flood,
        pytest.raises(PeerError, match=message),
    ):
        flood.run(Load(packets=10, window=1, sleep=True))


@pytest.mark.parametrize(
    "load",
    [
        Load(packets=1, frame_size=4000),
        Load(packets=1, frame_size=10),
        Load(packets=1, frame_size=20, stamp=True),
        Load(packets=1, burst=0),
    ],
    ids=["frame", "template", "stamp", "burst"],
)
def test_load_that_does_not_fit_is_refused(backend: BackendDouble, load: Load) -> None:
    with Flood.connect(backend.path) as flood, pytest.raises(ValueError, match="do not fit"):
        flood.run(load)


def test_load_without_any_limit_is_refused(backend: BackendDouble) -> None:
    with Flood.connect(backend.path) as flood, pytest.raises(ValueError, match="packets or of seconds"):
        flood.run(Load())


@pytest.mark.parametrize(
    ("segments", "size", "features"),
    [
        (3, 64, V.IN_ORDER),
        (17, 64, V(0)),
        (4, 2, V(0)),
        (1, 100, V(0)),
        (4, 3, V.RING_PACKED),
        (1, 32769, V.RING_PACKED),
    ],
)
def test_rings_that_cannot_be_cut_so_are_refused(
    backend: BackendDouble, segments: int, size: int, features: V
) -> None:
    flood = Flood.connect(
        backend.path,
        segments=segments,
        queue_size=size,
        features=(DEFAULT_FEATURES & ~V.INDIRECT_DESC) | features,
    )
    with pytest.raises(ValueError, match=f"{size} entries, {segments} segments"), flood:
        pass


@formats
def test_rings_go_on_after_a_stop(backend: BackendDouble, features: V) -> None:
    load = Load(packets=300, window=8, stamp=True, sleep=True)
    with Flood.connect(backend.path, features=features, queue_size=64) as flood:
        assert flood.run(load).received == 300
        flood.stop()
        flood.start()
        assert flood.run(load).received == 300


def test_reset_makes_new_rings(backend: BackendDouble) -> None:
    load = Load(packets=30, window=8, stamp=True, sleep=True)
    with Flood.connect(backend.path) as flood:
        assert flood.run(load).received == 30
        for features in (V(0), V.RING_PACKED, V(0)):
            flood.reset(V.VERSION_1 | V.PROTOCOL_FEATURES | features)
            flood.start()
            assert flood.run(load).received == 30


@formats
def test_driver_goes_on_with_a_back_end_that_was_restarted(backend: BackendDouble, features: V) -> None:
    load = Load(packets=30, window=8, stamp=True, sleep=True)
    with Flood.connect(backend.path, features=features) as flood:
        assert flood.run(load).received == 30
        backend.hang_up()
        flood.resume(Frontend.connect(backend.path))
        assert flood.run(load).received == 30


@formats
def test_kicks_are_written_only_when_asked_for(backend: BackendDouble, features: V) -> None:
    backend.polls = True
    with Flood.connect(backend.path, features=features) as flood:
        flood.run(Load(packets=200, window=8, sleep=True))
        counts = flood.counts(1)
    # One at most before the device has said that it polls.
    assert counts.kicks <= 1
    assert counts.kicks_saved > 0


@formats
def test_calls_are_read_when_the_driver_sleeps(backend: BackendDouble, features: V) -> None:
    with Flood.connect(backend.path, features=features) as flood:
        report = flood.run(Load(packets=100, window=1, sleep=True))
        assert report.sleeps > 0
        assert flood.counts(0).calls + flood.counts(1).calls > 0


def test_memory_is_given_back_when_the_driver_closes(backend: BackendDouble, tmp_path: Path) -> None:
    flood = Flood.connect(backend.path)
    flood.start()
    before = flood.memory.alloc(64)
    flood.reset()
    assert flood.memory.alloc(64) < before
    flood.close()


def test_plain_frames_are_experimental_broadcasts() -> None:
    assert ethernet() == b"\xff" * 6 + b"\x02\0\0\0\0\x01" + ETHERTYPE.to_bytes(2, "big")
