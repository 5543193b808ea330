"""Drivers without notification fds against the server: they kick by message and are called by message."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.conftest import open_fds
from tests.in_band import InBandDriver
from tests.integration.loglines import complaints
from tests.plain_frontend import HEADER, VERSION, state
from tests.site import RING_SIZE, Site, frame, make_site, wait
from vhostuser.frontend import calls
from vhostuser.frontend.virtqueue import SplitVirtqueue
from vhostuser.wire.constants import BackendRequest

RX, TX = 0, 1
VRING_KICK = 35
CALL, ERR = BackendRequest.VRING_CALL, BackendRequest.VRING_ERR


@pytest.fixture(params=[0, 2], ids=["loop", "workers"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with make_site(workers=request.param) as site:
        yield site


def test_frames_there_and_back_without_any_fd(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with InBandDriver.at_site(site) as driver:
        driver.kick(RX)
        driver.kick(TX)
        for number in range(3 * RING_SIZE):
            assert driver.recv_now() is None
            driver.receive_queue().enable_calls()
            driver.send(frame(number))
            while (received := driver.recv_now()) is None:
                driver.wait_message(CALL, RX)
            assert received.frame == frame(number)
        assert driver.do(calls.get_vring_base(TX)) == 3 * RING_SIZE
    assert complaints(caplog) == []


def test_stopped_ring_starts_again_by_kick(site: Site) -> None:
    with InBandDriver.at_site(site) as driver:
        for round_ in range(5):
            driver.kick(RX)
            driver.send(frame(round_))
            wait(lambda: driver.recv_now() is not None)
            for index in (RX, TX):
                driver.nic.rings[index].base = driver.do(calls.get_vring_base(index))
            assert driver.nic.rings[TX].base == round_ + 1
            driver.say("base")


def test_no_more_than_one_message_a_ring_waits_for_its_answer(site: Site) -> None:
    with InBandDriver.at_site(site) as driver:
        driver.kick(RX)
        driver.kick(TX)
        for number in range(RING_SIZE):
            driver.receive_queue().enable_calls()
            driver.virtqueues[TX].enable_calls()
            driver.send(frame(number))
            wait(lambda: driver.recv_now() is not None)
            driver.reclaim()
        first = [driver.next_message(), driver.next_message(0.2), driver.next_message(0.2)]
        unanswered = [message for message in first if message is not None]
        assert 1 <= len(unanswered) <= 2
        assert len({message.payload for message in unanswered}) == len(unanswered)
        # What was written meanwhile is one more, whatever its number.
        for message in unanswered:
            driver.answer(message)
        rest = 0
        while (late := driver.next_message(0.3)) is not None:
            driver.answer(late)
            rest += 1
        assert rest <= 2


def test_broken_ring_is_told_of(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with InBandDriver.at_site(site) as driver:
        driver.kick(TX)
        queue = driver.virtqueues[TX]
        assert isinstance(queue, SplitVirtqueue)
        queue.write_avail_index(3 * RING_SIZE)
        driver.kick(TX)
        driver.wait_message(ERR, TX)
        wait(lambda: any("ring 1 is broken" in line for line in complaints(caplog)))


def test_storm_of_kicks_harms_nobody(site: Site) -> None:
    with InBandDriver.at_site(site) as driver:
        driver.kick(RX)
        for _ in range(100):
            driver.frontend.send_raw((HEADER.pack(VRING_KICK, VERSION, 8) + state(TX, 0)) * 1000)
            site.assert_neighbour_unharmed()
        driver.send(frame(1))
        wait(lambda: driver.recv_now() is not None)


def test_channel_that_goes_and_comes_brings_what_was_not_told(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with InBandDriver.at_site(site) as driver:
        driver.kick(RX)
        driver.kick(TX)
        driver.outlet.close()
        wait(lambda: any("has closed it" in record.message for record in caplog.records))
        driver.receive_queue().enable_calls()
        driver.send(frame(1))
        wait(lambda: driver.recv_now() is not None)
        driver.open_outlet()
        driver.wait_message(CALL, RX)


def test_nothing_is_left_of_connections_that_end_in_the_middle(site: Site) -> None:
    before = set(open_fds())
    for _ in range(20):
        with InBandDriver.at_site(site) as driver:
            driver.kick(RX)
            driver.kick(TX)
            driver.send(frame(1))
    wait(lambda: set(open_fds()) <= before)
