"""Requests about the device: status, MTU, RARP, config space."""

from __future__ import annotations

import struct

from vhostuser.frontend import calls
from vhostuser.frontend.check.model import Group, NotApplicableError, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import TX
from vhostuser.frontend.check.stream import ASKING, Stream, number, u64
from vhostuser.frontend.check.traffic import (
    assert_serves,
    assert_untouched,
    frame,
    pass_frames,
    settle,
    wait_used,
)
from vhostuser.frontend.orders import (
    STATUS_ACKNOWLEDGE,
    STATUS_DRIVER,
    STATUS_DRIVER_OK,
    STATUS_FEATURES_OK,
)
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("device-requests", "status, MTU, RARP and the config space")

_STATUS = 'vhost-user, "VHOST_USER_SET_STATUS"'
_CONFIG = 'vhost-user, "VHOST_USER_GET_CONFIG"'
_RARP = 'vhost-user, "VHOST_USER_SEND_RARP"'
_CHOSEN = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK
_RUNNING = _CHOSEN | STATUS_DRIVER_OK
_CONFIG_SIZE = 12
"""mac, status, max_virtqueue_pairs, mtu"""


@GROUP.check(
    "status",
    "GET_STATUS gives back what SET_STATUS said, and 0 resets it.",
    _STATUS,
    protocol=P.STATUS,
)
def _status(peer: Peer) -> None:
    stream = peer.stream()
    stream.negotiate(peer.acked_protocol | P.STATUS, int(peer.plain_features))
    for status in (STATUS_ACKNOWLEDGE, STATUS_ACKNOWLEDGE | STATUS_DRIVER, _CHOSEN, 0):
        stream.do(Request.SET_STATUS, u64(status))
        found = number(stream.ask(Request.GET_STATUS))
        expect(found == status, f"status {status:#x}", f"{found:#x}")


