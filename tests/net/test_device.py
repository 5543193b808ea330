"""NetDevice with a real worker and real memory, a port that remembers, and no session in between."""

from __future__ import annotations

import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import live_regions, open_fds
from tests.net.fakes import FakePort, StepHelper
from vhostuser.datapath.port_ops import PortKind, PortOps
from vhostuser.datapath.vring import PacketDevice
from vhostuser.datapath.worker import EventKind, Worker, WorkerEvent
from vhostuser.errors import EnvironmentLacksError, RequestError
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.virtqueue import Segment, SplitVirtqueue
from vhostuser.net.config_space import ConfigSpace
from vhostuser.net.device import NetDevice
from vhostuser.session.states import RingState
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.payloads import MemoryRegion, VringAddr

SIZE = 16
STARTED = RingState.STARTED_ENABLED


class Rig:
    """One device with port `sink` (or fds), 1 MiB of memory, a virtqueue for each ring that is asked for."""

    def __init__(self, queues: int = 1, ops: PortOps | None = None) -> None:
        self.worker = Worker()
        self.port = FakePort(queues)
        self.helper = StepHelper()
        self.packet = PacketDevice(0, self.worker)
        self.device = NetDevice(
            self.packet,
            self.port,
            ops or PortOps(PortKind.SINK),
            queues=queues,
            offer=V.VERSION_1 | V.EVENT_IDX,
            protocol_offer=P.REPLY_ACK,
            config_space=ConfigSpace(bytes(6), queues, 0),
            helper=self.helper,
            log=logging.LoggerAdapter(logging.getLogger("vhostuser"), {}),
        )
        self.memory = GuestMemory(1 << 20)
        self.queues: dict[int, SplitVirtqueue[int]] = {}

    def virtqueue(self, index: int) -> SplitVirtqueue[int]:
        if index not in self.queues:
            self.queues[index] = SplitVirtqueue(self.memory, SIZE)
        return self.queues[index]

    def items(self, index: int) -> dict[str, Callable[[], None]]:
        """What has to be said so that a ring runs, each said by a call."""
        place = self.virtqueue(index).user_place
        addr = VringAddr(index, 0, place.desc, place.used, place.avail, 0)

        def kick() -> None:
            self.device.set_vring_kick(index, os.eventfd(0))
            self.device.set_vring_states({index: STARTED})

        return {
            "features": lambda: self.device.set_features(V.VERSION_1),
            "memory": self.say_memory,
            "num": lambda: self.device.set_vring_num(index, SIZE),
            "base": lambda: self.device.set_vring_base(index, 0),
            "addr": lambda: self.device.set_vring_addr(addr),
            "kick": kick,
        }

    def say_memory(self) -> None:
        regions = self.memory.regions
        table = tuple(MemoryRegion(row.gpa, row.size, row.uva or 0, row.mmap_offset) for row in regions)
        self.device.set_mem_table(table, [os.dup(fd) for fd in self.memory.fds()])

    def start(self, *indices: int) -> None:
        for index in indices:
            for say in self.items(index).values():
                say()
        self.settle()

    def settle(self) -> list[WorkerEvent]:
        self.helper.run()
        while self.worker.turn()[0]:
            pass
        return list(self.worker.events())

    def stop(self, index: int) -> int:
        self.device.set_vring_states({index: RingState.STOPPED_ENABLED})
        return self.device.get_vring_base(index)

    def close(self) -> None:
        for index in list(self.queues):
            self.device.set_vring_states({index: RingState.STOPPED_DISABLED})
        self.device.disconnect()
        self.helper.run()
        self.device.close()
        self.worker.close()
        self.memory.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.mark.parametrize("order", list(itertools.permutations(["memory", "num", "addr", "kick", "base"])))
def test_ring_runs_whatever_the_order_of_messages(rig: Rig, order: tuple[str, ...]) -> None:
    items = rig.items(1)
    items["features"]()
    for name in order:
        items[name]()

    events = rig.settle()

    assert [(event.kind, event.ring) for event in events] == [(EventKind.RING_STARTED, 1)]
    assert rig.device.idle_reasons() == {}


@pytest.mark.parametrize("left_out", ["features", "memory", "num", "addr", "kick"])
def test_ring_that_lacks_an_item_does_not_run_and_says_which(rig: Rig, left_out: str) -> None:
    for name, say in rig.items(1).items():
        if name != left_out:
            say()

    assert rig.settle() == []
    reason = rig.device.idle_reasons()[1]
    words = {
        "features": "SET_FEATURES",
        "memory": "MEM_TABLE",
        "num": "VRING_NUM",
        "addr": "VRING_ADDR",
        "kick": "VRING_KICK",
    }
    assert words[left_out] in reason


def test_ring_is_held_until_the_port_has_started(rig: Rig) -> None:
    for say in rig.items(1).values():
        say()

    assert not any(rig.worker.turn())
    assert rig.device.idle_reasons() == {1: "the port has not come yet"}
    rig.settle()
    assert rig.device.idle_reasons() == {}
    assert rig.port.take_calls() == [("start", V.VERSION_1)]


