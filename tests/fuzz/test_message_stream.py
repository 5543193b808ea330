"""Streams that no front-end would send, through connection and session, against a model written anew here.

What has to hold: nothing but the two front-end errors comes out; every fd has one owner at every moment; the
number of replies is what the specification says; the two bits of each ring are what its table makes of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.session.fake_device import OFFER, PROTOCOL_OFFER, FakeDevice
from tests.vectors import load_payloads
from vhostuser.errors import FramingError, RequestError
from vhostuser.session.device import Pending
from vhostuser.session.session import Session
from vhostuser.wire import structs
from vhostuser.wire.connection import Connection, Incoming
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import (
    U64,
    Empty,
    MemoryRegion,
    MemTable,
    Payload,
    Reply,
    VringAddr,
    VringFd,
    VringState,
)
from vhostuser.wire.requests import BACKEND_REQUESTS, FRONTEND_REQUESTS, ReplyKind, RequestRow

BIT_30 = int(V.PROTOCOL_FEATURES)
OWN_REPLY = {number for number, row in FRONTEND_REQUESTS.items() if row.reply is ReplyKind.OWN}
OWN_REPLY_NAMES = tuple(Request(number).name for number in OWN_REPLY)
ALWAYS_U64 = {
    Request.IOTLB_MSG,
    Request.POSTCOPY_END,
    Request.SET_DEVICE_STATE_FD,
    Request.CHECK_DEVICE_STATE,
}

interesting = st.sampled_from([0, 1, 2, 3, 5, 8, 255, 256, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF])
words = interesting | st.integers(0, 0xFFFFFFFF)
numbers = st.integers(0, 47) | words
flags = st.sampled_from([0x1, 0x9, 0x1, 0x9, 0x1, 0x9, 0x0, 0x2, 0x5, 0xD, 0x11]) | words
contents = st.sampled_from(sorted(load_payloads().values())) | st.binary(max_size=80)


def sized_contents(kind: type[Payload]) -> st.SearchStrategy[bytes]:
    """Payloads of a size that ``kind`` takes, filled with small numbers or with anything."""
    golden = {
        len(content) for name, content in load_payloads().items() if name.split("-")[0] == kind.__name__
    }
    sizes = st.sampled_from(sorted(golden or {0}))
    small = st.integers(0, 3).map(lambda number: number.to_bytes(4, "little"))
    return sizes.flatmap(
        lambda size: (
            st.binary(min_size=size, max_size=size)
            | st.lists(small, min_size=size // 4, max_size=size // 4).map(b"".join)
        )
    )


@st.composite
def plausible(draw: st.DrawFn) -> bytes:
    """A request that a front-end might send, with values that none would."""
    row = draw(st.sampled_from([*FRONTEND_REQUESTS.values()]))
    content = draw(sized_contents(draw(st.sampled_from(row.payload))))
    return structs.build_header(row.request, draw(st.sampled_from([0x1, 0x9])), len(content)) + content


@st.composite
def wild(draw: st.DrawFn) -> bytes:
    """A header that could be anything, and a payload that is mostly of the size that it says."""
    content = draw(contents)
    size = draw(st.just(len(content)) | st.just(len(content)) | words)
    return structs.build_header(draw(numbers), draw(flags), size) + content


messages = plausible() | plausible() | wild()


class Reader:
    """Reads a stream as the transport does, in pieces, giving each fd its number once."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.numbers = itertools.count()
        self.given: list[int] = []
        self.seen: list[int] = []

    def read(self, content: bytes, pieces: Sequence[tuple[int, int]]) -> None:
        """Deliver ``content`` in pieces of (bytes, fds) and fetch what is complete in between."""
        turns = itertools.cycle(pieces)
        while content:
            length, fds = next(turns)
            taken = min(length, self.connection.bytes_wanted, len(content))
            arriving = list(itertools.islice(self.numbers, fds))
            self.given += arriving
            self.connection.receive(content[:taken], arriving)
            content = content[taken:]
            self.fetch()

    def fetch(self) -> None:
        message = self.connection.next_message()
        if message is not None:
            self.seen += message.fds.drain()


class ReplyReader(Reader):
    def fetch(self) -> None:
        reply = self.connection.next_reply()
        if reply is not None:
            self.seen += reply.fds


pieces_of_a_stream = st.lists(st.tuples(st.integers(1, 64), st.integers(0, 3)), min_size=1, max_size=4)


