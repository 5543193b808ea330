"""Requests on what is negotiated, and on the device as a whole."""

from __future__ import annotations

from vhostuser.session import checks
from vhostuser.session.conversation import Conversation
from vhostuser.session.states import RingEvent
from vhostuser.wire import constants as c
from vhostuser.wire.features import ProtocolFeature, VirtioFeature
from vhostuser.wire.messages import U64, Empty, FdBag


class FeatureRequests:
    """One method per request; the table of requests names them."""

    def __init__(self, said: Conversation) -> None:
        self._said = said

    def get_features(self, payload: Empty, fds: FdBag) -> U64:
        return U64(int(self._said.offer()))

    def set_features(self, payload: U64, fds: FdBag) -> None:
        acked = VirtioFeature(payload.value)
        checks.check_features_offered(acked, self._said.offer())
        if self._said.has_features and any(ring.state.is_started for ring in self._said.rings.values()):
            checks.check_features_while_started(self._said.features, acked)
        self._said.device.set_features(acked)
        self._said.features = acked
        self._said.has_features = True
        if VirtioFeature.PROTOCOL_FEATURES not in acked:
            # No SET_VRING_ENABLE will come: every ring is enabled from now on.
            self._said.step(range(self._said.device.vring_count()), RingEvent.ENABLE)

    def set_owner(self, payload: Empty, fds: FdBag) -> None:
        self._said.device.set_owner()

    def reset_owner(self, payload: Empty, fds: FdBag) -> None:
        """Deprecated, and front-ends disagree on what it should do: acknowledged, and nothing is done."""

    def get_protocol_features(self, payload: Empty, fds: FdBag) -> U64:
        return U64(int(self._said.device.offered_protocol_features()))

    def set_protocol_features(self, payload: U64, fds: FdBag) -> None:
        """Comes once per queue pair with QEMU, and without a GET after a reconnect: it resets nothing."""
        acked = ProtocolFeature(payload.value)
        checks.check_features_offered(acked, self._said.device.offered_protocol_features())
        checks.check_protocol_needs(acked)
        self._said.device.set_protocol_features(acked)
        self._said.protocol_features = acked

    def get_queue_num(self, payload: Empty, fds: FdBag) -> U64:
        return U64(self._said.device.queue_count())

    def set_status(self, payload: U64, fds: FdBag) -> None:
        """0 is a reset of the device: every ring stops. What else was said of rings, memory and connection
        stays, for QEMU does not say all of it again.

        Rings run from SET_VRING_KICK on, whatever the status: a legacy guest may use them before DRIVER_OK.
        """
        checks.check_status(payload.value)
        self._said.status = payload.value
        if not self._said.status:
            self._said.step(sorted(self._said.rings), RingEvent.STOP)
            self._said.device.reset_driver()

    def get_status(self, payload: Empty, fds: FdBag) -> U64:
        """What was set; without FEATURES_OK as long as no features were accepted."""
        return U64(
            self._said.status if self._said.has_features else self._said.status & ~c.STATUS_FEATURES_OK
        )

    def reset_device(self, payload: Empty, fds: FdBag) -> None:
        self._said.reset_rings()
        self._said.status = 0
