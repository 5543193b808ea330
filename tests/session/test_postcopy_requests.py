"""POSTCOPY_ADVISE, _LISTEN, _END, and the table in between that takes three messages."""

from __future__ import annotations

import pytest

from tests.session.fake_device import PROTOCOL_OFFER, FakeDevice
from tests.session.talk import REGION, Talk
from vhostuser.errors import RequestError
from vhostuser.wire.constants import Request as R
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.messages import U64, Empty, MemoryRegion, MemTable, Reply, VringState

OFFER = PROTOCOL_OFFER | P.PAGEFAULT
TABLE = MemTable((REGION, MemoryRegion(1 << 32, 0x1000, 0x7E0000000000, 0)))


@pytest.fixture
def talk() -> Talk:
    talk = Talk(FakeDevice(protocol_features=OFFER))
    talk.send(R.SET_PROTOCOL_FEATURES, U64(int(OFFER)))
    talk.device.take_calls()
    return talk


@pytest.fixture
def listening(talk: Talk) -> Talk:
    talk.send(R.POSTCOPY_ADVISE)
    assert talk.tell(R.POSTCOPY_LISTEN)
    talk.device.take_calls()
    return talk


def test_advice_is_answered_with_the_fd_and_no_payload(talk: Talk) -> None:
    assert talk.send(R.POSTCOPY_ADVISE) == Reply(R.POSTCOPY_ADVISE, Empty(), (77,))


def test_advice_without_a_userfaultfd_is_answered_without_one(talk: Talk) -> None:
    talk.device.uffd = None

    assert talk.send(R.POSTCOPY_ADVISE) == Reply(R.POSTCOPY_ADVISE, Empty())
    assert talk.refusal(R.POSTCOPY_LISTEN).endswith("without a POSTCOPY_ADVISE that was answered with an fd")


def test_table_is_answered_with_our_addresses_and_used_when_acknowledged(listening: Talk) -> None:
    answer = listening.send(R.SET_MEM_TABLE, TABLE, [5, 6])

    assert isinstance(answer, Reply)
    assert isinstance(answer.payload, MemTable)
    assert [region.uva for region in answer.payload.regions] == [0x7000_0000, 0x7000_1000]
    assert [region.gpa for region in answer.payload.regions] == [region.gpa for region in TABLE.regions]
    assert listening.device.take_calls() == [("map_mem_table", TABLE.regions, [5, 6])]
    assert listening.send(R.SET_MEM_TABLE, MemTable(()), need_reply=True) is None
    assert listening.device.take_calls() == [("confirm_mem_table",)]


def test_nothing_but_the_acknowledgement_is_served_where_that_is_due(listening: Talk) -> None:
    listening.send(R.SET_MEM_TABLE, TABLE, [5, 6])
    listening.device.take_calls()

    assert "acknowledgement of SET_MEM_TABLE is due" in listening.refusal(R.SET_VRING_NUM, VringState(0, 16))
    with pytest.raises(RequestError, match="acknowledgement of SET_MEM_TABLE is due"):
        listening.send(R.GET_FEATURES)
    with pytest.raises(RequestError, match="acknowledgement of the last one is due"):
        listening.send(R.SET_MEM_TABLE, TABLE, [7, 8])
    assert listening.device.take_calls() == []


def test_memory_that_cannot_be_used_ends_the_connection(listening: Talk) -> None:
    listening.send(R.SET_MEM_TABLE, TABLE, [5, 6])
    listening.device.refused["confirm_mem_table"] = "no"

    with pytest.raises(RequestError, match="SET_MEM_TABLE: no"):
        listening.send(R.SET_MEM_TABLE, MemTable(()))


def test_listen_twice_and_advice_in_between_are_refused(listening: Talk) -> None:
    assert "a second time" in listening.refusal(R.POSTCOPY_LISTEN)
    with pytest.raises(RequestError, match="between POSTCOPY_LISTEN and POSTCOPY_END"):
        listening.send(R.POSTCOPY_ADVISE)
    assert listening.device.take_calls() == []


def test_after_the_end_tables_are_acknowledged_as_before(listening: Talk) -> None:
    assert listening.get(R.POSTCOPY_END) == U64(0)
    assert listening.tell(R.SET_MEM_TABLE, TABLE, [5, 6])
    assert [call[0] for call in listening.device.take_calls()] == ["postcopy_end", "set_mem_table"]
    assert "without a POSTCOPY_ADVISE" in listening.refusal(R.POSTCOPY_LISTEN)


def test_end_without_a_beginning_is_answered(talk: Talk) -> None:
    assert talk.get(R.POSTCOPY_END) == U64(0)
