"""In-band notifications: what the specification demands of kicks, calls and errors that are messages."""

from __future__ import annotations

import os

from tests.in_band import InBandDriver
from tests.plain_frontend import IN_BAND, REPLY_ACK, VERSION, PlainFrontend, state, u64
from tests.site import RING_SIZE, Site, frame, wait
from vhostuser.frontend import calls
from vhostuser.frontend.virtqueue import SplitVirtqueue
from vhostuser.wire.constants import BackendRequest

SET_PROTOCOL_FEATURES, VRING_KICK = 16, 35
BACKEND_REQ = 1 << 5
RX, TX = 0, 1


def test_in_band_without_what_it_needs_ends_the_connection(site: Site) -> None:
    for without in (BACKEND_REQ, REPLY_ACK):
        with PlainFrontend(site.path) as plain:
            acked = (IN_BAND | BACKEND_REQ | REPLY_ACK) & ~without
            plain.send(SET_PROTOCOL_FEATURES, u64(acked), flags=VERSION)
            plain.assert_ended()


def test_vring_kick_starts_the_ring_and_kicks_it(site: Site) -> None:
    with InBandDriver.at_site(site) as driver:
        driver.is_silent = True
        driver.send(frame(1))
        site.assert_neighbour_unharmed()
        assert driver.reclaim() == 0
        driver.is_silent = False
        driver.kick(RX)
        driver.kick(TX)
        wait(lambda: driver.recv_now() is not None)
        driver.send(frame(2))
        wait(lambda: driver.recv_now() is not None)


def test_vring_kick_is_refused_with_a_number_or_without_the_feature(site: Site) -> None:
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        assert plain.number(VRING_KICK, state(0, 0)) != 0
    with PlainFrontend(site.path) as plain:
        plain.negotiate(IN_BAND | BACKEND_REQ | REPLY_ACK)
        assert plain.number(VRING_KICK, state(0, 1)) != 0
        assert plain.number(VRING_KICK, state(256, 0)) != 0
        assert plain.number(VRING_KICK, state(255, 0)) == 0


def test_used_buffers_and_errors_are_told_by_message(site: Site) -> None:
    with InBandDriver.at_site(site) as driver:
        driver.kick(RX)
        driver.kick(TX)
        for number in range(2 * RING_SIZE):
            driver.receive_queue().enable_calls()
            driver.send(frame(number))
            while driver.recv_now() is None:
                driver.wait_message(BackendRequest.VRING_CALL, RX)
        queue = driver.virtqueues[TX]
        assert isinstance(queue, SplitVirtqueue)
        queue.write_avail_index(5 * RING_SIZE)
        driver.kick(TX)
        driver.wait_message(BackendRequest.VRING_ERR, TX)


def test_fd_is_preferred_over_the_message_and_bit_8_polls(site: Site) -> None:
    with InBandDriver.at_site(site) as driver:
        driver.is_silent = True
        driver.say("call", RX)
        driver.do(calls.set_vring_call(TX, None))
        driver.say("kick", TX)
        driver.do(calls.set_vring_kick(RX, None))
        for number in range(RING_SIZE):
            driver.send(frame(number))
            kick = driver.nic.rings[TX].kick_fd
            assert kick is not None
            os.eventfd_write(kick, 1)
            assert driver.recv().frame == frame(number)
        assert driver.next_message(0.1) is None
