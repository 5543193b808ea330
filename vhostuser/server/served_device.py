"""One configured device while the server runs: its port, net device and endpoint, and who is connected."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from typing import Any

from vhostuser.config import DeviceConfig
from vhostuser.datapath.vring import PacketDevice, VringCounters
from vhostuser.datapath.worker import Worker, WorkerEvent
from vhostuser.net.config_space import ConfigSpace
from vhostuser.net.device import NetDevice
from vhostuser.net.events import describe
from vhostuser.net.offer import protocol_offer, virtio_offer
from vhostuser.net.port_link import Helper
from vhostuser.net.postcopy import WorkerLender
from vhostuser.ports.base import Port, parse_port
from vhostuser.server.back_channel import SocketBackChannel
from vhostuser.server.backend import Backend
from vhostuser.server.device_trace import DeviceTrace
from vhostuser.server.endpoint import Endpoint, endpoint_for
from vhostuser.server.state_channel import StateThreads
from vhostuser.server.transport import Transport
from vhostuser.stats.summary import summarise

_log = logging.getLogger("vhostuser")


class DeviceLog(logging.LoggerAdapter[logging.Logger]):
    """Puts the device's name into every line, as text and as a field."""

    def process(self, msg: str, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        assert self.extra is not None
        return msg, {**kwargs, "extra": self.extra}


class ServedDevice:
    """Owns what it opens until `close`. ``on_finished`` is told when no front-end can come any more.

    With ``lender`` postcopy is offered.
    """

    def __init__(
        self,
        config: DeviceConfig,
        device_id: int,
        workers: Sequence[Worker],
        helper: Helper,
        on_finished: Callable[[str], None],
        lender: WorkerLender | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        self.log = DeviceLog(_log, {"device": config.name})
        self._on_finished = on_finished
        self._trace = DeviceTrace(config.name, trace) if trace is not None else None
        self._backend: Backend | None = None
        self._next: Transport | None = None
        """Came while the one before it was still ending."""
        self._disconnected = asyncio.Event()
        self._disconnected.set()
        self._endpoint: Endpoint | None = None
        self._port: Port = parse_port(config.port)
        ops = self._port.open(config.queues)
        if not self._port.caps.postcopy:
            lender = None
        try:
            if config.mtu is not None:
                self._port.set_mtu(config.mtu)
            virtio_off, protocol_off = config.disabled_features()
            own_config = config.config_space or config.mac is not None
            protocol = protocol_offer(
                disabled=protocol_off, config_space=own_config, postcopy=lender is not None
            )
            self.packet = PacketDevice(device_id, workers)
            self.device = NetDevice(
                self.packet,
                self._port,
                ops,
                queues=config.queues,
                offer=virtio_offer(
                    self._port.caps,
                    disabled=virtio_off,
                    protocol=protocol,
                    uso=config.uso,
                    config_space=own_config,
                    has_mac=config.mac is not None,
                    has_mtu=config.mtu is not None,
                ),
                protocol_offer=protocol,
                config_space=ConfigSpace(bytes(config.mac or 6), config.queues, config.mtu or 0),
                helper=helper,
                state_channel=StateThreads(),
                open_channel=partial(SocketBackChannel, log=self.log),
                lender=lender,
                log=self.log,
            )
        except BaseException:
            self._port.close()
            raise

    def bind(self) -> None:
        """Takes its socket, before `open`. Raises EnvironmentLacksError."""
        self._endpoint = endpoint_for(self.config, self._on_socket, self.log)

    def open(self) -> None:
        """Lets front-ends come."""
        assert self._endpoint is not None
        self._endpoint.open()

    def on_event(self, event: WorkerEvent) -> None:
        if self._trace is not None:
            self._trace.report(describe(event)[1])
        if not self.device.on_event(event):
            self._end_faulted()

    def look_again(self) -> None:
        """Events were lost: asks anew whether its memory has gone, what rings wait for, and for a command."""
        if self.device.is_faulted:
            self._end_faulted()
        else:
            self.device.look_again()
            self.device.when_quiet(self.device.execute_command)

    def _end_faulted(self) -> None:
        if self._backend is not None:
            self._backend.close("it broke what it shares with us")

    def counters(self) -> dict[int, VringCounters]:
        return self.device.counters()

    def disconnect(self) -> None:
        """Closes socket and connection; `wait_disconnected` is there when that is done."""
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None
        if self._backend is not None:
            self._backend.close("the server ends")

    async def wait_disconnected(self) -> None:
        await self._disconnected.wait()

    def close(self) -> None:
        """After `wait_disconnected`, when the helper has nothing of this device left."""
        self.device.close()
        self._port.close()

    def _on_socket(self, sock: socket.socket) -> None:
        transport = Transport(sock)
        # One that comes right after the last has gone may be seen before the loop has seen that one go.
        if self._backend is not None and self._backend.is_gone():
            self._backend.close()
        if self._endpoint is None:
            transport.close()
        elif self._backend is not None and self._backend.is_ending and self._next is None:
            self._next = transport
        elif self._backend is not None:
            self.log.warning("refused a second front-end (%s): one is connected", transport.peer())
            transport.close()
        else:
            self._connect(transport)

    def _connect(self, transport: Transport) -> None:
        self._disconnected.clear()
        self._backend = Backend(transport, self.device, self.log, self._on_end, self._trace)

    def _on_end(self, reason: str) -> None:
        self._backend = None
        self._disconnected.set()
        self.log.info("so far: %s", summarise(self.device.counters()))
        if self._endpoint is not None and (self.config.one_off or not self._endpoint.front_end_gone()):
            self._endpoint.close()
            self._endpoint = None
            self._on_finished(reason)
        following, self._next = self._next, None
        if following is None:
            return
        if self._endpoint is None:
            following.close()
        else:
            self._connect(following)
