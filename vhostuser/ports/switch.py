"""The `switch` port: frames go from guest to guest, ring to ring, in one copy.

    switch:NAME           all devices of the process with this NAME are on one switch
    switch:NAME,vlan=N    those that give the same N, too; devices of other numbers, or none, do not see them

It learns addresses as a bridge does and knows no ports but its devices, so no privilege is needed. Tags in
frames are passed on as they are: ``vlan`` tells switches apart, and no guest can name another's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

from vhostuser.datapath.port_ops import PortCaps, PortKind, PortOps
from vhostuser.datapath.switching import Member, Switch
from vhostuser.errors import UsageError
from vhostuser.options import parse_number, split_pairs
from vhostuser.ports.base import ALL_OFFLOADS, MAX_FRAME
from vhostuser.wire.features import VirtioFeature

_UFO = VirtioFeature.GUEST_UFO | VirtioFeature.HOST_UFO
"""What nobody here does for a guest that does not take it: to cut UDP into fragments."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)


@dataclass(slots=True)
class _Shared:
    switch: Switch
    ports: int = 0


_switches: dict[tuple[str, int], _Shared] = {}
"""Those that have an open port, by name and VLAN. All their devices are on one loop."""


class SwitchPort:
    """A device's place on the switch of that name, which is there as long as any port of it is open."""

    kind: ClassVar[str] = "switch"
    # No postcopy: who fills the rings of a guest that waits for its pages would wait with it.
    caps: ClassVar[PortCaps] = PortCaps(ALL_OFFLOADS & ~_UFO, queues=128, max_frame=MAX_FRAME, postcopy=False)

    def __init__(self, name: str, vlan: int = 0) -> None:
        """``vlan``: 1 to 4094, or 0 for none."""
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"port switch:{name}: a switch has a name of up to 64 letters, digits, '_', '.' and '-', "
                "as in switch:lan"
            )
        self._key = name, vlan
        self._member: Member | None = None

    @classmethod
    def from_options(cls, options: str) -> Self:
        name, _, rest = options.partition(",")
        words = dict(split_pairs(f"port switch:{options}", rest, ("vlan",))) if rest else {}
        return cls(name, parse_number("vlan", words["vlan"], 1, 4094) if words else 0)

    def open(self, queues: int) -> PortOps:
        del queues
        assert self._member is None, "a port is opened once"
        if self._key not in _switches:
            _switches[self._key] = _Shared(Switch())
        shared = _switches[self._key]
        shared.ports += 1
        self._member = Member(shared.switch)
        return PortOps(PortKind.SWITCH, member=self._member)

    def start(self, features: VirtioFeature) -> None:
        del features

    def stop(self) -> None:
        if self._member is not None:
            self._member.forget()

    def attach(self, queues: frozenset[int]) -> None:
        del queues

    def set_mtu(self, mtu: int) -> None:
        if self._member is not None:
            self._member.set_mtu(mtu)

    def inject(self, frame: bytes) -> None:
        if self._member is not None:
            self._member.inject(frame)

    def close(self) -> None:
        if self._member is None:
            return
        self._member = None
        shared = _switches[self._key]
        shared.ports -= 1
        if not shared.ports:
            del _switches[self._key]
            shared.switch.close()
