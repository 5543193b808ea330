from __future__ import annotations

import os
import socket

import pytest

from tests.conftest import live_regions, open_fds
from tests.net.device_rig import Rig
from vhostuser.datapath.worker import EventKind, WorkerEvent
from vhostuser.errors import EnvironmentLacksError, RequestError
from vhostuser.session.states import RingState
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.payloads import MemoryRegion


def test_of_many_mtus_in_a_row_the_last_is_set(rig: Rig) -> None:
    for mtu in (1500, 1400, 9000):
        rig.device.set_mtu(mtu)
    rig.helper.run()
    rig.device.set_mtu(1500)
    rig.helper.run()

    assert rig.port.take_calls() == [("set_mtu", 9000), ("set_mtu", 1500)]


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


def test_user_addresses_in_spite_of_gpa_addresses_are_said_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.device.set_protocol_features(P.GPA_ADDRESSES)
    rig.start(1)
    rig.say_memory()
    row = rig.memory.regions[0]

    assert rig.device.idle_reasons() == {}
    assert caplog.text.count("acknowledged GPA_ADDRESSES") == 1
    assert f"guest address {row.gpa:#x} has user address {row.uva:#x}" in caplog.text


def test_guest_addresses_for_user_addresses_are_as_they_should_be(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.device.set_protocol_features(P.GPA_ADDRESSES)
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 4096)
    rig.device.add_mem_reg(MemoryRegion(1 << 32, 4096, 1 << 32, 0), fd)

    assert caplog.text == ""
