"""Where a ring starts and stops (vhost-user: SET_VRING_BASE, GET_VRING_BASE); bases that lie."""

from __future__ import annotations

import logging
import os
import select

import pytest

from tests.plain_frontend import SERVED_PROTOCOL, PlainFrontend, state, u64
from tests.site import RING_SIZE, Site, Stepper, echo, frame, wait
from vhostuser.frontend import calls
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.orders import Order
from vhostuser.frontend.ring_position import FIRST_BASE
from vhostuser.wire.features import VirtioFeature

RX, TX = 0, 1


def test_get_vring_base_stops_the_ring_and_returns_used_idx(site: Site) -> None:
    with site.running() as driver:
        for number in range(40):
            echo(driver, frame(number))
        assert driver.frontend.get_vring_base(TX) == driver.transmit_queue().read_used_index() == 40
        assert driver.frontend.get_vring_base(RX) == driver.receive_queue().read_used_index() == 40
        driver.running = False
        for ring in driver.nic.rings:
            ring.base = 40
        driver.start()


def test_get_vring_base_in_traffic_leaves_nothing_fetched(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        for _ in range(5):
            sent = driver.transmit_queue().outstanding
            while driver.transmit_queue().free_descriptors and sent < RING_SIZE:
                driver.send(frame(sent))
                sent += 1
            base = driver.do(calls.get_vring_base(TX))
            assert base == driver.transmit_queue().read_used_index()
            driver.nic.rings[TX].base = base
            for item in ("num", "base", "addr", "call", "kick"):
                driver.say(item, TX)
            driver.wait_sent()
        while driver.recv_now() is not None:
            pass
        echo(driver, frame(999))


def test_num_of_get_vring_base_means_nothing(site: Site) -> None:
    # DPDK's virtio-user leaves there what was on its stack.
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        assert plain.ask(11, state(0, 0xDEADBEEF)) == state(0, 0)


def test_base_of_a_ring_that_never_ran_is_the_one_that_was_set(site: Site) -> None:
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        assert plain.ask(11, state(5, 0)) == state(5, 0)
        assert plain.number(10, state(5, 65535)) == 0
        assert plain.ask(11, state(5, 0)) == state(5, 65535)
        assert plain.ask(11, state(5, 0)) == state(5, 65535), "twice is as well as once"


@pytest.mark.parametrize("beyond", [256, 65536, 0xFFFFFFFF])
def test_get_vring_base_of_no_ring_ends_the_connection(site: Site, beyond: int) -> None:
    with PlainFrontend(site.path) as plain:
        plain.send(11, state(beyond, 0))
        plain.assert_ended()


def restart(driver: VirtioNetDriver, site: Site, order: Order) -> None:
    """The back-end is lost without GET_VRING_BASE, and a new one is talked to in this order."""
    driver.nic.order = order
    driver.frontend.close()
    driver.resume(Frontend.connect(site.path))


@pytest.mark.parametrize("order", list(Order))
def test_base_that_lies_gives_way_to_used_idx(
    site: Site, caplog: pytest.LogCaptureFixture, order: Order
) -> None:
    # After a back-end was lost: QEMU gives used->idx, virtio-user 0, Cloud Hypervisor avail->idx.
    caplog.set_level(logging.INFO)
    with VirtioNetDriver.connect(site.path, order=order, queue_size=RING_SIZE) as driver:
        for number in range(21):
            echo(driver, frame(number))
        restart(driver, site, order)
        for number in range(40):
            echo(driver, frame(number))

    corrected = [record.message for record in caplog.records if "the front-end gave base" in record.message]
    wrong = {Order.QEMU: 0, Order.VIRTIO_USER: 2, Order.CLOUD_HYPERVISOR: 1}
    assert len(corrected) == wrong[order], "each ring whose base was wrong is a line"
    assert all("used up to 21" in line for line in corrected)


def test_full_receive_ring_is_served_again_after_a_restart_with_base_avail_idx(site: Site) -> None:
    # Cloud Hypervisor's base skips every buffer that was lent and not used: without those, silence for ever.
    with VirtioNetDriver.connect(site.path, order=Order.CLOUD_HYPERVISOR, queue_size=RING_SIZE) as driver:
        echo(driver)
        restart(driver, site, Order.CLOUD_HYPERVISOR)
        assert driver.nic.rings[RX].base == 1 + RING_SIZE
        for number in range(2 * RING_SIZE):
            echo(driver, frame(number))


def test_frames_sent_while_the_back_end_was_away_are_served_when_it_is_back(site: Site) -> None:
    with site.driver() as driver:
        echo(driver)
        driver.frontend.close()
        for number in range(5):
            driver.send(frame(number))
        restart(driver, site, Order.QEMU)
        assert [driver.recv().frame for _ in range(5)] == [frame(number) for number in range(5)]


def set_indices(driver: Stepper, value: int) -> None:
    """As if both rings had gone round for long."""
    for queue in driver.queues:
        queue.memory.store_u16(queue.place.used + 2, value)
        queue.memory.store_u16(queue.place.avail + 2, value)
        queue._used_index = queue._avail_index = queue._published = queue._kick_checked = value
    for ring in driver.nic.rings:
        ring.base = value


def test_indices_wrap_at_16_bits(site: Site) -> None:
    with site.stepping() as driver:
        driver._forget()
        driver._prepare()
        rx = driver.receive_queue()
        buffers = [chain.token for chain in rx._chains.values()]
        rx.reset()
        set_indices(driver, 65530)
        for buffer in buffers:
            driver._lend(0, buffer)
        rx.publish()
        driver.say_all()
        for number in range(40):
            echo(driver, frame(number))

        assert driver.do(calls.get_vring_base(TX)) == (65530 + 40) & 0xFFFF


@pytest.mark.parametrize("ahead", [RING_SIZE + 1, 1000, 65535])
def test_ring_whose_avail_idx_is_too_far_ahead_does_not_start_and_err_is_signalled(
    site: Site, caplog: pytest.LogCaptureFixture, ahead: int
) -> None:
    with site.stepping() as driver:
        driver.say("err")
        driver.transmit_queue().write_avail_index(ahead)
        driver.say_all()
        err = driver.nic.rings[TX].err_fd
        assert err is not None

        assert select.select([err], [], [], 20)[0]
        wait(lambda: "ring 1 is broken" in caplog.text)
        assert os.eventfd_read(err) == 1
        assert driver.transmit_queue().read_used_index() == 0
        assert driver.do(calls.get_vring_base(TX)) == 0

        # Set up anew it is as good as any.
        driver.transmit_queue().write_avail_index(0)
        for item in ("num", "base", "addr", "call", "kick"):
            driver.say(item, TX)
        echo(driver)

    lines = [record.message for record in caplog.records if "ring 1 is broken" in record.message]
    assert len(lines) == 1
    assert f"avail->idx {ahead}" in lines[0]


def packed_driver(site: Site) -> VirtioNetDriver:
    return VirtioNetDriver.connect(
        site.path, queue_size=RING_SIZE, features=DEFAULT_FEATURES | VirtioFeature.RING_PACKED
    )


@pytest.mark.parametrize("frames", [7, RING_SIZE, RING_SIZE + 3, 2 * RING_SIZE + 5])
def test_packed_ring_whose_base_was_lost_does_not_start_and_says_so(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    # QEMU has no other base after a loss than that of the last clean stop, and keeps no inflight region. A
    # receive ring that the driver has filled again does not show it; the other one does.
    with packed_driver(site) as driver:
        for number in range(frames):
            echo(driver, frame(number))
        monkeypatch.setattr(driver, "_device_base", lambda index: FIRST_BASE)
        restart(driver, site, Order.QEMU)
        wait(lambda: "ring 1 is broken" in caplog.text)

    line = next(line for line in caplog.messages if "ring 1 is broken" in line)
    assert f"a packed ring of {RING_SIZE} entries cannot go on from slot 0 with lap bit 1" in line


def test_packed_ring_goes_on_at_the_base_that_a_front_end_kept(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with packed_driver(site) as driver:
        for number in range(RING_SIZE + 5):
            echo(driver, frame(number))
        restart(driver, site, Order.QEMU)
        for number in range(RING_SIZE + 5):
            echo(driver, frame(number))
    assert "is broken" not in caplog.text


def test_corrected_positions_are_counted(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with VirtioNetDriver.connect(site.path, order=Order.VIRTIO_USER, queue_size=RING_SIZE) as driver:
        echo(driver)
        restart(driver, site, Order.VIRTIO_USER)
        echo(driver)
    wait(lambda: "start positions corrected: 2" in caplog.text)


def test_get_vring_base_skip_drain_is_as_get_vring_base(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        for number in range(5):
            echo(driver, frame(number))
        assert driver.do(calls.get_vring_base_skip_drain(TX)) == 5
        assert driver.do(calls.get_vring_base_skip_drain(RX)) == 5
        driver.nic.rings[TX].base = driver.nic.rings[RX].base = 5
        for item in ("num", "base", "addr", "call", "kick"):
            driver.say(item)
        echo(driver)


def test_get_vring_base_skip_drain_without_its_feature_ends_the_connection(site: Site) -> None:
    with PlainFrontend(site.path) as plain:
        plain.negotiate(SERVED_PROTOCOL & ~(1 << 23))
        plain.send(45, state(0, 0))
        plain.assert_ended()


@pytest.mark.parametrize("without", [12, 20])
def test_features_of_get_vring_base_without_each_other_end_the_connection(site: Site, without: int) -> None:
    with PlainFrontend(site.path) as plain:
        plain.ask(1, flags=1)
        plain.send(16, u64(SERVED_PROTOCOL & ~(1 << without)), flags=1)
        plain.assert_ended()
