from __future__ import annotations

import pytest

from tests.vectors import CAPTURES, load_capture
from vhostuser.errors import FramingError
from vhostuser.wire import structs
from vhostuser.wire.connection import Connection, Incoming
from vhostuser.wire.constants import MAX_PAYLOAD, BackendRequest, Request
from vhostuser.wire.messages import (
    U64,
    Config,
    Empty,
    Inflight,
    Log,
    Malformed,
    MemoryRegion,
    MemTable,
    Message,
    Payload,
    Reply,
    VringArea,
    VringFd,
    VringState,
)
from vhostuser.wire.requests import BACKEND_REQUESTS

R = Request
REGION = MemoryRegion(0, 4096, 0x1000, 0)


def encoded(request: int, payload: Payload, need_reply: bool = False) -> bytes:
    return Connection().encode_request(request, payload, need_reply)


def raw(request: int, flags: int, content: bytes = b"", size: int | None = None) -> bytes:
    return structs.build_header(request, flags, len(content) if size is None else size) + content


def feed(connection: Connection, content: bytes, fds: tuple[int, ...] = ()) -> None:
    """Deliver bytes as a socket that is asked for `bytes_wanted`, the fds with the first of them."""
    while content:
        taken = connection.bytes_wanted
        assert taken > 0, "a message is complete and has not been fetched"
        connection.receive(content[:taken], fds)
        content, fds = content[taken:], ()


def received(content: bytes, fds: tuple[int, ...] = ()) -> Message:
    connection = Connection()
    feed(connection, content, fds)
    message = connection.next_message()
    assert message is not None
    return message


def replied(content: bytes, fds: tuple[int, ...] = ()) -> Reply:
    connection = Connection(incoming=Incoming.REPLIES)
    feed(connection, content, fds)
    reply = connection.next_reply()
    assert reply is not None
    return reply


class TestReading:
    def test_wants_the_header_then_the_payload_then_nothing(self) -> None:
        connection = Connection()
        content = encoded(R.SET_VRING_NUM, VringState(1, 256))

        assert connection.bytes_wanted == 12
        connection.receive(content[:12])
        assert connection.bytes_wanted == 8
        connection.receive(content[12:])
        assert connection.bytes_wanted == 0

    def test_wants_the_next_header_once_the_message_is_fetched(self) -> None:
        connection = Connection()
        feed(connection, encoded(R.SET_OWNER, Empty()))
        assert connection.bytes_wanted == 0

        assert connection.next_message() == Message(R.SET_OWNER, Empty())

        assert connection.bytes_wanted == 12
        assert connection.next_message() is None

    def test_one_byte_at_a_time(self) -> None:
        connection = Connection()
        for byte in encoded(R.SET_VRING_NUM, VringState(1, 256), need_reply=True):
            assert connection.next_message() is None
            connection.receive(bytes([byte]))
        assert connection.next_message() == Message(R.SET_VRING_NUM, VringState(1, 256), need_reply=True)

    def test_back_to_back_requests(self) -> None:
        connection = Connection()
        for index in range(3):
            feed(connection, encoded(R.SET_VRING_NUM, VringState(index, 256)))
            message = connection.next_message()
            assert message is not None
            assert message.payload == VringState(index, 256)

    def test_reading_beyond_the_message_is_our_own_mistake(self) -> None:
        with pytest.raises(AssertionError, match="beyond the message"):
            Connection().receive(bytes(13))

    def test_tells_a_clean_end_from_a_peer_that_died(self) -> None:
        connection = Connection()
        assert connection.is_between_messages
        connection.receive(b"\x03")
        assert not connection.is_between_messages
        connection.receive(raw(R.SET_VRING_NUM, 1, size=8)[1:])
        assert not connection.is_between_messages
        connection.receive(bytes(8))
        connection.next_message()
        assert connection.is_between_messages

    def test_largest_payload_is_read(self) -> None:
        connection = Connection()
        feed(connection, raw(R.CREATE_CRYPTO_SESSION, 1, bytes(MAX_PAYLOAD)))
        assert connection.next_message() is not None


