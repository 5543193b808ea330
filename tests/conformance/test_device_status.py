"""The device status (vhost-user: VHOST_USER_SET_STATUS, VHOST_USER_GET_STATUS; virtio 1.2, 2.1)."""

from __future__ import annotations

import pytest

from tests.plain_frontend import BIT_30, SERVED_PROTOCOL, VERSION_1, PlainFrontend, state, u64
from tests.site import Site, echo
from vhostuser.frontend import calls

SET_STATUS, GET_STATUS, SET_FEATURES = 39, 40, 2
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8


def status(talk: PlainFrontend) -> int:
    return int.from_bytes(talk.ask(GET_STATUS), "little")


def test_status_is_0_at_first_and_then_what_was_set(talk: PlainFrontend) -> None:
    assert status(talk) == 0
    for value in (ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER | DRIVER_OK, 0x80, 0):
        assert talk.number(SET_STATUS, u64(value)) == 0
        assert status(talk) == value


def test_features_ok_is_seen_only_when_features_were_accepted(talk: PlainFrontend) -> None:
    assert talk.number(SET_FEATURES, u64(1 << 62)) != 0
    assert talk.number(SET_STATUS, u64(ACKNOWLEDGE | FEATURES_OK)) == 0
    assert status(talk) == ACKNOWLEDGE

    assert talk.number(SET_FEATURES, u64(VERSION_1 | BIT_30)) == 0
    assert status(talk) == ACKNOWLEDGE | FEATURES_OK


@pytest.mark.parametrize("value", [0x100, 1 << 32, 1 << 63])
def test_status_has_8_bits(talk: PlainFrontend, value: int) -> None:
    assert talk.number(SET_STATUS, u64(ACKNOWLEDGE)) == 0
    assert talk.number(SET_STATUS, u64(value)) != 0
    assert status(talk) == ACKNOWLEDGE


def test_status_0_stops_every_ring_and_forgets_nothing_else(site: Site) -> None:
    # QEMU does not say memory and enables again.
    with site.stepping() as driver:
        driver.say_all()
        echo(driver)
        driver.do(calls.set_status(0))
        driver.send(bytes(60))
        site.assert_neighbour_unharmed()
        assert driver.recv_now() is None

        for ring in driver.nic.rings:
            ring.base = driver.do(calls.get_vring_base(ring.index))
        for item in ("base", "call", "kick"):
            driver.say(item)
        assert driver.recv().frame == bytes(60)
        echo(driver)


def test_rings_run_whatever_the_status_is(site: Site) -> None:
    # A legacy guest uses them before DRIVER_OK.
    with site.stepping() as driver:
        driver.do(calls.set_status(ACKNOWLEDGE))
        driver.say_all()
        echo(driver)


def test_reset_device_clears_the_status(talk: PlainFrontend) -> None:
    assert talk.number(SET_STATUS, u64(ACKNOWLEDGE)) == 0
    assert talk.number(34) == 0
    assert status(talk) == 0


def test_status_needs_to_be_negotiated(plain: PlainFrontend) -> None:
    plain.negotiate(protocol=SERVED_PROTOCOL & ~(1 << 16))
    assert plain.number(SET_STATUS, u64(ACKNOWLEDGE)) != 0
    plain.send(GET_STATUS)
    plain.assert_ended()


def test_status_of_another_connection_is_not_kept(site: Site) -> None:
    with PlainFrontend(site.path) as one:
        one.negotiate()
        assert one.number(SET_STATUS, u64(ACKNOWLEDGE)) == 0
    with PlainFrontend(site.path) as two:
        two.negotiate()
        assert status(two) == 0
        assert two.ask(11, state(0, 0)) == state(0, 0)
