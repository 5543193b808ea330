"""The message order of QEMU 7.2: no err fds, no status, rings enabled when all of them have been started.

The order of QEMU 10 is `Order.QEMU` in `orders.py`. What has changed since is what a back-end may have come
to rely on: the kick that newer ones write after SET_VRING_KICK, and acknowledgements of nearly everything.
"""

from __future__ import annotations

from typing import Unpack

from vhostuser.frontend import calls
from vhostuser.frontend.dialogue import Script
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.link import LinkOptions
from vhostuser.frontend.nic import Nic
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

PROTOCOL_FEATURES = P.MQ | P.LOG_SHMFD | P.RARP | P.REPLY_ACK | P.MTU | P.BACKEND_REQ
ACKS = frozenset({Request.SET_MEM_TABLE, Request.NET_SET_MTU, Request.SET_BACKEND_REQ_FD})


def negotiate(nic: Nic) -> Script[None]:
    """Once for each pair, as QEMU makes a vhost device out of each."""
    for number in range(nic.pairs):
        nic.offered = yield calls.get_features()
        nic.features = nic.offered & nic.wanted
        if V.PROTOCOL_FEATURES in nic.offered:
            offered = yield calls.get_protocol_features()
            nic.protocol = offered & PROTOCOL_FEATURES
            yield calls.set_protocol_features(nic.protocol)
            if number == 0 and P.MQ in nic.protocol:
                yield calls.get_queue_num()
            if number == 0 and P.BACKEND_REQ in nic.protocol and nic.channel_fd is not None:
                yield calls.set_backend_req_fd(nic.channel_fd)
        if number == 0:
            yield calls.set_owner()
        yield calls.get_features()
        for ring in nic.pair(number):
            yield calls.set_vring_call(ring.index, ring.masked_fd)
    nic.begin_anew()


def start(nic: Nic) -> Script[None]:
    """The guest chooses its features; its pairs are started one after the other, and then enabled."""
    for number in range(nic.pairs):
        yield calls.set_features(nic.features)
        if number == 0:
            yield calls.set_mem_table(calls.memory_table(nic.memory), nic.memory.fds())
        for ring in nic.pair(number):
            assert ring.place is not None
            yield calls.set_vring_num(ring.index, ring.size)
            yield calls.set_vring_base(ring.index, ring.base)
            yield calls.set_vring_addr(ring.index, ring.place.desc, ring.place.used, ring.place.avail)
            yield calls.set_vring_kick(ring.index, ring.kick_fd)
            yield calls.set_vring_call(ring.index, ring.call_fd)
        if V.PROTOCOL_FEATURES in nic.features:
            for ring in nic.pair(number):
                yield calls.set_vring_enable(ring.index, True)


def stop(nic: Nic) -> Script[None]:
    for ring in nic.rings:
        ring.base = yield calls.get_vring_base(ring.index)


class OldQemuDriver(VirtioNetDriver):
    """A driver that is brought up and stopped in this order."""

    def __init__(self, frontend: Frontend, **options: Unpack[LinkOptions]) -> None:
        options.setdefault("acks", ACKS)
        super().__init__(frontend, **options)

    def negotiate(self) -> None:
        self.frontend.run_script(negotiate(self.nic))
        self._negotiated = True

    def start(self) -> None:
        if not self._negotiated:
            self.negotiate()
        self._prepare()
        self.frontend.run_script(start(self.nic))
        self.running = True

    def stop(self) -> None:
        self.running = False
        self.frontend.run_script(stop(self.nic))
