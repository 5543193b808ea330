"""The rings of one device: stores what is said about each, and runs those that are ready.

The half of `device.NetDevice` that names rings. Every request stores one item and then `_settle`s the ring it
names. What runs in C is always derived from what was said, so any order of messages comes out the same.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping

from vhostuser.datapath.vring import PacketDevice, RingEnabled, VringCounters
from vhostuser.errors import GuestError, RequestError
from vhostuser.memory.regions import RegionTable
from vhostuser.net.control_ring import ControlRing, control_index
from vhostuser.net.idle_reasons import idle_reasons
from vhostuser.net.in_band import InBand, own_eventfd
from vhostuser.net.notify_fd import NotifyFd
from vhostuser.net.pair_ports import PairPorts
from vhostuser.net.port_link import PortLink
from vhostuser.net.ring_items import RingItems, fd_of
from vhostuser.session.states import RingState
from vhostuser.wire.constants import VRING_F_LOG, BackendRequest
from vhostuser.wire.features import VirtioFeature
from vhostuser.wire.payloads import VringAddr


class RingControl(ABC):
    """Implements the requests of `session.device.Device` that name a ring."""

    def __init__(
        self,
        packet: PacketDevice,
        link: PortLink,
        pair_ports: PairPorts,
        log: logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._packet = packet
        self._link = link
        self._pair_ports = pair_ports
        self._log = log
        self._rings: dict[int, RingItems] = {}
        self._control = ControlRing(packet, log)
        self._in_band = InBand()

    @property
    @abstractmethod
    def features(self) -> VirtioFeature:
        """What the guest acknowledged."""

    @abstractmethod
    def _missing(self) -> list[str]:
        """What every ring waits for, by the names of the requests that would bring it."""

    @abstractmethod
    def _apply_commands(self) -> None:
        """Brings to C what commands of the guest have set, rings apart."""

    @abstractmethod
    def _on_control_started(self) -> None:
        """The guest can be asked for something: its control ring runs."""

    @abstractmethod
    def _waits_for(self, index: int) -> str:
        """What ring ``index`` waits for that runs, in words; "" for nothing."""

    # What is said about one ring

    def set_vring_num(self, index: int, num: int) -> None:
        ring = self._named(index, is_set_up=True)
        ring.size = num
        ring.is_begun = True
        self._settle(index)

    def set_vring_addr(self, addr: VringAddr) -> None:
        ring = self._named(addr.index, is_set_up=True)
        ring.addr = addr
        ring.is_begun = True
        ring.refusal = ""
        if ring.runs:
            is_logged = bool(addr.flags & VRING_F_LOG)
            self._packet.pair(addr.index // 2).set_log(addr.index % 2, is_logged, addr.log)
        self._settle(addr.index)

    def set_vring_base(self, index: int, base: int) -> None:
        self._named(index).base = base

    def set_vring_endian(self, index: int, is_big: bool) -> None:
        self._ring(index).is_big_endian = is_big

    def get_vring_base(self, index: int) -> int:
        ring = self._ring(index)
        self._in_band.withdraw(index, BackendRequest.VRING_CALL)
        ring.close_kick_and_call()
        return ring.base

    def set_vring_kick(self, index: int, fd: int | None) -> None:
        ring = self._named(index, is_set_up=True)
        old, ring.kick = ring.kick, _notify(fd)
        ring.has_kick = True
        try:
            if ring.runs:
                drained = ring.kick is not None and ring.kick.is_drained
                self._packet.pair(index // 2).set_kick(index % 2, fd_of(ring.kick), drained)
        except GuestError as error:
            raise RequestError(f"the kernel does not watch this fd, so the ring is broken: {error}") from None
        finally:
            _close(old)

    def vring_kick(self, index: int) -> None:
        ring = self._named(index, is_set_up=True)
        if ring.has_kick:
            return
        if ring.kick is None:
            ring.kick = own_eventfd()
        os.eventfd_write(ring.kick.fd, 1)

    def set_vring_call(self, index: int, fd: int | None) -> None:
        ring = self._named(index)
        old, ring.call = ring.call, _notify(fd)
        ring.has_call = True
        if ring.runs:
            self._packet.pair(index // 2).set_call(index % 2, fd_of(ring.call))
        self._in_band.withdraw(index, BackendRequest.VRING_CALL)
        _close(old)

    def set_vring_err(self, index: int, fd: int | None) -> None:
        ring = self._named(index)
        old, ring.err = ring.err, _notify(fd)
        ring.has_err = True
        if ring.runs:
            self._packet.pair(index // 2).set_err(index % 2, fd_of(ring.err))
        self._in_band.withdraw(index, BackendRequest.VRING_ERR)
        _close(old)

    def reset_device(self) -> None:
        self._in_band.withdraw_all()
        for ring in self._rings.values():
            ring.close()
        self._rings.clear()
        self._assign_control()
        self.reset_driver()

    def reset_driver(self) -> None:
        """Every ring is stopped, and what the guest's driver has set by commands is forgotten."""
        self._control.reset()
        self._apply_commands()

    def set_vring_states(self, states: Mapping[int, RingState]) -> None:
        was_started = self._is_any_started()
        for index, state in states.items():
            ring = self._ring(index)
            if ring.state.is_started and not state.is_started:
                ring.is_begun = False
                ring.refusal = ""
            ring.state = state
        if was_started and not self._is_any_started():
            # The next start may have another number of pairs.
            for ring in self._rings.values():
                ring.is_named = ring.is_set_up = False
        self._settle(*states)

    def _is_any_started(self) -> bool:
        return any(ring.state.is_started for ring in self._rings.values())

    # What commands of the guest change

    def execute_command(self) -> None:
        """Does what the next command on the control ring says, if one is there."""
        before = self._control.settings.pairs, self._control.running_features(self.features)
        ack = self._control.execute(self.features, self._rings)
        if ack is None:
            return
        self._apply_commands()
        # A guest may flood us with commands, and this looks at every ring.
        if before != (self._control.settings.pairs, self._control.running_features(self.features)):
            self._settle_all()
        # Afterwards: once it has this byte the driver counts on what it asked for.
        self._control.answer(ack)

    def counters(self) -> dict[int, VringCounters]:
        """By ring index, for every ring that ever ran."""
        return {
            2 * n + ring: pair.counters(ring) for n, pair in self._packet.pairs.items() for ring in range(2)
        }

    def idle_reasons(self) -> dict[int, str]:
        """Why rings that were started or partly set up do nothing, in words; empty when all is well."""
        return idle_reasons(
            self._rings,
            self._missing(),
            lambda index: self._packet.pair(index // 2).counters(index % 2),
            self._waits_for,
        )

    # How it comes to run

    def _look_at_memory(self, table: RegionTable | None) -> None:
        """Comes before ``table`` replaces the memory: rings that lie in what goes stop now, where they are,
        and go on from there when it is back. Behind an IOMMU they have no place in a table, but one that is
        asked for anew."""
        is_packed = VirtioFeature.RING_PACKED in self.features
        is_platform = VirtioFeature.ACCESS_PLATFORM in self.features
        for index, ring in self._rings.items():
            ring.refusal = "" if table is None or is_platform else ring.outside(table, is_packed)
            if ring.runs and (table is None or ring.refusal):
                self._stop(index)
                reason = ring.refusal or "there is none left"
                self._log.warning("ring %d waits for its memory to come back: %s", index, reason)

    def _ring(self, index: int) -> RingItems:
        return self._rings.setdefault(index, RingItems())

    def _named(self, index: int, *, is_set_up: bool = False) -> RingItems:
        ring = self._ring(index)
        ring.is_named = True
        ring.is_set_up |= is_set_up
        return ring

    def _assign_control(self) -> None:
        """Finds the control ring anew; a ring that gets or loses that role is started again in the other."""
        index, before = control_index(self._rings, self.features), self._control.index
        if index == before:
            return
        for other in {index, before} & self._rings.keys():
            assert other is not None
            if self._rings[other].runs:
                self._stop(other)
            self._rings[other].refusal = ""
            self._pair_ports.forget(other // 2)
        self._control.become(index)
        self._apply_commands()

    def _is_ready(self, ring: RingItems) -> bool:
        return ring.is_complete and not self._missing()

    def _settle(self, *indices: int) -> None:
        """Brings port and rings to where the items now say."""
        with self._packet.paused():
            before = self._control.index
            self._assign_control()
            if self._control.index != before:
                indices = tuple(self._rings)
            for index in indices:
                if self._rings[index].runs and not self._is_ready(self._rings[index]):
                    self._stop(index)
            self._follow_port()
            for index in indices:
                self._settle_ring(index)

    def _settle_all(self) -> None:
        with self._packet.paused():
            self._assign_control()
            self._follow_port()
            for index in list(self._rings):
                self._settle_ring(index)

    def _follow_port(self) -> None:
        """Tells the port whether the device runs and which of its queues are used."""
        ready = [index for index, ring in self._rings.items() if self._is_ready(ring)]
        if not ready:
            self._link.want_stopped()
            return
        used = {
            index // 2
            for index in ready
            if self._is_enabled(index, self._rings[index]) and index != self._control.index
        }
        features = self._control.running_features(self.features)
        self._link.want_started(features, frozenset(map(self._pair_ports.queue_of, used)))
        self._pair_ports.share(used)

    def _settle_ring(self, index: int) -> None:
        ring = self._rings[index]
        if not self._is_ready(ring):
            return
        enabled = self._enabled(index, ring)
        if not self._link.is_started and not (ring.runs and enabled is RingEnabled.DISABLED):
            return
        pair = self._packet.pair(index // 2)
        pair.set_enabled(index % 2, enabled)
        if ring.runs:
            return
        try:
            self._fill_in_band(index, ring)
            pair.start(index % 2, ring.setup())
            ring.runs = True
            ring.counters_at_start = pair.counters(index % 2)
            if index == self._control.index:
                self._on_control_started()
        except (GuestError, RequestError) as error:
            ring.refusal = str(error)
            self._log.error("ring %d does not start: %s", index, error)

    def _fill_in_band(self, index: int, ring: RingItems) -> None:
        """Ways out for what the front-end has said nothing about."""
        if not self._in_band.is_on:
            return
        if ring.call is None and not ring.has_call:
            ring.call = self._in_band.outlet(index, BackendRequest.VRING_CALL)
        if ring.err is None and not ring.has_err:
            ring.err = self._in_band.outlet(index, BackendRequest.VRING_ERR)

    def _is_enabled(self, index: int, ring: RingItems) -> bool:
        """By the front-end, and by the guest where it has a control ring to say so."""
        is_used = index == self._control.index or self._control.uses_pair(index // 2, self.features)
        return ring.state.is_enabled and is_used

    def _enabled(self, index: int, ring: RingItems) -> RingEnabled:
        if not self._is_enabled(index, ring):
            return RingEnabled.DISABLED
        if index == self._control.index:
            return RingEnabled.ENABLED  # no port behind it; while it is disabled, commands wait
        return (
            RingEnabled.ENABLED
            if self._link.is_ready(self._pair_ports.queue_of(index // 2))
            else RingEnabled.HELD
        )

    def _stop(self, index: int) -> None:
        ring = self._rings[index]
        ring.runs = False
        ring.base = self._packet.pair(index // 2).stop(index % 2)
        self._log.info("ring %d stopped at %d", index, ring.base)


def _notify(fd: int | None) -> NotifyFd | None:
    return None if fd is None else NotifyFd(fd)


def _close(notify: NotifyFd | None) -> None:
    if notify is not None:
        notify.close()
