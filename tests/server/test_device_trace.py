from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import blocking
from vhostuser.config import DeviceConfig
from vhostuser.errors import PeerError, RequestError
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.server.device_trace import DeviceTrace
from vhostuser.server.server import Server
from vhostuser.session.states import RingState as S
from vhostuser.wire.constants import Request as R
from vhostuser.wire.messages import U64, Empty, FdBag, Message, Reply

FRAME = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + bytes(46)


def test_fds_are_those_that_came_though_they_are_taken_by_then() -> None:
    lines: list[str] = []
    trace = DeviceTrace("vm1", lines.append)
    message = Message(R.SET_VRING_CALL, Empty(), False, FdBag([5, 6]))
    trace.ask(message)
    message.fds.take_all()
    trace.decide(message, RequestError("no"), Reply(R.SET_VRING_CALL, U64(1)), {})

    (line,) = map(json.loads, lines)
    assert (line["device"], line["fds"], line["reply"], line["refused"]) == ("vm1", 2, "nack", "no")


def test_rings_are_said_when_they_change_and_at_the_end() -> None:
    lines: list[str] = []
    trace = DeviceTrace("vm1", lines.append)
    message = Message(R.SET_OWNER, Empty())
    states: dict[int, S] = {}
    for state in (S.STOPPED_ENABLED, S.STOPPED_ENABLED, S.STARTED_ENABLED):
        states[1] = state
        trace.ask(message)
        trace.decide(message, None, None, states)
    trace.end("")

    changes = [(line["was"], line["is"]) for line in map(json.loads, lines) if line["event"] == "ring"]
    assert changes == [
        ("stopped, disabled", "stopped, enabled"),
        ("stopped, enabled", "started, enabled"),
        ("started, enabled", "stopped, disabled"),
    ]
    assert json.loads(lines[-1])["event"] == "end"


async def test_whole_connection_can_be_read_in_the_trace(tmp_path: Path) -> None:
    path, lines = tmp_path / "a.sock", list[str]()

    def play() -> None:
        with VirtioNetDriver.connect(path) as driver:
            driver.send(FRAME)
            assert driver.recv().frame == FRAME
            with pytest.raises(PeerError):
                driver.frontend.net_set_mtu(1)
            with pytest.raises(PeerError):
                driver.frontend.get_inflight_fd(1, 1)

    config = DeviceConfig(name="vm1", socket_path=str(path), port="echo")
    async with Server([config], trace=lines.append):
        await blocking(play)

    words: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert {word["device"] for word in words} == {"vm1"}
    assert (words[0]["event"], words[-1]["event"]) == ("begin", "end")
    assert words[-1]["reason"].startswith("GET_INFLIGHT_FD: needs INFLIGHT_SHMFD")
    messages = [word for word in words if word["event"] == "message"]
    assert [word["request"] for word in messages[:3]] == [
        "GET_FEATURES",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
    ]
    assert "VERSION_1" in messages[0]["reply"]["names"]
    added = next(word for word in messages if word["request"] == "ADD_MEM_REG")
    assert (added["fds"], added["reply"], added["payload"]["region"]["gpa"]) == (1, "ack", "0x0")
    refused = next(word for word in messages if word["request"] == "NET_SET_MTU")
    assert (refused["reply"], refused["refused"]) == ("nack", "NET_SET_MTU: MTU 1, expected 68 to 65535")
    assert "reply" not in messages[-1]
    assert all(0 <= word["us"] < 10_000_000 for word in messages)
    assert "ring 1 (guest sends) runs from 0" in [w["text"][:32] for w in words if w["event"] == "report"]
    rings = [(word["ring"], word["is"]) for word in words if word["event"] == "ring"]
    assert rings[-2:] == [(0, "stopped, disabled"), (1, "stopped, disabled")]
    assert (1, "started, enabled") in rings
    assert [word["time"] for word in words] == sorted(word["time"] for word in words)