def test_get_vring_base_returns_the_position_and_closes_kick_and_call(rig: Rig) -> None:
    rig.start(1)
    call = os.eventfd(0)
    rig.device.set_vring_call(1, call)
    queue = rig.virtqueue(1)
    gpa = rig.memory.alloc(64)
    for token in range(3):
        queue.add([Segment(gpa, 64)], [], token)
    queue.publish()
    rig.device.set_vring_kick(1, os.eventfd(0))
    rig.settle()

    assert rig.stop(1) == 3

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(call)


def test_get_vring_base_of_a_ring_never_set_up_is_what_was_said(rig: Rig) -> None:
    rig.device.set_vring_base(6, 77)

    assert rig.device.get_vring_base(6) == 77
    assert rig.device.get_vring_base(200) == 0


@pytest.mark.parametrize("before", ["memory", "num", "addr", "kick"])
def test_ring_waits_for_features_that_say_what_its_words_mean(rig: Rig, before: str) -> None:
    items = rig.items(1)
    for name in ("memory", "num", "base", "addr", "kick"):
        if name == before:
            continue
        items[name]()
    assert rig.settle() == []
    items["features"]()
    items[before]()

    assert [(event.kind, event.ring) for event in rig.settle()] == [(EventKind.RING_STARTED, 1)]


def test_last_ring_that_stops_stops_the_port(rig: Rig) -> None:
    rig.start(0, 1)
    rig.port.take_calls()

    rig.stop(0)
    rig.helper.run()
    assert rig.port.take_calls() == []
    rig.stop(1)
    rig.helper.run()

    assert rig.port.take_calls() == [("stop",)]


def test_memory_that_is_replaced_is_unmapped(rig: Rig) -> None:
    rig.start(1)
    before = live_regions()

    rig.say_memory()

    assert live_regions() == before
    assert rig.helper.jobs == []  # ports do not wait for it


def test_of_many_mtus_in_a_row_the_last_is_set(rig: Rig) -> None:
    for mtu in (1500, 1400, 9000):
        rig.device.set_mtu(mtu)
    rig.helper.run()
    rig.device.set_mtu(1500)
    rig.helper.run()

    assert rig.port.take_calls() == [("set_mtu", 9000), ("set_mtu", 1500)]


def test_many_rings_that_change_at_once_ask_the_port_once() -> None:
    rig = Rig(queues=4)
    rig.start(*range(8))
    rig.port.take_calls()

    rig.device.set_vring_states(dict.fromkeys(range(8), RingState.STOPPED_DISABLED))
    rig.settle()

    assert rig.port.take_calls() == [("stop",)]
    rig.close()


def test_memory_table_that_is_refused_leaves_the_old_one(rig: Rig) -> None:
    rig.start(1)
    before = live_regions()
    fd = os.memfd_create("short")
    os.ftruncate(fd, 4096)

    with pytest.raises(RequestError, match="needs a file of"):
        rig.device.set_mem_table((MemoryRegion(0, 8192, 0x7000, 0),), [fd])

    assert live_regions() == before
    assert rig.settle() == []
    assert rig.device.idle_reasons() == {}


