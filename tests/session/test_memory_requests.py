from __future__ import annotations

import pytest

from tests.session.fake_device import PROTOCOL_OFFER, FakeDevice
from tests.session.talk import REGION, Talk
from vhostuser.errors import RequestError
from vhostuser.session.device import Pending
from vhostuser.session.states import RingState
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import U64, Empty, Iotlb, Log, MemTable, Reply, SingleRegion

R, S = Request, RingState


class TestMemory:
    def test_regions_and_fds_go_to_the_device_together(self, acked: Talk) -> None:
        assert acked.tell(R.SET_MEM_TABLE, MemTable((REGION, REGION)), [5, 6])
        assert acked.device.take_calls() == [("set_mem_table", (REGION, REGION), [5, 6])]
        assert len(acked.bag) == 0

    def test_fds_are_the_devices_also_when_it_refuses(self, acked: Talk) -> None:
        acked.device.refused["set_mem_table"] = "region 0 is empty"
        assert acked.refusal(R.SET_MEM_TABLE, MemTable((REGION,)), [5]) == "SET_MEM_TABLE: region 0 is empty"
        assert acked.device.fds == [5]
        assert len(acked.bag) == 0

    def test_table_that_takes_its_time_is_acknowledged_at_the_end(self, acked: Talk) -> None:
        pending = acked.device.deferred["set_mem_table"] = Pending()
        assert acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5], need_reply=True) is pending
        assert acked.session.complete(pending) == Reply(R.SET_MEM_TABLE, U64(0))

    def test_table_that_takes_its_time_may_be_refused_at_the_end(self, acked: Talk) -> None:
        pending = acked.device.deferred["set_mem_table"] = Pending()
        acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5], need_reply=True)
        assert acked.session.complete(pending, RequestError("mmap failed")) == Reply(R.SET_MEM_TABLE, U64(1))
        assert acked.traced[-1] == "SET_MEM_TABLE: mmap failed"


class TestSlots:
    @pytest.fixture
    def talk(self) -> Talk:
        talk = Talk(FakeDevice(protocol_features=PROTOCOL_OFFER | P.CONFIGURE_MEM_SLOTS))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER | P.CONFIGURE_MEM_SLOTS)))
        talk.device.take_calls()
        return talk

    def test_there_are_509(self, talk: Talk) -> None:
        assert talk.get(R.GET_MAX_MEM_SLOTS) == U64(509)

    def test_region_and_fd_go_to_the_device_together(self, talk: Talk) -> None:
        assert talk.tell(R.ADD_MEM_REG, SingleRegion(REGION), [5])
        assert talk.device.take_calls() == [("add_mem_reg", REGION, 5)]
        assert len(talk.bag) == 0

    def test_fd_is_the_devices_also_when_it_refuses(self, talk: Talk) -> None:
        talk.device.refused["add_mem_reg"] = "it is there already"
        reason = talk.refusal(R.ADD_MEM_REG, SingleRegion(REGION), [5])
        assert reason == "ADD_MEM_REG: it is there already"
        assert (talk.device.fds, len(talk.bag)) == ([5], 0)

    @pytest.mark.parametrize("fds", [[], [5]])
    def test_fd_of_a_removal_is_left_to_be_closed(self, talk: Talk, fds: list[int]) -> None:
        assert talk.tell(R.REM_MEM_REG, SingleRegion(REGION), fds)
        assert talk.device.take_calls() == [("rem_mem_reg", REGION)]
        assert talk.bag.drain() == fds

    def test_without_the_feature_they_are_refused(self, acked: Talk) -> None:
        assert "needs CONFIGURE_MEM_SLOTS" in acked.refusal(R.ADD_MEM_REG, SingleRegion(REGION), [5])
        assert acked.bag.drain() == [5]


class TestLog:
    @pytest.fixture
    def talk(self) -> Talk:
        talk = Talk(FakeDevice(protocol_features=PROTOCOL_OFFER | P.LOG_SHMFD))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER | P.LOG_SHMFD)))
        talk.device.take_calls()
        return talk

    def test_log_is_handed_over_and_told_back(self, talk: Talk) -> None:
        reply = talk.send(R.SET_LOG_BASE, Log(8192, 4096), [60])
        assert isinstance(reply, Reply)
        assert reply.payload == Log(8192, 4096)
        assert talk.device.take_calls() == [("set_log_base", 8192, 4096, 60)]
        assert talk.bag.drain() == []

    def test_log_that_the_device_refuses_ends_the_connection(self, talk: Talk) -> None:
        """There is no answer that says no: QEMU takes any for a yes."""
        talk.device.refused["set_log_base"] = "too short"
        with pytest.raises(Exception, match="SET_LOG_BASE: too short"):
            talk.send(R.SET_LOG_BASE, Log(8192, 4096), [60])

    def test_log_fd_is_left_to_be_closed(self, talk: Talk) -> None:
        assert talk.tell(R.SET_LOG_FD, Empty(), [61])
        assert talk.device.take_calls() == []
        assert talk.bag.drain() == [61]


