"""Frames for and from a real stack."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from vhostuser.frontend import frames
from vhostuser.frontend.frames import Endpoint

US = Endpoint(bytes.fromhex("020000000002"), IPv4Address("192.0.2.2"), 40000)
THEM = Endpoint(bytes.fromhex("020000000001"), IPv4Address("192.0.2.1"), 7)


def answered(request: bytes) -> bytes:
    """The echo reply that a stack makes of a request: addresses turned round, type 0, new checksum."""
    ip = request[14:26] + request[30:34] + request[26:30]
    message = b"\0" + request[35:36] + b"\0\0" + request[38:]
    check = frames.checksum(message).to_bytes(2, "big")
    return request[6:12] + request[:6] + request[12:14] + ip + message[:2] + check + message[4:]


def test_checksum_of_the_example_in_rfc_1071() -> None:
    assert frames.checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


def test_checksum_of_an_odd_length_counts_a_zero_more() -> None:
    assert frames.checksum(b"\x12\x34\x56") == frames.checksum(b"\x12\x34\x56\x00")


def test_arp_request_is_laid_out_as_rfc_826_has_it() -> None:
    assert frames.arp_request(US, THEM.ip).hex() == (
        "ffffffffffff" "020000000002" "0806"
        "0001" "0800" "06" "04" "0001" "020000000002" "c0000202" "000000000000" "c0000201"
    )  # fmt: skip


def test_arp_reply_names_who_answers() -> None:
    reply = bytes.fromhex(
        "020000000002" "020000000001" "0806"
        "0001" "0800" "06" "04" "0002" "020000000001" "c0000201" "020000000002" "c0000202"
    )  # fmt: skip
    assert frames.parse_arp_reply(reply + bytes(18)) == Endpoint(THEM.mac, THEM.ip)


@pytest.mark.parametrize("frame", [b"", frames.arp_request(US, THEM.ip), frames.udp_start(US, THEM, 0)])
def test_anything_but_an_arp_reply_is_none(frame: bytes) -> None:
    assert frames.parse_arp_reply(frame) is None


def test_udp_comes_apart_into_what_it_was_made_of() -> None:
    datagram = frames.parse_ipv4(frames.udp_start(US, THEM, 5) + b"hello" + b"padding")
    assert datagram is not None
    assert (datagram.source, datagram.destination) == (US, THEM)
    assert (datagram.protocol, datagram.content) == (frames.PROTOCOL_UDP, b"hello")


def test_ip_header_checks_out() -> None:
    header = frames.udp_start(US, THEM, 0)[14:34]
    assert frames.checksum(header) == 0


def test_echo_request_has_a_checksum_that_holds() -> None:
    request = frames.icmp_echo(US, THEM, 0x1234, 7, b"content")
    assert request[34] == frames.ICMP_ECHO_REQUEST
    assert frames.checksum(request[34:]) == 0


def test_echo_reply_comes_apart() -> None:
    reply = answered(frames.icmp_echo(US, THEM, 0x1234, 7, b"content"))
    assert frames.parse_icmp_echo_reply(reply) == (0x1234, 7, b"content")


def test_echo_reply_with_a_flipped_bit_is_none() -> None:
    reply = bytearray(answered(frames.icmp_echo(US, THEM, 0x1234, 7, b"content")))
    reply[-1] ^= 1
    assert frames.parse_icmp_echo_reply(bytes(reply)) is None


def test_echo_request_is_no_reply() -> None:
    assert frames.parse_icmp_echo_reply(frames.icmp_echo(US, THEM, 1, 1, b"")) is None


def test_start_of_an_echo_request_leaves_the_checksum_to_an_offload() -> None:
    start = frames.icmp_echo_start(US, THEM, 0x1234, 22)
    at = frames.ICMP_CHECKSUM_START + frames.ICMP_CHECKSUM_OFFSET
    assert start[frames.ICMP_CHECKSUM_START] == frames.ICMP_ECHO_REQUEST
    assert start[at : at + 2] == b"\0\0"
    assert len(start) == 42


@pytest.mark.parametrize(
    "damage",
    [
        lambda frame: frame[:33],
        lambda frame: frame[:12] + b"\x86\xdd" + frame[14:],
        lambda frame: frame[:14] + b"\x65" + frame[15:],
        lambda frame: frame[:16] + b"\xff\xff" + frame[18:],
        lambda frame: frame[:22] + b"\x01" + frame[23:],
    ],
    ids=["short", "ethertype", "version", "length", "checksum"],
)
def test_damaged_ipv4_is_none(damage: object) -> None:
    assert callable(damage)
    assert frames.parse_ipv4(damage(frames.udp_start(US, THEM, 0))) is None


def test_udp_shorter_than_its_header_is_none() -> None:
    assert frames.parse_ipv4(frames.ipv4(US, THEM, frames.PROTOCOL_UDP, 4) + b"1234") is None
