"""Framing and replies: who is answered, how often, and with which bits.

One reply too many, and every later reply is taken for the answer to the wrong request: front-ends hang.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from vhostuser.frontend.check.model import Group, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stream import (
    ASKING,
    HEADER,
    eventfds,
    memfds,
    message,
    number,
    state,
    table,
    u64,
)
from vhostuser.wire.constants import VERSION, Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("framing", "headers, replies and acknowledgements")

_PAGE = 4096
_TABLE = table((0, _PAGE, 0x100000, 0))
_REPLY_ACK = 'vhost-user, "VHOST_USER_PROTOCOL_F_REPLY_ACK"'

Fds = Callable[[], AbstractContextManager[list[int]]]


def _none() -> AbstractContextManager[list[int]]:
    return nullcontext([])


_ACKED: tuple[tuple[Request, bytes, Fds], ...] = (
    (Request.SET_OWNER, b"", _none),
    (Request.SET_MEM_TABLE, _TABLE, memfds),
    (Request.SET_VRING_NUM, state(0, 256), _none),
    (Request.SET_VRING_BASE, state(0, 0), _none),
    (Request.SET_VRING_CALL, u64(0), eventfds),
    (Request.SET_VRING_ERR, u64(0), eventfds),
    (Request.SET_VRING_KICK, u64(0x100), _none),
)
"""Requests without a reply of their own that no back-end has a reason to refuse."""


def _own_replies(peer: Peer) -> list[tuple[Request, bytes]]:
    """Requests that are always answered, of those that this back-end has."""
    found = [(Request.GET_FEATURES, b""), (Request.GET_VRING_BASE, state(0, 0))]
    if V.PROTOCOL_FEATURES in peer.offer.virtio:
        found.append((Request.GET_PROTOCOL_FEATURES, b""))
    if P.MQ in peer.acked_protocol:
        found.append((Request.GET_QUEUE_NUM, b""))
    return found


@GROUP.check(
    "reply-header",
    "A reply repeats the request and its size, and its flags are exactly 0x5.",
    'vhost-user, "Header"',
)
def _reply_header(peer: Peer) -> None:
    stream = peer.talk()
    for request, body in _own_replies(peer):
        for flags in (VERSION, ASKING):
            expect(len(stream.ask(request, body, flags=flags)) == 8, "a payload of 8 bytes", "another size")
            stream.assert_silent(request)


@GROUP.check(
    "reply-in-one-piece",
    "Header and payload of a reply come in one piece: DPDK's virtio-user reads each with one plain receive.",
    "DPDK, vhost_user_read",
    Severity.SHOULD,
)
def _reply_in_one_piece(peer: Peer) -> None:
    stream = peer.stream()
    for _ in range(20):
        stream.send(Request.GET_FEATURES)
        stream.socket.settimeout(peer.patience)
        got = stream.socket.recv(4096)
        expect(len(got) == HEADER.size + 8, "20 bytes in one receive", f"{len(got)}")


@GROUP.check(
    "one-ack",
    "A message that asks for an acknowledgement gets one, 0, and only one.",
    _REPLY_ACK,
    protocol=P.REPLY_ACK,
)
def _one_ack(peer: Peer) -> None:
    for request, body, make in _ACKED:
        stream = peer.talk()
        with make() as fds:
            stream.do(request, body, fds)
        stream.assert_silent(request)
        stream.close()


@GROUP.check(
    "no-ack-unasked",
    "A message that asks for no acknowledgement gets none.",
    _REPLY_ACK,
    protocol=P.REPLY_ACK,
)
def _no_ack_unasked(peer: Peer) -> None:
    for request, body, make in _ACKED:
        stream = peer.talk()
        with make() as fds:
            stream.send(request, body, fds)
        stream.assert_silent(request)
        stream.close()


@GROUP.check(
    "no-ack-before-reply-ack",
    "Until REPLY_ACK is negotiated no message is acknowledged, whatever its flags ask.",
    _REPLY_ACK,
    Severity.SHOULD,
)
def _no_ack_before_reply_ack(peer: Peer) -> None:
    for request, body, make in _ACKED:
        stream = peer.stream()
        stream.negotiate(peer.acked_protocol & ~P.REPLY_ACK, int(peer.plain_features))
        with make() as fds:
            stream.send(request, body, fds, flags=ASKING)
        stream.assert_silent(request)
        stream.close()


@GROUP.check(
    "no-ack-on-own-reply",
    "A request with a reply of its own is not acknowledged on top, asked or not.",
    _REPLY_ACK,
    protocol=P.REPLY_ACK,
)
def _no_ack_on_own_reply(peer: Peer) -> None:
    stream = peer.talk()
    for request, body in _own_replies(peer):
        stream.ask(request, body, flags=ASKING)
        stream.assert_silent(request)


@GROUP.check(
    "nack",
    "A request that is refused and asks for an acknowledgement gets one that is not 0.",
    _REPLY_ACK,
    protocol=P.REPLY_ACK,
)
def _nack(peer: Peer) -> None:
    stream = peer.talk()
    value = number(stream.ask(Request.SET_VRING_NUM, state(0, 3), flags=ASKING))
    expect(value != 0, "a split ring of 3 entries to be refused", "an acknowledgement of 0")
    stream.assert_silent(Request.SET_VRING_NUM)


@GROUP.check(
    "pipelined",
    "Requests that come together are answered in their order.",
    'vhost-user, "Communication"',
)
def _pipelined(peer: Peer) -> None:
    stream = peer.stream()
    queue_num = message(Request.SET_VRING_NUM, state(0, 64)) + message(Request.SET_VRING_NUM, state(1, 64))
    stream.send_bytes(
        message(Request.GET_FEATURES)
        + message(Request.SET_OWNER)
        + queue_num
        + message(Request.GET_VRING_BASE, state(1, 0))
        + message(Request.GET_FEATURES)
    )
    for request in (Request.GET_FEATURES, Request.GET_VRING_BASE, Request.GET_FEATURES):
        stream.reply(request)


@GROUP.check(
    "bytewise",
    "A message whose bytes come one at a time is that message: the socket is a stream.",
    'vhost-user, "Header"',
    Severity.SHOULD,
)
def _bytewise(peer: Peer) -> None:
    stream = peer.talk()
    for byte in message(Request.SET_VRING_NUM, state(1, 128)) + message(Request.GET_FEATURES):
        stream.send_bytes(bytes([byte]))
        stream.wait_taken()
    stream.reply(Request.GET_FEATURES)


@GROUP.check(
    "fds-on-first-byte",
    "Fds come with the first byte of their message, however the rest of it arrives.",
    'vhost-user, "Ancillary data"',
    Severity.SHOULD,
)
def _fds_on_first_byte(peer: Peer) -> None:
    stream = peer.talk()
    content = message(Request.SET_MEM_TABLE, _TABLE, ASKING if stream.acks else VERSION)
    with memfds() as fds:
        stream.send_bytes(content[:1], fds)
        stream.wait_taken()
    stream.send_bytes(content[1:])
    if stream.acks:
        value = number(stream.reply(Request.SET_MEM_TABLE))
        expect(value == 0, "the table to be accepted", f"a refusal, {value:#x}")
    stream.assert_silent(Request.SET_MEM_TABLE)


@GROUP.check(
    "fds-of-pipelined-messages",
    "Fds of messages that come together stay with their message.",
    'vhost-user, "Ancillary data"',
    protocol=P.REPLY_ACK,
)
def _fds_of_pipelined_messages(peer: Peer) -> None:
    stream = peer.talk()
    pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(2)]
    try:
        for index, (_, theirs) in enumerate(pipes):
            stream.send(Request.SET_VRING_CALL, u64(index), [theirs], flags=ASKING)
        for _ in pipes:
            value = number(stream.reply(Request.SET_VRING_CALL))
            expect(value == 0, "both call fds to be accepted", f"a refusal, {value:#x}")
    finally:
        for pipe in pipes:
            for fd in pipe:
                os.close(fd)


@GROUP.check(
    "rights-without-fds",
    "An SCM_RIGHTS header without fds is no fd: DPDK's virtio-user sends one with every message.",
    "DPDK, vhost_user_write",
)
def _rights_without_fds(peer: Peer) -> None:
    stream = peer.talk()
    content = message(Request.SET_VRING_NUM, state(0, 256))
    stream.socket.sendmsg([content], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"")])
    stream.assert_silent(Request.SET_VRING_NUM)


@GROUP.check(
    "get-features-any-time",
    "GET_FEATURES is answered at any time, also while rings run: it is QEMU's barrier without REPLY_ACK.",
    'vhost-user, "Communication"',
)
def _get_features_any_time(peer: Peer) -> None:
    with peer.driver() as driver:
        for _ in range(20):
            driver.send(bytes(60), timeout=peer.patience)
            found = driver.frontend.get_features()
            expect(found == peer.offer.virtio, f"features {int(peer.offer.virtio):#x}", f"{int(found):#x}")


@GROUP.check(
    "log-base-reply",
    "SET_LOG_BASE is answered once where LOG_SHMFD is negotiated.",
    'vhost-user, "Migration"',
    protocol=P.LOG_SHMFD,
)
def _log_base_reply(peer: Peer) -> None:
    stream = peer.stream()
    stream.negotiate(peer.acked_protocol | P.LOG_SHMFD, int(peer.plain_features))
    with memfds() as fds:
        stream.ask(Request.SET_LOG_BASE, u64(_PAGE) + u64(0), fds)
    stream.assert_silent(Request.SET_LOG_BASE)


@GROUP.check(
    "protocol-features-ack",
    "The first SET_PROTOCOL_FEATURES is not acknowledged, for REPLY_ACK counts after it; a second one is.",
    _REPLY_ACK,
    Severity.SHOULD,
    protocol=P.REPLY_ACK,
)
def _protocol_features_ack(peer: Peer) -> None:
    stream = peer.stream()
    wanted = u64(int(peer.acked_protocol))
    stream.send(Request.SET_PROTOCOL_FEATURES, wanted, flags=ASKING)
    stream.assert_silent(Request.SET_PROTOCOL_FEATURES)
    value = number(stream.ask(Request.SET_PROTOCOL_FEATURES, wanted, flags=ASKING))
    expect(value == 0, "an acknowledgement of 0", f"{value:#x}")
