"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import re
import struct

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_negotiation import Ends
from vhostuser.wire.constants import Request


class Seen(Fault):
    """Knows which requests came before on this connection."""

    def begin(self, line: Line) -> None:
        self.seen: list[int] = []

    def request(self, line: Line, said: Said) -> None:
        if self.is_lost(said):
            line.swallow(said)
        else:
            line.up(said)
        self.seen.append(said.request)

    def is_lost(self, said: Said) -> bool:
        raise NotImplementedError


class EnableNeedsFeatures(Seen):
    def is_lost(self, said: Said) -> bool:
        return said.request == Request.SET_VRING_ENABLE and Request.SET_FEATURES not in self.seen


class CallNeedsNoKick(Seen):
    """A call fd that comes after the kick fd is not taken."""

    def is_lost(self, said: Said) -> bool:
        return said.request == Request.SET_VRING_CALL and Request.SET_VRING_KICK in self.seen


class FirstFeaturesOnly(Seen):
    def is_lost(self, said: Said) -> bool:
        return said.request == Request.SET_FEATURES and Request.SET_FEATURES in self.seen


class EnableOnce(Seen):
    """Once disabled, for ever disabled."""

    def is_lost(self, said: Said) -> bool:
        return (
            said.request == Request.SET_VRING_ENABLE
            and said.word(4) == 1
            and self.seen.count(Request.SET_VRING_ENABLE) >= 2
        )


class OnePair(Seen):
    """Whatever is said of the second pair is acknowledged and forgotten."""

    def is_lost(self, said: Said) -> bool:
        of_rings = said.request in range(8, 15) or said.request == Request.SET_VRING_ENABLE
        return of_rings and said.request != Request.GET_VRING_BASE and said.word() & 0xFF >= 2


class WaitsForAll(Seen):
    """No ring is started before all are known."""

    def is_lost(self, said: Said) -> bool:
        return said.request == Request.SET_VRING_KICK and self.seen.count(Request.SET_VRING_NUM) < 4


class WrongBase(Fault):
    """Positions in packed rings lose their wrap counters."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_BASE:
            said.body = struct.pack("=II", said.word(), said.word(4) & 0x7FFF7FFF)
        line.up(said)


class DisablesAll(Fault):
    """Disabling one pair disables the first, too."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_ENABLE and said.word() == 2 and not said.word(4):
            for index in (0, 1):
                line.up(Said(Request.SET_VRING_ENABLE, 1, struct.pack("=II", index, 0)))
        line.up(said)


class NoLegacy(Fault):
    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_FEATURES and not said.number() >> 32:
            said.close()
            line.hang_up()
        else:
            line.up(said)


class AddrNeedsMemory(Seen):
    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_ADDR and Request.SET_MEM_TABLE not in self.seen:
            line.swallow(said, 1)
        else:
            line.up(said)
        self.seen.append(said.request)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("qemu-7", CallNeedsNoKick(), "still out|none"),
        ("qemu-7", Ends(Request.SET_VRING_CALL), "no reply|gone|closed"),
        ("qemu-10", EnableNeedsFeatures(), "none|still out"),
        ("qemu-10", CallNeedsNoKick(), "still out|none"),
        ("qemu-10", Ends(Request.SET_VRING_ERR), "no reply|gone|closed"),
        ("cloud-hypervisor", Ends(Request.GET_VRING_BASE), "no reply|gone|closed"),
        ("virtio-user", EnableOnce(), "none|still out"),
        ("qemu-7-packed", WrongBase(), "still out|none"),
        ("qemu-10-packed", WrongBase(), "still out|none"),
        ("cloud-hypervisor-packed", WrongBase(), "still out|none"),
        ("virtio-user-packed", WrongBase(), "still out|none"),
        ("qemu-7-pairs", OnePair(), "still out|none"),
        ("qemu-10-pairs", OnePair(), "still out|none"),
        ("cloud-hypervisor-pairs", OnePair(), "still out|none"),
        ("virtio-user-pairs", OnePair(), "still out|none"),
        ("firmware-then-system", FirstFeaturesOnly(), "still out|none|no frame"),
        ("legacy-guest", NoLegacy(), "no reply|gone|closed"),
        ("pause-and-resume", EnableOnce(), "none|still out"),
        ("fewer-pairs", DisablesAll(), "no frame of ours"),
        ("unused-pair", WaitsForAll(), "1 of 1 still out"),
        ("any-order", AddrNeedsMemory(), "refused SET_VRING_ADDR"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))
