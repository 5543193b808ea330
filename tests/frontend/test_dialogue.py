"""Which replies are due, and fds on a socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.calls import Call
from vhostuser.frontend.dialogue import Dialogue, ancillary, listening, receive
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.messages import U64, Reply

NEED_REPLY, PLAIN = 0x9, 0x1


def dialogue(protocol: P = P.REPLY_ACK, acks: frozenset[Request] = frozenset(Request)) -> Dialogue:
    made = Dialogue(acks)
    made.protocol_features = protocol
    return made


def flags(encoded: bytes) -> int:
    return int.from_bytes(encoded[4:8], "little")


@pytest.mark.parametrize(
    ("call", "protocol", "need_reply", "due", "expected_flags"),
    [
        (calls.get_features(), P(0), None, True, PLAIN),
        (calls.get_features(), P.REPLY_ACK, None, True, NEED_REPLY),
        (calls.set_owner(), P(0), None, False, PLAIN),
        (calls.set_owner(), P.REPLY_ACK, None, True, NEED_REPLY),
        (calls.set_owner(), P.REPLY_ACK, False, False, PLAIN),
        (calls.set_owner(), P(0), True, False, NEED_REPLY),
        (calls.postcopy_end(), P(0), None, True, PLAIN),
        (calls.set_log_base(1, 0, 3), P(0), None, False, PLAIN),
        (calls.set_log_base(1, 0, 3), P.LOG_SHMFD, None, True, PLAIN),
    ],
)
def test_reply_is_due_by_kind_feature_and_flag(
    call: Call[Any], protocol: P, need_reply: bool | None, due: bool, expected_flags: int
) -> None:
    encoded, is_due = dialogue(protocol).encode(call, need_reply)
    assert (is_due, flags(encoded)) == (due, expected_flags)


def test_only_the_requests_named_ask_for_an_acknowledgement() -> None:
    made = dialogue(acks=frozenset({Request.SET_FEATURES}))
    assert made.encode(calls.set_features(0), None)[1]
    assert not made.encode(calls.set_owner(), None)[1]


def test_protocol_features_count_from_the_message_that_sets_them() -> None:
    made = dialogue(P(0))
    call = calls.set_protocol_features(P.REPLY_ACK | P.MQ)
    assert not made.encode(call, None)[1]
    made.conclude(call, None)
    assert made.protocol_features == P.REPLY_ACK | P.MQ


def test_refused_protocol_features_do_not_count() -> None:
    made = dialogue()
    call = calls.set_protocol_features(P.MQ)
    with pytest.raises(PeerError):
        made.conclude(call, Reply(call.request, U64(1)))
    assert made.protocol_features == P.REPLY_ACK


def test_reply_to_another_request_is_a_fault_of_the_peer() -> None:
    with pytest.raises(PeerError, match="where one to SET_OWNER was due"):
        dialogue().conclude(calls.set_owner(), Reply(Request.GET_FEATURES, U64(0)))


def test_fds_arrive_with_the_bytes_and_close_on_exec() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendmsg([b"abc"], ancillary([ours.fileno(), theirs.fileno()]))
        content, fds = receive(theirs, 100)
    assert content == b"abc"
    assert len(fds) == 2
    for fd in fds:
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_no_fds_means_no_control_message() -> None:
    assert ancillary(()) == []


def test_listening_removes_its_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with listening(path):
        assert path.exists()
    assert not path.exists()


def test_listening_where_it_cannot_says_where(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "s.sock"
    with pytest.raises(PeerError, match=f"cannot listen on {path}"), listening(path):
        pass
