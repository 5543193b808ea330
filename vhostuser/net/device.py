"""The virtio-net device of one front-end: stores what it says, runs the rings that are ready.

Every request stores one item and then `_settle`s the ring it names. What runs in C is always derived from
what was said, so any order of messages comes out the same.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping

from vhostuser.datapath.dirty_log import DirtyLog
from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.port_ops import PortOps
from vhostuser.datapath.reaper import reaper
from vhostuser.datapath.vring import PacketDevice, RingEnabled, VringCounters
from vhostuser.datapath.worker import EventKind, WorkerEvent
from vhostuser.errors import GuestError, RequestError
from vhostuser.net.announce import rarp_frame
from vhostuser.net.config_space import ConfigSpace
from vhostuser.net.events import describe
from vhostuser.net.idle_reasons import idle_reasons
from vhostuser.net.notify_fd import NotifyFd
from vhostuser.net.pair_ports import PairPorts
from vhostuser.net.port_link import Helper, LinkedPort, PortLink
from vhostuser.net.ring_items import RingItems, fd_of
from vhostuser.session.states import RingState
from vhostuser.wire.constants import MAX_VRINGS, VRING_F_LOG
from vhostuser.wire.features import ProtocolFeature, VirtioFeature, feature_names
from vhostuser.wire.payloads import MemoryRegion, VringAddr

QUEUE_NUM = 128
"""GET_QUEUE_NUM: pairs to QEMU, rings to Cloud Hypervisor; true in both readings for up to 64 pairs."""
QUEUE_NUM_MANY = 256


class NetDevice:
    """Implements `session.device.Device`. Not thread-safe: lives where its session lives.

    The port is open and stays its owner's. Close it after `close`.
    """

    def __init__(
        self,
        packet: PacketDevice,
        port: LinkedPort,
        ops: PortOps,
        *,
        queues: int,
        offer: VirtioFeature,
        protocol_offer: ProtocolFeature,
        config_space: ConfigSpace,
        helper: Helper,
        log: logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._packet = packet
        self._port = port
        self._queues = queues
        self._offer = offer
        self._protocol_offer = protocol_offer
        self._config_space = config_space
        self._log = log
        self._link = PortLink(port, queues, helper, self._settle_all)
        self._pair_ports = PairPorts(packet, ops, queues, log)
        self._rings: dict[int, RingItems] = {}
        self._features = VirtioFeature(0)
        self._has_features = False
        self._memory: MappedMemory | None = None
        self._log_map: DirtyLog | None = None
        self._backend_fd = -1

    # What is offered

    def offered_features(self) -> VirtioFeature:
        return self._offer

    def offered_protocol_features(self) -> ProtocolFeature:
        return self._protocol_offer

    def queue_count(self) -> int:
        return QUEUE_NUM if self._queues <= QUEUE_NUM // 2 else QUEUE_NUM_MANY

    def vring_count(self) -> int:
        return MAX_VRINGS

    def get_config(self, offset: int, size: int) -> bytes:
        return self._config_space.read(offset, size)

    # What is said about the device

    def set_owner(self) -> None:
        pass

    def set_features(self, acked: VirtioFeature) -> None:
        if acked != self._features:
            self._log.info("guest features: %s", ", ".join(feature_names(acked)) or "none")
        self._features = acked
        self._packet.set_features(acked)
        self._has_features = True
        self._settle_all()

    def set_protocol_features(self, acked: ProtocolFeature) -> None:
        pass

    def set_mem_table(self, regions: tuple[MemoryRegion, ...], fds: list[int]) -> None:
        self._swap_memory(MappedMemory(regions, fds))
        for ring in self._rings.values():
            ring.refusal = ""
        self._settle_all()

    def set_log_base(self, size: int, offset: int, fd: int) -> None:
        self._swap_log(DirtyLog(fd, size, offset))

    def set_mtu(self, mtu: int) -> None:
        self._link.want_mtu(mtu)

    def send_rarp(self, mac: bytes) -> None:
        self._port.inject(rarp_frame(mac))

    def set_backend_req_fd(self, fd: int) -> None:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            reaper.close([fd])
            raise RequestError("fd is not a socket, which the back-end's own requests need")
        self._close_backend_fd()
        self._backend_fd = fd

    def set_config(self, offset: int, data: bytes, flags: int) -> None:
        raise RequestError(f"config bytes {offset} to {offset + len(data)} are read-only")

    def reset_device(self) -> None:
        for ring in self._rings.values():
            ring.close()
        self._rings.clear()

    # What is said about one ring

    def set_vring_num(self, index: int, num: int) -> None:
        ring = self._ring(index)
        ring.size = num
        ring.is_begun = True
        self._settle(index)

    def set_vring_addr(self, addr: VringAddr) -> None:
        ring = self._ring(addr.index)
        ring.addr = addr
        ring.is_begun = True
        if ring.runs:
            is_logged = bool(addr.flags & VRING_F_LOG)
            self._packet.pair(addr.index // 2).set_log(addr.index % 2, is_logged, addr.log)
        self._settle(addr.index)

    def set_vring_base(self, index: int, base: int) -> None:
        self._ring(index).base = base

    def get_vring_base(self, index: int) -> int:
        ring = self._ring(index)
        ring.close_kick_and_call()
        return ring.base

    def set_vring_kick(self, index: int, fd: int | None) -> None:
        ring = self._ring(index)
        old, ring.kick = ring.kick, _notify(fd)
        try:
            if ring.runs:
                drained = ring.kick is not None and ring.kick.is_drained
                self._packet.pair(index // 2).set_kick(index % 2, fd_of(ring.kick), drained)
        except GuestError as error:
            raise RequestError(f"the kernel does not watch this fd, so the ring is broken: {error}") from None
        finally:
            _close(old)

    def set_vring_call(self, index: int, fd: int | None) -> None:
        ring = self._ring(index)
        old, ring.call = ring.call, _notify(fd)
        if ring.runs:
            self._packet.pair(index // 2).set_call(index % 2, fd_of(ring.call))
        _close(old)

    def set_vring_err(self, index: int, fd: int | None) -> None:
        ring = self._ring(index)
        old, ring.err = ring.err, _notify(fd)
        if ring.runs:
            self._packet.pair(index // 2).set_err(index % 2, fd_of(ring.err))
        _close(old)

    def set_vring_states(self, states: Mapping[int, RingState]) -> None:
        for index, state in states.items():
            ring = self._ring(index)
            if ring.state.is_started and not state.is_started:
                ring.is_begun = False
                ring.refusal = ""
            ring.state = state
        self._settle(*states)

    # For the owner

    def disconnect(self) -> None:
        """The front-end has gone and its session is closed: gives up all that it brought."""
        self.reset_device()
        self._link.want_stopped()
        self._close_backend_fd()
        self._swap_memory(None)
        self._swap_log(None)
        self._packet.clear_fault()
        self._features = VirtioFeature(0)
        self._has_features = False

    def close(self) -> None:
        """Frees what C holds; after `disconnect`."""
        self._packet.close()
        self._pair_ports.close()

    def on_event(self, event: WorkerEvent) -> bool:
        """Says in the log what C reported; False when the front-end has to be disconnected."""
        level, text = describe(event)
        self._log.log(level, "%s", text)
        return event.kind is not EventKind.DEVICE_FAULTED

    @property
    def is_faulted(self) -> bool:
        """Its memory has gone, and nothing runs before the front-end is disconnected."""
        return self._packet.is_faulted

    def counters(self) -> dict[int, VringCounters]:
        """By ring index, for every ring that ever ran."""
        return {
            2 * n + ring: pair.counters(ring) for n, pair in self._packet.pairs.items() for ring in range(2)
        }

    def idle_reasons(self) -> dict[int, str]:
        """Why rings that were started or partly set up do nothing, in words; empty when all is well."""
        return idle_reasons(
            self._rings, self._missing(), lambda index: self._packet.pair(index // 2).counters(index % 2)
        )

    # How it comes to run

    def _ring(self, index: int) -> RingItems:
        return self._rings.setdefault(index, RingItems())

    def _is_ready(self, ring: RingItems) -> bool:
        return ring.is_complete and not self._missing()

    def _missing(self) -> list[str]:
        """What every ring waits for. Without features nobody knows what the words in a ring mean."""
        lacking = [] if self._has_features else ["SET_FEATURES"]
        return lacking if self._memory else [*lacking, "SET_MEM_TABLE"]

    def _settle(self, *indices: int) -> None:
        """Brings port and rings to where the items now say."""
        for index in indices:
            if self._rings[index].runs and not self._is_ready(self._rings[index]):
                self._stop(index)
        self._follow_port()
        for index in indices:
            self._settle_ring(index)

    def _settle_all(self) -> None:
        self._follow_port()
        for index in list(self._rings):
            self._settle_ring(index)

    def _follow_port(self) -> None:
        """Tells the port whether the device runs and which of its queues are used."""
        ready = [index for index, ring in self._rings.items() if self._is_ready(ring)]
        if not ready:
            self._link.want_stopped()
            return
        used = {index // 2 for index in ready if self._rings[index].state.is_enabled}
        self._link.want_started(self._features, frozenset(map(self._pair_ports.queue_of, used)))
        self._pair_ports.share(used)

    def _settle_ring(self, index: int) -> None:
        ring = self._rings[index]
        if not self._is_ready(ring) or not self._link.is_started:
            return
        pair = self._packet.pair(index // 2)
        pair.set_enabled(index % 2, self._enabled(index, ring))
        if ring.runs:
            return
        try:
            pair.start(index % 2, ring.setup())
            ring.runs = True
            ring.counters_at_start = pair.counters(index % 2)
        except GuestError as error:
            ring.refusal = str(error)
            self._log.error("ring %d does not start: %s", index, error)

    def _enabled(self, index: int, ring: RingItems) -> RingEnabled:
        if not ring.state.is_enabled:
            return RingEnabled.DISABLED
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

    def _swap_memory(self, memory: MappedMemory | None) -> None:
        old, self._memory = self._memory, memory
        self._packet.set_memory(memory)
        if old is not None:
            old.close()

    def _swap_log(self, log: DirtyLog | None) -> None:
        old, self._log_map = self._log_map, log
        self._packet.set_log(log)
        if old is not None:
            if old.outside:
                self._log.warning("%d bytes were written beyond the dirty log, unmarked", old.outside)
            old.close()

    def _close_backend_fd(self) -> None:
        if self._backend_fd >= 0:
            reaper.close([self._backend_fd])
            self._backend_fd = -1


def _notify(fd: int | None) -> NotifyFd | None:
    return None if fd is None else NotifyFd(fd)


def _close(notify: NotifyFd | None) -> None:
    if notify is not None:
        notify.close()
