"""The control ring of one device: which ring it is, its commands, and what they have set.

Front-ends do not say which ring is the control ring, and most have none for us: QEMU never acknowledges
CTRL_VQ here, DPDK's virtio-user strips it, Cloud Hypervisor acknowledges it and runs the queue itself. So
nothing that commands could set holds before such a ring is seen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

from vhostuser.datapath.vring import PacketDevice
from vhostuser.net.control_queue import Ack, CommandError, GuestSettings, Terms, execute
from vhostuser.net.ring_items import RingItems
from vhostuser.wire.features import VirtioFeature


def control_index(rings: Mapping[int, RingItems], features: VirtioFeature) -> int | None:
    """The ring at 2N behind N pairs, with CTRL_VQ acknowledged: the highest that was set up, if that is even.

    The receive ring of the last pair looks so, too, until its other ring is set up. With MQ all rings that
    there are get used, so that a ring which was only named so far (most front-ends send every call fd first)
    is still to come. Without MQ there is one pair, whatever else the front-end has names for. What is left
    are front-ends that start a pair's rings one after the other and name none before: their rings are
    started again when the roles turn out to be others.
    """
    if VirtioFeature.CTRL_VQ not in features:
        return None
    highest = max((index for index, ring in rings.items() if ring.is_set_up), default=0)
    behind = rings.get(highest + 1)
    if VirtioFeature.MQ in features and behind is not None and behind.is_named:
        return None
    return highest if highest >= 2 and highest % 2 == 0 else None


class ControlRing:
    """Executes the commands of the ring at `index`. What is set is read by whoever it concerns."""

    def __init__(self, packet: PacketDevice, log: logging.LoggerAdapter[logging.Logger]) -> None:
        self._packet = packet
        self._log = log
        self.index: int | None = None
        self.settings = GuestSettings()
        self._complained = False

    def reset(self) -> None:
        """The guest's driver begins anew: what it had set is forgotten."""
        self.settings = GuestSettings()

    def become(self, index: int | None) -> None:
        """The ring, which is stopped, is the control ring from now on; None: there is none."""
        self.index = index
        self._complained = False
        if index is not None:
            self._packet.pair(index // 2).set_control()

    def uses_pair(self, n: int, acked: VirtioFeature) -> bool:
        """Whether the driver wants pair ``n``; without a control ring the front-end alone decides."""
        return self.index is None or VirtioFeature.MQ not in acked or n < self.settings.pairs

    def running_features(self, acked: VirtioFeature) -> VirtioFeature:
        """What was acknowledged, without the offloads that are turned off."""
        return acked if self.index is None else self.settings.running(acked)

    def execute(self, acked: VirtioFeature, rings: Mapping[int, RingItems]) -> Ack | None:
        """Executes the command that waits; `answer` it when its effect is there. None when none waits."""
        if self.index is None:
            return None
        command = self._packet.pair(self.index // 2).command()
        if command is None:
            return None
        order: Literal["little", "big"] = "big" if rings[self.index].is_big_endian else "little"
        try:
            done = execute(self.settings, command, Terms(acked, self.index // 2, order))
        except CommandError as error:
            # A guest can send these for ever, so it fills no log.
            level = logging.DEBUG if self._complained else logging.WARNING
            self._complained = True
            self._log.log(level, "control ring %d: refused: %s", self.index, error)
            return Ack.ERR
        self._log.debug("control ring %d: %s", self.index, done)
        return Ack.OK

    def answer(self, ack: Ack) -> None:
        assert self.index is not None
        self._packet.pair(self.index // 2).answer(ack)
