"""State that a front-end takes from one back-end to another when it migrates a guest."""

from __future__ import annotations

import os
import select
import struct

from vhostuser.frontend.check.model import CheckFailedError, Group, NotApplicableError, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stream import Stream, number
from vhostuser.frontend.check.traffic import assert_serves, pass_frames, settle
from vhostuser.frontend.timeouts import Deadline
from vhostuser.wire.constants import TRANSFER_LOAD, TRANSFER_SAVE, Request
from vhostuser.wire.features import ProtocolFeature as P

GROUP = Group("device-state", "state that moves from one back-end to another")

_STATE = 'vhost-user, "Migrating back-end state"'
_NO_FD = 0x100
_LARGEST = 64 << 20


def _talk(peer: Peer) -> Stream:
    stream = peer.stream()
    stream.negotiate(peer.acked_protocol | P.DEVICE_STATE, int(peer.plain_features))
    return stream


def _begin(stream: Stream, direction: int, fd: int) -> None:
    """SET_DEVICE_STATE_FD, which has to be accepted."""
    body = struct.pack("=II", direction, 0)
    answer = number(stream.ask(Request.SET_DEVICE_STATE_FD, body, [fd]))
    expect(not answer & 0xFF, "the transfer to be accepted", f"{answer:#x}")
    if not answer & _NO_FD:
        raise NotApplicableError("the back-end has an fd of its own for the transfer")


def _save(peer: Peer, stream: Stream) -> bytes:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            _begin(stream, TRANSFER_SAVE, writer)
        finally:
            os.close(writer)
        content = _read_to_end(peer, reader)
    finally:
        os.close(reader)
    result = number(stream.ask(Request.CHECK_DEVICE_STATE))
    expect(result == 0, "CHECK_DEVICE_STATE to say that all went well", f"{result:#x}")
    return content


def _read_to_end(peer: Peer, reader: int) -> bytes:
    deadline, content = Deadline(peer.patience), b""
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    while poller.poll(deadline.left_ms):
        piece = os.read(reader, 65536)
        if not piece:
            return content
        content += piece
        expect(len(content) <= _LARGEST, "a state of sane size", f"{len(content)} bytes and more")
    raise CheckFailedError(
        f"the end of the state within {deadline.seconds:g} s", f"{len(content)} bytes and no end"
    )


def _load(stream: Stream, content: bytes) -> int:
    """What CHECK_DEVICE_STATE says of it; the content fits into a pipe."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        try:
            _begin(stream, TRANSFER_LOAD, reader)
        finally:
            os.close(reader)
        try:
            os.write(writer, content)
        except BrokenPipeError:
            pass  # it has seen enough
        except BlockingIOError:
            raise NotApplicableError(f"a state of {len(content)} bytes fits no pipe") from None
    finally:
        os.close(writer)
    return number(stream.ask(Request.CHECK_DEVICE_STATE))


@GROUP.check(
    "state-saved",
    "The state is written to its end, the fd closed, and CHECK_DEVICE_STATE says 0.",
    _STATE,
    protocol=P.DEVICE_STATE,
)
def _state_saved(peer: Peer) -> None:
    stream = _talk(peer)
    _save(peer, stream)
    _save(peer, stream)


@GROUP.check(
    "state-loaded",
    "What was saved can be loaded, on another connection and before any ring is set up, and the device runs.",
    _STATE,
    protocol=P.DEVICE_STATE,
)
def _state_loaded(peer: Peer) -> None:
    stream = _talk(peer)
    content = _save(peer, stream)
    stream.close()
    with peer.stepper() as driver:
        driver.acknowledge(driver.protocol_features | P.DEVICE_STATE)
        result = _load(peer.over(driver), content)
        expect(result == 0, "CHECK_DEVICE_STATE to say that all went well", f"{result:#x}")
        driver.say_all()
        settle(peer, driver)
        pass_frames(peer, driver, 8)


@GROUP.check(
    "state-of-a-stopped-device",
    "A device whose rings were stopped for the transfer goes on where it was: a migration may fail.",
    _STATE,
    protocol=P.DEVICE_STATE,
)
def _state_of_a_stopped_device(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.acknowledge(driver.protocol_features | P.DEVICE_STATE)
        driver.say_all()
        settle(peer, driver)
        for round_ in range(3):
            driver.stop_rings()
            _save(peer, peer.over(driver))
            driver.start_rings()
            settle(peer, driver)
            pass_frames(peer, driver, 8, first=8 * round_)


@GROUP.check(
    "state-of-nonsense",
    "A state that is nonsense is said to be so by CHECK_DEVICE_STATE.",
    _STATE,
    Severity.ROBUSTNESS,
    protocol=P.DEVICE_STATE,
)
def _state_of_nonsense(peer: Peer) -> None:
    for content in (b"\xff" * 4096, bytes(17), b"{" * 60000):
        stream = _talk(peer)
        result = _load(stream, content)
        expect(result != 0, "another answer than 0", "0")
        stream.close()
    assert_serves(peer)


@GROUP.check(
    "state-that-nobody-takes",
    "A front-end that closes its end, or asks for a result without a transfer, costs nobody else anything.",
    _STATE,
    Severity.ROBUSTNESS,
    protocol=P.DEVICE_STATE,
)
def _state_that_nobody_takes(peer: Peer) -> None:
    stream = _talk(peer)
    stream.survive_bad(Request.CHECK_DEVICE_STATE)
    stream.close()
    for direction in (TRANSFER_SAVE, TRANSFER_LOAD):
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.close(reader if direction == TRANSFER_SAVE else writer)
        fd = writer if direction == TRANSFER_SAVE else reader
        try:
            stream = _talk(peer)
            stream.survive_bad(Request.SET_DEVICE_STATE_FD, struct.pack("=II", direction, 0), [fd])
            stream.survive_bad(Request.CHECK_DEVICE_STATE)
            stream.close()
        finally:
            os.close(fd)
    assert_serves(peer)
