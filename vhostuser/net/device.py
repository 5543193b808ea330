"""The virtio-net device of one front-end: what it offers, and what is said about the device as a whole.

What is said about its rings, and how they come to run, is `ring_control`'s; memory is `memory_map`'s.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import replace

from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.port_ops import PortOps
from vhostuser.datapath.vring import PacketDevice
from vhostuser.datapath.worker import EventKind, WorkerEvent
from vhostuser.errors import RequestError
from vhostuser.memory.regions import RegionTable
from vhostuser.net.announce import rarp_frame
from vhostuser.net.back_channel import BackChannel, OpenChannel
from vhostuser.net.config_space import ANNOUNCE, LINK_UP, ConfigSpace
from vhostuser.net.events import describe
from vhostuser.net.iommu import Iommu
from vhostuser.net.memory_map import MemoryMap
from vhostuser.net.pair_ports import PairPorts
from vhostuser.net.port_link import Helper, LinkedPort, PortLink
from vhostuser.net.postcopy import Postcopy, WorkerLender
from vhostuser.net.ring_control import RingControl
from vhostuser.net.state_record import MAX_MACS, NetRecord, RingRecord, control_record, decode, encode
from vhostuser.net.state_transfer import StateChannel, StateTransfer
from vhostuser.session.checks import check_features_offered
from vhostuser.session.device import Pending
from vhostuser.wire.constants import MAX_VRINGS, BackendRequest
from vhostuser.wire.features import ProtocolFeature, VirtioFeature, feature_names
from vhostuser.wire.payloads import Empty, Inflight, MemoryRegion

QUEUE_NUM = 128
"""GET_QUEUE_NUM: pairs to QEMU, rings to Cloud Hypervisor; true in both readings for up to 64 pairs."""
QUEUE_NUM_MANY = 256
_VHOST_FEATURES = VirtioFeature.LOG_ALL | VirtioFeature.PROTOCOL_FEATURES
"""Bits between front-end and back-end, of which the guest does not know."""


class NetDevice(RingControl):
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
        state_channel: StateChannel,
        open_channel: OpenChannel,
        lender: WorkerLender | None = None,
        log: logging.LoggerAdapter[logging.Logger],
    ) -> None:
        link = PortLink(port, queues, helper, lambda: self.when_quiet(self._settle_all))
        super().__init__(packet, link, PairPorts(packet, ops, queues, log), log)
        self._port = port
        self._queues = queues
        self._offer = offer
        self._protocol_offer = protocol_offer
        self._config_space = config_space
        self._features = VirtioFeature(0)
        self._has_features = False
        self._driver = VirtioFeature(0)
        """What the guest's driver acknowledged that has set what the control ring's settings are."""
        self._protocol_features = ProtocolFeature(0)
        self._has_user_addresses = False
        """In spite of GPA_ADDRESSES; it was said once."""
        self._memory = MemoryMap(packet, log)
        self._postcopy = Postcopy(packet, lender, log)
        self._mtu = 0
        self._macs: tuple[bytes, ...] = ()
        self._state = StateTransfer(
            state_channel, lambda: encode(self.snapshot()), lambda content: self.restore(decode(content))
        )
        self._iommu = Iommu(packet, self.when_quiet)
        self._open_channel = open_channel
        self._channel: BackChannel | None = None

    @property
    def features(self) -> VirtioFeature:
        return self._features

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
        return self._present_config().read(offset, size)

    # What is said about the device

    def set_owner(self) -> None:
        pass

    def set_features(self, acked: VirtioFeature) -> None:
        if acked != self._features:
            self._log.info("guest features: %s", ", ".join(feature_names(acked)) or "none")
        driver = acked & ~_VHOST_FEATURES
        if driver != self._driver and not self._is_any_started():
            self._control.reset()  # another driver; what changes while one runs is its own
        self._driver = driver
        self._features = acked
        self._has_features = True
        self._apply_commands()
        self._settle_all()

    def set_protocol_features(self, acked: ProtocolFeature) -> None:
        self._protocol_features = acked
        self._in_band.is_on = ProtocolFeature.INBAND_NOTIFICATIONS in acked

    def set_mem_table(self, regions: tuple[MemoryRegion, ...], fds: list[int]) -> None:
        self._swap_memory(MappedMemory(regions, fds))

    def postcopy_advise(self) -> int | None:
        return self._postcopy.advise()

    def postcopy_listen(self) -> None:
        self._postcopy.listen(self._memory.memory)

    def map_mem_table(self, regions: tuple[MemoryRegion, ...], fds: list[int]) -> tuple[int, ...]:
        return self._postcopy.map(regions, fds)

    def confirm_mem_table(self) -> None:
        self._swap_memory(self._postcopy.confirm())

    def postcopy_end(self) -> None:
        self._postcopy.end(self._memory.memory)

    def add_mem_reg(self, region: MemoryRegion, fd: int) -> None:
        self._swap_memory(self._memory.plus(region, fd))

    def rem_mem_reg(self, region: MemoryRegion) -> None:
        self._swap_memory(self._memory.minus(region))

    def _swap_memory(self, memory: MappedMemory | None) -> None:
        """Rings that lie in what goes stop before it goes; those that lay in what comes go on."""
        if memory is self._memory.memory:
            return
        self._look_at_memory(None if memory is None else memory.table)
        if memory is not None:
            self._check_user_addresses(memory.table)
        self._memory.set_memory(memory)
        self._settle_all()

    def _check_user_addresses(self, table: RegionTable) -> None:
        """With GPA_ADDRESSES rings are at guest addresses, and so is the user address of each region.

        So a ring that is looked up by user addresses is found either way, also with a front-end that means
        another thing by the bit: rust-vmm's took it for SHMEM before 0.17.
        """
        if ProtocolFeature.GPA_ADDRESSES not in self._protocol_features or self._has_user_addresses:
            return
        odd = next((region for region in table.regions if region.uva != region.gpa), None)
        if odd is not None:
            self._has_user_addresses = True
            self._log.warning(
                "the front-end acknowledged GPA_ADDRESSES, but the region at guest address %#x has user "
                "address %#x: rings are looked for at user addresses",
                odd.gpa,
                odd.uva,
            )

    def set_log_base(self, size: int, offset: int, fd: int) -> None:
        self._memory.set_log(fd, size, offset)

    def get_inflight_fd(self, wanted: Inflight) -> tuple[Inflight, int]:
        return self._memory.make_inflight(wanted, VirtioFeature.RING_PACKED in self._features)

    def set_inflight_fd(self, layout: Inflight, fd: int) -> None:
        self._memory.set_inflight(fd, layout, VirtioFeature.RING_PACKED in self._features)

    def set_mtu(self, mtu: int) -> None:
        self._mtu = mtu
        self._link.want_mtu(mtu)

    def send_rarp(self, mac: bytes) -> None:
        self._macs = (*(known for known in self._macs if known != mac), mac)[-MAX_MACS:]
        self._port.inject(rarp_frame(mac))

    def set_backend_req_fd(self, fd: int) -> None:
        channel = self._open_channel(fd, self._protocol_features, self._on_channel_lost)
        self._close_channel()
        self._channel = channel
        self._in_band.use(channel)
        self._iommu.ask_again(channel)
        self._ask_to_announce()

    def iotlb_update(self, iova: int, last: int, uva: int, access: int) -> None:
        self._iommu.update(iova, last, uva, access)

    def iotlb_invalidate(self, iova: int, last: int) -> None:
        self._iommu.invalidate(iova, last)

    def set_config(self, offset: int, data: bytes, flags: int) -> None:
        raise RequestError(f"config bytes {offset} to {offset + len(data)} are read-only")

    def set_device_state_fd(self, direction: int, fd: int) -> None:
        self._state.begin(direction, fd)

    def check_device_state(self) -> Pending:
        return self._state.check()

    def reset_device(self) -> None:
        super().reset_device()
        self._state.abandon()
        self._mtu = 0
        self._macs = ()

    # The state that outlives this host

    def snapshot(self) -> NetRecord:
        """What a device on another host needs to go on as this one. Changes nothing."""
        return NetRecord(
            rings={
                index: RingRecord(**{name: getattr(done, name) for name in RingRecord.__struct_fields__})
                for index, done in self.counters().items()
            },
            features=int(self._features & ~_VHOST_FEATURES),
            mtu=self._mtu,
            macs=self._macs,
            control=control_record(self._control.settings),
        )

    def restore(self, record: NetRecord) -> None:
        """Goes on as the device that the record was taken of; what has been counted here is forgotten.

        Features and rings are the front-end's to say again, before or afterwards. Raises RequestError when
        the device cannot take its place, and changes nothing then.
        """
        if any(ring.state.is_started for ring in self._rings.values()):
            raise RequestError("rings were started before the state was there")
        check_features_offered(VirtioFeature(record.features), self._offer)
        for index, done in record.rings.items():
            pair = self._packet.pair(index // 2)
            numbers = {name: getattr(done, name) for name in RingRecord.__struct_fields__}
            pair.set_counters(index % 2, dataclasses.replace(pair.counters(index % 2), **numbers))
        self._macs = record.macs
        self._driver = VirtioFeature(record.features)
        self._control.settings = record.control.settings()
        self._apply_commands()
        if record.mtu:
            self.set_mtu(record.mtu)
        self._log.info("state of %d rings, MTU %d, loaded", len(record.rings), record.mtu)

    # For the owner

    def when_quiet(self, work: Callable[[], None]) -> None:
        """Does ``work``, which may change the device: at once, or in postcopy when that waits for no page."""
        self._postcopy.when_quiet(work)

    def part(self, then: Callable[[], None]) -> None:
        """The front-end has gone: ``then`` says so, at once or when nobody waits for its memory any more."""
        self._postcopy.cut(self._memory.memory, then)

    def disconnect(self) -> None:
        """The front-end has gone and its session is closed: gives up all that it brought."""
        self.reset_device()
        self._link.want_stopped()
        self._close_channel()
        self._memory.clear()
        self._packet.clear_fault()
        self._postcopy.leave()
        self._features = self._driver = VirtioFeature(0)
        self._has_features = False
        self.set_protocol_features(ProtocolFeature(0))
        self._has_user_addresses = False

    def close(self) -> None:
        """Frees what C holds; after `disconnect`."""
        self._packet.close()
        self._pair_ports.close()

    def on_event(self, event: WorkerEvent) -> bool:
        """Follows what C reported, or says it in the log; False when the front-end has to be disconnected."""
        if event.kind is EventKind.IOTLB_MISS:
            self._iommu.ask(self._channel)
            return True
        if event.kind is EventKind.DEVICE_FAULTED and (self._postcopy.is_cut or not self.is_faulted):
            return True  # its front-end has gone since, perhaps another one has come
        level, text = describe(event, self._control.index)
        self._log.log(level, "%s", text)
        if event.kind is EventKind.CONTROL:
            self.when_quiet(self.execute_command)
        return event.kind is not EventKind.DEVICE_FAULTED

    def look_again(self) -> None:
        """Events were lost: asks for what rings wait for."""
        self._iommu.ask(self._channel)

    @property
    def is_faulted(self) -> bool:
        """Its memory has gone, and nothing runs before the front-end is disconnected."""
        return self._packet.is_faulted

    def _missing(self) -> list[str]:
        """Without features nobody knows what the words in a ring mean."""
        lacking = [] if self._has_features else ["SET_FEATURES"]
        return [*lacking, "SET_MEM_TABLE or ADD_MEM_REG"] if self._memory.memory is None else lacking

    def _apply_commands(self) -> None:
        # All of it holds only where a control ring can turn it off again.
        has_control, settings = self._control.index is not None, self._control.settings
        self._packet.set_features(self._control.running_features(self._features))
        modes = settings.receive.as_filter(self._features, self._guest_mac()) if has_control else None
        self._packet.set_filter(modes)

    def _guest_mac(self) -> bytes | None:
        """The guest's address, where we gave it or were told."""
        given = self._config_space.mac if VirtioFeature.MAC in self._features else None
        return self._control.settings.mac or given

    def _present_config(self) -> ConfigSpace:
        settings = self._control.settings
        return replace(
            self._config_space,
            mac=settings.mac or self._config_space.mac,
            status=LINK_UP | (ANNOUNCE if settings.announces else 0),
        )

    def _on_control_started(self) -> None:
        self._ask_to_announce()

    def _ask_to_announce(self) -> None:
        """Has a guest that came from another host tell the switches where it is now (virtio 1.2, 5.1.6.5.4).

        By the bit in the config space, at which it looks when the front-end says that there is something new;
        on its control ring it answers.
        """
        settings = self._control.settings
        if not settings.has_moved or self._control.index is None or self._channel is None:
            return
        settings.has_moved = False
        can_announce = VirtioFeature.GUEST_ANNOUNCE in self._features
        if can_announce and ProtocolFeature.CONFIG in self._protocol_features:
            settings.announces = True
            self._channel.ask(BackendRequest.CONFIG_CHANGE_MSG, Empty(), self._on_asked_to_announce)

    def _on_asked_to_announce(self, is_fine: bool) -> None:
        if not is_fine:
            self._log.warning("the front-end refuses CONFIG_CHANGE_MSG: the guest does not announce itself")

    def _waits_for(self, index: int) -> str:
        waits = self._iommu.waits_for(index)
        return f"{waits}, and has no channel to ask for it" if waits and self._channel is None else waits

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._on_channel_lost()

    def _on_channel_lost(self) -> None:
        self._channel = None
        self._in_band.use(None)
