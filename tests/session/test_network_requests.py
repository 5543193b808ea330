from __future__ import annotations

import pytest

from tests.session.fake_device import PROTOCOL_OFFER, FakeDevice
from tests.session.talk import Talk
from vhostuser.wire.constants import Request
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import (
    U64,
    Config,
    Rarp,
)

R = Request


class TestNetwork:
    def test_queue_count(self, acked: Talk) -> None:
        assert acked.get(R.GET_QUEUE_NUM) == U64(128)

    def test_rarp(self, acked: Talk) -> None:
        mac = bytes.fromhex("525400123456")
        assert acked.tell(R.SEND_RARP, Rarp(mac))
        assert acked.device.take_calls() == [("send_rarp", mac)]

    def test_rarp_of_a_multicast_mac_is_refused(self, acked: Talk) -> None:
        assert "01:00:5e:00:00:01 is a multicast address" in acked.refusal(
            R.SEND_RARP, Rarp(bytes.fromhex("01005e000001"))
        )

    def test_mtu(self, acked: Talk) -> None:
        assert acked.tell(R.NET_SET_MTU, U64(9000))
        assert acked.device.take_calls() == [("set_mtu", 9000)]

    @pytest.mark.parametrize("mtu", [0, 67, 65536, 1 << 63])
    def test_mtu_out_of_range_is_refused(self, acked: Talk, mtu: int) -> None:
        assert acked.refusal(R.NET_SET_MTU, U64(mtu)) == f"NET_SET_MTU: MTU {mtu}, expected 68 to 65535"

    def test_mtu_before_set_features(self, talk: Talk) -> None:
        """QEMU, once the guest has acknowledged VIRTIO_NET_F_MTU: the back-end hears of that later."""
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER)))
        assert talk.tell(R.NET_SET_MTU, U64(1500))

    def test_mtu_without_the_virtio_bit_offered_is_refused(self) -> None:
        talk = Talk(FakeDevice(features=V.VERSION_1))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER)))
        assert talk.refusal(R.NET_SET_MTU, U64(1500)) == ("NET_SET_MTU: needs MTU, which was not negotiated")

    def test_backend_channel_gets_its_socket(self, acked: Talk) -> None:
        assert acked.tell(R.SET_BACKEND_REQ_FD, fds=[40])
        assert acked.device.take_calls() == [("set_backend_req_fd", 40)]
        assert len(acked.bag) == 0


class TestConfig:
    def test_window_is_read(self, acked: Talk) -> None:
        asked = Config(6, 4, 0, bytes(4))
        assert acked.get(R.GET_CONFIG, asked) == Config(6, 4, 0, bytes([6, 7, 8, 9]))

    @pytest.mark.parametrize(("offset", "size"), [(0, 257), (250, 7), (0xFFFFFFFF, 0xFFFFFFFF)])
    def test_window_that_reaches_beyond_is_answered_with_size_0(
        self, acked: Talk, offset: int, size: int
    ) -> None:
        assert acked.get(R.GET_CONFIG, Config(offset, size, 0, b"")) == Config(offset, 0, 0, b"")
        assert "reach beyond the 256" in acked.traced[-1]

    def test_read_that_the_device_refuses_is_answered_with_size_0(self, acked: Talk) -> None:
        acked.device.refused["get_config"] = "not now"
        assert acked.get(R.GET_CONFIG, Config(0, 4, 0, bytes(4))) == Config(0, 0, 0, b"")
        assert acked.traced[-1] == "GET_CONFIG: not now"

    def test_write(self, acked: Talk) -> None:
        assert acked.tell(R.SET_CONFIG, Config(6, 2, 1, b"\1\0"))
        assert acked.device.take_calls() == [("set_config", 6, b"\1\0", 1)]

    def test_write_of_a_read_only_field_is_the_devices_to_refuse(self, acked: Talk) -> None:
        acked.device.refused["set_config"] = "mac is read-only"
        assert acked.refusal(R.SET_CONFIG, Config(0, 1, 0, b"\0")) == "SET_CONFIG: mac is read-only"

    def test_write_with_a_wrong_size_is_refused(self, acked: Talk) -> None:
        assert "3 bytes came, the size field says 2" in acked.refusal(R.SET_CONFIG, Config(0, 2, 0, b"abc"))
        assert acked.device.take_calls() == []
