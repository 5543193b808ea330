"""The commands of the control queue (virtio 1.2, 5.1.6.5): bytes in, ack out, and what they have set.

No ring and no device here. A command is checked whole before it changes anything. All of them set something
to what they say, so a command that is executed twice (`csrc/control.h`) does no harm. Numbers are
little-endian, but for legacy guests, whose own byte order they have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from vhostuser.datapath.vring import MAX_COMMAND
from vhostuser.net.offer import closed
from vhostuser.net.receive_modes import MAX_OF_KIND, VLANS, MacTable, ReceiveModes
from vhostuser.wire.features import VirtioFeature as V

GUEST_OFFLOADS = (
    V.GUEST_CSUM | V.GUEST_TSO4 | V.GUEST_TSO6 | V.GUEST_ECN | V.GUEST_UFO | V.GUEST_USO4 | V.GUEST_USO6
)
"""What CTRL_GUEST_OFFLOADS can turn off and on again; each bit is that of its feature."""

_MAC = 6


class Ack(IntEnum):
    OK = 0
    ERR = 1


class CommandError(Exception):
    """The command is not executed; the driver is told ERR and no more, the log why."""


@dataclass(slots=True)
class GuestSettings:
    """All that commands have set, as after a reset."""

    pairs: int = 1
    """Multiqueue is off by default."""
    offloads: V = GUEST_OFFLOADS
    """Those wanted, of what was acknowledged."""
    receive: ReceiveModes = field(default_factory=ReceiveModes)
    mac: bytes | None = None
    """None: as the config space began."""
    announces: bool = False
    """The guest is asked to announce itself, and has not answered yet."""
    has_moved: bool = False
    """They were set on another host, and the guest has not been asked to announce itself since."""

    def running(self, acked: V) -> V:
        """The acknowledged features without the offloads that are turned off, nor those that need them."""
        return acked & ~GUEST_OFFLOADS | closed(acked & self.offloads)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a command is held against."""

    acked: V
    pairs: int
    """The most that may be set."""
    order: Literal["little", "big"] = "little"
    """Of the bytes of a number."""


Handler = Callable[[GuestSettings, bytes, Terms], None]
"""Gets the settings and the command's data."""


def execute(settings: GuestSettings, command: bytes, terms: Terms) -> str:
    """Does what a command says, and says in words what it was.

    Raises CommandError; the settings are then as before. An empty command is one that was too long.
    """
    if not command:
        raise CommandError(f"a command of more than {MAX_COMMAND} bytes")
    known = _COMMANDS.get((command[0], command[1]))
    if known is None:
        raise CommandError(f"unknown command {command[1]} of class {command[0]}")
    name, needs, handler = known
    data = command[2:]
    if not terms.acked & needs:
        raise CommandError(f"{name} without {needs.name}, which was not acknowledged")
    try:
        handler(settings, data, terms)
    except CommandError as error:
        raise CommandError(f"{name}: {error}") from None
    return f"{name} {data[:16].hex()}"


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise CommandError(f"{len(data)} bytes of data, expected {size}")
    return data


def _number(data: bytes, size: int, terms: Terms) -> int:
    return int.from_bytes(_exactly(data, size), terms.order)


def _mode(field_name: str) -> Handler:
    def set_mode(settings: GuestSettings, data: bytes, terms: Terms) -> None:
        value = _number(data, 1, terms)
        if value > 1:
            raise CommandError(f"{value} is neither 0 (off) nor 1 (on)")
        setattr(settings.receive, field_name, bool(value))

    return set_mode


def _set_mac_table(settings: GuestSettings, data: bytes, terms: Terms) -> None:
    unicast, rest = _mac_list(data, terms)
    multicast, rest = _mac_list(rest, terms)
    _exactly(rest, 0)
    settings.receive.unicast, settings.receive.multicast = unicast, multicast


def _mac_list(data: bytes, terms: Terms) -> tuple[MacTable, bytes]:
    """A count and as many addresses; and what follows. Not looked at where they are too many to matter."""
    if len(data) < 4:
        raise CommandError(f"{len(data)} bytes where a table's count should be")
    count, rest = int.from_bytes(data[:4], terms.order), data[4:]
    if count * _MAC > len(rest):
        raise CommandError(f"a table of {count} addresses in {len(rest)} bytes")
    end = count * _MAC
    if count > MAX_OF_KIND:
        return None, rest[end:]
    return frozenset(rest[at : at + _MAC] for at in range(0, end, _MAC)), rest[end:]


def _set_mac(settings: GuestSettings, data: bytes, terms: Terms) -> None:
    if _exactly(data, _MAC)[0] & 1:
        raise CommandError(f"{data.hex(':')} is a multicast address")
    settings.mac = data


def _add_vlan(settings: GuestSettings, data: bytes, terms: Terms) -> None:
    settings.receive.vlans.add(_vlan(data, terms))


def _delete_vlan(settings: GuestSettings, data: bytes, terms: Terms) -> None:
    settings.receive.vlans.discard(_vlan(data, terms))


def _vlan(data: bytes, terms: Terms) -> int:
    vlan = _number(data, 2, terms)
    if vlan >= VLANS:
        raise CommandError(f"VLAN {vlan}, there are {VLANS}")
    return vlan


def _acknowledge_announcement(settings: GuestSettings, data: bytes, terms: Terms) -> None:
    _exactly(data, 0)
    settings.announces = False


def _set_pairs(settings: GuestSettings, data: bytes, terms: Terms) -> None:
    wanted = _number(data, 2, terms)
    if not 1 <= wanted <= terms.pairs:
        raise CommandError(f"{wanted} pairs, expected 1 to {terms.pairs}")
    settings.pairs = wanted


def _set_offloads(settings: GuestSettings, data: bytes, terms: Terms) -> None:
    wanted = _number(data, 8, terms)
    surplus = wanted & ~int(terms.acked & GUEST_OFFLOADS)
    if surplus:
        raise CommandError(f"{wanted:#x} has {surplus:#x}, which were not acknowledged or are no offloads")
    settings.offloads = V(wanted)


_COMMANDS: dict[tuple[int, int], tuple[str, V, Handler]] = {
    (0, 0): ("RX_PROMISC", V.CTRL_RX, _mode("promiscuous")),
    (0, 1): ("RX_ALLMULTI", V.CTRL_RX, _mode("all_multicast")),
    (0, 2): ("RX_ALLUNI", V.CTRL_RX_EXTRA, _mode("all_unicast")),
    (0, 3): ("RX_NOMULTI", V.CTRL_RX_EXTRA, _mode("no_multicast")),
    (0, 4): ("RX_NOUNI", V.CTRL_RX_EXTRA, _mode("no_unicast")),
    (0, 5): ("RX_NOBCAST", V.CTRL_RX_EXTRA, _mode("no_broadcast")),
    (1, 0): ("MAC_TABLE_SET", V.CTRL_RX, _set_mac_table),
    (1, 1): ("MAC_ADDR_SET", V.CTRL_MAC_ADDR, _set_mac),
    (2, 0): ("VLAN_ADD", V.CTRL_VLAN, _add_vlan),
    (2, 1): ("VLAN_DEL", V.CTRL_VLAN, _delete_vlan),
    (3, 0): ("ANNOUNCE_ACK", V.GUEST_ANNOUNCE, _acknowledge_announcement),
    (4, 0): ("MQ_VQ_PAIRS_SET", V.MQ, _set_pairs),
    (5, 0): ("GUEST_OFFLOADS_SET", V.CTRL_GUEST_OFFLOADS, _set_offloads),
}
"""Class and command -> name, feature needed, handler."""
