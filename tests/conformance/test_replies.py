"""Who is answered, and how often (vhost-user: "REPLY_ACK"): one reply too many is out of step for good."""

from __future__ import annotations

import pytest

from tests.conformance import fds
from tests.conformance.messages import NOT_SERVED, SERVED, Answer, Row, of
from tests.plain_frontend import (
    REPLY_ACK,
    SET_PROTOCOL_FEATURES,
    VERSION,
    PlainFrontend,
    single,
    state,
    table,
    u64,
)
from tests.site import Site, echo, make_site


def by_name(rows: tuple[Row, ...], *answers: Answer) -> pytest.MarkDecorator:
    chosen = [row for row in rows if row.answer in answers]
    return pytest.mark.parametrize("row", chosen, ids=[row.name for row in chosen])


@by_name(SERVED, Answer.OWN)
@pytest.mark.parametrize("flags", [0x1, 0x9], ids=["plain", "NEED_REPLY"])
def test_request_with_an_own_reply_gets_that_one_and_no_ack_on_top(
    talk: PlainFrontend, row: Row, flags: int
) -> None:
    # QEMU fixed the second reply three times: 69a5daec06, 7f27d20ded, 5ebfdeb212.
    with fds.for_row(row) as mine:
        talk.send(row.number, row.body, mine, flags=flags)
    # The log is told back: rust-vmm's front-end takes no other answer.
    sizes = {"SET_LOG_BASE": 16, "GET_INFLIGHT_FD": 24}
    assert len(talk.reply(row.number)) == sizes.get(row.name, 8)
    talk.assert_no_reply()


@by_name(SERVED, Answer.ACK)
def test_request_that_asks_for_an_ack_gets_one(talk: PlainFrontend, row: Row) -> None:
    if row.name == "REM_MEM_REG":
        added = of(37)
        with fds.for_row(added) as mine:
            assert talk.number(added.number, added.body, mine) == 0
    with fds.for_row(row) as mine:
        assert talk.number(row.number, row.body, mine) == 0
    talk.assert_no_reply()


@by_name(SERVED, Answer.ACK)
def test_request_that_asks_for_no_ack_gets_none(talk: PlainFrontend, row: Row) -> None:
    with fds.for_row(row) as mine:
        talk.send(row.number, row.body, mine, flags=VERSION)
    talk.assert_no_reply()


@by_name(SERVED, Answer.ACK)
def test_no_ack_is_sent_before_reply_ack_is_negotiated(plain: PlainFrontend, row: Row) -> None:
    plain.negotiate(protocol=1 << 2 | 1 << 4 | 1 << 5 | 1 << 13)
    with fds.for_row(row) as mine:
        plain.send(row.number, row.body, mine)
    plain.assert_no_reply()


def test_ack_of_set_protocol_features_follows_what_was_negotiated_before(plain: PlainFrontend) -> None:
    plain.send(SET_PROTOCOL_FEATURES, u64(REPLY_ACK))
    plain.assert_no_reply()

    assert plain.number(SET_PROTOCOL_FEATURES, u64(REPLY_ACK)) == 0


REFUSED = [
    (2, u64(1 << 62)),
    (5, table((0, 0, 0x100000, 0))),
    (8, state(0, 3)),
    (10, state(0, 65536)),
    (16, u64(1 << 62)),
    (18, state(0, 2)),
    (19, b"\x01\0\0\0\0\1\0\0"),
    (20, u64(67)),
    (38, single(0, 4096, 0)),
]


@pytest.mark.parametrize(("request_number", "body"), REFUSED, ids=[of(number).name for number, _ in REFUSED])
def test_refusal_is_a_nack_where_an_ack_was_asked_for(
    talk: PlainFrontend, request_number: int, body: bytes
) -> None:
    with fds.for_row(of(request_number)) as mine:
        assert talk.number(request_number, body, mine) != 0
    talk.assert_no_reply()


@pytest.mark.parametrize(("request_number", "body"), REFUSED, ids=[of(number).name for number, _ in REFUSED])
def test_refusal_without_an_ack_asked_for_is_silent_and_the_connection_goes_on(
    talk: PlainFrontend, request_number: int, body: bytes
) -> None:
    with fds.for_row(of(request_number)) as mine:
        talk.send(request_number, body, mine, flags=VERSION)
    talk.assert_no_reply()


