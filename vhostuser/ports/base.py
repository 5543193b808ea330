"""What a port is (`Port`), and how a port spec such as `tap:vm1` becomes one (`parse_port`).

Not here: what any one kind of port does, and how frames move (the C core, told by `PortOps`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

from vhostuser.datapath.port_ops import PortCaps, PortOps
from vhostuser.errors import UsageError
from vhostuser.options import near_match
from vhostuser.wire.features import VirtioFeature

ENTRY_POINT_GROUP = "vhostuser.ports"

MAX_FRAME = 65535 + 14 + 4
"""An IP packet of the largest size behind an Ethernet header and one VLAN tag."""

ALL_OFFLOADS = (
    VirtioFeature.CSUM
    | VirtioFeature.GUEST_CSUM
    | VirtioFeature.GSO
    | VirtioFeature.GUEST_TSO4
    | VirtioFeature.GUEST_TSO6
    | VirtioFeature.GUEST_ECN
    | VirtioFeature.GUEST_UFO
    | VirtioFeature.HOST_TSO4
    | VirtioFeature.HOST_TSO6
    | VirtioFeature.HOST_ECN
    | VirtioFeature.HOST_UFO
    | VirtioFeature.GUEST_USO4
    | VirtioFeature.GUEST_USO6
    | VirtioFeature.HOST_USO
)
"""Every checksum and segmentation bit. The USO ones are offered only where the device is configured so."""

# The ports of this package stand here as well as among the entry points: looking those up imports
# importlib.metadata and reads every installed distribution, 70 ms that `serve` would wait for.
_BUILT_IN: Mapping[str, tuple[str, str]] = {
    "echo": ("vhostuser.ports.echo", "EchoPort"),
    "packet": ("vhostuser.ports.packet", "PacketPort"),
    "sink": ("vhostuser.ports.sink", "SinkPort"),
    "source": ("vhostuser.ports.source", "SourcePort"),
    "switch": ("vhostuser.ports.switch", "SwitchPort"),
    "tap": ("vhostuser.ports.tap", "TapPort"),
}


class Port(Protocol):
    """Where one device's packets go.

    `open` comes first and `close` last, each once; in between a device starts and stops any number of
    times. Every method may block for a few milliseconds (except `inject`) and is called on one helper
    thread at a time; none is called while a worker may be using the fds in a way that the call disturbs.
    """

    @property
    def kind(self) -> str:
        """The word before the colon of a port spec."""
        ...

    @property
    def caps(self) -> PortCaps:
        """What may be offered with this port: known before `open`, and the same after every restart."""
        ...

    @classmethod
    def from_options(cls, options: str) -> Self:
        """Makes a port, not yet open, of the text after the colon of a port spec ("" when there is none).

        Raises UsageError for text that it does not understand.
        """
        ...

    def open(self, queues: int) -> PortOps:
        """Makes or attaches what the packets go to, with `queues` queues; the port owns the fds it returns.

        Raises EnvironmentLacksError with one sentence that says what to change; nothing is then left open.
        """
        ...

    def start(self, features: VirtioFeature) -> None:
        """The device starts with these acked features.

        Afterwards no frame comes out of the port that needs a GUEST_* bit which is not among them, and the
        network side sees a link. The frames that were queued before are gone.
        """
        ...

    def stop(self) -> None:
        """The device has stopped: the network side sees no link, frames need no offload."""
        ...

    def attach(self, queues: frozenset[int]) -> None:
        """Has frames spread onto these queues, at least one, and onto no others; all are after `open`.

        No frame comes out of a queue that was there for it before.
        """
        ...

    def set_mtu(self, mtu: int) -> None:
        """Gives the network side this MTU. Raises EnvironmentLacksError where that is not permitted."""
        ...

    def inject(self, frame: bytes) -> None:
        """Sends one frame to the network side as if the guest had; dropped when it cannot be sent now."""
        ...

    def close(self) -> None:
        """Gives back everything that `open` took. Closing twice, or what never opened, does nothing."""
        ...


class QuietPort:
    """The part of a port that has nothing on its network side: no fd, link, MTU or queue to set."""

    def start(self, features: VirtioFeature) -> None:
        del features

    def stop(self) -> None:
        pass

    def attach(self, queues: frozenset[int]) -> None:
        del queues

    def set_mtu(self, mtu: int) -> None:
        del mtu

    def inject(self, frame: bytes) -> None:
        del frame

    def close(self) -> None:
        pass


def parse_port(spec: str) -> Port:
    """Makes the port, not yet open, that a spec like `tap:vm1` names. Raises UsageError."""
    kind, _, options = spec.partition(":")
    return port_type(kind).from_options(options)


def port_type(kind: str) -> type[Port]:
    """The class of this kind: one of ours, or a plug-in's from the entry-point group `vhostuser.ports`."""
    import importlib

    if kind in _BUILT_IN:
        module, name = _BUILT_IN[kind]
        built_in: type[Port] = getattr(importlib.import_module(module), name)
        return built_in
    from importlib.metadata import entry_points

    plug_ins = entry_points(group=ENTRY_POINT_GROUP)
    if kind in plug_ins.names:
        plug_in: type[Port] = plug_ins[kind].load()
        return plug_in
    known = sorted({*_BUILT_IN, *plug_ins.names})
    hint = near_match(kind, known) or f": it may be {', '.join(known)}"
    raise UsageError(f"there is no port type '{kind}'{hint}")


def built_in_kinds() -> tuple[str, ...]:
    """The kinds of port that come with this package, in alphabetical order."""
    return tuple(_BUILT_IN)


def refuse_options(kind: str, options: str) -> None:
    """UsageError unless `options` is empty, for a port that takes none."""
    if options:
        raise UsageError(f"port {kind}:{options}: {kind} takes no options; write --port {kind}")
