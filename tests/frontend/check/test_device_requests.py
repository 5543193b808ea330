"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.frontend.check.conftest import TIMEOUT, FindsFault
from tests.frontend.check.meddler import Fault, Line, Meddler, Said
from tests.frontend.check.test_bad_ring_setup import DiesOf
from tests.frontend.check.test_framing import NoReply, OtherReplies, Yes
from tests.frontend.check.test_negotiation import Deaf, Ends
from tests.interop.server_process import Server
from vhostuser.frontend.check import catalogue
from vhostuser.frontend.check.model import Outcome
from vhostuser.frontend.check.runner import Expect, Runner, survey
from vhostuser.wire.constants import Request

GONE = "no reply|gone|closed|end"


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("status", Deaf(Request.SET_STATUS), "0x0"),
        ("status-0-stops", Deaf(Request.SET_STATUS), "1 given back"),
        ("status-beyond-a-byte", Yes(), "an acknowledgement of 0"),
        ("mtu", Yes(), "an acknowledgement of 0"),
        ("rarp", Ends(Request.SEND_RARP), GONE),
        ("rarp-before-rings", Ends(Request.SEND_RARP), "its end"),
        ("rarp-of-nobody", DiesOf(Request.SEND_RARP), "the back-end ended"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server that has a config space."""
    folder = tmp_path_factory.mktemp("config")
    path = folder / "c.sock"
    with Server(folder, "-s", str(path), "--port", "sink", "--mac", "52:54:00:12:34:56") as server:
        server.wait_listening(path)
        yield path


class Shifts(Fault):
    """GET_CONFIG always answers the beginning."""

    def request(self, line: Line, said: Said) -> None:
        self.offset = said.word() if said.request == Request.GET_CONFIG else 0
        if self.offset:
            said.body = struct.pack("=I", 0) + said.body[4:]
        line.up(said)

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_CONFIG:
            said.body = struct.pack("=I", self.offset) + said.body[4:]
        line.down(said)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("config-reply", OtherReplies(Request.GET_CONFIG, bytes(20)), "20"),
        ("config-reply", NoReply(Request.GET_CONFIG), "nothing"),
        ("config-pieces", Shifts(), "5254"),
        ("config-outside", DiesOf(Request.SET_CONFIG), "the back-end ended"),
        ("config-mac-is-read-only", Yes(), "an acknowledgement of 0"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_in_the_config_space_is_found(
    config_path: Path, tmp_path: Path, check: str, fault: Fault, seen: str
) -> None:
    offer = replace(survey(config_path, Expect.NONE), pid=os.getpid())
    with Meddler(tmp_path / "m.sock", config_path, fault) as meddler:
        (result,) = Runner(meddler.path, offer, timeout=TIMEOUT).run(catalogue.select([check]))
    assert result.outcome is Outcome.FAILED
    assert seen in result.seen