@pytest.mark.parametrize("table", [FRONTEND_REQUESTS, BACKEND_REQUESTS], ids=["front-end", "back-end"])
@pytest.mark.parametrize("reader", [Reader, ReplyReader])
@settings(max_examples=250, deadline=None)
@given(stream=st.lists(messages | st.binary(max_size=40), max_size=6), pieces=pieces_of_a_stream)
def test_any_stream_is_read_or_ended_and_no_fd_is_lost(
    table: Mapping[int, RequestRow], reader: type[Reader], stream: list[bytes], pieces: list[tuple[int, int]]
) -> None:
    incoming = Incoming.REQUESTS if reader is Reader else Incoming.REPLIES
    reading = reader(Connection(table, incoming))
    try:
        reading.read(b"".join(stream), pieces)
    except FramingError:
        assert reading.connection.bytes_wanted == 0
    reading.seen += reading.connection.pending_fds()
    assert reading.seen == reading.given


@settings(max_examples=400, deadline=None)
@given(
    stream=st.lists(messages, max_size=8),
    fds=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    acked=st.sampled_from([PROTOCOL_OFFER, P(0)]),
    refused=st.sets(
        st.sampled_from(["set_mem_table", "set_features", "set_vring_kick", "set_mtu", "get_config"])
    ),
)
def test_any_message_is_answered_as_its_kind_says(
    stream: list[bytes], fds: list[int], acked: P, refused: set[str]
) -> None:
    device = FakeDevice(refused=dict.fromkeys(refused, "no"))
    session, connection, numbers = Session(device), Connection(), itertools.count()
    given_fds: list[int] = []
    left: list[int] = []
    ended_by = ""
    connection.receive(connection.encode_request(Request.SET_PROTOCOL_FEATURES, U64(int(acked)))[:12])
    connection.receive(U64(int(acked)).value.to_bytes(8, "little"))
    session.handle(_fetched(connection))
    for content, count in zip(stream, itertools.cycle(fds), strict=False):
        arriving = list(itertools.islice(numbers, count))
        given_fds += arriving
        has_acks = P.REPLY_ACK in session.acked_protocol_features
        try:
            connection.receive(content[:12], arriving)
            assert connection.bytes_wanted <= 4096
            if connection.bytes_wanted > len(content) - 12:
                break
            connection.receive(content[12 : 12 + connection.bytes_wanted])
            message = _fetched(connection)
            try:
                reply = session.handle(message)
            except RequestError as refusal:
                ended_by = f"{refusal}"
                break
            finally:
                left += message.fds.drain()
        except FramingError:
            break
        is_due = message.request in OWN_REPLY | ALWAYS_U64 or (message.need_reply and has_acks)
        assert isinstance(reply, Reply) == is_due
        if isinstance(reply, Reply):
            assert connection.encode(reply)[:8] == structs.build_header(message.request, 5, 0)[:8]
    left += connection.pending_fds()
    assert sorted(left + device.fds) == given_fds
    assert ended_by == "" or ended_by.startswith(OWN_REPLY_NAMES)


def _fetched(connection: Connection) -> Any:
    message = connection.next_message()
    assert message is not None
    return message


RINGS = 4