class TestFds:
    def test_come_with_the_first_byte_of_the_header(self) -> None:
        connection = Connection()
        content = encoded(R.SET_VRING_KICK, VringFd(2))
        connection.receive(content[:1], [7])
        connection.receive(content[1:12])
        connection.receive(content[12:])

        message = connection.next_message()

        assert message is not None
        assert message.payload == VringFd(2)
        assert message.fds.take_all() == [7]

    def test_do_not_spill_into_the_next_message(self) -> None:
        connection = Connection()
        feed(connection, encoded(R.SET_VRING_KICK, VringFd(2)), (7,))
        connection.next_message()
        feed(connection, encoded(R.SET_VRING_KICK, VringFd(3, has_fd=False)))
        message = connection.next_message()
        assert message is not None
        assert message.payload == VringFd(3, has_fd=False)
        assert len(message.fds) == 0

    @pytest.mark.parametrize("first", [1, 12, 15])
    def test_that_come_later_spoil_the_message_and_stay_in_its_bag(self, first: int) -> None:
        connection = Connection()
        content = encoded(R.SET_VRING_KICK, VringFd(2))
        feed(connection, content[:first])
        feed(connection, content[first:], (7,))

        message = connection.next_message()

        assert message is not None
        assert message.payload == Malformed("1 fds came after the first byte of the message")
        assert message.fds.drain() == [7]

    def test_that_come_later_spoil_one_message_only(self) -> None:
        connection = Connection()
        content = encoded(R.SET_VRING_KICK, VringFd(2))
        feed(connection, content[:12])
        feed(connection, content[12:], (7,))
        connection.next_message()
        feed(connection, content, (8,))
        message = connection.next_message()
        assert message is not None
        assert message.payload == VringFd(2)

    @pytest.mark.parametrize(
        ("request_", "payload", "fits"),
        [
            (R.SET_OWNER, Empty(), {0}),
            (R.SET_MEM_TABLE, MemTable(()), {0}),
            (R.SET_MEM_TABLE, MemTable((REGION,) * 3), {3}),
            (R.SET_VRING_KICK, VringFd(0), {1}),
            (R.SET_VRING_KICK, VringFd(0, has_fd=False), {0}),
            (R.SET_VRING_CALL, VringFd(0), {1}),
            (R.SET_VRING_ERR, VringFd(0, has_fd=False), {0}),
            (R.SET_LOG_BASE, Log(0, 0), {0, 1}),
            (R.SET_LOG_FD, Empty(), {1}),
            (R.SET_BACKEND_REQ_FD, Empty(), {1}),
            (R.SET_INFLIGHT_FD, Inflight(0, 0, 0, 0), {1}),
        ],
    )
    def test_any_other_number_than_the_request_takes_spoils_it(
        self, request_: Request, payload: Payload, fits: set[int]
    ) -> None:
        for count in (*range(5), 253):
            fds = tuple(range(10, 10 + count))
            message = received(encoded(request_, payload), fds)
            assert isinstance(message.payload, Malformed) == (count not in fits), count
            assert message.fds.drain() == list(fds)

    def test_a_wrong_number_is_told_with_the_right_one(self) -> None:
        assert received(encoded(R.SET_OWNER, Empty()), (3, 4)).payload == Malformed(
            "2 fds came with it, expected 0"
        )
        assert received(encoded(R.SET_LOG_BASE, Log(0, 0)), (3, 4)).payload == Malformed(
            "2 fds came with it, expected 0 to 1"
        )

    def test_of_an_unfinished_message_are_pending(self) -> None:
        connection = Connection()
        connection.receive(b"\x05", [7, 8])
        assert connection.pending_fds() == [7, 8]
        assert connection.pending_fds() == []

    def test_of_a_message_that_nobody_fetched_are_pending(self) -> None:
        connection = Connection()
        feed(connection, encoded(R.SET_VRING_KICK, VringFd(2)), (7,))
        assert connection.pending_fds() == [7]

    def test_of_a_fetched_message_are_no_longer_pending(self) -> None:
        connection = Connection()
        feed(connection, encoded(R.SET_VRING_KICK, VringFd(2)), (7,))
        connection.next_message()
        assert connection.pending_fds() == []


