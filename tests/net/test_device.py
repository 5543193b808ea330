from __future__ import annotations

import os

import pytest

from tests.conftest import live_regions
from tests.net.device_rig import Rig
from tests.net.fakes import FakeChannel
from vhostuser.datapath.vring import PacketDevice
from vhostuser.datapath.worker import EventKind, WorkerEvent
from vhostuser.errors import EnvironmentLacksError, RequestError
from vhostuser.frontend.virtqueue_base import Segment
from vhostuser.net.control_queue import GuestSettings
from vhostuser.net.state_record import MAX_MACS, NetRecord, control_record, decode, encode
from vhostuser.session.states import RingState
from vhostuser.wire.constants import TRANSFER_LOAD, TRANSFER_SAVE
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
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


def test_channel_is_opened_with_what_was_acknowledged_and_replaced(rig: Rig) -> None:
    rig.device.set_protocol_features(P.REPLY_ACK)
    rig.device.set_backend_req_fd(10)
    rig.device.set_backend_req_fd(11)

    first, second = rig.channels
    assert (first.fd, first.acked, first.is_closed) == (10, P.REPLY_ACK, True)
    assert (second.fd, second.is_closed) == (11, False)
    rig.device.disconnect()
    assert second.is_closed


def test_channel_that_is_refused_leaves_the_old_one(rig: Rig) -> None:
    rig.device.set_backend_req_fd(10)

    def refuse(*_: object) -> FakeChannel:
        raise RequestError("no socket")

    rig.device._open_channel = refuse
    with pytest.raises(RequestError, match="no socket"):
        rig.device.set_backend_req_fd(11)

    assert not rig.channels[0].is_closed


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


def test_fault_asks_for_the_front_end_to_be_disconnected(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = WorkerEvent(EventKind.RING_BROKEN, 0, 1, -2, (1, 2, 3, 4))
    faulted = WorkerEvent(EventKind.DEVICE_FAULTED, 0, 0, -14, (0, 0, 0, 0))

    assert rig.device.on_event(broken)
    monkeypatch.setattr(PacketDevice, "is_faulted", True)
    assert not rig.device.on_event(faulted)


def test_fault_of_a_front_end_that_has_gone_costs_the_next_one_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    faulted = WorkerEvent(EventKind.DEVICE_FAULTED, 0, 0, -14, (0, 0, 0, 0))

    assert rig.device.on_event(faulted)
    assert caplog.records == []


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


# The state that outlives this host

MAC, OTHER_MAC = bytes.fromhex("525400123456"), bytes.fromhex("525400abcdef")


def counted(rig: Rig) -> NetRecord:
    """A device that has carried one frame, and what it saves."""
    rig.start(0, 1)
    transmit = rig.virtqueue(1)
    transmit.add([Segment(rig.memory.alloc(72), 72)], [], 0)
    transmit.publish()
    rig.device.set_vring_states({1: RingState.STARTED_DISABLED})
    rig.device.set_vring_states({1: RingState.STARTED_ENABLED})
    rig.settle()
    rig.stop(0)
    rig.stop(1)
    rig.device.set_mtu(1400)
    rig.device.send_rarp(OTHER_MAC)
    rig.device.send_rarp(MAC)
    rig.device.send_rarp(OTHER_MAC)
    rig.device.set_device_state_fd(TRANSFER_SAVE, 7)
    rig.channel.finish()
    return decode(rig.channel.sent[-1])


def test_state_has_counters_mtu_and_announced_addresses(rig: Rig) -> None:
    record = counted(rig)

    assert record.rings[1].packets == 1
    assert record.rings[1].bytes == 60
    assert record.rings[0].packets == 0
    assert (record.features, record.mtu, record.macs) == (int(V.VERSION_1), 1400, (MAC, OTHER_MAC))


def test_saving_changes_nothing(rig: Rig) -> None:
    counted(rig)

    before = rig.device.counters()
    rig.start(0, 1)
    assert rig.device.counters()[1].packets == before[1].packets == 1
    rig.stop(1)


def test_state_goes_on_in_another_device_before_anything_is_said_to_it(rig: Rig) -> None:
    record = counted(rig)
    other = Rig()
    other.device.set_device_state_fd(TRANSFER_LOAD, 7)
    heard: list[object] = []
    other.device.check_device_state().then(heard.append)

    other.channel.finish(encode(record))
    other.helper.run()

    assert heard == [None]
    assert other.device.counters() == rig.device.counters()
    assert other.device.snapshot().macs == (MAC, OTHER_MAC)
    assert ("set_mtu", 1400) in other.port.calls
    other.start(0, 1)
    assert other.device.counters()[1].packets == 1
    other.close()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"garbage, and more of it", "not one of a vhostuser network device"),
        (
            encode(NetRecord({}, int(V.VERSION_1 | V.HOST_TSO4), 0, (), control_record(GuestSettings()))),
            "HOST_TSO4",
        ),
    ],
)
def test_state_that_cannot_be_taken_over_changes_nothing(rig: Rig, content: bytes, reason: str) -> None:
    before = counted(rig)
    rig.device.set_device_state_fd(TRANSFER_LOAD, 7)
    heard: list[object] = []
    rig.device.check_device_state().then(heard.append)

    rig.channel.finish(content)

    (error,) = heard
    assert isinstance(error, RequestError)
    assert reason in error.reason
    assert rig.device.snapshot() == before


def test_state_that_comes_when_rings_are_started_is_refused(rig: Rig) -> None:
    record = counted(rig)
    rig.device.set_device_state_fd(TRANSFER_LOAD, 7)
    rig.start(0)
    rig.channel.finish(encode(record))
    heard: list[object] = []
    rig.device.check_device_state().then(heard.append)

    assert "rings were started" in str(heard[0])


def test_bits_that_the_guest_does_not_know_are_not_its_state(rig: Rig) -> None:
    rig.device.set_features(V.VERSION_1 | V.LOG_ALL | V.PROTOCOL_FEATURES)

    assert rig.device.snapshot().features == int(V.VERSION_1)


@pytest.mark.parametrize("end", ["reset_device", "disconnect"])
def test_reset_and_disconnect_forget_state_and_transfer(rig: Rig, end: str) -> None:
    counted(rig)
    rig.device.set_device_state_fd(TRANSFER_LOAD, 7)

    getattr(rig.device, end)()

    assert rig.channel.given_up == 1
    assert (rig.device.snapshot().mtu, rig.device.snapshot().macs) == (0, ())
    with pytest.raises(RequestError, match="no state was transferred"):
        rig.device.check_device_state()


def test_addresses_that_a_front_end_announces_are_bounded(rig: Rig) -> None:
    for number in range(1000):
        rig.device.send_rarp(b"\x52\x54" + number.to_bytes(4, "big"))

    assert rig.device.snapshot().macs[-1] == b"\x52\x54" + (999).to_bytes(4, "big")
    assert len(rig.device.snapshot().macs) == MAX_MACS