class Conversation(RuleBasedStateMachine):
    """A front-end that does everything in every order, beside a model of two booleans a ring."""

    @initialize(acks=st.booleans())
    def connect(self, acks: bool) -> None:
        self.device = FakeDevice(vrings=RINGS, features=OFFER | V.LOG_ALL)
        self.session = Session(self.device)
        self.started = [False] * RINGS
        self.enabled = [False] * RINGS
        self.has_acks = False
        self.waits_for: tuple[Pending, int] | None = None
        self.fds = itertools.count()
        self.given: list[int] = []
        self.left: list[int] = []
        if acks:
            self.say(Request.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER)))
            self.has_acks = True

    def say(self, request: Request, payload: Payload, fds: int = 0, need_reply: bool = True) -> Any:
        """Through the wire there and, if there is a reply, back."""
        front_end, back_end = Connection(incoming=Incoming.REPLIES), Connection()
        arriving = list(itertools.islice(self.fds, fds))
        self.given += arriving
        content = front_end.encode_request(request, payload, need_reply)
        back_end.receive(content[:12], arriving)
        back_end.receive(content[12:])
        message = _fetched(back_end)
        try:
            reply = self.session.handle(message)
        finally:
            self.left += message.fds.drain()
        if not isinstance(reply, Reply):
            return reply
        content = back_end.encode(reply)
        front_end.receive(content[:12])
        front_end.receive(content[12:])
        read = front_end.next_reply()
        assert read == reply
        return read.payload

    def tell(self, request: Request, payload: Payload, fine: bool, fds: int = 0) -> None:
        if self.waits_for is not None:
            return
        answer = self.say(request, payload, fds)
        assert answer == (U64(0 if fine else 1) if self.has_acks else None)

    rings = st.integers(0, RINGS + 1)

    @rule(index=rings, has_fd=st.booleans(), fds=st.integers(0, 2))
    def kick(self, index: int, has_fd: bool, fds: int) -> None:
        fine = index < RINGS and fds == has_fd
        if self.waits_for is None and fine:
            self.started[index] = True
        self.tell(Request.SET_VRING_KICK, VringFd(index, has_fd), fine, fds)

    @rule(index=rings, has_fd=st.booleans(), fds=st.integers(0, 2))
    def call(self, index: int, has_fd: bool, fds: int) -> None:
        self.tell(Request.SET_VRING_CALL, VringFd(index, has_fd), index < RINGS and fds == has_fd, fds)

    @rule(index=rings, num=st.integers(0, 2))
    def enable(self, index: int, num: int) -> None:
        fine = index < RINGS and num < 2
        if self.waits_for is None and fine:
            self.enabled[index] = bool(num)
        self.tell(Request.SET_VRING_ENABLE, VringState(index, num), fine)

    @rule(index=rings, addr=st.sampled_from([0x1000, 0x8000, 0x8001]), log=st.integers(0, 1))
    def place(self, index: int, addr: int, log: int) -> None:
        """Whether it is fine depends on what came before: only that it never throws is looked at here."""
        if self.waits_for is None:
            answer = self.say(Request.SET_VRING_ADDR, VringAddr(index, log, addr, 0x3000, 0x2000, 0))
            assert answer is None or self.has_acks
            assert index < RINGS or answer in (None, U64(1))

    @rule(index=rings, slow=st.booleans())
    def get_base(self, index: int, slow: bool) -> None:
        if self.waits_for is not None:
            return
        if index >= RINGS:
            with pytest.raises(RequestError, match="index out of range"):
                self.say(Request.GET_VRING_BASE, VringState(index, 0))
            return
        self.started[index] = False
        self.device.deferred = {"get_vring_base": Pending()} if slow else {}
        answer = self.say(Request.GET_VRING_BASE, VringState(index, 0))
        if slow:
            self.waits_for = answer, index
        else:
            assert answer == VringState(index, self.device.bases.get(index, 0))

    @rule(base=st.integers(0, 65535))
    def answer_base(self, base: int) -> None:
        if self.waits_for is not None:
            (pending, index), self.waits_for = self.waits_for, None
            expected = Reply(Request.GET_VRING_BASE, VringState(index, base))
            assert self.session.complete(pending, base) == expected

    @rule(regions=st.integers(0, 3), fds=st.integers(0, 3))
    def set_mem_table(self, regions: int, fds: int) -> None:
        table = MemTable(tuple(MemoryRegion(n << 16, 1 << 16, n << 16, 0) for n in range(regions)))
        self.tell(Request.SET_MEM_TABLE, table, regions == fds, fds)

    @rule(bit_30=st.booleans(), log=st.booleans(), alien=st.booleans())
    def set_features(self, bit_30: bool, log: bool, alien: bool) -> None:
        bits = int(OFFER) | (BIT_30 if bit_30 else 0) | (int(V.LOG_ALL) if log else 0) | (alien << 40)
        if self.waits_for is None and not alien and not bit_30:
            self.enabled = [True] * RINGS
        self.tell(Request.SET_FEATURES, U64(bits), not alien)

    @rule()
    def reset(self) -> None:
        if self.waits_for is None and self.has_acks:
            self.started, self.enabled = [False] * RINGS, [False] * RINGS
        self.tell(Request.RESET_DEVICE, Empty(), self.has_acks)

    @rule()
    def hang_up_and_connect_again(self) -> None:
        self.session.close()
        self.started, self.enabled = [False] * RINGS, [False] * RINGS
        self.waits_for = None
        self.has_acks = False

    @invariant()
    def rings_are_as_the_model_says(self) -> None:
        for index in range(RINGS):
            state = self.session.ring_state(index)
            assert (state.is_started, state.is_enabled) == (self.started[index], self.enabled[index])
            assert self.device.states.get(index, state) is state

    @invariant()
    def every_fd_has_one_owner(self) -> None:
        assert sorted(self.left + self.device.fds) == self.given


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestConversation = Conversation.TestCase
