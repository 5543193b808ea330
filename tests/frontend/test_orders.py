"""The message orders, replayed without a socket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from vhostuser.errors import PeerError
from vhostuser.frontend import calls, orders
from vhostuser.frontend.calls import Call
from vhostuser.frontend.dialogue import Script
from vhostuser.frontend.guest_memory import GuestMemory, Region
from vhostuser.frontend.nic import Nic, Ring
from vhostuser.frontend.orders import ACKS, Order
from vhostuser.frontend.virtqueue_base import RingPlace
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import (
    U64,
    Inflight,
    MemoryRegion,
    MemTable,
    SingleRegion,
    VringAddr,
    VringState,
)

OFFER = V.VERSION_1 | V.PROTOCOL_FEATURES | V.MQ | V.MTU
ALL_PROTOCOL = P.MQ | P.REPLY_ACK | P.CONFIG | P.STATUS | P.MTU | P.BACKEND_REQ | P.INFLIGHT_SHMFD


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(1 << 20) as memory:
        yield memory


def nic(
    memory: GuestMemory, order: Order, *, pairs: int = 1, wanted: V = OFFER, control: bool = False
) -> Nic:
    rings = [
        Ring(index, 256, None, 20 + index, 30, 31, RingPlace(0x1000, 0x2000, 0x3000))
        for index in range(2 * pairs + control)
    ]
    return Nic(order, wanted, pairs, rings, memory, channel_fd=40, mtu=1400)


REGION = Inflight(8320, 0, 2, 256)


class Answers:
    """A back-end's answers, and a record of what was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {
            "GET_FEATURES": OFFER,
            "GET_PROTOCOL_FEATURES": ALL_PROTOCOL,
            "GET_QUEUE_NUM": 128,
            "GET_STATUS": 0,
            "GET_VRING_BASE": 77,
            "GET_CONFIG": b"config",
            "GET_INFLIGHT_FD": (REGION, 50),
            **answers,
        }
        self.calls: list[Call[Any]] = []

    def run(self, script: Script[None]) -> list[str]:
        """What this script asked, with the ring of what names one."""
        names: list[str] = []
        answer = None
        while True:
            try:
                call = script.send(answer)
            except StopIteration:
                return names
            self.calls.append(call)
            index = getattr(call.payload, "index", None)
            names.append(call.request.name if index is None else f"{call.request.name} {index}")
            answer = self.answers.get(call.request.name)

    def numbers(self, request: Request) -> list[int]:
        """What the calls of one request said."""
        payloads = [call.payload for call in self.calls if call.request is request]
        return [
            p.num if isinstance(p, VringState) else p.value
            for p in payloads
            if isinstance(p, VringState | U64)
        ]


def test_qemu_negotiates_once_a_pair_and_shares_the_rest(memory: GuestMemory) -> None:
    device = nic(memory, Order.QEMU, pairs=2)
    assert Answers().run(orders.negotiate(device)) == [
        "GET_FEATURES",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
        "SET_BACKEND_REQ_FD",
        "SET_OWNER",
        "GET_FEATURES",
        "SET_VRING_CALL 0",
        "SET_VRING_ERR 0",
        "SET_VRING_CALL 1",
        "SET_VRING_ERR 1",
        "GET_FEATURES",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
        "GET_FEATURES",
        "SET_VRING_CALL 2",
        "SET_VRING_ERR 2",
        "SET_VRING_CALL 3",
        "SET_VRING_ERR 3",
    ]
    assert P.CONFIG not in device.protocol


def test_qemu_enables_before_features_and_memory(memory: GuestMemory) -> None:
    device = nic(memory, Order.QEMU)
    answers = Answers()
    answers.run(orders.negotiate(device))
    assert answers.run(orders.start(device)) == [
        "SET_VRING_ENABLE 0",
        "SET_VRING_ENABLE 1",
        "NET_SET_MTU",
        "SET_VRING_ENABLE 0",
        "SET_VRING_ENABLE 1",
        "SET_FEATURES",
        "GET_STATUS",
        "SET_STATUS",
        "SET_MEM_TABLE",
        "SET_VRING_NUM 0",
        "SET_VRING_BASE 0",
        "SET_VRING_ADDR 0",
        "SET_VRING_KICK 0",
        "SET_VRING_CALL 0",
        "SET_VRING_NUM 1",
        "SET_VRING_BASE 1",
        "SET_VRING_ADDR 1",
        "SET_VRING_KICK 1",
        "SET_VRING_CALL 1",
        "GET_STATUS",
        "SET_STATUS",
    ]