def test_ring_outside_the_memory_table_does_not_start_until_a_table_has_it(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.say_memory()
    items = rig.items(1)
    items["features"]()
    items["num"]()
    rig.device.set_vring_addr(VringAddr(1, 0, 0x10, 0x2000, 0x1000, 0))
    items["kick"]()
    rig.settle()

    assert "ring 1 does not start" in caplog.text
    assert "0x10" in rig.device.idle_reasons()[1]


def test_ring_that_did_not_start_may_be_stopped_and_started_elsewhere(rig: Rig) -> None:
    items = rig.items(1)
    for name in ("features", "memory", "num", "kick"):
        items[name]()
    rig.device.set_vring_addr(VringAddr(1, 0, 0x10, 0x2000, 0x1000, 0))
    assert rig.settle() == []

    rig.stop(1)
    items["addr"]()
    items["kick"]()

    assert [event.kind for event in rig.settle()] == [EventKind.RING_STARTED]


def test_wrong_notify_fd_is_refused_and_the_old_one_stays(rig: Rig) -> None:
    rig.start(1)

    with pytest.raises(RequestError, match="eventfd"):
        rig.device.set_vring_kick(1, os.memfd_create("x"))

    # Still watched: a kick through the first fd is seen.
    assert rig.stop(1) == 0


def test_more_pairs_than_port_queues_share_them_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    left, right = os.pipe()
    rig = Rig(queues=1, ops=PortOps(PortKind.FD, (right,)))

    rig.start(1, 3, 5)

    shared = [record for record in caplog.records if "shares queue" in record.message]
    assert len(shared) == 1
    assert rig.device.idle_reasons() == {}
    rig.close()
    os.close(left)
    os.close(right)


def test_disabled_pair_detaches_its_queue_and_is_attached_again() -> None:
    rig = Rig(queues=2)
    rig.start(0, 1, 2, 3)
    rig.port.take_calls()

    for index in (2, 3):
        rig.device.set_vring_states({index: RingState.STARTED_DISABLED})
    rig.settle()
    assert rig.port.take_calls() == [("attach", 1, False)]
    for index in (2, 3):
        rig.device.set_vring_states({index: STARTED})
    rig.settle()
    assert rig.port.take_calls() == [("attach", 1, True)]
    rig.close()


def test_queue_count_is_true_as_pairs_and_as_rings() -> None:
    few, many = Rig(queues=64), Rig(queues=65)

    assert few.device.queue_count() == 128
    assert many.device.queue_count() == 256
    few.close()
    many.close()


def test_rarp_and_mtu_reach_the_port(rig: Rig) -> None:
    mac = bytes.fromhex("525400123456")

    rig.device.send_rarp(mac)
    rig.device.set_mtu(9000)
    rig.helper.run()

    (name, frame), mtu = rig.port.take_calls()
    assert name == "inject"
    assert isinstance(frame, bytes)
    assert mac in frame
    assert mtu == ("set_mtu", 9000)


def test_mtu_that_the_port_cannot_have_is_a_warning(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(mtu: int) -> None:
        raise EnvironmentLacksError(f"no MTU {mtu} here")

    rig.port.set_mtu = refuse  # type: ignore[method-assign]
    rig.device.set_mtu(9000)
    rig.helper.run()

    assert "no MTU 9000 here" in caplog.text


def test_backend_socket_is_replaced_and_closed(rig: Rig) -> None:
    (first, third), (second, fourth) = (map(socket.socket.detach, socket.socketpair()) for _ in range(2))

    rig.device.set_backend_req_fd(first)
    rig.device.set_backend_req_fd(second)

    assert first not in open_fds()
    assert second in open_fds()
    os.close(third)
    os.close(fourth)


def test_channel_that_is_no_socket_is_refused_and_the_old_one_stays(rig: Rig) -> None:
    mine, theirs = socket.socketpair()
    wrong = os.eventfd(0)
    rig.device.set_backend_req_fd(theirs.detach())

    with pytest.raises(RequestError, match="not a socket"):
        rig.device.set_backend_req_fd(wrong)

    assert wrong not in open_fds()
    mine.send(b"x")  # the other end is still open
    mine.close()


def test_config_space_is_read_only(rig: Rig) -> None:
    assert rig.device.get_config(8, 2) == b"\x01\x00"
    with pytest.raises(RequestError, match="read-only"):
        rig.device.set_config(0, b"\x01", 0)


def test_disconnect_gives_up_memory_rings_and_fds(rig: Rig) -> None:
    rig.start(0, 1)

    for index in (0, 1):
        rig.device.set_vring_states({index: RingState.STOPPED_DISABLED})
    rig.device.disconnect()
    rig.helper.run()

    assert live_regions() == 0
    assert rig.port.calls[-1] == ("stop",)


def test_fault_asks_for_the_front_end_to_be_disconnected(rig: Rig) -> None:
    broken = WorkerEvent(EventKind.RING_BROKEN, 0, 1, -2, (1, 2, 3, 4))
    faulted = WorkerEvent(EventKind.DEVICE_FAULTED, 0, 0, -14, (0, 0, 0, 0))

    assert rig.device.on_event(broken)
    assert not rig.device.on_event(faulted)


def kick(rig: Rig, index: int, times: int) -> None:
    for _ in range(times):
        eventfd = os.eventfd(0)
        rig.device.set_vring_kick(index, os.dup(eventfd))
        os.eventfd_write(eventfd, 1)
        os.close(eventfd)
        rig.settle()


def test_ring_that_is_kicked_but_stays_empty_points_at_private_memory(rig: Rig) -> None:
    # With share=off QEMU passes an fd whose pages the guest never writes to. It kicks once, and the driver
    # once for its first frame.
    rig.start(1)
    kick(rig, 1, 2)

    assert "share=on" in rig.device.idle_reasons()[1]


def test_guest_that_has_sent_nothing_yet_is_fine_however_often_it_starts(rig: Rig) -> None:
    items = rig.items(1)
    rig.start(1)
    for _ in range(3):
        kick(rig, 1, 1)
        assert rig.device.idle_reasons() == {}
        rig.stop(1)
        items["addr"]()
        items["kick"]()
        rig.settle()

    assert rig.device.idle_reasons() == {}


def test_ring_that_was_stopped_waits_for_nothing(rig: Rig) -> None:
    rig.start(1)
    rig.stop(1)

    assert rig.device.idle_reasons() == {}
    rig.items(1)["addr"]()
    assert rig.device.idle_reasons() == {1: "SET_VRING_KICK has not come yet"}


def test_ring_that_is_kicked_and_used_is_fine(rig: Rig) -> None:
    rig.start(1)
    queue = rig.virtqueue(1)
    gpa = rig.memory.alloc(64)
    for token in range(4):
        queue.add([Segment(gpa, 64)], [], token)
        queue.publish()
        kick = os.eventfd(1)
        rig.device.set_vring_kick(1, kick)
        rig.settle()

    assert rig.device.idle_reasons() == {}
