"""Transfers of state that go wrong: CHECK says no, with one line in the log, and the device goes on."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import pytest

from tests.integration.loglines import assert_one_line
from tests.plain_frontend import PlainFrontend, state, u64
from tests.site import Site, wait
from vhostuser.net.state_record import VERSION
from vhostuser.server import backend, state_channel

SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE = 42, 43
SAVE, LOAD = state(0, 0), state(1, 0)
ACCEPTED = u64(0x100)


def begin(talk: PlainFrontend, transfer: bytes, end: int) -> None:
    """Gives the end away."""
    assert talk.ask(SET_DEVICE_STATE_FD, transfer, [end]) == ACCEPTED
    os.close(end)


def assert_failed(talk: PlainFrontend, caplog: pytest.LogCaptureFixture, *words: str) -> None:
    assert talk.number(CHECK_DEVICE_STATE) != 0
    assert_one_line(caplog, "CHECK_DEVICE_STATE", *words)
    talk.assert_no_reply()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"garbage" * 100, "not one of a vhostuser network device"),
        (b"VHOSTNET" + struct.pack("<HHI", VERSION, 0, 0xFFFFFFFF), "4294967295"),
        (b"VHOSTNET" + struct.pack("<HHI", VERSION, 0, 1) + b"\xc1", "cannot be read"),
        (b"VHOSTNET" + struct.pack("<HHI", 9, 0, 0), "newer version: 9"),
        (b"VHOSTNET" + struct.pack("<HHI", VERSION, 0, 60000) + b"\x91" * 60000, "cannot be read"),
    ],
)
def test_garbage(talk: PlainFrontend, caplog: pytest.LogCaptureFixture, content: bytes, words: str) -> None:
    reader, writer = os.pipe()
    begin(talk, LOAD, reader)
    os.write(writer, content)
    os.close(writer)

    assert_failed(talk, caplog, words)


def test_stream_that_does_not_end(talk: PlainFrontend, caplog: pytest.LogCaptureFixture) -> None:
    begin(talk, LOAD, os.open("/dev/zero", os.O_RDONLY))

    assert_failed(talk, caplog, "does not end after 262144 bytes")


@pytest.mark.parametrize("transfer", [LOAD, SAVE])
def test_channel_that_is_never_closed(
    talk: PlainFrontend,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    transfer: bytes,
) -> None:
    monkeypatch.setattr(state_channel, "TRANSFER_SECONDS", 0.05)
    mine, theirs = socket.socketpair()
    if transfer == SAVE:
        # No room for a byte.
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while theirs.send(bytes(4096)):
                pass
    begin(talk, transfer, theirs.detach())

    assert_failed(talk, caplog, "not over after 0.05 s")
    mine.close()


def test_channel_whose_reader_is_gone(talk: PlainFrontend, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    begin(talk, SAVE, writer)

    assert_failed(talk, caplog, "Broken pipe")


@pytest.mark.parametrize(("transfer", "flags"), [(SAVE, os.O_RDONLY), (LOAD, os.O_WRONLY)])
def test_end_that_goes_the_other_way(
    talk: PlainFrontend,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    transfer: bytes,
    flags: int,
) -> None:
    begin(talk, transfer, os.open("/dev/null", flags))

    assert_failed(talk, caplog, "Bad file descriptor")


def test_channel_that_is_a_directory(talk: PlainFrontend, caplog: pytest.LogCaptureFixture) -> None:
    begin(talk, LOAD, os.open("/", os.O_RDONLY))

    assert_failed(talk, caplog, "Is a directory")


def test_front_end_that_goes_away_in_a_transfer(plain: PlainFrontend, site: Site) -> None:
    plain.negotiate()
    reader, writer = os.pipe()
    begin(plain, LOAD, reader)
    plain.sock.close()

    # Given up, though its other end stays open.
    site.assert_serves()
    wait(lambda: not _is_open(writer))
    os.close(writer)


def _is_open(writer: int) -> bool:
    try:
        os.write(writer, b"x")
    except BrokenPipeError:
        return False
    return True


def test_front_end_that_goes_away_while_it_waits_for_the_result(
    plain: PlainFrontend, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    plain.negotiate()
    reader, writer = os.pipe()
    begin(plain, LOAD, reader)
    plain.send(CHECK_DEVICE_STATE)
    plain.sock.close()

    # The next front-end is not kept waiting for it.
    site.assert_serves()
    wait(lambda: not _is_open(writer))
    os.close(writer)


def test_many_transfers_that_are_begun_and_never_finished(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture
) -> None:
    writers = []
    for _ in range(100):
        reader, writer = os.pipe()
        # One that was given up may not have ended yet; it is refused then, or takes the place of the last.
        assert talk.ask(SET_DEVICE_STATE_FD, LOAD, [reader]) in (ACCEPTED, u64(0x101))
        os.close(reader)
        writers.append(writer)
    for writer in writers:
        os.close(writer)
    wait(lambda: talk.number(CHECK_DEVICE_STATE) != 0)


def test_result_that_the_device_owes_for_ever(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "RESULT_SECONDS", 0.05)
    reader, writer = os.pipe()
    begin(talk, LOAD, reader)
    talk.send(CHECK_DEVICE_STATE)

    talk.assert_ended()
    assert_one_line(caplog, "CHECK_DEVICE_STATE", "0.05 s")
    os.close(writer)
