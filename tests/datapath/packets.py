"""Packets as a sender that has offloads leaves them, and what is to come of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.datapath.rig import V
from tests.datapath.stations import ALL, address
from vhostuser.frontend.net_header import NetHeader

SENDS = V.CSUM | V.HOST_TSO4 | V.HOST_TSO6 | V.HOST_USO | V.HOST_ECN | V.HOST_UFO
TAKES = V.GUEST_CSUM | V.GUEST_TSO4 | V.GUEST_TSO6 | V.GUEST_ECN | V.GUEST_USO4 | V.GUEST_USO6 | V.GUEST_UFO
NOTHING = V(0)
NEEDS_CSUM = 1
TCPV4, UDP_FRAGMENTS, TCPV6, UDP_L4, ECN = 1, 3, 4, 5, 0x80
FIN, PSH, ACK, CWR = 1, 8, 16, 0x80
SEQUENCE = 0xFFFFF000
"""Wraps around within a frame."""


def sum16(content: bytes) -> int:
    total = 0
    for at in range(0, len(content), 2):
        total += int.from_bytes(content[at : at + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True)
class Packet:
    """TCP or UDP over IPv4 or IPv6, as its sender leaves it: the checksum over the pseudo header alone."""

    version: int
    tcp: bool
    payload: bytes
    options: int = 0
    """Bytes of options of the IP (4) or extension header (6), and of TCP."""
    tags: int = 0
    flags: int = ACK

    @property
    def protocol(self) -> int:
        return 6 if self.tcp else 17

    @property
    def network(self) -> int:
        return 14 + 4 * self.tags

    @property
    def transport(self) -> int:
        return self.network + (20 if self.version == 4 else 40) + self.options

    @property
    def headers(self) -> int:
        return self.transport + (20 + self.options if self.tcp else 8)

    def addresses(self) -> bytes:
        return bytes(range(1, 9)) if self.version == 4 else bytes(range(1, 33))

    def pseudo(self, length: int) -> bytes:
        return self.addresses() + length.to_bytes(4, "big") + self.protocol.to_bytes(4, "big")

    def build(self) -> bytes:
        behind = self.headers - self.transport + len(self.payload)
        partial = sum16(self.pseudo(behind)).to_bytes(2, "big")
        if self.tcp:
            start = b"\x12\x34\x00\x50" + SEQUENCE.to_bytes(4, "big") + bytes(4)
            start += bytes([(20 + self.options) // 4 << 4, self.flags]) + b"\x10\0" + partial + b"\0\0"
            transport = start + b"\1" * self.options
        else:
            transport = b"\x12\x34\x00\x35" + behind.to_bytes(2, "big") + partial
        total = self.transport - self.network + behind
        if self.version == 4:
            size = (20 + self.options) // 4
            ip = (
                bytes([0x40 | size, 0])
                + total.to_bytes(2, "big")
                + b"\xff\xfe\x40\0\x40"
                + bytes([self.protocol])
            )
            ip += b"\0\0" + self.addresses() + b"\1" * self.options
            ip = ip[:10] + (~sum16(ip) & 0xFFFF).to_bytes(2, "big") + ip[12:]
        else:
            following = bytes([0 if self.options else self.protocol])
            ip = b"\x60\0\0\0" + (total - 40).to_bytes(2, "big") + following + b"\x40" + self.addresses()
            if self.options:
                ip += bytes([self.protocol, self.options // 8 - 1]) + b"\1" + bytes([self.options - 4])
                ip = ip.ljust(40 + self.options, b"\0")
        kind = b"\x08\0" if self.version == 4 else b"\x86\xdd"
        ethernet = ALL + address(1) + b"\x88\xa8\0\1\x81\0\0\2"[8 - 4 * self.tags :] + kind
        return ethernet + ip + transport + self.payload

    def header(self, size: int = 0, gso_type: int = 0, hdr_len: int = 0) -> NetHeader:
        return NetHeader(
            flags=NEEDS_CSUM,
            gso_type=gso_type,
            hdr_len=hdr_len,
            gso_size=size,
            csum_start=self.transport,
            csum_offset=16 if self.tcp else 6,
        )

    def check(self, segment: bytes, index: int, size: int, last: bool) -> bytes:
        """Everything in a segment that came is right; returns its payload."""
        payload = segment[self.headers :]
        behind = segment[self.transport :]
        assert sum16(self.pseudo(len(behind)) + behind) == 0xFFFF
        assert segment[: self.network] == self.build()[: self.network]
        ip = segment[self.network : self.transport]
        if self.version == 4:
            assert sum16(ip) == 0xFFFF
            assert int.from_bytes(ip[2:4], "big") == len(segment) - self.network
            assert int.from_bytes(ip[4:6], "big") == (0xFFFE + index) & 0xFFFF
        else:
            assert int.from_bytes(ip[4:6], "big") == len(segment) - self.network - 40
        if self.tcp:
            assert int.from_bytes(behind[4:8], "big") == (SEQUENCE + index * size) & 0xFFFFFFFF
            wanted = self.flags if last else self.flags & ~(FIN | PSH)
            assert behind[13] == (wanted & ~CWR if index else wanted)
        else:
            assert int.from_bytes(behind[4:6], "big") == len(behind)
        return payload


def content(length: int) -> bytes:
    return random.Random(length).randbytes(length)


KINDS = [(4, True, TCPV4), (6, True, TCPV6), (4, False, UDP_L4), (6, False, UDP_L4)]
