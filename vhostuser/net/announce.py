"""RARP for SEND_RARP: tells the switches behind a port where a guest has moved to (RFC 903)."""

from __future__ import annotations

_BROADCAST = b"\xff" * 6
_HEADER = bytes.fromhex("80350001080006040003")
"""Ethertype RARP, Ethernet, IPv4, address lengths, opcode."""
_MIN_FRAME = 60
"""Without the checksum that the hardware adds."""


def rarp_frame(mac: bytes) -> bytes:
    """The Ethernet frame that the guest with this MAC would send; IP addresses are zeros."""
    frame = _BROADCAST + mac + _HEADER + 2 * (mac + bytes(4))
    return frame.ljust(_MIN_FRAME, b"\0")