class TestFraming:
    """A header that cannot be followed ends the connection, and nothing is lost on the way."""

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (raw(R.SET_OWNER, 0), r"SET_OWNER: version 0, expected 1"),
            (raw(R.SET_OWNER, 2), r"SET_OWNER: version 2, expected 1"),
            (raw(R.SET_OWNER, 3), r"SET_OWNER: version 3, expected 1"),
            (raw(R.SET_OWNER, 0x5), r"SET_OWNER: a reply where requests are expected \(flags 0x5\)"),
            (raw(R.SET_OWNER, 1, size=MAX_PAYLOAD + 1), r"SET_OWNER: payload of 4097 bytes, at most 4096"),
            (raw(R.SET_OWNER, 1, size=0xFFFFFFFF), r"payload of 4294967295 bytes"),
            (raw(0x7FFFFFFF, 0), r"header of request 2147483647: version 0"),
        ],
    )
    def test_bad_header_ends_the_stream(self, content: bytes, reason: str) -> None:
        with pytest.raises(FramingError, match=reason):
            Connection().receive(content)

    def test_a_stream_that_ended_stays_so_and_gives_up_its_fds(self) -> None:
        connection = Connection()
        with pytest.raises(FramingError):
            connection.receive(raw(R.SET_OWNER, 0), [7])
        assert connection.bytes_wanted == 0
        with pytest.raises(FramingError):
            connection.receive(b"more", [8])
        with pytest.raises(FramingError):
            connection.next_message()
        assert connection.pending_fds() == [7, 8]


class TestMalformed:
    """What was read whole and makes no sense costs one message: the next one is understood."""

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (raw(0, 1), "unknown request"),
            (raw(46, 1, b"abc"), "unknown request"),
            (raw(0x7FFFFFFF, 1), "unknown request"),
            (raw(R.SET_OWNER, 0x11), "flags 0x11 have bits set that no version defines"),
            (raw(R.SET_OWNER, 0x80000001), "flags 0x80000001 have bits set that no version defines"),
            (raw(R.SET_FEATURES, 1, bytes(7)), "payload of 7 bytes, expected 8"),
            (raw(R.SET_FEATURES, 1, bytes(9)), "payload of 9 bytes, expected 8"),
            (raw(R.SET_VRING_ADDR, 1), "payload of 0 bytes, expected 40"),
            (raw(R.SET_VRING_KICK, 1, b"\0\4" + bytes(6)), "ring word 0x400 has bits above the NOFD bit set"),
        ],
    )
    def test_the_message_says_what_is_wrong_and_the_stream_goes_on(self, content: bytes, reason: str) -> None:
        connection = Connection()
        feed(connection, content, (7,))
        message = connection.next_message()
        assert message is not None
        assert message.payload == Malformed(reason)
        assert message.fds.drain() == [7]

        feed(connection, encoded(R.SET_OWNER, Empty()))
        assert connection.next_message() == Message(R.SET_OWNER, Empty())

    def test_need_reply_is_kept(self) -> None:
        assert received(raw(46, 0x9)).need_reply
        assert not received(raw(46, 0x1)).need_reply

    def test_the_number_of_an_unknown_request_is_kept(self) -> None:
        assert received(raw(46, 0x1)).request == 46


