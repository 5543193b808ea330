from __future__ import annotations

import itertools
import os

import pytest

from tests.net.device_rig import STARTED, Rig
from vhostuser.datapath.port_ops import PortKind, PortOps
from vhostuser.datapath.worker import EventKind
from vhostuser.errors import RequestError
from vhostuser.frontend.virtqueue import Segment
from vhostuser.session.states import RingState
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.payloads import VringAddr


def kick(rig: Rig, index: int, times: int) -> None:
    for _ in range(times):
        eventfd = os.eventfd(0)
        rig.device.set_vring_kick(index, os.dup(eventfd))
        os.eventfd_write(eventfd, 1)
        os.close(eventfd)
        rig.settle()


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


def test_many_rings_that_change_at_once_ask_the_port_once() -> None:
    rig = Rig(queues=4)
    rig.start(*range(8))
    rig.port.take_calls()

    rig.device.set_vring_states(dict.fromkeys(range(8), RingState.STOPPED_DISABLED))
    rig.settle()

    assert rig.port.take_calls() == [("stop",)]
    rig.close()


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
    assert rig.port.take_calls() == [("attach", {0})]
    for index in (2, 3):
        rig.device.set_vring_states({index: STARTED})
    rig.settle()
    assert rig.port.take_calls() == [("attach", {0, 1})]
    rig.close()


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
