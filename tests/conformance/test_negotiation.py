"""Features, protocol features and the requests about the device (vhost-user: "Front-end message types")."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from tests.conformance.fds import memfd
from tests.plain_frontend import (
    BIT_30,
    GET_FEATURES,
    GPA_ADDRESSES,
    IN_BAND,
    REPLY_ACK,
    SERVED_PROTOCOL,
    SET_FEATURES,
    SET_PROTOCOL_FEATURES,
    VERSION,
    VERSION_1,
    PlainFrontend,
    state,
    table,
    u64,
)
from tests.site import InProcessSite, Site, echo, make_site, wait
from vhostuser.frontend import calls

GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SEND_RARP, NET_SET_MTU, SET_BACKEND_REQ_FD = 15, 17, 19, 20, 21


def number(content: bytes) -> int:
    (value,) = struct.unpack("=Q", content)
    return int(value)


def test_bit_30_is_offered(plain: PlainFrontend) -> None:
    assert number(plain.ask(GET_FEATURES)) & BIT_30


def test_protocol_features_are_legal_before_set_features(plain: PlainFrontend) -> None:
    assert number(plain.ask(GET_PROTOCOL_FEATURES)) == SERVED_PROTOCOL | IN_BAND | GPA_ADDRESSES
    plain.send(SET_PROTOCOL_FEATURES, u64(SERVED_PROTOCOL), flags=VERSION)

    assert plain.number(SET_FEATURES, u64(VERSION_1)) == 0, "REPLY_ACK holds"


def test_protocol_features_are_legal_without_bit_30_acked(plain: PlainFrontend) -> None:
    plain.send(SET_FEATURES, u64(VERSION_1), flags=VERSION)
    plain.send(SET_PROTOCOL_FEATURES, u64(REPLY_ACK), flags=VERSION)

    assert plain.number(8, state(0, 64)) == 0


def test_protocol_features_may_be_set_without_having_been_asked_for(plain: PlainFrontend) -> None:
    # Cloud Hypervisor after a reconnect.
    plain.send(SET_PROTOCOL_FEATURES, u64(SERVED_PROTOCOL), flags=VERSION)

    assert number(plain.ask(GET_QUEUE_NUM)) > 0


def test_fewer_protocol_features_may_be_acked_later(talk: PlainFrontend) -> None:
    assert talk.number(SET_PROTOCOL_FEATURES, u64(REPLY_ACK)) == 0
    assert talk.number(NET_SET_MTU, u64(1500)) != 0, "MTU is not negotiated any more"


def test_protocol_features_not_offered_are_refused_and_the_old_ones_stay(talk: PlainFrontend) -> None:
    assert talk.number(SET_PROTOCOL_FEATURES, u64(1 << 40 | REPLY_ACK)) != 0
    assert talk.number(NET_SET_MTU, u64(1500)) == 0


def test_protocol_features_again_reset_nothing(site: Site) -> None:
    # QEMU sends them once for each queue pair.
    with site.running() as driver:
        for _ in range(3):
            driver.frontend.run(calls.set_protocol_features(driver.protocol_features), need_reply=True)
            echo(driver)


def test_config_is_offered_only_with_a_config_space() -> None:
    with make_site(config_space=True) as site, PlainFrontend(site.path) as plain:
        assert number(plain.ask(GET_PROTOCOL_FEATURES)) == SERVED_PROTOCOL | IN_BAND | GPA_ADDRESSES | 1 << 9


@pytest.mark.parametrize("port", ["echo", "sink"])
def test_offer_does_not_change_between_connections_or_in_traffic(port: str) -> None:
    with make_site(port) as site:
        with PlainFrontend(site.path) as plain:
            first = plain.ask(GET_FEATURES)
            plain.negotiate(features=VERSION_1)
            assert plain.ask(GET_FEATURES) == first
        with site.driver() as driver:
            driver.send(bytes(60))
            driver.wait_sent()
            assert u64(driver.frontend.get_features()) == first


def test_features_not_offered_are_refused_and_the_old_ones_stay(site: Site) -> None:
    with site.running() as driver:
        body = u64(int(driver.features) | 1 << 34)
        driver.frontend.send_raw(struct.pack("=III", SET_FEATURES, 9, 8) + body)
        assert getattr(driver.frontend.receive_reply().payload, "value", 0) != 0


@pytest.mark.parametrize("pairs", [1, 2, 64])
def test_queue_num_is_enough_for_who_counts_pairs_and_who_counts_rings(pairs: int) -> None:
    with make_site(queues=pairs) as site, PlainFrontend(site.path) as plain:
        plain.negotiate()
        assert number(plain.ask(GET_QUEUE_NUM)) == 128


def test_queue_num_of_more_than_64_pairs_is_256() -> None:
    with make_site(queues=65) as site, PlainFrontend(site.path) as plain:
        plain.negotiate()
        assert number(plain.ask(GET_QUEUE_NUM)) == 256


def test_owner_may_be_set_twice(talk: PlainFrontend) -> None:
    assert talk.number(3) == 0
    assert talk.number(3) == 0


def test_reset_owner_drops_nothing(site: Site) -> None:
    with site.running() as driver:
        driver.frontend.run(calls.reset_owner(), need_reply=True)
        echo(driver)
        assert driver.frontend.get_queue_num() > 0


@pytest.mark.parametrize("mtu", [68, 1500, 9000, 65535])
def test_mtu_is_68_to_65535(talk: PlainFrontend, mtu: int) -> None:
    # Before SET_FEATURES, as QEMU sends it.
    assert talk.number(NET_SET_MTU, u64(mtu)) == 0


@pytest.mark.parametrize("mtu", [0, 67, 65536, 1 << 63, (1 << 64) - 1])
def test_mtu_of_no_network_is_refused(talk: PlainFrontend, mtu: int) -> None:
    assert talk.number(NET_SET_MTU, u64(mtu)) != 0


def test_rarp_takes_the_first_six_bytes_for_a_mac(talk: PlainFrontend) -> None:
    assert talk.number(SEND_RARP, bytes.fromhex("525400123456 ffff")) == 0
    assert talk.number(SEND_RARP, bytes.fromhex("010000000000 0000")) != 0


def test_backend_channel_is_kept_until_the_next_one_comes(talk: PlainFrontend) -> None:
    first, first_theirs = socket.socketpair()
    second, second_theirs = socket.socketpair()
    for sock in (first, second):
        sock.settimeout(20)
    assert talk.number(SET_BACKEND_REQ_FD, fds=[first_theirs.fileno()]) == 0
    first_theirs.close()
    first.setblocking(False)
    with pytest.raises(BlockingIOError):
        first.recv(1)

    first.settimeout(20)
    assert talk.number(SET_BACKEND_REQ_FD, fds=[second_theirs.fileno()]) == 0
    second_theirs.close()

    assert first.recv(1) == b""
    talk.sock.close()
    assert second.recv(1) == b"", "it ends with the connection"
    first.close()
    second.close()


def test_reset_device_stops_and_disables_every_ring_and_keeps_memory(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        echo(driver)

        driver.do(calls.reset_device())

        driver.send(bytes(60))
        site.assert_neighbour_unharmed()
        assert driver.transmit_queue().outstanding == 1, "a stopped ring is not touched"
        # Where each ring begins is in used->idx; the memory table is still there.
        for item in ("num", "base", "addr", "call", "kick"):
            driver.say(item)
        driver.wait_sent()
        driver.send(bytes(60))
        driver.wait_sent()
        assert driver.recv_now() is None, "disabled: what is sent is thrown away"
        driver.say("enable")
        echo(driver)


def test_reset_device_forgets_ring_sizes_and_addresses(talk: PlainFrontend) -> None:
    assert talk.number(10, state(3, 77)) == 0
    assert talk.number(34) == 0
    assert talk.ask(11, state(3, 0)) == state(3, 0)


def test_memory_table_is_legal_before_anything_else(plain: PlainFrontend) -> None:
    fd = memfd()
    plain.send(5, table((0, 4096, 0x100000, 0)), [fd])
    os.close(fd)
    plain.assert_no_reply()


def test_ack_of_a_memory_table_means_that_it_is_mapped(site: InProcessSite) -> None:
    from tests.conftest import live_regions

    before = live_regions()
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        fd = memfd()
        assert plain.number(5, table((0, 4096, 0x100000, 0)), [fd]) == 0
        os.close(fd)
        assert live_regions() == before + 1
    wait(lambda: live_regions() == before)
