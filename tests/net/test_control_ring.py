"""The control ring of a NetDevice whose messages come by hand, and whose guest is the plain virtqueue."""

from __future__ import annotations

import itertools
import logging
import os
import struct
from collections.abc import Iterator
from typing import cast

import pytest

from tests.net.device_rig import SIZE, Rig
from vhostuser.datapath.port_ops import PortKind, PortOps
from vhostuser.datapath.worker import EventKind, WorkerEvent
from vhostuser.frontend.virtqueue import Segment
from vhostuser.net.control_ring import control_index
from vhostuser.net.ring_items import RingItems
from vhostuser.net.state_record import decode, encode
from vhostuser.session.states import RingState
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

FEATURES = V.VERSION_1 | V.CTRL_VQ | V.MQ | V.CTRL_RX | V.CTRL_MAC_ADDR | V.GUEST_ANNOUNCE
OFFLOADS = V.CTRL_GUEST_OFFLOADS | V.GUEST_CSUM | V.GUEST_TSO4
OK, ERR = 0, 1
MAC = bytes.fromhex("525400123456")
PAIRS_SET, OFFLOADS_SET, MAC_SET, ANNOUNCE_ACK = bytes([4, 0]), bytes([5, 0]), bytes([1, 1]), bytes([3, 0])


def rings(set_up: tuple[int, ...], named: tuple[int, ...] = ()) -> dict[int, RingItems]:
    found = {index: RingItems() for index in range(16)}
    for index in (*set_up, *named):
        found[index].is_named = True
        found[index].is_set_up = index in set_up
    return found


@pytest.mark.parametrize(
    ("set_up", "wanted"),
    [
        ((), None),
        ((0,), None),
        ((0, 1), None),
        ((0, 1, 2), 2),
        ((0, 1, 2, 3), None),
        ((0, 1, 2, 3, 4), 4),
        ((0, 1, 8), 8),
    ],
)
def test_control_ring_is_the_highest_if_that_is_even_and_no_receive_ring(
    set_up: tuple[int, ...], wanted: int | None
) -> None:
    assert control_index(rings(set_up), V.CTRL_VQ) == wanted
    assert control_index(rings(set_up), V.CTRL_VQ | V.MQ) == wanted
    assert control_index(rings(set_up), FEATURES & ~V.CTRL_VQ) is None


def test_ring_that_is_named_is_still_to_come_where_the_guest_uses_all_pairs() -> None:
    every = tuple(range(9))

    for count in range(9):
        assert control_index(rings(every[:count], named=every), V.CTRL_VQ | V.MQ) is None
    assert control_index(rings(every, named=every), V.CTRL_VQ | V.MQ) == 8


def test_guest_without_mq_has_one_pair_whatever_the_front_end_has_names_for() -> None:
    assert control_index(rings((0, 1, 2), named=tuple(range(9))), V.CTRL_VQ) == 2


class Control(Rig):
    """Two pairs behind two port queues, and a control ring at 4."""

    def __init__(self, features: V = FEATURES) -> None:
        self.ends = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        super().__init__(2, PortOps(PortKind.FD, tuple(self.ends)), FEATURES | OFFLOADS)
        self.features = features

    def bring_up(self, *indices: int) -> None:
        self.device.set_features(self.features)
        self.say_memory()
        for index in indices:
            for item in ("num", "base", "addr", "kick"):
                self.items(index)[item]()
        self.serve()

    def serve(self) -> list[WorkerEvent]:
        """Turns until nothing is left to do, with every event told to the device, as the server does."""
        events = []
        while now := self.settle():
            events += now
            for event in now:
                self.device.on_event(event)
        return events

    def command(self, content: bytes, index: int = 4) -> int:
        """Executes one; its ack."""
        at = self.memory.alloc(len(content) + 1)
        self.memory.write(at, content + b"\xee")
        queue = self.virtqueue(index)
        assert queue.add((Segment(at, len(content)),), (Segment(at + len(content), 1),), at) is not None
        queue.publish()
        kick = self.device._rings[index].kick
        assert kick is not None
        os.eventfd_write(kick.fd, 1)
        self.serve()
        (done,) = queue.take_used()
        ack = self.memory.read(at + len(content), 1)[0]
        self.memory.free(at)
        assert done.length == 1
        return ack

    def attached(self) -> set[int]:
        """The port queues that are, going by what the port was told."""
        told = [call[1] for call in self.port.calls if call[0] == "attach"]
        return set(cast(frozenset[int], told[-1])) if told else {0, 1}

    def started_with(self) -> V:
        found = [call[1] for call in self.port.calls if call[0] == "start"]
        assert isinstance(found[-1], V)
        return found[-1]

    def close(self) -> None:
        super().close()
        for fd in self.ends:
            os.close(fd)