END = (1 << 64) - 1
UPDATE, INVALIDATE = 2, 3


class TestIotlb:
    @pytest.fixture
    def talk(self) -> Talk:
        talk = Talk(FakeDevice(features=V.VERSION_1 | V.ACCESS_PLATFORM))
        talk.send(R.SET_FEATURES, U64(int(V.VERSION_1 | V.ACCESS_PLATFORM | V.PROTOCOL_FEATURES)))
        talk.device.take_calls()
        return talk

    def test_update(self, talk: Talk) -> None:
        assert talk.get(R.IOTLB_MSG, Iotlb(0x1000, 0x2000, 0x7F00_0000_0000, 3, UPDATE)) == U64(0)
        assert talk.device.take_calls() == [("iotlb_update", 0x1000, 0x2FFF, 0x7F00_0000_0000, 3)]

    def test_update_that_ends_where_the_address_space_does(self, talk: Talk) -> None:
        assert talk.get(R.IOTLB_MSG, Iotlb(END - 0xFFF, 0x1000, 0, 1, UPDATE)) == U64(0)
        assert talk.device.take_calls() == [("iotlb_update", END - 0xFFF, END, 0, 1)]

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (Iotlb(0x1000, 0, 0, 3, UPDATE), "0x0 bytes at I/O address 0x1000 are no range"),
            (Iotlb(END, 2, 0, 3, UPDATE), "0x2 bytes at I/O address 0xffffffffffffffff are no range"),
            (Iotlb(0, 2, END, 3, UPDATE), "0x2 bytes at user address 0xffffffffffffffff are no range"),
            (Iotlb(0, 4096, 0, 0, UPDATE), "access 0, expected 1 (read), 2 (write) or 3 (both)"),
            (Iotlb(0, 4096, 0, 4, UPDATE), "access 4, expected 1 (read), 2 (write) or 3 (both)"),
            (Iotlb(0, 4096, 0, 255, UPDATE), "access 255, expected 1 (read), 2 (write) or 3 (both)"),
            (Iotlb(0, 4096, 0, 3, 0), "type 0, expected 2 (update) or 3 (invalidate)"),
            (Iotlb(0, 4096, 0, 3, 1), "type 1, expected 2 (update) or 3 (invalidate)"),
            (Iotlb(0, 4096, 0, 3, 4), "type 4, expected 2 (update) or 3 (invalidate)"),
            (Iotlb(0, 4096, 0, 3, 9), "type 9, expected 2 (update) or 3 (invalidate)"),
        ],
        ids=lambda value: "" if isinstance(value, Iotlb) else value,
    )
    def test_what_makes_no_sense_is_refused(self, talk: Talk, message: Iotlb, reason: str) -> None:
        assert talk.get(R.IOTLB_MSG, message) == U64(1)
        assert talk.traced[-1] == f"IOTLB_MSG: {reason}"
        assert talk.device.take_calls() == []

    def test_update_that_the_device_refuses(self, talk: Talk) -> None:
        talk.device.refused["iotlb_update"] = "not in memory"
        assert talk.get(R.IOTLB_MSG, Iotlb(0, 4096, 0, 3, UPDATE)) == U64(1)
        assert talk.traced[-1] == "IOTLB_MSG: not in memory"

    @pytest.mark.parametrize(
        ("iova", "size", "first", "last"),
        [
            (0x1000, 0x1000, 0x1000, 0x1FFF),
            (0, END, 0, END - 1),
            (0x1000, END, 0x1000, END),
            (END, 1, END, END),
            (END, END, END, END),
            (0x1000, 0, 0, END),
        ],
    )
    def test_invalidation_of_any_size(self, talk: Talk, iova: int, size: int, first: int, last: int) -> None:
        assert talk.get(R.IOTLB_MSG, Iotlb(iova, size, 0, 0, INVALIDATE)) == U64(0)
        assert talk.device.take_calls() == [("iotlb_invalidate", first, last)]
