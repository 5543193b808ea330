"""Bringing a device up and down, whatever happens on its rings."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from tests.frontend.backend_double import BackendDouble
from tests.frontend.peer import Peer
from vhostuser.errors import PeerError
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.flood import Flood, Load
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.guest_memory import GuestMemory, identity_layout
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.orders import Order
from vhostuser.frontend.timeouts import Deadline
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import U64, MemTable, VringAddr, VringState

PACKED = DEFAULT_FEATURES | V.RING_PACKED
FRAME = bytes(6) + bytes(6) + b"\x88\xb5" + b"payload" * 7


@pytest.mark.parametrize("order", Order)
def test_frame_comes_back_in_every_order(backend: BackendDouble, order: Order) -> None:
    with VirtioNetDriver.connect(backend.path, order=order) as nic:
        nic.send(FRAME)
        assert nic.recv().frame == FRAME


@pytest.mark.parametrize("order", ["qemu", "virtio-user", "cloud-hypervisor"])
def test_order_may_be_given_by_name(backend: BackendDouble, order: str) -> None:
    with VirtioNetDriver.connect(backend.path, order=order) as nic:
        assert nic.nic.order.value == order


@pytest.mark.parametrize("order", Order)
def test_rings_go_on_after_a_stop(backend: BackendDouble, order: Order) -> None:
    with VirtioNetDriver.connect(backend.path, order=order) as nic:
        for _ in range(300):
            nic.send(FRAME)
            nic.recv()
        nic.wait_sent()
        nic.stop()
        assert [ring.base for ring in nic.nic.rings] == [300, 300]
        nic.start()
        nic.send(FRAME)
        assert nic.recv().frame == FRAME


def bases_sent(backend: BackendDouble) -> list[int]:
    """What SET_VRING_BASE said so far."""
    return [
        p.num for r, p, _ in backend.requests if r is Request.SET_VRING_BASE and isinstance(p, VringState)
    ]


def echo(nic: VirtioNetDriver, count: int) -> None:
    for _ in range(count):
        nic.send(FRAME)
        assert nic.recv().frame == FRAME
    nic.wait_sent()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("order", Order)
def test_packed_rings_go_on_after_a_stop(backend: BackendDouble, order: Order, half: bool) -> None:
    """From both positions, from the one that DPDK answers, and virtio-user always with new rings."""
    backend.half_base = half
    with VirtioNetDriver.connect(backend.path, order=order, features=PACKED, queue_size=40) as nic:
        first = 0x8000 if order is Order.VIRTIO_USER else 0x8000_8000
        for frames, word in ((60, 20), (25, 0x8005), (35, 0)):
            backend.requests.clear()
            echo(nic, frames)
            nic.stop()
            if order is Order.VIRTIO_USER:
                word = {60: 20, 25: 0x8000 + 25, 35: 0x8000 + 35}[frames]
            answer = word if half else word | word << 16
            assert [ring.base for ring in nic.nic.rings] == [answer, answer]
            nic.start()
            expected = first if order is Order.VIRTIO_USER else answer
            assert bases_sent(backend) == [expected, expected]
        echo(nic, 3)


@pytest.mark.parametrize("order", Order)
def test_new_packed_rings_begin_with_both_wrap_counters(backend: BackendDouble, order: Order) -> None:
    expected = 0x8000 if order is Order.VIRTIO_USER else 0x8000_8000
    with VirtioNetDriver.connect(backend.path, order=order, features=PACKED) as nic:
        echo(nic, 3)
        nic.reset()
        nic.start()
        echo(nic, 3)
    assert bases_sent(backend) == [expected] * 4


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("make", [VirtioNetDriver, Flood])
def test_packed_rings_go_on_with_a_back_end_that_was_restarted(
    backend: BackendDouble, order: Order, make: type[VirtioNetDriver] | type[Flood]
) -> None:
    def exchange(nic: VirtioNetDriver | Flood) -> None:
        if isinstance(nic, VirtioNetDriver):
            echo(nic, 50)
        else:
            assert nic.run(Load(packets=50, window=8, stamp=True, sleep=True)).received == 50

    with make.connect(backend.path, order=order, features=PACKED, queue_size=40) as nic:
        exchange(nic)
        backend.hang_up()
        nic.frontend.wait_closed()
        backend.requests.clear()
        nic.resume(Frontend.connect(backend.path))
        expected = 0x8000 if order is Order.VIRTIO_USER else 10 << 16 | 10
        assert bases_sent(backend) == [expected, expected]
        exchange(nic)


def test_packed_base_outside_the_ring_is_the_back_ends_fault(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path, features=PACKED, queue_size=40) as nic:
        backend.stop_answer = 0x8000_8028
        with pytest.raises(PeerError, match="0x80008028 lies outside a packed ring of 40"):
            nic.stop()


def test_reset_begins_at_zero_with_other_features(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path) as nic:
        nic.send(FRAME)
        nic.recv()
        nic.reset(V.VERSION_1 | V.PROTOCOL_FEATURES)
        assert nic.features == V.VERSION_1 | V.PROTOCOL_FEATURES
        nic.start()
        assert bases_sent(backend) == [0, 0, 0, 0]
        nic.send(FRAME)
        assert nic.recv().frame == FRAME


def test_reset_before_the_first_start_is_nothing_special(backend: BackendDouble) -> None:
    nic = VirtioNetDriver.connect(backend.path)
    nic.reset()
    with nic:
        nic.send(FRAME)
        assert nic.recv().frame == FRAME


@pytest.mark.parametrize("order", Order)
def test_driver_goes_on_with_a_back_end_that_was_restarted(backend: BackendDouble, order: Order) -> None:
    with VirtioNetDriver.connect(backend.path, order=order) as nic:
        for _ in range(5):
            nic.send(FRAME)
            nic.recv()
        nic.wait_sent()
        backend.hang_up()
        nic.frontend.wait_closed()
        nic.resume(Frontend.connect(backend.path))
        nic.send(FRAME)
        assert nic.recv().frame == FRAME


@pytest.mark.parametrize(
    ("order", "bases"),
    [(Order.QEMU, [5, 5]), (Order.VIRTIO_USER, [0, 0]), (Order.CLOUD_HYPERVISOR, [5 + 256, 5])],
)
def test_position_after_a_loss_is_the_one_that_front_end_gives(
    backend: BackendDouble, order: Order, bases: list[int]
) -> None:
    """Used index, 0, or avail index: for the receive ring the last is ahead by what is lent."""
    with VirtioNetDriver.connect(backend.path, order=order) as nic:
        for _ in range(5):
            nic.send(FRAME)
            nic.recv()
        nic.wait_sent()
        backend.requests.clear()
        nic.resume(Frontend.connect(backend.path))
        assert bases_sent(backend) == bases


def test_back_end_that_offers_less_than_before_is_refused(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path) as nic:
        backend.features &= ~V.EVENT_IDX
        with pytest.raises(PeerError, match="no longer offers EVENT_IDX"):
            nic.resume(Frontend.connect(backend.path))


def test_refused_memory_table_is_the_back_ends_fault(backend: BackendDouble) -> None:
    backend.refuses = frozenset({Request.SET_MEM_TABLE})
    with pytest.raises(PeerError, match="refused SET_MEM_TABLE"), VirtioNetDriver.connect(backend.path):
        pass


def test_acknowledgements_are_asked_for_as_the_order_has_it(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path, order=Order.VIRTIO_USER):
        pass
    asked = {request for request, _, need_reply in backend.requests if need_reply}
    assert asked == {Request.SET_MEM_TABLE, Request.SET_STATUS}


def test_acknowledgements_can_be_chosen(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path, acks=frozenset({Request.SET_VRING_NUM})):
        pass
    asked = {request for request, _, need_reply in backend.requests if need_reply}
    assert asked == {Request.SET_VRING_NUM}


def test_several_pairs_negotiate_multi_queue(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path, queue_pairs=3) as nic:
        assert V.MQ in nic.features
        assert len(nic.queues) == 6
        nic.send(FRAME, queue=2)
        assert nic.recv().queue == 2


def test_one_pair_leaves_multi_queue_alone(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path) as nic:
        assert V.MQ not in nic.features
        assert nic.features == DEFAULT_FEATURES & backend.features
        assert nic.protocol_features == P.MQ | P.REPLY_ACK | P.STATUS | P.MTU | P.BACKEND_REQ


def test_enable_switches_both_rings(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path, queue_pairs=2) as nic:
        nic.enable(1, False)
        assert [(r, p) for r, p, _ in backend.requests[-2:]] == [
            (Request.SET_VRING_ENABLE, VringState(2, 0)),
            (Request.SET_VRING_ENABLE, VringState(3, 0)),
        ]


def test_mtu_is_told_when_it_is_negotiated(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path, mtu=1400, features=DEFAULT_FEATURES | V.MTU):
        pass
    assert (Request.NET_SET_MTU, U64(1400)) in [(r, p) for r, p, _ in backend.requests]


def test_config_space_is_read_by_the_order_that_reads_it(backend: BackendDouble) -> None:
    backend.config = b"\x02\0\0\0\0\7" + b"\x01\0" + b"\x04\0" + b"\xdc\5"
    with VirtioNetDriver.connect(backend.path, order=Order.CLOUD_HYPERVISOR) as nic:
        assert nic.nic.config == backend.config


def test_rings_without_kick_fds_are_polled_for(backend: BackendDouble) -> None:
    backend.polls = True
    with VirtioNetDriver.connect(backend.path, kick_fds=False) as nic:
        nic.kick(1)
        nic.send(FRAME)
        assert nic.recv().frame == FRAME


def test_memory_of_the_caller_is_used_and_kept(backend: BackendDouble) -> None:
    with GuestMemory(regions=identity_layout(16 << 20)) as memory:
        with VirtioNetDriver.connect(backend.path, memory=memory) as nic:
            nic.send(FRAME)
            assert nic.recv().frame == FRAME
        (table,) = [p for r, p, _ in backend.requests if r is Request.SET_MEM_TABLE]
        assert isinstance(table, MemTable)
        assert table.regions[0].gpa == table.regions[0].uva
        assert memory.read(memory.regions[0].gpa, 1) == b"\0"


def test_memory_is_given_back_when_the_driver_closes(backend: BackendDouble) -> None:
    with GuestMemory(16 << 20) as memory:
        first = memory.alloc(64)
        memory.free(first)
        with VirtioNetDriver.connect(backend.path, memory=memory) as nic:
            nic.send(FRAME)
        assert memory.alloc(8 << 20 >> 1) == -(-first // 64) * 64


def test_channel_is_the_back_ends_way_to_us(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path) as nic:
        assert Request.SET_BACKEND_REQ_FD in [request for request, _, _ in backend.requests]
        assert nic.channel.fileno() > 0


def test_close_may_be_repeated(backend: BackendDouble) -> None:
    nic = VirtioNetDriver.connect(backend.path)
    nic.start()
    nic.close()
    nic.close()
    assert not nic.running


def test_listen_serves_the_back_end_that_connects(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    made: list[VirtioNetDriver] = []
    listener = threading.Thread(target=lambda: made.append(VirtioNetDriver.listen(path)))
    listener.start()
    with Peer.connected(path):
        listener.join()
        made[0].close()
    assert not path.exists()


def test_unknown_order_leaves_nothing_open(backend: BackendDouble) -> None:
    frontend = Frontend.connect(backend.path)
    with frontend, pytest.raises(ValueError, match="nobody"):
        VirtioNetDriver(frontend, order="nobody")


@pytest.mark.parametrize(
    ("features", "size"),
    [
        (DEFAULT_FEATURES, 2048),
        (DEFAULT_FEATURES | V.GUEST_TSO4, 2048),
        (V.VERSION_1 | V.GUEST_TSO4, 65600),
        (V.VERSION_1, 2048),
    ],
)
def test_receive_buffers_are_as_large_as_features_demand(
    backend: BackendDouble, features: V, size: int
) -> None:
    backend.features |= V.GUEST_TSO4
    with contextlib.closing(VirtioNetDriver.connect(backend.path, features=features)) as nic:
        nic.negotiate()
        assert nic.buffer_size == size


def test_wait_for_call_reads_the_eventfd_or_runs_out_of_time(backend: BackendDouble) -> None:
    with VirtioNetDriver.connect(backend.path) as nic:
        call = nic.nic.rings[1].call_fd
        assert call is not None
        os.eventfd_write(call, 3)
        assert nic.wait_for_call([1], Deadline(5))
        assert not nic.wait_for_call([1], Deadline(0))


@pytest.mark.parametrize("make", [VirtioNetDriver, Flood])
@pytest.mark.parametrize("order", [Order.QEMU, Order.CLOUD_HYPERVISOR])
def test_memory_goes_in_slots_and_rings_at_guest_addresses(
    backend: BackendDouble, order: Order, make: type[VirtioNetDriver] | type[Flood]
) -> None:
    offer = backend.protocol_features | P.CONFIGURE_MEM_SLOTS | P.GPA_ADDRESSES
    backend.protocol_features = offer
    with make.connect(backend.path, order=order, protocol_features=offer) as nic:
        if isinstance(nic, VirtioNetDriver):
            echo(nic, 5)
        else:
            assert nic.run(Load(packets=50, window=8, stamp=True, sleep=True)).received == 50
        guest = [(region.gpa, region.end) for region in nic.memory.regions]
    addresses = [payload for _, payload, _ in backend.requests if isinstance(payload, VringAddr)]
    assert len(addresses) == 2
    assert all(any(low <= place.desc < high for low, high in guest) for place in addresses)
    assert ("ADD_MEM_REG" in backend.named()) == (order is Order.QEMU)


def test_back_end_that_was_restarted_is_told_all_regions_again(backend: BackendDouble) -> None:
    backend.protocol_features |= P.CONFIGURE_MEM_SLOTS
    with VirtioNetDriver.connect(backend.path) as nic:
        echo(nic, 3)
        nic.stop()
        nic.start()
        assert backend.named().count("ADD_MEM_REG") == len(nic.memory.regions)
        backend.hang_up()
        nic.frontend.wait_closed()
        nic.resume(Frontend.connect(backend.path))
        echo(nic, 3)
        assert backend.named().count("ADD_MEM_REG") == 2 * len(nic.memory.regions)


def test_control_queue_that_the_back_end_does_not_offer_is_its_fault(backend: BackendDouble) -> None:
    nic = VirtioNetDriver.connect(backend.path, control_queue=True)
    with pytest.raises(PeerError, match="CTRL_VQ"):
        nic.start()
    nic.close()


def test_control_queue_is_behind_the_pairs_and_no_frame_comes_from_it(backend: BackendDouble) -> None:
    backend.features |= V.CTRL_VQ
    with VirtioNetDriver.connect(backend.path, queue_pairs=2, control_queue=True) as nic:
        assert V.CTRL_VQ in nic.features
        assert [ring.index for ring in nic.nic.rings] == [0, 1, 2, 3, 4]
        assert len(nic.virtqueues) == 5
        assert nic.control._queue is nic.virtqueues[4]
        nic.send(bytes(60), queue=1)
        assert nic.recv().queue == 1
    with VirtioNetDriver.connect(backend.path) as nic, pytest.raises(IndexError):
        nic.control  # noqa: B018 - it is a property