@GROUP.check(
    "status-0-stops",
    "SET_STATUS with 0 stops every ring, and set up anew they run.",
    _STATUS,
    protocol=P.STATUS,
)
def _status_0_stops(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.acknowledge(driver.protocol_features | P.STATUS)
        driver.do(calls.set_status(_CHOSEN))
        driver.say_all()
        driver.do(calls.set_status(_RUNNING))
        settle(peer, driver)
        driver.do(calls.set_status(0))
        driver.send(frame(1))
        driver.kick(TX)
        assert_untouched(driver, "after SET_STATUS 0")
        driver.do(calls.set_status(_CHOSEN))
        driver.say_all()
        driver.do(calls.set_status(_RUNNING))
        driver.kick(TX)
        wait_used(peer, driver)


@GROUP.check(
    "status-beyond-a-byte",
    "A status of 256 and more is refused.",
    _STATUS,
    Severity.ROBUSTNESS,
    protocol=P.STATUS | P.REPLY_ACK,
)
def _status_beyond_a_byte(peer: Peer) -> None:
    for status in (256, 1 << 32, (1 << 64) - 1):
        stream = peer.stream()
        stream.negotiate(peer.acked_protocol | P.STATUS, int(peer.plain_features))
        stream.refuses(Request.SET_STATUS, u64(status))
        stream.close()
    assert_serves(peer)


@GROUP.check(
    "mtu",
    "NET_SET_MTU takes 68 to 65535, and refuses what is no MTU.",
    'vhost-user, "VHOST_USER_NET_SET_MTU"',
    Severity.SHOULD,
    virtio=V.MTU,
    protocol=P.MTU | P.REPLY_ACK,
)
def _mtu(peer: Peer) -> None:
    stream = peer.stream()
    stream.negotiate(peer.acked_protocol, int(peer.plain_features | V.MTU))
    stream.do(Request.NET_SET_MTU, u64(1500))
    for wrong in (0, 67, 65536, 1 << 63):
        value = number(stream.ask(Request.NET_SET_MTU, u64(wrong), flags=ASKING))
        expect(value != 0, f"an MTU of {wrong} to be refused", "an acknowledgement of 0")


@GROUP.check("rarp", "SEND_RARP is accepted with the MAC of a guest, in traffic.", _RARP, protocol=P.RARP)
def _rarp(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        driver.frontend.send_rarp(bytes.fromhex("525400123456"))
        driver.frontend.get_features()
        pass_frames(peer, driver, 4)


@GROUP.check(
    "rarp-before-rings",
    "SEND_RARP needs no ring: QEMU sends it when a migrated guest may not run yet.",
    _RARP,
    protocol=P.RARP,
)
def _rarp_before_rings(peer: Peer) -> None:
    stream = peer.talk()
    stream.send(Request.SEND_RARP, bytes.fromhex("525400123456") + bytes(2))
    stream.assert_silent(Request.SEND_RARP)


@GROUP.check(
    "rarp-of-nobody",
    "SEND_RARP with a MAC that no guest has costs nobody else anything.",
    _RARP,
    Severity.ROBUSTNESS,
    protocol=P.RARP,
)
def _rarp_of_nobody(peer: Peer) -> None:
    for mac in (bytes(6), b"\xff" * 6, bytes.fromhex("01005e000001")):
        stream = peer.talk()
        stream.survive_bad(Request.SEND_RARP, mac + b"\xff\xff")
        stream.close()
    assert_serves(peer)


# The config space: u32 offset, size and flags, then the bytes


def _window(offset: int, size: int, flags: int = 0, content: bytes | None = None) -> bytes:
    return struct.pack("=III", offset, size, flags) + (bytes(size) if content is None else content)


def _with_config(peer: Peer) -> Stream:
    stream = peer.stream()
    stream.negotiate(peer.acked_protocol | P.CONFIG, int(peer.plain_features))
    return stream


@GROUP.check(
    "config-reply", "GET_CONFIG is answered in the size that was asked for.", _CONFIG, protocol=P.CONFIG
)
def _config_reply(peer: Peer) -> None:
    stream = _with_config(peer)
    for flags in (0x1, ASKING):
        body = _window(0, _CONFIG_SIZE)
        got = stream.ask(Request.GET_CONFIG, body, flags=flags)
        if len(got) in (0, _CONFIG_SIZE):
            raise NotApplicableError("the back-end has no config space that may be read")
        expect(len(got) == len(body), f"{len(body)} bytes", f"{len(got)}")
        expect(got[:8] == body[:8], "offset and size repeated", got[:8].hex())
        stream.assert_silent(Request.GET_CONFIG)


@GROUP.check(
    "config-pieces",
    "A piece of the config space is the same bytes as in the whole.",
    _CONFIG,
    protocol=P.CONFIG,
)
def _config_pieces(peer: Peer) -> None:
    stream = _with_config(peer)
    whole = stream.ask(Request.GET_CONFIG, _window(0, _CONFIG_SIZE))[12:]
    for offset, size in ((0, 6), (6, 2), (10, 2), (3, 4)):
        piece = stream.ask(Request.GET_CONFIG, _window(offset, size))[12:]
        expect(piece == whole[offset : offset + size], whole[offset : offset + size].hex(), piece.hex())


@GROUP.check(
    "config-outside",
    "GET_CONFIG and SET_CONFIG beyond the config space cost nobody else anything.",
    _CONFIG,
    Severity.ROBUSTNESS,
    protocol=P.CONFIG,
)
def _config_outside(peer: Peer) -> None:
    for request in (Request.GET_CONFIG, Request.SET_CONFIG):
        for offset, size in ((256, 4), (0xFFFFFFFC, 8), (0, 257), (0, 1024), (0x7FFFFFFF, 16)):
            stream = _with_config(peer)
            stream.survive_bad(request, _window(offset, size))
            stream.close()
        stream = _with_config(peer)
        stream.survive_bad(request, _window(0, 0xFFFFFFFF, content=bytes(8)))
        stream.close()
    assert_serves(peer)


@GROUP.check(
    "config-mac-is-read-only",
    "SET_CONFIG of the MAC is refused while a guest runs: modern drivers have a control queue for it.",
    "virtio 1.x, 5.1.4",
    Severity.SHOULD,
    protocol=P.CONFIG | P.REPLY_ACK,
)
def _config_mac_is_read_only(peer: Peer) -> None:
    stream = _with_config(peer)
    stream.refuses(Request.SET_CONFIG, _window(0, 6, content=bytes.fromhex("525400123456")))
