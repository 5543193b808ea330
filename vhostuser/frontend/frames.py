"""Ethernet, ARP, IPv4, ICMP echo and UDP as bytes: as much as talking to a real stack takes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

BROADCAST = b"\xff" * 6
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
PROTOCOL_ICMP = 1
PROTOCOL_UDP = 17
ARP_REQUEST = 1
ARP_REPLY = 2
ICMP_ECHO_REPLY = 0
ICMP_ECHO_REQUEST = 8

ETHERNET_SIZE = 14
ICMP_CHECKSUM_START = 34
"""Where the ICMP message begins in a frame, and where its checksum lies from there: for NEEDS_CSUM."""
ICMP_CHECKSUM_OFFSET = 2

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_ICMP = struct.Struct("!BBHHH")
_UDP = struct.Struct("!HHHH")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One side of a conversation."""

    mac: bytes
    ip: IPv4Address
    port: int = 0


@dataclass(frozen=True, slots=True)
class Datagram:
    """What an IPv4 frame carries, taken apart as far as ICMP echo and UDP need it."""

    source: Endpoint
    destination: Endpoint
    protocol: int
    content: bytes
    """Behind the IP header for anything but UDP, whose header is taken off."""


def ethernet(destination: bytes, source: bytes, ethertype: int) -> bytes:
    """The 14 bytes that a frame begins with."""
    return _ETHERNET.pack(destination, source, ethertype)


def checksum(content: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = content + b"\0" * (len(content) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def arp_request(sender: Endpoint, wanted: IPv4Address) -> bytes:
    """Who has `wanted`?"""
    body = _ARP.pack(
        1, ETHERTYPE_IPV4, 6, 4, ARP_REQUEST, sender.mac, sender.ip.packed, bytes(6), wanted.packed
    )
    return ethernet(BROADCAST, sender.mac, ETHERTYPE_ARP) + body


def parse_arp_reply(frame: bytes) -> Endpoint | None:
    """Who answered, or None if the frame is something else."""
    if len(frame) < ETHERNET_SIZE + _ARP.size or _ETHERNET.unpack_from(frame)[2] != ETHERTYPE_ARP:
        return None
    _, _, _, _, operation, mac, ip, _, _ = _ARP.unpack_from(frame, ETHERNET_SIZE)
    return Endpoint(mac, IPv4Address(ip)) if operation == ARP_REPLY else None


def ipv4(source: Endpoint, destination: Endpoint, protocol: int, length: int) -> bytes:
    """Ethernet and IP header in front of `length` bytes."""

    def header(check: int) -> bytes:
        return _IPV4.pack(
            0x45,
            0,
            _IPV4.size + length,
            0,
            0x4000,
            64,
            protocol,
            check,
            source.ip.packed,
            destination.ip.packed,
        )

    return ethernet(destination.mac, source.mac, ETHERTYPE_IPV4) + header(checksum(header(0)))


def icmp_echo(
    source: Endpoint, destination: Endpoint, identifier: int, sequence: int, content: bytes
) -> bytes:
    """An echo request with its checksum."""

    def message(check: int) -> bytes:
        return _ICMP.pack(ICMP_ECHO_REQUEST, 0, check, identifier, sequence) + content

    whole = message(checksum(message(0)))
    return ipv4(source, destination, PROTOCOL_ICMP, len(whole)) + whole


def icmp_echo_start(source: Endpoint, destination: Endpoint, identifier: int, length: int) -> bytes:
    """What an echo request over `length` bytes begins with, its checksum left to an offload."""
    return ipv4(source, destination, PROTOCOL_ICMP, _ICMP.size + length) + _ICMP.pack(
        ICMP_ECHO_REQUEST, 0, 0, identifier, 0
    )


def udp_start(source: Endpoint, destination: Endpoint, length: int) -> bytes:
    """What a datagram over `length` bytes begins with, without a checksum, which UDP over IPv4 may do."""
    return ipv4(source, destination, PROTOCOL_UDP, _UDP.size + length) + _UDP.pack(
        source.port, destination.port, _UDP.size + length, 0
    )


def parse_ipv4(frame: bytes) -> Datagram | None:
    """What an IPv4 frame carries, or None if it is none or is damaged."""
    if len(frame) < ETHERNET_SIZE + _IPV4.size:
        return None
    destination_mac, source_mac, ethertype = _ETHERNET.unpack_from(frame)
    first, _, total, _, _, _, protocol, _, source, destination = _IPV4.unpack_from(frame, ETHERNET_SIZE)
    header_size = (first & 15) * 4
    if ethertype != ETHERTYPE_IPV4 or first >> 4 != 4 or not header_size <= total <= len(frame):
        return None
    if checksum(frame[ETHERNET_SIZE : ETHERNET_SIZE + header_size]):
        return None
    content = frame[ETHERNET_SIZE + header_size : ETHERNET_SIZE + total]
    ports = (0, 0)
    if protocol == PROTOCOL_UDP:
        if len(content) < _UDP.size:
            return None
        ports = _UDP.unpack_from(content)[:2]
        content = content[_UDP.size :]
    return Datagram(
        Endpoint(source_mac, IPv4Address(source), ports[0]),
        Endpoint(destination_mac, IPv4Address(destination), ports[1]),
        protocol,
        content,
    )


def parse_icmp_echo_reply(frame: bytes) -> tuple[int, int, bytes] | None:
    """Identifier, sequence number and content, or None if it is something else or its checksum is wrong."""
    datagram = parse_ipv4(frame)
    if datagram is None or datagram.protocol != PROTOCOL_ICMP or len(datagram.content) < _ICMP.size:
        return None
    kind, _, _, identifier, sequence = _ICMP.unpack_from(datagram.content)
    if kind != ICMP_ECHO_REPLY or checksum(datagram.content):
        return None
    return identifier, sequence, datagram.content[_ICMP.size :]
