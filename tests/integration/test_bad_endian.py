"""Byte orders that are wrong: one line with the value, and the ring as it was."""

from __future__ import annotations

import pytest

from tests.integration.loglines import assert_one_line
from tests.plain_frontend import BIT_30, VERSION_1, PlainFrontend, state, u64
from tests.site import RING_SIZE, Site, wait
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.wire.features import VirtioFeature

SET_VRING_ENDIAN = 23


@pytest.mark.parametrize("index", [256, 0xFFFFFFFF])
def test_ring_that_does_not_exist(talk: PlainFrontend, caplog: pytest.LogCaptureFixture, index: int) -> None:
    assert talk.number(SET_VRING_ENDIAN, state(index, 1)) != 0
    assert_one_line(caplog, "SET_VRING_ENDIAN", f"ring {index}")


def test_value_that_does_not_exist(talk: PlainFrontend, caplog: pytest.LogCaptureFixture) -> None:
    assert talk.number(SET_VRING_ENDIAN, state(3, 7)) != 0
    assert_one_line(caplog, "SET_VRING_ENDIAN", "ring 3", "7")


def test_started_ring(talk: PlainFrontend, caplog: pytest.LogCaptureFixture) -> None:
    assert talk.number(12, u64(0x103)) == 0
    assert talk.number(SET_VRING_ENDIAN, state(3, 1)) != 0
    assert_one_line(caplog, "SET_VRING_ENDIAN", "ring 3", "started")


def test_modern_guest(plain: PlainFrontend, caplog: pytest.LogCaptureFixture) -> None:
    plain.negotiate(features=VERSION_1 | BIT_30)
    assert plain.number(SET_VRING_ENDIAN, state(3, 1)) != 0
    assert_one_line(caplog, "SET_VRING_ENDIAN", "ring 3", "VERSION_1")


def test_guest_of_another_order_than_was_said_costs_its_ring(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"queue_size": RING_SIZE, "features": VirtioFeature.PROTOCOL_FEATURES}
    with VirtioNetDriver.connect(site.path, **options) as driver:  # type: ignore[arg-type]
        driver.stop()
        driver.nic.big_endian = True  # is said, and not done
        driver.start()
        driver.send(bytes(60))
        wait(lambda: "ring 0 is broken" in caplog.text or "ring 1 is broken" in caplog.text)
        site.assert_neighbour_unharmed()
