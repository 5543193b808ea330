"""The thread of a transfer against the ends that front-ends give: right ones, slow ones, and traps."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Callable

import pytest

from tests.conftest import open_fds
from tests.plain_frontend import close_all
from tests.server.conftest import blocking, until
from vhostuser.datapath.reaper import reaper
from vhostuser.errors import RequestError
from vhostuser.net.state_transfer import Outcome
from vhostuser.server import state_channel
from vhostuser.server.state_channel import MOST_THREADS, StateThreads

MOST = 100_000
STATE = bytes(range(256)) * 300
"""More than a pipe holds at once."""


class Told:
    """What came of a transfer, awaited."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    async def reason(self) -> str:
        outcome = await self.outcome()
        assert isinstance(outcome, RequestError)
        return outcome.reason

    async def outcome(self) -> Outcome:
        await until(lambda: bool(self.outcomes))
        (outcome,) = self.outcomes
        return outcome


def receiving(threads: StateThreads, fd: int) -> Told:
    told = Told()
    threads.receive(fd, MOST, told.outcomes.append)
    return told


def sending(threads: StateThreads, fd: int, content: bytes = STATE) -> Told:
    told = Told()
    threads.send(fd, content, told.outcomes.append)
    return told


def pipe() -> tuple[int, int]:
    return os.pipe()


def sockets() -> tuple[int, int]:
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


either = pytest.mark.parametrize("make", [pipe, sockets])


def read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def write_all(fd: int, content: bytes) -> None:
    with open(fd, "wb") as file:
        file.write(content)


@either
async def test_state_is_written_whole_and_ended(make: Callable[[], tuple[int, int]]) -> None:
    reader, writer = make()
    told = sending(StateThreads(), writer)

    assert await blocking(lambda: read_all(reader)) == STATE
    assert await told.outcome() == b""


@either
async def test_state_is_read_to_its_end(make: Callable[[], tuple[int, int]]) -> None:
    reader, writer = make()
    told = receiving(StateThreads(), reader)

    await blocking(lambda: write_all(writer, STATE))
    assert await told.outcome() == STATE


async def test_state_of_no_bytes_is_read_as_that() -> None:
    reader, writer = os.pipe()
    os.close(writer)

    assert await receiving(StateThreads(), reader).outcome() == b""


async def test_regular_file_is_a_channel_too() -> None:
    with tempfile.TemporaryFile() as file:
        assert await sending(StateThreads(), os.dup(file.fileno())).outcome() == b""
        file.seek(0)
        assert await receiving(StateThreads(), os.dup(file.fileno())).outcome() == STATE


@either
async def test_reader_that_went_away_is_an_error(make: Callable[[], tuple[int, int]]) -> None:
    reader, writer = make()
    os.close(reader)

    assert "Broken pipe" in await sending(StateThreads(), writer).reason()


async def test_stream_without_end_is_an_error_and_not_all_read() -> None:
    assert "does not end" in await receiving(StateThreads(), os.open("/dev/zero", os.O_RDONLY)).reason()


@pytest.mark.parametrize("length", [MOST, MOST + 1])
async def test_limit_is_exact(length: int) -> None:
    reader, writer = os.pipe()
    told = receiving(StateThreads(), reader)
    await blocking(lambda: write_all(writer, bytes(length)))

    assert isinstance(await told.outcome(), RequestError) == (length > MOST)


@pytest.mark.parametrize("sent", [b"", b"half"])
async def test_stream_that_is_never_closed_is_over_in_time(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_channel, "TRANSFER_SECONDS", 0.05)
    reader, writer = os.pipe()
    os.write(writer, sent)

    assert await receiving(StateThreads(), reader).reason() == "the transfer is not over after 0.05 s"
    os.close(writer)


