"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import pytest

from tests.frontend.backend_double import HEADER_SIZE, BackendDouble
from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.lockstep import Fetched, LockstepDevice, RingDevice
from vhostuser.wire.constants import Request
from vhostuser.wire.features import VirtioFeature as V


class Without(Fault):
    """A feature is offered and acknowledged, and the back-end does not do it."""

    def __init__(self, feature: V) -> None:
        self.feature = feature

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_FEATURES:
            said.body = struct.pack("=Q", said.number() & ~int(self.feature))
        line.up(said)


class LittleEndian(Fault):
    """SET_VRING_ENDIAN is acknowledged and forgotten."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_ENDIAN:
            line.swallow(said)
        else:
            line.up(said)


class Sizes(Fault):
    """Some sizes of rings are refused."""

    def __init__(self, takes: Callable[[int], bool]) -> None:
        self.takes = takes

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_NUM and not self.takes(said.word(4)):
            said.close()
            line.hang_up()
        else:
            line.up(said)


LOST = "still out|none|no frame of ours|[0-9]+|no reply|gone"
GONE = "no reply|gone|closed"


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("split-load", Without(V.EVENT_IDX), LOST),
        ("packed-load", Without(V.RING_PACKED), LOST),
        ("split-indirect", Without(V.INDIRECT_DESC), LOST),
        ("packed-indirect", Without(V.INDIRECT_DESC), LOST),
        ("split-mergeable", Without(V.MRG_RXBUF), LOST),
        ("packed-mergeable", Without(V.MRG_RXBUF), LOST),
        ("split-sizes", Sizes(lambda size: size <= 512), GONE),
        ("split-largest", Sizes(lambda size: size <= 1024), GONE),
        ("packed-sizes", Sizes(lambda size: not size & (size - 1)), GONE),
        ("any-layout-indirect", Without(V.INDIRECT_DESC), LOST),
        ("jumbo-frames", Without(V.MRG_RXBUF), LOST),
        ("merged-buffers", Without(V.MRG_RXBUF), LOST),
        ("split-big-endian", LittleEndian(), LOST),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))


FindsInDouble = Callable[[str], str]


def _damage(frame: bytes) -> bytes:
    return frame[:50] + bytes([frame[50] ^ 1]) + frame[51:]


@pytest.mark.parametrize("check", ["split-large-frames", "packed-large-frames", "split-chains"])
def test_damaged_frames_are_found(backend: BackendDouble, finds_in_double: FindsInDouble, check: str) -> None:
    started: list[bytes] = []

    def change(frame: bytes) -> bytes:
        started.append(frame)
        return _damage(frame) if len(started) == 9 else frame

    backend.change = change
    assert finds_in_double(check) == "1 damaged"


def test_lost_frames_are_found(backend: BackendDouble, finds_in_double: FindsInDouble) -> None:
    seen: list[bytes] = []

    def change(frame: bytes) -> bytes:
        seen.append(frame)
        if len(seen) == 9:
            backend.swallow = 1
        return frame

    backend.change = change
    assert re.fullmatch(r"\d+", finds_in_double("split-unmergeable"))


def test_padded_frames_are_found(backend: BackendDouble, finds_in_double: FindsInDouble) -> None:
    backend.change = lambda frame: frame.ljust(60, b"\0")
    assert finds_in_double("frame-sizes") == "a frame of 60 bytes for one of 18"


@pytest.mark.parametrize(
    ("check", "at", "seen"), [("num-buffers-unmerged", 10, "^0$"), ("plain-headers", 0, "flags=1")]
)
def test_wrong_headers_are_found(
    backend: BackendDouble, finds_in_double: FindsInDouble, check: str, at: int, seen: str
) -> None:
    def mangle(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
        header = bytearray(due[:HEADER_SIZE])
        header[at] ^= 1
        content = bytes(header) + due[HEADER_SIZE:]
        receiver.push(chain.head, receiver.fill(chain, content))
        receiver.publish()
        return True

    backend.mangle = mangle
    assert re.search(seen, finds_in_double(check))


def test_buffers_that_are_not_filled_are_found(
    backend: BackendDouble, finds_in_double: FindsInDouble
) -> None:
    def mangle(receiver: RingDevice, chain: Fetched, due: bytes) -> bool:
        """A hundred bytes into each buffer."""
        pieces = [due[start : start + 100] for start in range(0, len(due), 100)]
        header = bytearray(pieces[0])
        header[10] = len(pieces)
        chains = [chain]
        while len(chains) < len(pieces):
            fetched = receiver.fetch()
            assert fetched is not None
            chains.append(fetched)
        for each, piece in zip(chains, [bytes(header), *pieces[1:]], strict=True):
            receiver.push(each.head, receiver.fill(each, piece))
        receiver.publish()
        return True

    backend.mangle = mangle
    assert finds_in_double("merged-buffers") == "16"


@pytest.mark.parametrize("check", ["any-layout", "any-layout-indirect"])
def test_a_header_that_must_lie_in_one_piece_is_found(
    backend: BackendDouble, finds_in_double: FindsInDouble, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: LockstepDevice, chain: Fetched) -> bytes:
        """Whatever the first descriptor holds is the header."""
        pieces = [self.memory.read(gpa, length) for gpa, length in chain.readable]
        return b"".join(
            (pieces[0][:HEADER_SIZE].ljust(HEADER_SIZE, b"\0"), pieces[0][HEADER_SIZE:], *pieces[1:])
        )

    monkeypatch.setattr(LockstepDevice, "read", read)
    assert re.search("a frame of|no frame of ours", finds_in_double(check))
