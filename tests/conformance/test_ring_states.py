"""The four states of a ring (vhost-user: "Ring states"). A frame of the neighbour means that C has turned."""

from __future__ import annotations

import os
import select

import pytest

from tests.conftest import TIMEOUT_SCALE
from tests.site import Site, Stepper, echo, frame, wait
from vhostuser.frontend import calls
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.wire.features import VirtioFeature

RX, TX = 0, 1


def read_call(driver: VirtioNetDriver, index: int) -> int:
    """How often a ring has called since this was last asked."""
    fd = driver.nic.rings[index].call_fd
    assert fd is not None
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def hung_up(fd: int, seconds: float = 0) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    events = poll.poll(seconds * 1000 * TIMEOUT_SCALE)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in events)


def used(driver: VirtioNetDriver) -> tuple[int, int]:
    return driver.receive_queue().read_used_index(), driver.transmit_queue().read_used_index()


def test_ring_is_not_touched_before_set_vring_kick(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all("kick")
        driver.send(frame(1))
        site.assert_neighbour_unharmed()

        assert used(driver) == (0, 0)
        driver.say("kick")
        assert driver.recv().frame == frame(1)


def test_ring_starts_at_set_vring_kick_without_a_kick(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all("kick")
        queue = driver.transmit_queue()
        driver.send(frame(1))
        # What `send` wrote is taken back: there is nothing to be seen on the fd.
        fd = driver.nic.rings[TX].kick_fd
        assert fd is not None
        if queue.outstanding and select.select([fd], [], [], 0)[0]:
            os.eventfd_read(fd)
        driver.say("kick")

        assert driver.recv().frame == frame(1)


def test_ring_is_scanned_once_when_it_is_enabled(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all("enable")
        driver.say("enable", TX)
        driver.send(frame(1))
        driver.wait_sent()
        assert used(driver) == (0, 1), "the receive ring is disabled: it is not filled"

        driver.say("enable", RX)
        echo(driver, frame(2))


def test_disabled_transmit_ring_is_emptied_and_its_frames_thrown_away(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        echo(driver)
        driver.say("disable", TX)
        for number in range(RING_FULL):
            driver.send(frame(number))
        driver.wait_sent()
        assert used(driver) == (1, 1 + RING_FULL)

        driver.say("enable", TX)
        echo(driver, frame(99))


RING_FULL = 16


def test_disabled_receive_ring_is_not_filled(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        echo(driver)
        driver.say("disable", RX)
        read_call(driver, RX)
        for number in range(4):
            driver.send(frame(number))
        driver.wait_sent()
        assert used(driver) == (1, 5)
        assert read_call(driver, RX) == 0

        driver.say("enable", RX)
        echo(driver, frame(99))


@pytest.mark.parametrize("state", ["enable", "disable"])
def test_stopped_ring_is_not_touched_enabled_or_not(site: Site, state: str) -> None:
    with site.stepping() as driver:
        driver.say_all()
        echo(driver)
        for ring in driver.nic.rings:
            driver.do(calls.get_vring_base(ring.index))
        driver.say(state)
        before = used(driver)
        driver.send(frame(1))
        driver.kick(RX)
        driver.kick(TX)
        site.assert_neighbour_unharmed()

        assert used(driver) == before
        assert driver.transmit_queue().outstanding == 1


def test_features_without_bit_30_enable_every_ring(site: Site) -> None:
    with site.stepping() as driver:
        driver.nic.features &= ~VirtioFeature.PROTOCOL_FEATURES
        driver.say_all("enable")
        echo(driver)


def test_features_with_bit_30_leave_rings_as_they_are(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        echo(driver)
        driver.say("disable", TX)
        driver.say("features")
        driver.send(frame(1))
        driver.wait_sent()
        driver.say("enable", TX)
        driver.say("features")

        echo(driver, frame(2))


def test_enabled_stays_so_over_a_stop(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        echo(driver)
        for ring in driver.nic.rings:
            ring.base = driver.do(calls.get_vring_base(ring.index))
        for item in ("num", "base", "addr", "call", "kick"):
            driver.say(item)

        echo(driver)


def test_nothing_is_written_or_called_after_get_vring_base(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        echo(driver)
        for ring in driver.nic.rings:
            driver.do(calls.get_vring_base(ring.index))
        for index in (RX, TX):
            read_call(driver, index)
        lent = [driver.receive_queue().read_descriptor(number) for number in range(16)]
        before = [driver.memory.read(descriptor.gpa, 2048) for descriptor in lent]
        places = [(queue.place.used, 6 + 8 * queue.size) for queue in driver.queues]
        words = [driver.memory.read(at, length) for at, length in places]

        for number in range(4):
            driver.send(frame(number))
        driver.kick(RX)
        driver.kick(TX)
        site.assert_neighbour_unharmed()

        assert [driver.memory.read(descriptor.gpa, 2048) for descriptor in lent] == before
        assert [driver.memory.read(at, length) for at, length in places] == words
        assert [read_call(driver, index) for index in (RX, TX)] == [0, 0]


def test_get_vring_base_closes_kick_and_call(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        kick_theirs, kick_ours = os.pipe()
        call_ours, call_theirs = os.pipe()
        driver.do(calls.set_vring_kick(TX, kick_theirs))
        driver.do(calls.set_vring_call(TX, call_theirs))
        os.close(kick_theirs)
        os.close(call_theirs)
        assert not hung_up(kick_ours)
        assert not hung_up(call_ours)

        driver.do(calls.get_vring_base(TX))

        # Not by the time of the answer: closing may block, so the back-end does it on another thread.
        assert hung_up(kick_ours, 10)
        assert hung_up(call_ours, 10)
        os.close(kick_ours)
        os.close(call_ours)


def test_end_of_the_connection_stops_and_disables_every_ring(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        echo(driver)
        driver.frontend.close()
        driver.frontend = type(driver.frontend).connect(site.path)
        driver.negotiate()
        before = used(driver)
        driver.send(frame(1))
        driver.kick(TX)
        site.assert_neighbour_unharmed()
        assert used(driver) == before

        driver.say_all("enable")
        driver.wait_sent()
        assert driver.recv_now() is None, "disabled: what was sent is thrown away"
        driver.say("enable")
        echo(driver, frame(2))


def test_kick_fd_may_be_replaced_without_losing_a_wake_up(site: Site) -> None:
    with site.running() as driver:
        old = driver.nic.rings[TX].kick_fd
        for number in range(20):
            fd = os.eventfd(0, os.EFD_CLOEXEC)
            # The frame is announced on an fd that goes away in the same moment.
            driver.send(frame(number))
            driver.nic.rings[TX].kick_fd = fd
            driver.frontend.set_vring_kick(TX, fd)
            assert driver.recv().frame == frame(number)
            driver.nic.rings[TX].kick_fd = old
            driver.frontend.set_vring_kick(TX, old)
            os.close(fd)


def test_call_fd_may_be_replaced_without_losing_an_interrupt(site: Site) -> None:
    with site.running() as driver:
        real, masked = driver.nic.rings[RX].call_fd, driver.nic.rings[RX].masked_fd
        for number in range(20):
            # Masked: calls go to another fd, which the guest does not look at.
            driver.frontend.set_vring_call(RX, masked)
            driver.receive_queue().enable_calls()
            driver.send(frame(number))
            wait(lambda: driver.receive_queue().enable_calls())
            driver.frontend.set_vring_call(RX, real)
            assert real is not None
            assert select.select([real], [], [], 20)[0], "signalled once when the fd comes"
            assert driver.recv().frame == frame(number)


def test_ring_without_a_call_fd_keeps_moving(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all("call")
        for index in (RX, TX):
            driver.do(calls.set_vring_call(index, None))
        for number in range(40):
            driver.send(frame(number))
            wait(lambda: driver.receive_queue().read_used_index() == (number + 1) & 0xFFFF)  # noqa: B023
            received = driver.recv_now()
            assert received is not None
            assert received.frame == frame(number)
        assert [read_call(driver, index) for index in (RX, TX)] == [0, 0]


def test_ring_without_a_kick_fd_is_polled(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all("kick")
        for ring in driver.nic.rings:
            ring.kick_fd = None
        driver.say("kick")
        for number in range(20):
            echo(driver, frame(number))


def test_ring_needs_no_call_fd_to_start(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all("call")
        driver.send(frame(1))
        wait(lambda: used(driver) == (1, 1))
        driver.say("call")

        assert driver.recv().frame == frame(1)


def start_one_ring(driver: Stepper, index: int) -> None:
    driver.say("features")
    driver.say("memory")
    for item in ("num", "base", "addr", "call", "kick", "enable"):
        driver.say(item, index)


def test_one_ring_runs_without_the_other_of_its_pair(site: Site) -> None:
    with site.stepping() as driver:
        start_one_ring(driver, TX)
        driver.send(frame(1))
        driver.wait_sent()