@pytest.fixture
def control() -> Iterator[Control]:
    control = Control()
    yield control
    control.close()


def pairs_set(pairs: int) -> bytes:
    return PAIRS_SET + struct.pack("<H", pairs)


def test_with_a_control_ring_one_pair_is_used_until_the_guest_says_more(control: Control) -> None:
    # Virtio 1.2, 5.1.6.5.6: after a reset packets go to receiveq1 only.
    control.bring_up(0, 1, 2, 3, 4)
    assert control.attached() == {0}

    assert control.command(pairs_set(2)) == OK
    assert control.attached() == {0, 1}

    assert control.command(pairs_set(1)) == OK
    assert control.attached() == {0}


def test_pairs_are_bound_by_the_place_of_the_control_ring(control: Control) -> None:
    control.bring_up(0, 1, 2, 3, 4)

    assert control.command(pairs_set(0)) == ERR
    assert control.command(pairs_set(3)) == ERR
    assert control.attached() == {0}


def test_guest_without_mq_is_not_cut_to_a_pair() -> None:
    control = Control(FEATURES & ~V.MQ)
    control.bring_up(0, 1, 2, 3, 4)
    assert control.attached() == {0, 1}
    control.close()


def test_without_a_control_ring_every_pair_is_used(control: Control) -> None:
    # Cloud Hypervisor: CTRL_VQ and MQ are acknowledged, and no ring 2N is ever said.
    control.bring_up(0, 1, 2, 3)

    assert control.device._control.index is None
    assert control.attached() == {0, 1}


@pytest.mark.parametrize("order", list(itertools.permutations((2, 3, 4))))
def test_rings_may_come_in_any_order(control: Control, order: tuple[int, ...]) -> None:
    control.bring_up(0, 1, *order)

    assert control.device._control.index == 4
    assert control.command(pairs_set(2)) == OK
    assert control.attached() == {0, 1}


def test_ring_that_seemed_to_be_the_control_ring_becomes_a_receive_ring(control: Control) -> None:
    control.bring_up(0, 1, 2)
    assert control.device._control.index == 2
    assert control.attached() == {0}

    control.items(3)["num"]()
    for item in ("base", "addr", "kick"):
        control.items(3)[item]()
    events = control.serve()

    assert control.device._control.index is None
    assert control.attached() == {0, 1}
    started = [event.ring for event in events if event.kind is EventKind.RING_STARTED]
    assert sorted(started) == [2, 3]


def test_receive_buffers_in_a_ring_of_unknown_role_are_there_when_it_is_known(control: Control) -> None:
    queue = control.virtqueue(2)
    queue.add((), (Segment(control.memory.alloc(2048), 2048),), 0)
    queue.publish()
    control.bring_up(0, 1, 2)
    for item in ("num", "base", "addr", "kick"):
        control.items(3)[item]()
    control.serve()

    assert control.stop(2) == 0
    assert queue.take_used() == []


def test_ring_that_is_stopped_and_started_goes_on_and_the_settings_stay(control: Control) -> None:
    control.bring_up(0, 1, 2, 3, 4)
    assert control.command(pairs_set(2)) == OK

    for index in range(5):
        control.stop(index)
    assert control.device._control.index is None
    for index in range(5):
        control.device.set_vring_kick(index, os.eventfd(0))
        control.device.set_vring_states({index: RingState.STARTED_ENABLED})
    control.serve()

    assert control.device._control.index == 4
    assert control.attached() == {0, 1}
    assert control.command(pairs_set(1)) == OK


