from __future__ import annotations

import array
import os
import resource
import socket

import pytest

from tests.plain_frontend import close_all
from vhostuser.datapath.reaper import reaper
from vhostuser.errors import FramingError
from vhostuser.server.transport import Transport


def pair() -> tuple[Transport, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Transport(ours), theirs


def test_read_gives_no_more_than_was_asked_for_and_its_fds() -> None:
    transport, peer = pair()
    reader, writer = os.pipe()
    socket.send_fds(peer, [b"0123456789abcdef"], [reader, writer])

    chunk, fds = transport.read(12)

    assert chunk == b"0123456789ab"
    assert len(fds) == 2
    assert not any(os.get_inheritable(fd) for fd in fds)
    assert transport.read(12) == (b"cdef", [])
    close_all([*fds, reader, writer])
    transport.close()
    peer.close()


def test_read_takes_an_empty_rights_message_as_no_fds() -> None:
    # DPDK virtio-user attaches SCM_RIGHTS to every message, also with nothing in it.
    transport, peer = pair()
    peer.sendmsg([b"x" * 12], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"")])

    assert transport.read(12) == (b"x" * 12, [])
    transport.close()
    peer.close()


def test_read_without_bytes_raises_and_at_end_of_file_is_empty() -> None:
    transport, peer = pair()
    with pytest.raises(BlockingIOError):
        transport.read(12)
    peer.close()

    assert transport.read(12) == (b"", [])
    transport.close()


def test_fds_that_do_not_fit_the_table_end_the_stream_and_are_closed() -> None:
    transport, peer = pair()
    sent = [os.eventfd(0) for _ in range(8)]
    used = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(int(name) for name in os.listdir("/proc/self/fd"))
    holes = [os.dup(0) for _ in range(top + 2 - used)]
    socket.send_fds(peer, [b"x" * 12], sent)
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(top, *holes, 0) + 3, limits[1]))
    try:
        with pytest.raises(FramingError, match="ulimit"):
            transport.read(12)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert reaper.wait(5)
    assert len(os.listdir("/proc/self/fd")) == before
    close_all([*sent, *holes])
    transport.close()
    peer.close()


def test_send_passes_content_and_fds_in_one_message() -> None:
    transport, peer = pair()
    fd = os.eventfd(5)

    assert transport.send(b"hello", [fd]) == 5

    content, ancillary, _, _ = peer.recvmsg(64, 64)
    assert content == b"hello"
    passed = array.array("i", ancillary[0][2])
    assert os.eventfd_read(passed[0]) == 5
    close_all([fd, *passed])
    transport.close()
    peer.close()


def test_peer_is_named_by_pid_and_uid() -> None:
    transport, peer = pair()

    assert transport.peer() == f"pid {os.getpid()}, uid {os.geteuid()}"
    transport.close()
    peer.close()


def test_hang_up_is_seen_before_what_was_sent_is_read() -> None:
    transport, peer = pair()
    assert not transport.is_hung_up()
    peer.send(b"unread")
    peer.close()

    assert transport.is_hung_up()
    transport.close()
