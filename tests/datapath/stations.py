"""Guests on a switch, in one process with the C under test."""

from __future__ import annotations

from collections.abc import Sequence

from tests.datapath.rig import MODERN, Bench, Guest
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.switching import AGE, Member, Switch
from vhostuser.frontend.guest_memory import Region
from vhostuser.frontend.net_header import PLAIN, NetHeader
from vhostuser.wire.features import VirtioFeature

ALL = b"\xff" * 6
SHARE = 1024
"""VU_FDB_SHARE."""


def address(number: int) -> bytes:
    return b"\x52\x54\0\0" + number.to_bytes(2, "big")


def frame(source: int | bytes, to: int | bytes, content: bytes = b"", length: int = 60) -> bytes:
    target, sender = (at if isinstance(at, bytes) else address(at) for at in (to, source))
    return (target + sender + b"\x88\xb5" + content).ljust(length, b"\x5a")


class Station:
    """A guest on the switch; its rings run."""

    def __init__(
        self,
        lan: Lan,
        features: VirtioFeature = MODERN,
        pairs: int = 1,
        regions: Sequence[Region] | None = None,
        size: int = 256,
        big_endian: bool = False,
    ) -> None:
        self.lan = lan
        self.guest: Guest = lan.bench.guest(features, regions=regions, big_endian=big_endian)
        self.member = Member(lan.switch)
        self.guest.device.join(self.member)
        self.pairs = [self.guest.pair(PortKind.SWITCH, size) for _ in range(pairs)]
        for rx, tx in self.pairs:
            rx.start()
            tx.start()
        self.rx, self.tx = self.pairs[0]

    def give(self, buffers: int = 16, length: int = 2048) -> None:
        for rx, _ in self.pairs:
            for _ in range(buffers):
                assert rx.add_writable([length]) is not None
            rx.publish()

    def send(self, *frames: bytes, header: NetHeader = PLAIN, pair: int = 0) -> None:
        """All of them in one burst."""
        tx = self.pairs[pair][1]
        for content in frames:
            tx.send(content, header=header)
        tx.publish()
        self.lan.bench.settle()

    def received(self) -> list[tuple[NetHeader, bytes]]:
        return [found for rx, _ in self.pairs for found in rx.receive()]

    def got(self) -> list[bytes]:
        return [content for _, content in self.received()]


class Lan:
    """A switch and who is on it."""

    def __init__(self, bench: Bench, age: int = AGE) -> None:
        self.bench = bench
        self.switch = Switch(age)
        self.members: list[Station] = []

    def station(
        self,
        features: VirtioFeature = MODERN,
        *,
        buffers: int = 16,
        length: int = 2048,
        pairs: int = 1,
        regions: Sequence[Region] | None = None,
        size: int = 256,
        big_endian: bool = False,
    ) -> Station:
        station = Station(self, features, pairs, regions, size, big_endian)
        station.give(buffers, length)
        self.bench.settle()
        self.members.append(station)
        return station

    def stations(self, count: int, features: VirtioFeature = MODERN) -> list[Station]:
        """That know each other: each has sent one frame, to nobody."""
        made = [self.station(features, buffers=64) for _ in range(count)]
        for number, station in enumerate(made, 1):
            station.send(frame(number, 0))
        self.drain()
        return made

    def drain(self) -> None:
        for station in self.members:
            station.got()

    def close(self) -> None:
        for guest in self.bench.guests:
            guest.close()
        assert self.switch.addresses == 0
        self.switch.close()