def test_qemu_injects_a_kick_once_the_fd_is_set(memory: GuestMemory) -> None:
    device = nic(memory, Order.QEMU)
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    device.rings[1].kick_fd = fd
    answers = Answers()
    answers.run(orders.negotiate(device))
    answers.run(orders.start(device))
    assert os.eventfd_read(fd) == 1
    os.close(fd)


def test_qemu_sets_one_memory_table_and_switches_the_second_pair_on_at_start(memory: GuestMemory) -> None:
    device = nic(memory, Order.QEMU, pairs=2)
    answers = Answers()
    answers.run(orders.negotiate(device))
    names = answers.run(orders.start(device))
    assert names.count("SET_MEM_TABLE") == 1
    assert names.count("SET_FEATURES") == 2
    assert answers.numbers(Request.SET_VRING_ENABLE) == [1, 1, 0, 0, 1, 1, 1, 1]


def test_qemu_stops_without_disabling(memory: GuestMemory) -> None:
    device = nic(memory, Order.QEMU)
    answers = Answers()
    answers.run(orders.negotiate(device))
    assert answers.run(orders.stop(device)) == ["GET_VRING_BASE 0", "GET_VRING_BASE 1", "SET_STATUS"]
    assert [ring.base for ring in device.rings] == [77, 77]


def test_virtio_user_owns_first_and_sends_calls_before_features(memory: GuestMemory) -> None:
    device = nic(memory, Order.VIRTIO_USER)
    answers = Answers()
    assert answers.run(orders.negotiate(device)) == [
        "SET_OWNER",
        "GET_FEATURES",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
    ]
    assert answers.run(orders.start(device)) == [
        "SET_VRING_CALL 0",
        "SET_VRING_CALL 1",
        "SET_FEATURES",
        "SET_STATUS",
        "GET_STATUS",
        "SET_MEM_TABLE",
        "SET_VRING_NUM 0",
        "SET_VRING_BASE 0",
        "SET_VRING_ADDR 0",
        "SET_VRING_KICK 0",
        "SET_VRING_NUM 1",
        "SET_VRING_BASE 1",
        "SET_VRING_ADDR 1",
        "SET_VRING_KICK 1",
        "SET_VRING_ENABLE 0",
        "SET_VRING_ENABLE 1",
        "SET_STATUS",
    ]
    assert device.protocol == P.MQ | P.REPLY_ACK | P.STATUS


def test_virtio_user_gives_base_zero_whatever_the_rings_did(memory: GuestMemory) -> None:
    device = nic(memory, Order.VIRTIO_USER)
    for ring in device.rings:
        ring.base = 99
    answers = Answers()
    answers.run(orders.negotiate(device))
    answers.run(orders.start(device))
    assert answers.numbers(Request.SET_VRING_BASE) == [0, 0]


@pytest.mark.parametrize(
    ("order", "first", "again"),
    [
        (Order.QEMU, 0x8000_8000, 0x0005_0007),
        (Order.VIRTIO_USER, 0x8000, 0x8000),
        (Order.CLOUD_HYPERVISOR, 0x8000_8000, 0x0005_0007),
    ],
)
def test_base_of_packed_rings_has_two_halves(
    memory: GuestMemory, order: Order, first: int, again: int
) -> None:
    device = nic(memory, order, wanted=OFFER | V.RING_PACKED)
    answers = Answers(GET_FEATURES=OFFER | V.RING_PACKED, GET_VRING_BASE=0x0005_0007)
    for script in (orders.negotiate, orders.start, orders.stop, orders.start):
        answers.run(script(device))
    assert device.packed
    assert answers.numbers(Request.SET_VRING_BASE) == [first, first, again, again]


