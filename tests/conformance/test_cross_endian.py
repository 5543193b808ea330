"""Legacy guests of the other byte order (vhost-user: VHOST_USER_SET_VRING_ENDIAN)."""

from __future__ import annotations

import pytest

from tests.plain_frontend import BIT_30, SERVED_PROTOCOL, VERSION_1, PlainFrontend, state, u64
from tests.site import RING_SIZE, Site, echo, frame
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.wire.features import ProtocolFeature, VirtioFeature

V = VirtioFeature
SET_FEATURES, SET_VRING_ENDIAN, GET_VRING_BASE, SET_VRING_KICK = 2, 23, 11, 12
LITTLE, BIG = 0, 1


def connect(site: Site, features: VirtioFeature, segments: int = 1, pairs: int = 1) -> VirtioNetDriver:
    return VirtioNetDriver.connect(
        site.path,
        big_endian=True,
        features=features | V.PROTOCOL_FEATURES,
        queue_size=RING_SIZE,
        segments=segments,
        queue_pairs=pairs,
    )


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize(
    "features",
    [
        V(0),
        V.MRG_RXBUF,
        V.EVENT_IDX,
        V.INDIRECT_DESC,
        V.IN_ORDER,
        V.MRG_RXBUF | V.EVENT_IDX | V.INDIRECT_DESC,
    ],
)
def test_big_endian_guest_is_served(site: Site, features: VirtioFeature, segments: int) -> None:
    with connect(site, features, segments) as driver:
        assert V.VERSION_1 not in driver.features
        for number in range(3 * RING_SIZE):
            echo(driver, frame(number))


def test_big_endian_guest_is_served_on_every_pair(site: Site) -> None:
    with connect(site, V.MQ, pairs=2) as driver:
        for pair in (0, 1):
            driver.send(frame(pair), queue=pair)
            received = driver.recv()
            assert (received.frame, received.queue) == (frame(pair), pair)


def test_position_goes_through_stop_and_start(site: Site) -> None:
    with connect(site, V.EVENT_IDX) as driver:
        for number in range(5):
            echo(driver, frame(number))
            driver.stop()
            assert driver.nic.rings[1].base == number + 1
            driver.start()


def test_guest_that_reboots_into_a_modern_system_is_little_endian(site: Site) -> None:
    with connect(site, V(0)) as driver:
        echo(driver)
        driver.reset(V.VERSION_1 | V.PROTOCOL_FEATURES)
        driver.big_endian = driver.nic.big_endian = False
        driver.start()
        echo(driver)


def test_cross_endian_is_offered(site: Site) -> None:
    with PlainFrontend(site.path) as plain:
        offered = int.from_bytes(plain.ask(15), "little")
    assert offered & ProtocolFeature.CROSS_ENDIAN


@pytest.mark.parametrize("num", [2, 3, 0x10000, 0xFFFFFFFF])
def test_other_values_are_invalid(talk: PlainFrontend, num: int) -> None:
    assert talk.number(SET_VRING_ENDIAN, state(0, num)) != 0


def test_both_orders_are_handled_and_may_be_said_again_while_stopped(talk: PlainFrontend) -> None:
    for num in (LITTLE, BIG, BIG, LITTLE):
        assert talk.number(SET_VRING_ENDIAN, state(0, num)) == 0


def test_started_ring_keeps_its_order(talk: PlainFrontend) -> None:
    assert talk.number(SET_VRING_KICK, u64(0x101)) == 0
    assert talk.number(SET_VRING_ENDIAN, state(1, BIG)) != 0
    assert talk.number(SET_VRING_ENDIAN, state(0, BIG)) == 0
    talk.ask(GET_VRING_BASE, state(1, 0))
    assert talk.number(SET_VRING_ENDIAN, state(1, BIG)) == 0


@pytest.mark.parametrize("extra", [0, 1 << 34])
def test_only_legacy_guests_have_an_order(plain: PlainFrontend, extra: int) -> None:
    plain.negotiate(features=VERSION_1 | BIT_30 | extra)

    assert plain.number(SET_VRING_ENDIAN, state(0, BIG)) != 0
    assert plain.number(SET_VRING_ENDIAN, state(0, LITTLE)) == 0


def test_order_without_the_feature_negotiated_is_refused(plain: PlainFrontend) -> None:
    plain.negotiate(protocol=SERVED_PROTOCOL & ~(1 << 6))

    assert plain.number(SET_VRING_ENDIAN, state(0, BIG)) != 0
