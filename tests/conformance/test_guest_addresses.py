"""GPA_ADDRESSES (protocol bit 21): rings lie at guest addresses, which are the user addresses of regions."""

from __future__ import annotations

import pytest

from tests.plain_frontend import GPA_ADDRESSES
from tests.site import RING_SIZE, Site, echo, frame
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.guest_memory import GuestMemory, Region
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.orders import PROTOCOL_FEATURES, Order
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

MIB = 1 << 20
GIB4 = 1 << 32
SPLIT, PACKED = V(0), V.RING_PACKED


@pytest.mark.parametrize("rings", [SPLIT, PACKED], ids=["split", "packed"])
@pytest.mark.parametrize("slots", [P(0), P.CONFIGURE_MEM_SLOTS], ids=["table", "slots"])
@pytest.mark.parametrize("order", Order)
def test_rings_are_found_at_guest_addresses(site: Site, order: Order, slots: P, rings: V) -> None:
    wanted = PROTOCOL_FEATURES[order] & ~P.CONFIGURE_MEM_SLOTS | slots | P.GPA_ADDRESSES
    with VirtioNetDriver.connect(
        site.path,
        order=order,
        queue_size=RING_SIZE,
        protocol_features=wanted,
        features=DEFAULT_FEATURES | rings,
    ) as driver:
        assert P.GPA_ADDRESSES in driver.protocol_features
        place = driver.nic.rings[0].place
        assert place is not None
        assert place.desc == driver.virtqueues[0].place.desc
        for number in range(40):
            echo(driver, frame(number))
        driver.stop()
        driver.start()
        echo(driver)


def test_each_ring_may_lie_in_a_region_of_its_own(site: Site) -> None:
    # Nothing is where it would be by user addresses: the files lie the other way round.
    layout = [Region(0, 4096 + 512, MIB, file="a"), Region(GIB4, MIB, file="a")]
    with (
        GuestMemory(regions=layout) as memory,
        VirtioNetDriver.connect(
            site.path,
            memory=memory,
            queue_size=RING_SIZE,
            protocol_features=PROTOCOL_FEATURES[Order.QEMU] | P.GPA_ADDRESSES,
        ) as driver,
    ):
        assert [queue.place.used >= GIB4 for queue in driver.virtqueues] == [False, True]
        echo(driver, frame(1))


def test_next_front_end_may_do_without(site: Site) -> None:
    wanted = PROTOCOL_FEATURES[Order.QEMU] | P.GPA_ADDRESSES
    for protocol in (wanted, wanted & ~P.GPA_ADDRESSES, wanted):
        with VirtioNetDriver.connect(site.path, queue_size=RING_SIZE, protocol_features=protocol) as driver:
            echo(driver)


@pytest.mark.parametrize("again", [False, True])
def test_front_end_that_means_another_thing_by_the_bit_is_served(
    site: Site, caplog: pytest.LogCaptureFixture, again: bool
) -> None:
    # rust-vmm's front-end took the bit for SHMEM before 0.17: its addresses are its own all the same.
    with VirtioNetDriver(Frontend.connect(site.path), queue_size=RING_SIZE) as driver:
        driver.stop()
        driver.frontend.set_protocol_features(driver.protocol_features | GPA_ADDRESSES)
        for region in reversed(driver.nic.told):
            driver.frontend.rem_mem_reg(region)
        driver.nic.told = []
        driver.start()
        echo(driver)
        if again:
            driver.stop()
            driver.start()
            echo(driver)
    (line,) = [r.getMessage() for r in caplog.records if "GPA_ADDRESSES" in r.getMessage()]
    assert "rings are looked for at user addresses" in line