def test_answer_outside_a_packed_ring_is_the_back_ends_fault(memory: GuestMemory) -> None:
    device = nic(memory, Order.QEMU, wanted=OFFER | V.RING_PACKED)
    answers = Answers(GET_FEATURES=OFFER | V.RING_PACKED, GET_VRING_BASE=256)
    answers.run(orders.negotiate(device))
    with pytest.raises(PeerError, match="outside a packed ring of 256"):
        answers.run(orders.stop(device))


def test_virtio_user_disables_before_it_stops(memory: GuestMemory) -> None:
    device = nic(memory, Order.VIRTIO_USER)
    answers = Answers()
    answers.run(orders.negotiate(device))
    assert answers.run(orders.stop(device)) == [
        "SET_VRING_ENABLE 0",
        "SET_VRING_ENABLE 1",
        "GET_VRING_BASE 0",
        "GET_VRING_BASE 1",
    ]


def test_cloud_hypervisor_reads_the_config_space_and_sends_addresses_before_bases(
    memory: GuestMemory,
) -> None:
    device = nic(memory, Order.CLOUD_HYPERVISOR)
    answers = Answers()
    assert answers.run(orders.negotiate(device)) == [
        "SET_OWNER",
        "GET_FEATURES",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
        "GET_CONFIG",
    ]
    assert device.config == b"config"
    assert answers.run(orders.start(device)) == [
        "SET_FEATURES",
        "SET_MEM_TABLE",
        "SET_VRING_NUM 0",
        "SET_VRING_NUM 1",
        "GET_INFLIGHT_FD",
        "SET_INFLIGHT_FD",
        "SET_VRING_ADDR 0",
        "SET_VRING_BASE 0",
        "SET_VRING_CALL 0",
        "SET_VRING_KICK 0",
        "SET_VRING_ENABLE 0",
        "SET_VRING_ADDR 1",
        "SET_VRING_BASE 1",
        "SET_VRING_CALL 1",
        "SET_VRING_KICK 1",
        "SET_VRING_ENABLE 1",
    ]
    assert answers.run(orders.stop(device)) == [
        "SET_VRING_ENABLE 0",
        "GET_VRING_BASE 0",
        "SET_VRING_ENABLE 1",
        "GET_VRING_BASE 1",
    ]


def test_cloud_hypervisor_sets_the_inflight_region_that_it_got_and_keeps_it(memory: GuestMemory) -> None:
    device = nic(memory, Order.CLOUD_HYPERVISOR)
    answers = Answers()
    answers.run(orders.negotiate(device))
    answers.run(orders.start(device))
    assert device.inflight == (REGION, 50)
    asked, said = (call for call in answers.calls if "INFLIGHT" in call.request.name)
    assert asked.payload == Inflight(0, 0, 2, 256)
    assert (said.payload, said.fds) == (REGION, (50,))

    # Another back-end is told of the region of the last one, and asked for none.
    again = answers.run(orders.start(device))
    assert [name for name in again if "INFLIGHT" in name] == ["SET_INFLIGHT_FD"]


@pytest.mark.parametrize("order", Order)
def test_no_inflight_region_without_a_back_end_or_a_front_end_that_has_one(
    memory: GuestMemory, order: Order
) -> None:
    without = ALL_PROTOCOL & ~P.INFLIGHT_SHMFD
    for wanted, offered in ((without, ALL_PROTOCOL), (None, without)):
        device = nic(memory, order)
        device.protocol_wanted = wanted
        answers = Answers(GET_PROTOCOL_FEATURES=offered)
        answers.run(orders.negotiate(device))
        assert not any("INFLIGHT" in name for name in answers.run(orders.start(device)))


@pytest.mark.parametrize("order", Order)
def test_back_end_without_protocol_features_is_asked_for_none(memory: GuestMemory, order: Order) -> None:
    device = nic(memory, order)
    answers = Answers(GET_FEATURES=V.VERSION_1)
    names = answers.run(orders.negotiate(device)) + answers.run(orders.start(device))
    names += answers.run(orders.stop(device))
    assert device.protocol == P(0)
    gated = {"GET_PROTOCOL_FEATURES", "SET_PROTOCOL_FEATURES", "GET_QUEUE_NUM", "SET_STATUS", "NET_SET_MTU"}
    assert not gated & set(names)
    assert not any(name.startswith("SET_VRING_ENABLE") for name in names)


