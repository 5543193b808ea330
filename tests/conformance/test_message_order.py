"""Orders in which front-ends were seen to speak. Each has frames through `echo` in the end."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from tests.site import RING_SIZE, Site, echo, frame, make_site, wait
from vhostuser.frontend import calls
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.orders import Order
from vhostuser.wire.features import VirtioFeature

ORDERS = list(Order)
LEGACY = VirtioFeature.PROTOCOL_FEATURES
"""What SeaBIOS and iPXE take: no VERSION_1, a header of 10 bytes."""
MODERN = (
    VirtioFeature.VERSION_1
    | VirtioFeature.MRG_RXBUF
    | VirtioFeature.INDIRECT_DESC
    | VirtioFeature.EVENT_IDX
    | VirtioFeature.PROTOCOL_FEATURES
)


def echo_on_every_pair(driver: VirtioNetDriver) -> None:
    # virtio-user asks for no ack of its enables, and what comes to a disabled ring is thrown away.
    driver.frontend.get_features()
    for pair in range(driver.queue_pairs):
        for number in range(3):
            driver.send(frame(number), queue=pair)
            received = driver.recv()
            assert (received.frame, received.queue) == (frame(number), pair)


def connect(site: Site, order: Order, pairs: int = 1) -> VirtioNetDriver:
    return VirtioNetDriver.connect(site.path, order=order, queue_pairs=pairs, queue_size=RING_SIZE)


@pytest.mark.parametrize("pairs", [1, 2, 4])
@pytest.mark.parametrize("order", ORDERS)
def test_start(order: Order, pairs: int) -> None:
    with make_site(queues=pairs, config_space=True) as site, connect(site, order, pairs) as driver:
        echo_on_every_pair(driver)


@pytest.mark.parametrize("order", ORDERS)
def test_more_pairs_than_the_port_has(site: Site, order: Order) -> None:
    with connect(site, order, 3) as driver:
        echo_on_every_pair(driver)


@pytest.mark.parametrize("order", ORDERS)
def test_stop_and_start_again_and_again(site: Site, order: Order) -> None:
    with connect(site, order) as driver:
        for _ in range(5):
            echo_on_every_pair(driver)
            driver.stop()
            driver.start()
        echo_on_every_pair(driver)


@pytest.mark.parametrize("order", ORDERS)
def test_firmware_and_then_an_operating_system_on_one_connection(site: Site, order: Order) -> None:
    with connect(site, order) as driver:
        for features in (LEGACY, MODERN, LEGACY | VirtioFeature.MRG_RXBUF, MODERN):
            driver.reset(features)
            driver.start()
            assert driver.features == features & driver.nic.offered
            echo_on_every_pair(driver)


@pytest.mark.parametrize("order", ORDERS)
def test_guest_that_uses_fewer_pairs_than_there_are(order: Order) -> None:
    # QEMU asks for the base of every ring at the end, also of those that were never set up.
    with make_site(queues=4) as site, connect(site, order, 2) as driver:
        echo_on_every_pair(driver)
        for index in range(8):
            driver.frontend.get_vring_base(index)
        driver.start()
        echo_on_every_pair(driver)


def test_qemu_masks_and_unmasks_interrupts_in_traffic(site: Site) -> None:
    with connect(site, Order.QEMU) as driver:
        rx = driver.nic.rings[0]
        for number in range(10):
            driver.frontend.set_vring_call(0, rx.masked_fd)
            driver.send(frame(number))
            driver.frontend.set_vring_call(0, rx.call_fd)
            assert driver.recv().frame == frame(number)


def test_qemu_with_no_interrupt_vector(site: Site) -> None:
    with connect(site, Order.QEMU) as driver:
        driver.frontend.set_vring_call(0, None)
        driver.send(frame(1))
        wait(lambda: driver.receive_queue().read_used_index() == 1)
        driver.frontend.set_vring_call(0, driver.nic.rings[0].call_fd)
        assert driver.recv().frame == frame(1)


def test_virtio_user_changes_memory_with_its_rings_started(site: Site) -> None:
    with connect(site, Order.VIRTIO_USER) as driver:
        for number in range(5):
            driver.enable(0, False)
            driver.frontend.set_mem_table(calls.memory_table(driver.memory), driver.memory.fds())
            driver.enable(0, True)
            # virtio-user asks for no ack here, and what comes to a ring still disabled is thrown away.
            driver.frontend.get_features()
            echo(driver, frame(number))


def test_qemu_plugs_memory_in_traffic(site: Site) -> None:
    with connect(site, Order.QEMU) as driver:
        for number in range(20):
            driver.send(frame(number))
            driver.frontend.set_mem_table(calls.memory_table(driver.memory), driver.memory.fds())
            assert driver.recv().frame == frame(number)


def test_cloud_hypervisor_pauses_and_resumes(site: Site) -> None:
    with connect(site, Order.CLOUD_HYPERVISOR) as driver:
        echo(driver)
        for _ in range(3):
            driver.enable(0, False)
            driver.enable(0, True)
            echo(driver)


def test_failed_start_is_given_up_and_made_again(site: Site) -> None:
    # QEMU asks for the base of rings that it has half set up.
    with site.stepping() as driver:
        driver.say("features")
        driver.say("memory")
        driver.say("num")
        driver.say("kick", 1)
        for index in (0, 1):
            assert driver.do(calls.get_vring_base(index)) == 0
        driver.say_all()
        echo(driver)


ITEMS = ("features", "memory", "num", "base", "addr", "call", "kick", "enable")
_EDGES = [(first, last) for first, last in permutations(ITEMS, 2)]


@pytest.mark.parametrize(("first", "last"), _EDGES, ids=[f"{first} to {last}" for first, last in _EDGES])
def test_items_in_any_order_make_a_running_device(site: Site, first: str, last: str) -> None:
    between = [item for item in ITEMS if item not in (first, last)]
    random.Random(f"{first} {last}").shuffle(between)
    with site.stepping() as driver:
        for item in (first, *between, last):
            driver.say(item)
        echo(driver, frame(1))
        echo(driver, frame(2))
