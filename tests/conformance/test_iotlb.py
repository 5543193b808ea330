"""Vhost-user, "IOMMU support" and "Front-end message types", IOTLB_MSG."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.plain_frontend import (
    BIT_30,
    HEADER,
    NEED_REPLY,
    REPLY,
    REPLY_ACK,
    SERVED_PROTOCOL,
    VERSION,
    VERSION_1,
    PlainFrontend,
    address,
    iotlb,
    state,
    table,
    u64,
)
from tests.site import Site, make_site
from vhostuser.frontend.timeouts import scaled

GET_FEATURES, SET_MEM_TABLE, NUM, ADDR, GET_BASE, KICK, BACKEND_REQ_FD, IOTLB = 1, 5, 8, 9, 11, 12, 21, 22
MISS, UPDATE, INVALIDATE = 1, 2, 3
PLATFORM = 1 << 33
UVA, IOVA, PAGE = 0x10_0000, 0x7700_0000, 4096


@dataclass
class Platform:
    """A front-end with one page of memory, a channel, and ring 1 at I/O addresses in that page."""

    plain: PlainFrontend
    channel: socket.socket

    def start_ring(self) -> None:
        assert self.plain.number(NUM, state(1, 16)) == 0
        assert self.plain.number(ADDR, address(1, IOVA, IOVA + 0x400, IOVA + 0x800)) == 0
        kick = os.eventfd(0)
        assert self.plain.number(KICK, u64(1), [kick]) == 0
        os.close(kick)

    def question(self) -> bytes:
        content = self.channel.recv(4096)
        request, flags, size = HEADER.unpack_from(content)
        assert (request, size, len(content)) == (1, 32, HEADER.size + 32)
        assert flags & ~NEED_REPLY == VERSION
        return content[HEADER.size :]

    def answer(self, value: int) -> None:
        self.channel.send(HEADER.pack(1, VERSION | REPLY, 8) + u64(value))


def connect(path: Path, protocol: int = SERVED_PROTOCOL) -> Platform:
    plain = PlainFrontend(path)
    plain.negotiate(protocol, PLATFORM | VERSION_1 | BIT_30)
    ours, theirs = socket.socketpair()
    ours.settimeout(scaled(20))
    plain.send(BACKEND_REQ_FD, fds=[theirs.fileno()], flags=VERSION)
    theirs.close()
    fd = os.memfd_create("guest")
    os.ftruncate(fd, PAGE)
    plain.send(SET_MEM_TABLE, table((0, PAGE, UVA, 0)), [fd], flags=VERSION)
    os.close(fd)
    plain.assert_no_reply()
    return Platform(plain, ours)


@pytest.fixture
def platform(site: Site) -> Iterator[Platform]:
    platform = connect(site.path)
    yield platform
    platform.plain.sock.close()
    platform.channel.close()


def test_offered_where_the_back_end_can_ask(plain: PlainFrontend) -> None:
    (offer,) = struct.unpack("=Q", plain.ask(GET_FEATURES, flags=VERSION))
    assert offer & PLATFORM


@pytest.mark.parametrize("missing", ["protocol_f_reply_ack", "backend_req", "access_platform"])
def test_not_offered_without(missing: str) -> None:
    with make_site(disable_feature=[missing]) as site, PlainFrontend(site.path) as plain:
        (offer,) = struct.unpack("=Q", plain.ask(GET_FEATURES, flags=VERSION))
        assert not offer & PLATFORM


def test_iotlb_msg_is_always_answered_with_a_u64(platform: Platform) -> None:
    for flags in (VERSION, VERSION | NEED_REPLY):
        body = iotlb(IOVA, PAGE, UVA, 3, UPDATE)
        assert platform.plain.ask(IOTLB, body, flags=flags) == u64(0)
        body = iotlb(IOVA, PAGE, 0, 0, INVALIDATE)
        assert platform.plain.ask(IOTLB, body, flags=flags) == u64(0)
        assert platform.plain.ask(IOTLB, iotlb(IOVA, 0, UVA, 3, UPDATE), flags=flags) != u64(0)
        platform.plain.assert_no_reply()


def test_a_miss_says_address_and_access_and_nothing_else(platform: Platform) -> None:
    platform.start_ring()
    assert platform.question() == iotlb(IOVA, 0, 0, 1, MISS)


def test_the_channel_is_not_waited_for(platform: Platform) -> None:
    """QEMU answers on the main connection before it acknowledges, with its big lock held."""
    platform.start_ring()
    platform.question()
    assert platform.plain.number(IOTLB, iotlb(IOVA, PAGE, UVA, 3, UPDATE)) == 0
    platform.answer(0)
    assert platform.plain.ask(GET_BASE, state(1, 0), flags=VERSION) == state(1, 0)


def test_get_vring_base_does_not_wait_for_a_miss(platform: Platform) -> None:
    platform.start_ring()
    platform.question()
    assert platform.plain.ask(GET_BASE, state(1, 0), flags=VERSION) == state(1, 0)


def test_a_question_needs_no_reply_without_reply_ack(site: Site) -> None:
    platform = connect(site.path, SERVED_PROTOCOL & ~REPLY_ACK)
    for request, body in ((NUM, state(1, 16)), (ADDR, address(1, IOVA, IOVA + 0x400, IOVA + 0x800))):
        platform.plain.send(request, body, flags=VERSION)
    kick = os.eventfd(0)
    platform.plain.send(KICK, u64(1), [kick], flags=VERSION)
    os.close(kick)
    content = platform.channel.recv(4096)
    assert HEADER.unpack_from(content) == (1, VERSION, 32)
    platform.plain.sock.close()
    platform.channel.close()


def test_ring_is_not_touched_after_an_invalidation_is_answered(platform: Platform) -> None:
    platform.start_ring()
    platform.question()
    assert platform.plain.number(IOTLB, iotlb(IOVA, PAGE, UVA, 3, UPDATE)) == 0
    platform.answer(0)
    assert platform.plain.number(IOTLB, iotlb(0, (1 << 64) - 1, 0, 0, INVALIDATE)) == 0
    kick = os.eventfd(0)
    # A new kick fd has the ring looked at once: it has to be asked for first.
    assert platform.plain.number(KICK, u64(1), [kick]) == 0
    os.close(kick)
    assert platform.question() == iotlb(IOVA, 0, 0, 1, MISS)


def test_after_the_rings_have_stopped_nothing_is_asked(platform: Platform, site: Site) -> None:
    platform.start_ring()
    platform.question()
    assert platform.plain.ask(GET_BASE, state(1, 0), flags=VERSION) == state(1, 0)
    assert platform.plain.number(IOTLB, iotlb(0, (1 << 64) - 1, 0, 0, INVALIDATE)) == 0
    site.assert_neighbour_unharmed()
    platform.channel.setblocking(False)
    with pytest.raises(BlockingIOError):
        platform.channel.recv(1)