def test_rings_stopped_from_the_last_one_on_keep_their_roles(control: Control) -> None:
    control.bring_up(0, 1, 2, 3)

    for index in (3, 2, 1):
        control.stop(index)
        control.serve()
        assert control.device._control.index is None


def test_fewer_pairs_at_the_next_start_have_their_control_ring_elsewhere(control: Control) -> None:
    control.bring_up(0, 1, 2, 3, 4)
    for index in range(5):
        control.stop(index)
    control.device.reset_driver()
    control.queues.pop(2)

    control.bring_up(0, 1, 2)

    assert control.device._control.index == 2
    assert control.command(pairs_set(1), index=2) == OK
    assert control.command(pairs_set(2), index=2) == ERR


@pytest.mark.parametrize("reset", ["features", "status", "device"])
def test_reset_forgets_what_was_set(control: Control, reset: str) -> None:
    control.bring_up(0, 1, 2, 3, 4)
    assert control.command(pairs_set(2)) == OK
    assert control.command(MAC_SET + MAC) == OK
    assert control.device.get_config(0, 6) == MAC
    for index in range(5):
        control.stop(index)
    match reset:
        case "features":
            control.device.set_features(V.VERSION_1)
        case "status":
            control.device.reset_driver()
        case "device":
            control.device.reset_device()

    assert control.device.get_config(0, 6) == bytes(6)
    control.queues.clear()
    control.bring_up(0, 1, 2, 3, 4)
    assert control.attached() == {0}


def test_log_of_migration_comes_and_goes_and_the_settings_stay(control: Control) -> None:
    control.bring_up(0, 1, 2, 3, 4)
    assert control.command(pairs_set(2)) == OK

    for features in (FEATURES | V.LOG_ALL, FEATURES):
        control.device.set_features(features)
        control.serve()
        assert control.attached() == {0, 1}
        assert control.command(MAC_SET + MAC) == OK


def test_offloads_reach_the_port_and_come_back() -> None:
    control = Control(FEATURES | OFFLOADS)
    control.bring_up(0, 1, 2, 3, 4)
    assert control.started_with() & OFFLOADS == OFFLOADS

    assert control.command(OFFLOADS_SET + struct.pack("<Q", V.GUEST_CSUM)) == OK
    assert control.started_with() & OFFLOADS == OFFLOADS & ~V.GUEST_TSO4
    assert control.command(OFFLOADS_SET + struct.pack("<Q", V.GUEST_CSUM | V.GUEST_TSO4)) == OK
    assert control.started_with() & OFFLOADS == OFFLOADS
    assert control.command(OFFLOADS_SET + struct.pack("<Q", V.GUEST_TSO6)) == ERR
    assert control.started_with() & OFFLOADS == OFFLOADS
    control.close()


def test_pair_that_is_given_up_is_so_at_once_even_if_the_port_is_busy() -> None:
    control = Control(FEATURES | OFFLOADS)
    control.bring_up(0, 1, 2, 3, 4)
    assert control.command(pairs_set(2)) == OK
    told = []
    pair = control.packet.pair(1)
    pair.set_enabled = lambda ring, enabled: told.append((ring, int(enabled)))  # type: ignore[method-assign]

    control.device._control.settings.offloads = V.GUEST_CSUM
    control.device._settle_all()  # a new start of the port, which waits for the helper
    control.device._control.settings.pairs = 1
    control.device._settle_all()

    assert told[-2:] == [(0, 0), (1, 0)]
    del pair.set_enabled
    control.close()


def moved(source: Control, features: V = FEATURES, protocol: P = P.BACKEND_REQ | P.CONFIG) -> Control:
    """A device on another host with the state of `source`; its rings do not run yet."""
    record = source.device.snapshot()
    source.close()
    target = Control(features)
    target.device.set_protocol_features(protocol)
    target.device.restore(decode(encode(record)))
    return target


def asked(control: Control) -> list[BackendRequest]:
    return [request for channel in control.channels for request, _, _ in channel.asked]