class TestReplies:
    def test_flags_are_exactly_what_qemu_compares_with(self) -> None:
        content = Connection().encode(Reply(R.GET_FEATURES, U64(0x140000000)))
        assert content == bytes.fromhex("01000000 05000000 08000000 0000004001000000")

    def test_are_parsed_by_the_row_of_their_request(self) -> None:
        back_end = Connection()
        for reply in (
            Reply(R.GET_FEATURES, U64(1)),
            Reply(R.GET_VRING_BASE, VringState(1, 2)),
            Reply(R.GET_CONFIG, Config(0, 2, 0, b"ab")),
            Reply(R.GET_CONFIG, Empty()),
            Reply(R.SET_MEM_TABLE, U64(0)),
            Reply(R.SET_MEM_TABLE, MemTable((REGION,))),
            Reply(R.SET_LOG_BASE, Log(1, 2)),
        ):
            assert replied(back_end.encode(reply)) == reply

    def test_bring_fds_to_the_receiver(self) -> None:
        content = Connection().encode(Reply(R.GET_INFLIGHT_FD, Inflight(1, 2, 3, 4)))
        assert replied(content, (9,)).fds == (9,)

    @pytest.mark.parametrize("flags", [0x1, 0x9, 0xD, 0x15])
    def test_with_other_flags_end_the_stream(self, flags: int) -> None:
        connection = Connection(incoming=Incoming.REPLIES)
        with pytest.raises(FramingError, match=f"GET_FEATURES: flags {flags:#x} of a reply, expected 0x5"):
            connection.receive(raw(R.GET_FEATURES, flags, size=8))

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (raw(46, 5), "reply to 46, which is no request"),
            (raw(R.GET_FEATURES, 5, bytes(4)), "reply to GET_FEATURES: payload of 4 bytes, expected 8"),
        ],
    )
    def test_that_nobody_can_read_end_the_stream_and_give_up_their_fds(
        self, content: bytes, reason: str
    ) -> None:
        connection = Connection(incoming=Incoming.REPLIES)
        feed(connection, content, (7,))
        with pytest.raises(FramingError, match=reason):
            connection.next_reply()
        with pytest.raises(FramingError, match=reason):
            connection.next_reply()
        assert connection.pending_fds() == [7]

    def test_are_not_there_before_their_last_byte(self) -> None:
        connection = Connection(incoming=Incoming.REPLIES)
        connection.receive(raw(R.GET_FEATURES, 5, size=8))
        assert connection.next_reply() is None

    def test_and_requests_are_not_mixed_up_by_us(self) -> None:
        with pytest.raises(AssertionError):
            Connection().next_reply()
        with pytest.raises(AssertionError):
            Connection(incoming=Incoming.REPLIES).next_message()


class TestBackendChannel:
    def test_has_numbers_of_its_own(self) -> None:
        connection = Connection(BACKEND_REQUESTS)
        feed(connection, encoded(BackendRequest.CONFIG_CHANGE_MSG, Empty()))
        assert connection.next_message() == Message(BackendRequest.CONFIG_CHANGE_MSG, Empty())

    @pytest.mark.parametrize("has_fd", [True, False])
    def test_host_notifier_says_whether_it_brings_an_fd(self, has_fd: bool) -> None:
        area = VringArea(1, 4096, 0, has_fd)
        connection = Connection(BACKEND_REQUESTS)
        feed(connection, encoded(BackendRequest.VRING_HOST_NOTIFIER_MSG, area), (7,) if has_fd else ())
        message = connection.next_message()
        assert message is not None
        assert message.payload == area


@pytest.mark.parametrize("capture", CAPTURES)
class TestRealFrontends:
    def test_each_message_is_understood(self, capture: str) -> None:
        for captured in load_capture(capture):
            message = received(captured.content, tuple(range(captured.fds)))
            assert message.name == captured.name
            assert not isinstance(message.payload, Malformed)

    def test_each_message_is_encoded_as_the_front_end_did_it(self, capture: str) -> None:
        for captured in load_capture(capture):
            message = received(captured.content, tuple(range(captured.fds)))
            assert encoded(message.request, message.payload, message.need_reply) == captured.content