async def test_stream_that_drips_is_over_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_channel, "TRANSFER_SECONDS", 0.2)
    reader, writer = os.pipe()
    told, stop = receiving(StateThreads(), reader), threading.Event()

    def drip() -> None:
        try:
            while not stop.is_set():
                os.write(writer, b"x")
        except BrokenPipeError:
            pass

    dripping = asyncio.get_running_loop().run_in_executor(None, drip)
    reason = await told.reason()
    stop.set()
    await dripping
    os.close(writer)
    # Whichever comes first.
    assert "not over after" in reason or "does not end" in reason


async def test_reader_that_reads_nothing_is_over_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_channel, "TRANSFER_SECONDS", 0.05)
    reader, writer = os.pipe()

    assert "not over after" in await sending(StateThreads(), writer).reason()
    os.close(reader)


@pytest.mark.parametrize(
    "make", [lambda: os.open("/", os.O_RDONLY), lambda: os.memfd_create("x"), lambda: os.pipe()[0]]
)
async def test_fd_that_cannot_be_written_is_an_error(
    make: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_channel, "TRANSFER_SECONDS", 0.05)
    before = open_fds()
    fd = make()
    os.set_inheritable(fd, False)
    outcome = await sending(StateThreads(), fd).outcome()

    for left in open_fds().keys() - before.keys():
        os.close(left)  # the pipe's other end
    assert isinstance(outcome, RequestError) or outcome == b""


async def test_directory_cannot_be_read() -> None:
    fd = os.open("/", os.O_RDONLY)

    assert "Is a directory" in await receiving(StateThreads(), fd).reason()


async def test_abandoned_transfer_ends_soon_and_says_nothing() -> None:
    reader, writer = os.pipe()
    heard: list[Outcome] = []
    before = open_fds().keys()
    abandon = StateThreads().receive(reader, MOST, heard.append)

    abandon()

    await until(lambda: reader not in open_fds())
    await until(lambda: open_fds().keys() <= before)
    assert heard == []
    os.close(writer)


async def test_fd_is_closed_before_the_outcome_is_told() -> None:
    reader, writer = os.pipe()
    closed: list[bool] = []
    StateThreads().send(writer, b"state", lambda _: closed.append(writer not in open_fds()))

    await until(lambda: bool(closed))
    assert closed == [True]
    assert read_all(reader) == b"state"


async def test_transfers_that_hang_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # What O_NONBLOCK keeps from hanging hangs when the front-end clears that flag, which it shares.
    monkeypatch.setattr(os, "set_blocking", lambda fd, on: None)
    monkeypatch.setattr(state_channel._Wire, "_wait", lambda wire, event: None)
    threads, pipes = StateThreads(), [os.pipe() for _ in range(MOST_THREADS + 1)]
    for reader, _ in pipes[:MOST_THREADS]:
        threads.receive(reader, MOST, lambda _: None)()

    with pytest.raises(RequestError, match=f"{MOST_THREADS} transfers hang"):
        threads.receive(pipes[-1][0], MOST, lambda _: None)
    await until(lambda: pipes[-1][0] not in open_fds())

    for _, writer in pipes:
        os.close(writer)
    await until(lambda: not open_fds().keys() & {reader for reader, _ in pipes})
    await until(lambda: threads._threads == 0)
    told = receiving(threads, os.open("/dev/null", os.O_RDONLY))
    assert await told.outcome() == b""


async def test_no_fd_left_in_the_process_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()

    def full(_: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", full)
    with pytest.raises(RequestError, match="Too many open files"):
        StateThreads().receive(reader, MOST, lambda _: None)
    await until(lambda: reader not in open_fds())
    os.close(writer)


async def test_no_thread_left_to_the_process_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    before = open_fds().keys()

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = StateThreads()
    with monkeypatch.context() as patched:
        # Not for the thread that closes what was given.
        patched.setattr(threading.Thread, "start", none_left)
        patched.setattr(reaper, "close", close_all)
        with pytest.raises(RequestError, match="can't start new thread"):
            threads.receive(reader, MOST, lambda _: None)

    assert before - open_fds().keys() == {reader}
    os.close(writer)
