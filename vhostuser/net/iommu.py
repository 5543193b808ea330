"""The guest's IOMMU: the front-end is asked for what rings wait for, and says when translations change.

Nobody waits for an answer here. QEMU gives a translation on the main connection, and acknowledges the
question only when that is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vhostuser.datapath.iotlb import DeviceIotlb, Miss
from vhostuser.datapath.vring import PacketDevice
from vhostuser.net.back_channel import BackChannel
from vhostuser.wire.constants import BackendRequest, IotlbType
from vhostuser.wire.payloads import Iotlb

_ACCESS = {1: "read", 2: "write", 3: "read and write"}


class Iommu:
    """The translations of one device, and what is asked for on its channel."""

    def __init__(self, packet: PacketDevice, when_quiet: Callable[[Callable[[], None]], None]) -> None:
        self._iotlb = DeviceIotlb(packet)
        self._when_quiet = when_quiet

    def update(self, iova: int, last: int, uva: int, access: int) -> None:
        """[iova, last] lies at the user address. Raises RequestError where that is not guest memory."""
        self._iotlb.update(iova, last, uva, access)

    def invalidate(self, iova: int, last: int) -> None:
        self._iotlb.invalidate(iova, last)

    def ask(self, channel: BackChannel | None) -> None:
        """Asks for what rings wait for since the last time. Without a channel they wait for the next one."""
        self._when_quiet(partial(self._ask, channel))

    def _ask(self, channel: BackChannel | None) -> None:
        for miss in self._iotlb.take_misses():
            if channel is not None:
                question = Iotlb(miss.iova, 0, 0, miss.access, IotlbType.MISS)
                channel.ask(BackendRequest.IOTLB_MSG, question, partial(self._on_answer, miss))

    def ask_again(self, channel: BackChannel) -> None:
        """The channel is a new one: asks for all that rings wait for."""
        self._iotlb.ask_again()
        self.ask(channel)

    def waits_for(self, index: int) -> str:
        """What ring ``index`` waits for, in words; "" for nothing."""
        miss = self._iotlb.waits_for(index)
        return (
            "" if miss is None else f"a translation of I/O address {miss.iova:#x} to {_ACCESS[miss.access]}"
        )

    def _on_answer(self, miss: Miss, is_fine: bool) -> None:
        """A "no" is the guest's fault, as an address outside of the memory table is without an IOMMU.

        The kernel's vhost stands still then and pokes the err fd. To complete the chain with nothing in it
        would hide the mistake, and is no answer for a ring's own address. A "yes" says nothing here: what was
        asked for came on the main connection, or is under way there.
        """
        if not is_fine:
            self._when_quiet(partial(self._iotlb.refuse, miss))
