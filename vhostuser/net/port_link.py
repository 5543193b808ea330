"""The port behind a device, brought to where the device wants it, on a helper thread.

Attaching a tap queue or setting offloads takes 0.1 to 2.5 ms, and QEMU holds its big lock while it waits for
a reply: so requests are answered at once, and the rings that need the port are held until it has followed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vhostuser.datapath.port_ops import PortCaps
from vhostuser.errors import VhostUserError
from vhostuser.wire.features import VirtioFeature

_log = logging.getLogger(__name__)


class Helper(Protocol):
    """One thread for what may block."""

    def submit(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Runs ``work`` there, in the order of submission, and ``then`` afterwards where the device lives."""


class LinkedPort(Protocol):
    """What a device needs of its port while it lives; opening and closing are its owner's."""

    @property
    def caps(self) -> PortCaps: ...
    def start(self, features: VirtioFeature) -> None: ...
    def stop(self) -> None: ...
    def attach(self, queues: frozenset[int]) -> None: ...
    def set_mtu(self, mtu: int) -> None: ...
    def inject(self, frame: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class _Target:
    start: int
    """Number of the device start it belongs to, 0 when the device is stopped."""
    features: VirtioFeature
    queues: frozenset[int]
    """Those to have attached."""


class PortLink:
    """Keeps one port where its device wants it. ``on_change`` is told whenever the port has caught up."""

    def __init__(self, port: LinkedPort, queues: int, helper: Helper, on_change: Callable[[], None]) -> None:
        self._port = port
        self._helper = helper
        self._on_change = on_change
        self._starts = 0
        self._wanted = self._actual = _Target(0, VirtioFeature(0), frozenset(range(queues)))
        self._busy = False
        self._mtu: int | None = None
        """What the helper will set; it takes it from here."""

    @property
    def is_started(self) -> bool:
        """The port runs, with the features of the present start."""
        return self._wanted.start != 0 and self._actual.start == self._wanted.start

    def is_ready(self, queue: int) -> bool:
        return self.is_started and queue in self._wanted.queues & self._actual.queues

    def want_started(self, features: VirtioFeature, queues: frozenset[int]) -> None:
        """The device runs with these features and uses these queues; any other is detached.

        None used yet, or all paused: they stay as they are, for a tap without any queue takes no setting.
        """
        queues = queues or self._wanted.queues
        # A guest that withdraws an offload while it runs must not be given it any more: a new start.
        if self._wanted.start == 0 or (self._wanted.features ^ features) & self._port.caps.offloads:
            self._starts += 1
        self._wanted = _Target(self._starts, features, queues)
        self._follow()

    def want_stopped(self) -> None:
        """The device has stopped. The next start is a new one, even if the port never came to stop."""
        self._wanted = _Target(0, VirtioFeature(0), self._wanted.queues)
        self._follow()

    def want_mtu(self, mtu: int) -> None:
        """The front-end has set the MTU; of many in a row only the last one matters."""
        waits, self._mtu = self._mtu is not None, mtu
        if not waits:
            self._helper.submit(self._set_mtu, lambda: None)

    def _set_mtu(self) -> None:
        mtu, self._mtu = self._mtu, None
        assert mtu is not None
        try:
            self._port.set_mtu(mtu)
        except (VhostUserError, OSError) as error:
            _log.warning("%s", error)

    def _follow(self) -> None:
        if self._busy or self._wanted == self._actual:
            return
        self._busy = True
        here, there = self._actual, self._wanted
        self._helper.submit(lambda: self._move(here, there), lambda: self._arrived(there))

    def _move(self, here: _Target, there: _Target) -> None:
        try:
            if here.start and here.start != there.start:
                self._port.stop()
            if here.queues != there.queues:
                self._port.attach(there.queues)
            if there.start and here.start != there.start:
                self._port.start(there.features)
        except (VhostUserError, OSError) as error:
            _log.error("the port does not follow its device: %s", error)

    def _arrived(self, there: _Target) -> None:
        self._busy = False
        self._actual = there
        self._on_change()
        self._follow()