@pytest.mark.parametrize("order", Order)
def test_only_what_is_offered_and_wanted_is_acknowledged(memory: GuestMemory, order: Order) -> None:
    device = nic(memory, order, wanted=V.VERSION_1 | V.PROTOCOL_FEATURES | V.CSUM)
    answers = Answers()
    answers.run(orders.negotiate(device))
    answers.run(orders.start(device))
    assert answers.numbers(Request.SET_FEATURES) == [V.VERSION_1 | V.PROTOCOL_FEATURES]


@pytest.mark.parametrize(("order", "most"), [(Order.QEMU, 3), (Order.CLOUD_HYPERVISOR, 7)])
def test_too_few_queues_are_the_back_ends_fault(memory: GuestMemory, order: Order, most: int) -> None:
    """The answer counts pairs for QEMU and rings for Cloud Hypervisor."""
    device = nic(memory, order, pairs=4)
    with pytest.raises(PeerError, match=f"serves {most}"):
        Answers(GET_QUEUE_NUM=most).run(orders.negotiate(device))
    Answers(GET_QUEUE_NUM=most + 1).run(orders.negotiate(nic(memory, order, pairs=4)))


def test_several_pairs_without_multi_queue_are_the_back_ends_fault(memory: GuestMemory) -> None:
    with pytest.raises(PeerError, match="one queue pair, 2 were"):
        Answers(GET_PROTOCOL_FEATURES=P(0)).run(orders.negotiate(nic(memory, Order.QEMU, pairs=2)))


def test_ownership_is_taken_once(memory: GuestMemory) -> None:
    device = nic(memory, Order.CLOUD_HYPERVISOR)
    assert "SET_OWNER" in Answers().run(orders.negotiate(device))
    assert "SET_OWNER" not in Answers().run(orders.negotiate(device))


def test_addresses_go_out_as_desc_used_avail(memory: GuestMemory) -> None:
    answers = Answers()
    device = nic(memory, Order.QEMU)
    answers.run(orders.negotiate(device))
    answers.run(orders.start(device))
    (first, _) = [call.payload for call in answers.calls if call.request is Request.SET_VRING_ADDR]
    assert first == VringAddr(index=0, flags=0, desc=0x1000, used=0x3000, avail=0x2000, log=0)


def test_who_asks_for_acknowledgements() -> None:
    assert Request.SET_MEM_TABLE in ACKS[Order.VIRTIO_USER]
    assert Request.SET_VRING_NUM not in ACKS[Order.QEMU]
    assert all(request in ACKS[Order.CLOUD_HYPERVISOR] for request in Request)


SLOTS = ALL_PROTOCOL | P.CONFIGURE_MEM_SLOTS


def region_calls(answers: Answers) -> list[tuple[str, MemoryRegion, tuple[int, ...]]]:
    """What was said of single regions since the last time, in order."""
    said = [
        (c.request.name, c.payload.region, c.fds)
        for c in answers.calls
        if isinstance(c.payload, SingleRegion)
    ]
    answers.calls.clear()
    return said


def test_qemu_asks_for_the_slots_once_a_pair_and_never_sends_a_table(memory: GuestMemory) -> None:
    device = nic(memory, Order.QEMU, pairs=2)
    answers = Answers(GET_PROTOCOL_FEATURES=SLOTS, GET_MAX_MEM_SLOTS=509)
    names = answers.run(orders.negotiate(device))
    assert names.count("GET_MAX_MEM_SLOTS") == 2
    assert names.index("GET_QUEUE_NUM") < names.index("GET_MAX_MEM_SLOTS") < names.index("SET_BACKEND_REQ_FD")

    names = answers.run(orders.start(device))

    assert "SET_MEM_TABLE" not in names
    assert names.count("ADD_MEM_REG") == 2
    assert region_calls(answers) == [
        ("ADD_MEM_REG", region, (fd,))
        for region, fd in zip(calls.memory_table(memory).regions, memory.fds(), strict=True)
    ]


