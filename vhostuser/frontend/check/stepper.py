"""A driver whose messages are sent one by one, for what is to be seen between two of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from vhostuser.frontend import calls
from vhostuser.frontend.calls import Call
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.wire.features import ProtocolFeature, VirtioFeature

T = TypeVar("T")

RX, TX = 0, 1
"""The rings of the first pair, as the guest sees them."""

_LEFT_OUT = ProtocolFeature.STATUS | ProtocolFeature.CONFIGURE_MEM_SLOTS

ITEMS = ("features", "memory", "num", "base", "addr", "call", "kick", "enable")
"""All that makes a running device, in a usual order."""


class Stepper(VirtioNetDriver):
    """Each message is acknowledged where REPLY_ACK allows, and followed by GET_FEATURES where it does not,
    so that the back-end has seen it when the method returns."""

    def prepare(self) -> None:
        """Negotiate, make the queues and fill them; nothing is said about memory or rings.

        Without STATUS, so that nobody waits for a status in between, and with memory in tables.
        """
        self.negotiate()
        self.acknowledge(self.protocol_features & ~_LEFT_OUT)
        self._prepare()

    def acknowledge(self, features: ProtocolFeature) -> None:
        """SET_PROTOCOL_FEATURES, in place of what the order has acknowledged."""
        self.nic.protocol = features
        if VirtioFeature.PROTOCOL_FEATURES in self.nic.offered:
            self.frontend.set_protocol_features(features)
            self.frontend.get_features()

    def do(self, call: Call[T]) -> T:
        answer = self.frontend.run(call, need_reply=True)
        self.frontend.get_features()
        return answer

    def say(self, item: str, *indices: int) -> None:
        """One item of `ITEMS`, or "err" or "disable", for these rings or for all."""
        if item == "features":
            self.do(calls.set_features(self.features))
        elif item == "memory":
            self.do(calls.set_mem_table(calls.memory_table(self.memory), self.memory.fds()))
        elif item in ("enable", "disable") and VirtioFeature.PROTOCOL_FEATURES not in self.features:
            return  # without bit 30 rings are enabled as they come, and the message is not legal
        else:
            for ring in self.nic.rings:
                if not indices or ring.index in indices:
                    self._say_of_ring(item, ring.index)

    def _say_of_ring(self, item: str, index: int) -> None:
        ring = self.nic.rings[index]
        place = ring.place
        assert place is not None
        make: dict[str, Callable[[], Call[None]]] = {
            "num": lambda: calls.set_vring_num(index, ring.size),
            "base": lambda: calls.set_vring_base(index, ring.base),
            "addr": lambda: calls.set_vring_addr(index, place.desc, place.used, place.avail),
            "kick": lambda: calls.set_vring_kick(index, ring.kick_fd),
            "call": lambda: calls.set_vring_call(index, ring.call_fd),
            "err": lambda: calls.set_vring_err(index, ring.err_fd),
            "enable": lambda: calls.set_vring_enable(index, True),
            "disable": lambda: calls.set_vring_enable(index, False),
        }
        self.do(make[item]())

    def say_all(self, *without: str) -> None:
        """Every item in the usual order, but for these."""
        for item in ITEMS:
            if item not in without:
                self.say(item)

    def stop_ring(self, index: int) -> int:
        """GET_VRING_BASE; the answer is where the ring goes on."""
        base = self.frontend.get_vring_base(index)
        self.nic.rings[index].base = base
        return base

    def stop_rings(self) -> None:
        for ring in self.nic.rings:
            self.stop_ring(ring.index)

    def start_rings(self) -> None:
        """All that front-ends say of rings when they start them, again or for the first time."""
        for item in ("num", "base", "addr", "call", "kick"):
            self.say(item)

    def used(self) -> tuple[int, int]:
        """used->idx of the first pair's rings: what the back-end has given back so far."""
        return self.queues[RX].read_used_index(), self.queues[TX].read_used_index()

    def read_call(self, index: int) -> int:
        """How often a ring has called since this was last asked."""
        fd = self.nic.rings[index].call_fd
        assert fd is not None
        try:
            return os.eventfd_read(fd)
        except BlockingIOError:
            return 0
