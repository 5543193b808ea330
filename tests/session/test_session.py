from __future__ import annotations

import pytest

from tests.session.talk import REGION, Talk
from tests.vectors import CAPTURES, load_capture
from vhostuser.session.device import Pending
from vhostuser.session.states import RingState
from vhostuser.wire.connection import Connection
from vhostuser.wire.constants import Request
from vhostuser.wire.messages import (
    MemTable,
)

R, S = Request, RingState


class TestPending:
    def test_nothing_is_handled_meanwhile(self, acked: Talk) -> None:
        acked.device.deferred["set_mem_table"] = Pending()
        acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5])
        with pytest.raises(AssertionError, match="waits for its result"):
            acked.send(R.GET_FEATURES)

    def test_of_a_closed_session_is_forgotten(self, acked: Talk) -> None:
        pending = acked.device.deferred["set_mem_table"] = Pending()
        acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5], need_reply=True)
        acked.session.close()
        assert acked.session.complete(pending) is None

    def test_of_somebody_else_is_forgotten(self, acked: Talk) -> None:
        pending = acked.device.deferred["set_mem_table"] = Pending()
        acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5], need_reply=True)
        assert acked.session.complete(Pending()) is None
        assert acked.session.complete(pending) is not None

    def test_is_traced_when_it_is_decided(self, acked: Talk) -> None:
        pending = acked.device.deferred["set_mem_table"] = Pending()
        acked.traced.clear()
        acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5])
        assert acked.traced == []
        acked.session.complete(pending)
        assert acked.traced == ["SET_MEM_TABLE"]


@pytest.mark.parametrize("capture", CAPTURES)
class TestRealFrontends:
    """Whole conversations, answered as they were answered when the front-end went on with them."""

    def test_each_message_is_served_and_answered_the_same(self, capture: str) -> None:
        talk, connection = Talk(), Connection()
        for captured in load_capture(capture):
            connection.receive(captured.content[:12], range(captured.fds))
            connection.receive(captured.content[12:])
            message = connection.next_message()
            assert message is not None
            reply = talk.session.handle(message)
            assert not isinstance(reply, Pending)
            assert (connection.encode(reply) if reply is not None else b"") == captured.answer
            assert talk.traced[-1] == captured.name
            assert len(message.fds) == 0

    def test_rings_ran_and_were_stopped(self, capture: str) -> None:
        talk, connection = Talk(), Connection()
        for captured in load_capture(capture):
            connection.receive(captured.content[:12], range(captured.fds))
            connection.receive(captured.content[12:])
            message = connection.next_message()
            assert message is not None
            talk.session.handle(message)
        ran = {call[1] for call in talk.device.calls if call[-1] is S.STARTED_ENABLED}
        assert ran >= {0, 1}
        assert not any(talk.session.ring_state(index).is_started for index in range(256))
