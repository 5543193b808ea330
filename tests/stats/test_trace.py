from __future__ import annotations

import json
from typing import Any

import pytest

from vhostuser.errors import RequestError
from vhostuser.session.states import RingState as S
from vhostuser.stats import trace
from vhostuser.stats.trace import Direction
from vhostuser.wire.constants import BackendRequest as B
from vhostuser.wire.constants import Request as R
from vhostuser.wire.messages import (
    U64,
    Config,
    Empty,
    Iotlb,
    Malformed,
    MemoryRegion,
    MemTable,
    Message,
    Opaque,
    Payload,
    Rarp,
    Reply,
    VringAddr,
    VringFd,
    VringState,
)

AT = 1_769_862_896_123_456_789
CSUM_AND_VERSION_1 = 1 << 32 | 1


def said(
    message: Message,
    reply: Payload | None = None,
    refusal: str = "",
    *,
    fds: int = 0,
    reply_fds: tuple[int, ...] = (),
    direction: Direction = Direction.FRONT_END,
) -> dict[str, Any]:
    line = trace.message_line(
        AT,
        "vm1",
        direction,
        message,
        fds,
        Reply(message.request, reply, reply_fds) if reply is not None else None,
        RequestError(refusal) if refusal else None,
        38_900,
    )
    assert "\n" not in line
    words: dict[str, Any] = json.loads(line)
    return words


def test_line_has_all_that_there_is_to_say_of_a_message() -> None:
    words = said(Message(R.SET_VRING_KICK, VringFd(1), need_reply=True), U64(0), fds=1)

    assert list(words.items()) == [
        ("time", "2026-01-31T12:34:56.123456Z"),
        ("device", "vm1"),
        ("event", "message"),
        ("direction", "front-end to back-end"),
        ("request", "SET_VRING_KICK"),
        ("payload", {"index": 1, "has_fd": True}),
        ("fds", 1),
        ("need_reply", True),
        ("reply", "ack"),
        ("us", 38),
    ]


def test_nothing_that_was_sent_is_left_out_and_nothing_else_said() -> None:
    words = said(Message(R.SET_VRING_NUM, VringState(0, 256)))

    assert "reply" not in words
    assert "refused" not in words
    assert not words["need_reply"]


def test_refusal_has_its_reason_and_what_was_answered() -> None:
    words = said(Message(R.SET_VRING_NUM, VringState(0, 3)), U64(1), "size 3 is not a power of two")
    assert (words["reply"], words["refused"]) == ("nack", "size 3 is not a power of two")

    words = said(Message(R.GET_CONFIG, Config(250, 8, 0, b"")), None, "beyond")
    assert "reply" not in words
    assert words["refused"] == "beyond"


@pytest.mark.parametrize(
    ("request_", "reply", "text"),
    [
        (R.GET_VRING_BASE, VringState(1, 77), {"index": 1, "num": 77}),
        (R.GET_QUEUE_NUM, U64(128), {"value": 128}),
        (R.IOTLB_MSG, U64(1), {"value": 1}),
        (R.SET_DEVICE_STATE_FD, U64(0x100), {"value": 0x100}),
        (R.SET_OWNER, U64(0), "ack"),
        (R.SET_MEM_TABLE, U64(0), "ack"),
        (R.SET_MEM_TABLE, U64(1), "nack"),
        (77, U64(1), "nack"),
        (R.GET_FEATURES, U64(CSUM_AND_VERSION_1), {"value": "0x100000001", "names": ["CSUM", "VERSION_1"]}),
        (R.GET_PROTOCOL_FEATURES, U64(8), {"value": "0x8", "names": ["REPLY_ACK"]}),
    ],
)
def test_reply_is_a_word_for_an_acknowledgement_and_else_its_payload(
    request_: int, reply: Payload, text: object
) -> None:
    assert said(Message(request_, Empty()), reply)["reply"] == text


def test_reply_says_how_many_fds_it_brings() -> None:
    assert said(Message(R.POSTCOPY_ADVISE, Empty()), Empty(), reply_fds=(9,))["reply"] == {"fds": 1}