def test_guest_that_has_moved_is_asked_to_announce_itself_until_it_acknowledges() -> None:
    source = Control()
    source.bring_up(0, 1, 2, 3, 4)
    control = moved(source)
    control.device.set_backend_req_fd(7)
    control.device.set_features(FEATURES | V.LOG_ALL)
    assert control.device.get_config(6, 2) == b"\x01\x00"
    assert asked(control) == []

    control.bring_up(0, 1, 2, 3, 4)
    assert asked(control) == [BackendRequest.CONFIG_CHANGE_MSG]
    assert control.device.get_config(6, 2) == b"\x03\x00"
    assert control.command(ANNOUNCE_ACK) == OK
    assert control.device.get_config(6, 2) == b"\x01\x00"
    control.stop(4)
    control.bring_up(4)
    assert asked(control) == [BackendRequest.CONFIG_CHANGE_MSG]
    control.close()


@pytest.mark.parametrize(
    ("features", "protocol"),
    [(FEATURES & ~V.GUEST_ANNOUNCE, P.BACKEND_REQ | P.CONFIG), (FEATURES, P.BACKEND_REQ)],
    ids=["driver-cannot-announce", "front-end-does-not-tell"],
)
def test_who_cannot_answer_is_not_asked_to_announce_itself(features: V, protocol: P) -> None:
    source = Control(features)
    source.bring_up(0, 1, 2, 3, 4)
    control = moved(source, features, protocol)
    control.device.set_backend_req_fd(7)
    control.bring_up(0, 1, 2, 3, 4)

    assert asked(control) == []
    assert control.device.get_config(6, 2) == b"\x01\x00"
    control.close()


def test_what_commands_have_set_holds_after_a_move_and_not_for_another_driver() -> None:
    source = Control(FEATURES | OFFLOADS)
    source.bring_up(0, 1, 2, 3, 4)
    assert source.command(pairs_set(2)) == OK
    assert source.command(MAC_SET + MAC) == OK
    assert source.command(OFFLOADS_SET + int(V.GUEST_CSUM).to_bytes(8, "little")) == OK
    control = moved(source, FEATURES | OFFLOADS)
    control.bring_up(0, 1, 2, 3, 4)

    assert control.attached() == {0, 1}
    assert control.device.get_config(0, 6) == MAC
    assert control.started_with() & OFFLOADS == OFFLOADS & ~V.GUEST_TSO4

    for index in range(5):
        control.stop(index)
    control.device.set_features(FEATURES)
    assert control.device.get_config(0, 6) == bytes(6)
    control.close()


def test_first_refusal_is_a_warning_and_the_others_fill_no_log(
    control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    control.bring_up(0, 1, 2, 3, 4)
    with caplog.at_level(logging.INFO):
        for _ in range(2 * SIZE):
            assert control.command(pairs_set(9)) == ERR

    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["control ring 4: refused: MQ_VQ_PAIRS_SET: 9 pairs, expected 1 to 2"]


def test_command_whose_event_was_lost_is_found(control: Control) -> None:
    control.bring_up(0, 1, 2, 3, 4)
    at = control.memory.alloc(8)
    control.memory.write(at, pairs_set(2))
    queue = control.virtqueue(4)
    queue.add((Segment(at, 4),), (Segment(at + 4, 1),), 0)
    queue.publish()
    kick = control.device._rings[4].kick
    assert kick is not None
    os.eventfd_write(kick.fd, 1)
    control.settle()
    assert control.attached() == {0}

    control.device.execute_command()
    control.serve()

    assert control.attached() == {0, 1}
    assert len(queue.take_used()) == 1


def test_event_of_a_ring_that_was_stopped_meanwhile_is_for_nobody(control: Control) -> None:
    control.bring_up(0, 1, 2, 3, 4)
    control.stop(4)

    control.device.on_event(WorkerEvent(EventKind.CONTROL, 0, 4, 0, (0, 0, 0, 0)))
    control.device.on_event(WorkerEvent(EventKind.CONTROL, 0, 0, 0, (0, 0, 0, 0)))

    assert control.attached() == {0}