@by_name(NOT_SERVED, Answer.ACK)
def test_request_of_a_feature_that_is_not_offered_is_nacked(talk: PlainFrontend, row: Row) -> None:
    with fds.for_row(row) as mine:
        assert talk.number(row.number, row.body, mine) != 0
        talk.send(row.number, row.body, mine, flags=VERSION)
    talk.assert_no_reply()


@by_name(NOT_SERVED, Answer.OWN)
def test_request_that_cannot_be_nacked_and_broke_its_gate_ends_the_connection(
    talk: PlainFrontend, row: Row
) -> None:
    # Any answer would be taken for the one that is due, and without one the front-end hangs.
    with fds.for_row(row) as mine:
        talk.send(row.number, row.body, mine, flags=VERSION)
    talk.assert_ended()


@by_name(NOT_SERVED, Answer.U64)
@pytest.mark.parametrize("flags", [0x1, 0x9], ids=["plain", "NEED_REPLY"])
def test_request_that_is_always_answered_with_a_number_is_refused_with_one(
    talk: PlainFrontend, row: Row, flags: int
) -> None:
    with fds.for_row(row) as mine:
        # rust-vmm takes exactly 0x101 for "failed, and no fd comes with it".
        wanted = 0x101 if row.name == "SET_DEVICE_STATE_FD" else 1
        assert talk.ask(row.number, row.body, mine, flags=flags) == u64(wanted)
    talk.assert_no_reply()


@pytest.mark.parametrize("request_number", [0, 46, 0x7FFFFFFF, 0xFFFFFFFF])
def test_unknown_request_is_nacked_if_it_asks_and_the_connection_goes_on(
    talk: PlainFrontend, request_number: int
) -> None:
    with fds.for_row(of(12)) as mine:
        assert talk.number(request_number, u64(0), mine) != 0
        talk.send(request_number, u64(0), mine, flags=VERSION)
    talk.assert_no_reply()


def test_set_log_base_without_log_shmfd_is_answered_only_if_it_asks(plain: PlainFrontend) -> None:
    plain.negotiate(protocol=REPLY_ACK)
    plain.send(6, u64(0), flags=VERSION)
    plain.assert_no_reply()

    assert plain.number(6, u64(0)) != 0


def test_get_config_is_answered_in_the_size_that_was_asked_for() -> None:
    with make_site(mac="52:54:00:12:34:56", mtu=1400) as site, PlainFrontend(site.path) as plain:
        plain.negotiate(protocol=REPLY_ACK | 1 << 9)
        answer = plain.ask(24, state(0, 12) + bytes(4) + bytes(12))
        assert answer == state(0, 12) + bytes(4) + bytes.fromhex("525400123456 0100 0100 7805")
        whole = plain.ask(24, state(0, 256) + bytes(4) + bytes(256))
        assert len(whole) == 12 + 256
        plain.assert_no_reply()


@pytest.mark.parametrize(("offset", "size"), [(255, 2), (0xFFFFFFFF, 1), (0xFFFFFFFF, 0xFFFFFFFF), (256, 1)])
def test_get_config_beyond_the_space_is_answered_with_size_0(offset: int, size: int) -> None:
    # What rust-vmm's front-end takes for an error; nobody else asks a network device.
    with make_site(config_space=True) as site, PlainFrontend(site.path) as plain:
        plain.negotiate(protocol=REPLY_ACK | 1 << 9)
        answer = plain.ask(24, state(offset, size) + bytes(4) + bytes(min(size, 16)))
        assert answer == state(offset, 0) + bytes(4)
        plain.assert_no_reply()


def test_get_features_is_answered_while_rings_run(site: Site) -> None:
    # Without REPLY_ACK it is QEMU's barrier.
    with site.running() as driver:
        before = driver.nic.offered
        for _ in range(10):
            driver.send(bytes(60))
            assert driver.frontend.get_features() == before
            assert driver.recv().frame == bytes(60)
        echo(driver)
