"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import re
import struct

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_bad_chains import ServesOnce
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature

LOST = "still out|none|no frame of ours|no reply|gone"


class FirstConnectionOnly(Fault):
    """The offer is smaller when somebody comes again."""

    def __init__(self, features: int) -> None:
        self.features = features
        self.connections = 0

    def begin(self, line: Line) -> None:
        self.connections += 1

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_FEATURES and self.connections > 1:
            said.body = struct.pack("=Q", said.number() & ~self.features)
        line.down(said)


class StartsOver(Fault):
    """Packed rings begin anew whatever base is given."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_BASE:
            said.body = struct.pack("=II", said.word(), 0x80008000)
        line.up(said)


class OneTooFar(Fault):
    """Packed rings begin a chain behind the base, and no inflight region knows better."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_BASE and said.word(4) & 0x7FFF:
            said.body = struct.pack("=II", said.word(), said.word(4) + 0x10001)
        line.up(said)

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_PROTOCOL_FEATURES:
            said.body = struct.pack("=Q", said.number() & ~int(ProtocolFeature.INFLIGHT_SHMFD))
        line.down(said)


class DiesAfter(Fault):
    """The process does not survive so many connections."""

    def __init__(self, most: int) -> None:
        self.left = most

    def begin(self, line: Line) -> None:
        self.left -= 1
        if not self.left:
            self.meddler.die()


class SharesRings(Fault):
    """A second connection is served beside the first, whose rings it stops."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def begin(self, line: Line) -> None:
        if self.lines:
            for index in (0, 1):
                self.lines[0].quietly(Said(Request.GET_VRING_BASE, 1, struct.pack("=II", index, 0)))
        self.lines.append(line)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("reconnect-qemu", ServesOnce(), LOST),
        ("reconnect-cloud-hypervisor", ServesOnce(), LOST),
        ("reconnect-virtio-user", ServesOnce(), LOST),
        ("reconnect-qemu-packed", StartsOver(), LOST),
        ("reconnect-cloud-hypervisor-packed", OneTooFar(), LOST),
        ("reconnect-virtio-user-packed", ServesOnce(), LOST),
        ("reconnect-qemu", FirstConnectionOnly(1 << 32), "no longer offers VERSION_1"),
        ("reconnect-with-fewer-features", ServesOnce(), LOST),
        ("end-in-traffic", ServesOnce(), LOST),
        ("end-in-traffic", DiesAfter(8), "the back-end ended"),
        ("end-after-each-message", DiesAfter(12), "the back-end ended"),
        ("end-inside-a-message", DiesAfter(10), "the back-end ended"),
        ("end-before-the-reply", DiesAfter(30), "the back-end ended"),
        ("many-connections", DiesAfter(100), "the back-end ended"),
        ("half-a-message-and-silence", DiesAfter(2), "the back-end ended"),
        ("replies-that-nobody-reads", DiesAfter(2), "the back-end ended"),
        ("second-front-end", SharesRings(), LOST),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))


class Smaller(Fault):
    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_FEATURES:
            said.body = struct.pack("=Q", said.number() & ~(1 << 15))
        line.down(said)


def test_an_offer_that_has_changed_is_found(finds: FindsFault) -> None:
    assert finds("offer-after-all-this", Smaller()).startswith("0x")
