"""Kicks, calls and errors as messages."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager

from vhostuser.frontend import calls
from vhostuser.frontend.check.model import Group, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import RX, TX, Stepper
from vhostuser.frontend.check.stream import u64
from vhostuser.frontend.check.traffic import assert_untouched, frame, used_by_polling
from vhostuser.frontend.orders import Order
from vhostuser.frontend.timeouts import Deadline
from vhostuser.wire.connection import Connection
from vhostuser.wire.constants import BackendRequest, Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.messages import U64, Message, Reply, VringState
from vhostuser.wire.requests import BACKEND_REQUESTS

GROUP = Group("in-band", "kicks, calls and errors as messages")

_RULE = 'vhost-user, "In-band notifications"'
_NEEDED = P.BACKEND_REQ | P.REPLY_ACK
_ALL = _NEEDED | P.INBAND_NOTIFICATIONS


class _Channel:
    """The front-end's end, which answers whatever comes."""

    def __init__(self, driver: Stepper) -> None:
        self._socket = driver.channel
        self._messages = Connection(BACKEND_REQUESTS)

    def hears(self, request: BackendRequest, index: int, seconds: float) -> bool:
        """Whether this comes of this ring, now or within so long."""
        deadline = Deadline(seconds)
        while (message := self._next(deadline)) is not None:
            if message.need_reply:
                self._socket.sendall(self._messages.encode(Reply(message.request, U64(0))))
            if (message.request, message.payload) == (request, VringState(index, 0)):
                return True
        return False

    def _next(self, deadline: Deadline) -> Message | None:
        while wanted := self._messages.bytes_wanted:
            if not select.select([self._socket], [], [], deadline.left)[0]:
                return None
            chunk = self._socket.recv(wanted)
            if not chunk:
                return None
            self._messages.receive(chunk)
        return self._messages.next_message()


@contextmanager
def _without_fds(peer: Peer) -> Iterator[tuple[Stepper, _Channel]]:
    """All is said but kick, call and err. virtio-user's order names no fd before the start."""
    with peer.stepper(order=Order.VIRTIO_USER) as driver:
        driver.acknowledge(driver.protocol_features | _ALL)
        assert driver.nic.channel_fd is not None
        driver.do(calls.set_backend_req_fd(driver.nic.channel_fd))
        driver.say_all("kick", "call")
        yield driver, _Channel(driver)


def _kick(driver: Stepper, *indices: int) -> None:
    for index in indices:
        driver.do(calls.vring_kick(index))


@GROUP.check(
    "in-band-alone",
    "INBAND_NOTIFICATIONS without BACKEND_REQ or REPLY_ACK end the connection.",
    _RULE,
    Severity.SHOULD,
    protocol=_ALL,
)
def _alone(peer: Peer) -> None:
    for without in (P.BACKEND_REQ, P.REPLY_ACK):
        stream = peer.stream()
        stream.send(Request.SET_PROTOCOL_FEATURES, u64(int(_ALL & ~without)))
        expect(stream.is_over(), f"the end of the connection without {without.name}", "it goes on")


@GROUP.check(
    "in-band-kick",
    "VRING_KICK starts a ring without a kick fd, and kicks it.",
    'vhost-user, "VHOST_USER_VRING_KICK"',
    protocol=_ALL,
)
def _kicked(peer: Peer) -> None:
    with _without_fds(peer) as (driver, _):
        driver.send(frame(0))
        assert_untouched(driver, "before VRING_KICK")
        for number in range(1, 20):
            _kick(driver, RX, TX)
            used_by_polling(peer, driver)
            driver.send(frame(number))
        _kick(driver, TX)
        used_by_polling(peer, driver)


@GROUP.check(
    "in-band-call",
    "VRING_CALL tells of used chains of a ring without a call fd, as often as the driver asks.",
    'vhost-user, "VHOST_USER_BACKEND_VRING_CALL"',
    protocol=_ALL,
)
def _called(peer: Peer) -> None:
    with _without_fds(peer) as (driver, channel):
        _kick(driver, TX)
        for number in range(20):
            driver.virtqueues[TX].enable_calls()
            driver.send(frame(number))
            _kick(driver, TX)
            expect(
                channel.hears(BackendRequest.VRING_CALL, TX, peer.patience),
                "VRING_CALL for a used chain",
                "none",
            )
            driver.reclaim()


@GROUP.check(
    "in-band-err",
    "VRING_ERR tells of a ring that broke and has no err fd.",
    'vhost-user, "VHOST_USER_BACKEND_VRING_ERR"',
    Severity.SHOULD,
    protocol=_ALL,
)
def _errors(peer: Peer) -> None:
    with _without_fds(peer) as (driver, channel):
        _kick(driver, TX)
        queue = driver.queues[TX]
        queue.write_avail_index(3 * queue.size)
        _kick(driver, TX)
        expect(channel.hears(BackendRequest.VRING_ERR, TX, peer.patience), "VRING_ERR", "none")
