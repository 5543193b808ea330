"""Header, payload and ancillary data (vhost-user: "Header", "Ancillary data")."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from tests.conformance import fds
from tests.plain_frontend import (
    HEADER,
    NEED_REPLY,
    REPLY,
    SERVED_PROTOCOL,
    VERSION,
    PlainFrontend,
    close_all,
    state,
    table,
    u64,
)
from tests.site import Site, wait

PAGE = 4096


@pytest.mark.parametrize("flags", [VERSION, VERSION | NEED_REPLY])
def test_reply_repeats_the_request_and_has_version_and_reply_flag_alone(
    talk: PlainFrontend, flags: int
) -> None:
    for request in (1, 15, 17):
        talk.sock.sendall(HEADER.pack(request, flags, 0))
        assert HEADER.unpack(talk.sock.recv(12)) == (request, VERSION | REPLY, 8)
        assert len(talk.sock.recv(8)) == 8


def test_reply_comes_in_one_piece(talk: PlainFrontend) -> None:
    # DPDK's virtio-user reads header and payload with plain receives; `reply` reads once.
    for _ in range(50):
        assert len(talk.ask(1)) == 8
        assert len(talk.ask(11, state(9, 0))) == 8


def test_fds_ride_on_the_first_byte_of_their_message(talk: PlainFrontend) -> None:
    body = table((0, PAGE, 0x100000, 0))
    memory = fds.memfd()
    socket.send_fds(talk.sock, [HEADER.pack(5, VERSION | NEED_REPLY, len(body))[:1]], [memory])
    talk.sock.sendall(HEADER.pack(5, VERSION | NEED_REPLY, len(body))[1:] + body)
    os.close(memory)

    assert talk.reply(5) == u64(0)


def test_fds_of_messages_in_a_row_stay_with_theirs(site: Site) -> None:
    # Both are in the socket before the back-end reads: one greedy read would mix them up.
    with site.stepping() as driver:
        driver.say_all("call")
        frontend, rings = driver.frontend, driver.nic.rings
        assert rings[0].call_fd is not None
        assert rings[1].call_fd is not None
        for index in (0, 1):
            message = HEADER.pack(13, VERSION, 8) + u64(index)
            frontend.send_raw(message, [rings[index].call_fd or 0])
        frontend.get_features()
        for ring in rings:
            assert ring.call_fd is not None
            os.set_blocking(ring.call_fd, False)

        driver.send(bytes(60))

        # A frame was sent and one has come: each ring calls once, through its own fd.
        assert driver.recv().frame == bytes(60)
        wait(lambda: bool(driver.reclaim()))


def test_rights_message_without_fds_is_a_message_without_fds(talk: PlainFrontend) -> None:
    # DPDK's virtio-user attaches one to every message.
    message = HEADER.pack(8, VERSION | NEED_REPLY, 8) + state(0, 256)
    talk.sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"")])

    assert talk.reply(8) == u64(0)


def test_requests_that_are_pipelined_are_answered_in_order(plain: PlainFrontend) -> None:
    plain.sock.sendall(
        HEADER.pack(1, VERSION, 0)
        + HEADER.pack(16, VERSION, 8)
        + u64(SERVED_PROTOCOL)
        + HEADER.pack(8, VERSION | NEED_REPLY, 8)
        + state(0, 64)
        + HEADER.pack(17, VERSION, 0)
    )

    answered = []
    for _ in range(3):
        request, flags, size = HEADER.unpack(plain.sock.recv(12, socket.MSG_WAITALL))
        assert flags == VERSION | REPLY
        answered.append((request, struct.unpack("=Q", plain.sock.recv(size, socket.MSG_WAITALL))[0]))
    assert [request for request, _ in answered] == [1, 8, 17]
    assert answered[1][1] == 0


def test_message_in_single_bytes_is_a_message(talk: PlainFrontend) -> None:
    for byte in HEADER.pack(8, VERSION | NEED_REPLY, 8) + state(1, 128):
        talk.sock.sendall(bytes([byte]))

    assert talk.reply(8) == u64(0)


def test_memory_table_has_up_to_32_regions_and_fds(talk: PlainFrontend) -> None:
    rows = [(number * PAGE, PAGE, 0x100000 + number * PAGE, 0) for number in range(32)]
    memory = [fds.memfd() for _ in rows]

    assert talk.number(5, table(*rows), memory) == 0
    close_all(memory)


@pytest.mark.parametrize("index", [0, 1, 127, 128, 255])
def test_ring_index_goes_to_255(talk: PlainFrontend, index: int) -> None:
    assert talk.number(8, state(index, 256)) == 0
    assert talk.number(10, state(index, 77)) == 0
    assert talk.ask(11, state(index, 0)) == state(index, 77)


@pytest.mark.parametrize("size", [1, 2, 1024, 32768])
def test_ring_size_is_a_power_of_two_up_to_32768(talk: PlainFrontend, size: int) -> None:
    assert talk.number(8, state(0, size)) == 0