@pytest.mark.parametrize(
    ("request_", "payload", "text"),
    [
        (R.SET_FEATURES, U64(CSUM_AND_VERSION_1), {"value": "0x100000001", "names": ["CSUM", "VERSION_1"]}),
        (R.SET_PROTOCOL_FEATURES, U64(1 << 60), {"value": hex(1 << 60), "names": ["bit 60"]}),
        (R.NET_SET_MTU, U64(1500), {"value": 1500}),
        (R.NET_SET_MTU, U64(1 << 53), {"value": "0x20000000000000"}),
        (R.SEND_RARP, Rarp(b"\x52\x54\0\0\0\1"), {"mac": "525400000001"}),
        (
            R.SET_VRING_ADDR,
            VringAddr(1, 0, 0x1000, 0x3000, 0x2000, 0),
            {"index": 1, "flags": 0, "desc": "0x1000", "used": "0x3000", "avail": "0x2000", "log": "0x0"},
        ),
        (
            R.SET_MEM_TABLE,
            MemTable((MemoryRegion(0, 4096, 0x7F00, 16),)),
            {"regions": [{"gpa": "0x0", "size": 4096, "uva": "0x7f00", "mmap_offset": 16}]},
        ),
        (R.CREATE_CRYPTO_SESSION, Opaque(bytes(257)), {"content": "00" * 256 + "..."}),
        (R.SET_OWNER, Empty(), {}),
    ],
)
def test_payload_has_its_own_names(request_: R, payload: Payload, text: object) -> None:
    assert said(Message(request_, payload))["payload"] == text


def test_message_that_makes_no_sense_says_why() -> None:
    words = said(Message(77, Malformed("unknown request")), None, "unknown request")

    assert words["request"] == "request 77"
    assert words["malformed"] == "unknown request"
    assert "payload" not in words


def test_other_direction_has_its_own_name() -> None:
    miss = Message(B.IOTLB_MSG, Iotlb(0x1000, 4096, 0, 1, 1))
    words = said(miss, direction=Direction.BACK_END)

    assert words["direction"] == "back-end to front-end"
    assert words["payload"] == {"iova": "0x1000", "size": 4096, "uva": "0x0", "perm": 1, "type": 1}


def test_rings_say_what_they_were_and_are() -> None:
    before = {0: S.STOPPED_ENABLED, 1: S.STARTED_ENABLED, 2: S.STOPPED_DISABLED}
    after = {0: S.STARTED_ENABLED, 1: S.STARTED_ENABLED, 2: S.STOPPED_DISABLED, 3: S.STOPPED_DISABLED}
    lines = [json.loads(line) for line in trace.ring_lines(AT, "vm1", before, after)]

    assert [(line["event"], line["ring"], line["was"], line["is"]) for line in lines] == [
        ("ring", 0, "stopped, enabled", "started, enabled")
    ]
    (forgotten,) = trace.ring_lines(AT, "vm1", {7: S.STARTED_DISABLED}, {})
    assert json.loads(forgotten)["is"] == "stopped, disabled"


def test_the_other_lines() -> None:
    lines = (
        trace.begin_line(AT, "vm1", "pid 7, uid 0"),
        trace.report_line(AT, "vm1", "ring 1 is broken"),
        trace.end_line(AT, "vm1", ""),
        trace.lost_line(AT, 3),
    )
    words = [json.loads(line) for line in lines]
    assert [word["event"] for word in words] == ["begin", "report", "end", "lost"]
    assert (words[0]["peer"], words[1]["text"], words[2]["reason"]) == (
        "pid 7, uid 0",
        "ring 1 is broken",
        "",
    )
    assert words[3]["lines"] == 3
    assert {word["time"] for word in words} == {"2026-01-31T12:34:56.123456Z"}


def test_text_from_outside_stays_on_its_line() -> None:
    assert "\n" not in trace.end_line(AT, "vm1", "a\nb\x00")