def test_qemu_says_only_what_has_changed_at_the_next_start() -> None:
    first = [Region(n << 32, 4096, n * 4096) for n in range(4)]
    second = [first[0], Region(8 << 32, 4096, 8 * 4096), first[3]]
    with GuestMemory(regions=first) as old, GuestMemory(regions=second) as new:
        device = nic(old, Order.QEMU)
        answers = Answers(GET_PROTOCOL_FEATURES=SLOTS, GET_MAX_MEM_SLOTS=509)
        answers.run(orders.negotiate(device))
        answers.run(orders.start(device))
        answers.run(orders.stop(device))
        region_calls(answers)
        answers.run(orders.start(device))
        assert region_calls(answers) == []

        # The user addresses of what stays are the same, as they are in QEMU.
        shared = [old.regions[0], old.regions[3]]
        new.regions = (shared[0], new.regions[1], shared[1])
        device.memory = new
        answers.run(orders.start(device))
        gone = calls.memory_table(old).regions
        assert region_calls(answers) == [
            ("REM_MEM_REG", gone[2], ()),
            ("REM_MEM_REG", gone[1], ()),
            ("ADD_MEM_REG", calls.memory_table(new).regions[1], (new.fds()[1],)),
        ]


def test_qemu_does_without_a_back_end_of_too_few_slots(memory: GuestMemory) -> None:
    answers = Answers(GET_PROTOCOL_FEATURES=SLOTS, GET_MAX_MEM_SLOTS=1)
    with pytest.raises(PeerError, match="1 memory slots, too few"):
        answers.run(orders.negotiate(nic(memory, Order.QEMU)))


@pytest.mark.parametrize("order", [Order.VIRTIO_USER, Order.CLOUD_HYPERVISOR])
def test_others_send_a_table_though_there_are_slots(memory: GuestMemory, order: Order) -> None:
    device = nic(memory, order)
    answers = Answers(GET_PROTOCOL_FEATURES=SLOTS)
    answers.run(orders.negotiate(device))
    names = answers.run(orders.start(device))
    assert names.count("SET_MEM_TABLE") == 1
    assert "ADD_MEM_REG" not in names


def test_protocol_features_that_are_wanted_stand_in_for_those_of_the_order(memory: GuestMemory) -> None:
    device = nic(memory, Order.QEMU)
    device.protocol_wanted = P.MQ | P.GPA_ADDRESSES
    Answers(GET_PROTOCOL_FEATURES=SLOTS | P.GPA_ADDRESSES).run(orders.negotiate(device))
    assert device.protocol == P.MQ | P.GPA_ADDRESSES


@pytest.mark.parametrize("slots", [P(0), P.CONFIGURE_MEM_SLOTS])
def test_regions_have_guest_addresses_for_user_addresses_where_negotiated(
    memory: GuestMemory, slots: P
) -> None:
    device = nic(memory, Order.QEMU)
    device.protocol_wanted = P.MQ | P.GPA_ADDRESSES | slots
    answers = Answers(GET_PROTOCOL_FEATURES=device.protocol_wanted, GET_MAX_MEM_SLOTS=509)
    answers.run(orders.negotiate(device))
    answers.run(orders.start(device))
    tables = [call.payload.regions for call in answers.calls if isinstance(call.payload, MemTable)]
    rows = tables[0] if tables else [region for _, region, _ in region_calls(answers)]
    assert [(row.gpa, row.uva) for row in rows] == [(row.gpa, row.gpa) for row in memory.regions]


@pytest.mark.parametrize("order", Order)
def test_control_ring_is_set_up_behind_the_pairs_as_every_other(memory: GuestMemory, order: Order) -> None:
    device, without = nic(memory, order, pairs=2, control=True), nic(memory, order, pairs=2)
    answers = Answers()
    asked = answers.run(orders.negotiate(device)) + answers.run(orders.start(device))
    before = answers.run(orders.negotiate(without)) + answers.run(orders.start(without))

    def of_ring(index: int) -> list[str]:
        return [name.rpartition(" ")[0] for name in asked if name.endswith(f" {index}")]

    assert [name for name in asked if name.endswith(" 4") and name not in before]
    assert sorted(set(of_ring(4))) == sorted(set(of_ring(3)))
    assert answers.run(orders.stop(device)).count("GET_VRING_BASE 4") == 1
