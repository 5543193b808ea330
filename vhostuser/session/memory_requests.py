"""Requests on guest memory, on its dirty log, and on where I/O addresses lie in it."""

from __future__ import annotations

from dataclasses import replace

from vhostuser.errors import RequestError
from vhostuser.session import checks
from vhostuser.session.conversation import Conversation, Deferred
from vhostuser.session.replies import Unanswered
from vhostuser.wire.constants import MAX_MEM_SLOTS, IotlbType
from vhostuser.wire.messages import U64, Empty, FdBag, Iotlb, Log, MemTable, Payload, SingleRegion


class MemoryRequests:
    """One method per request; the table of requests names them."""

    def __init__(self, said: Conversation) -> None:
        self._said = said

    def set_mem_table(self, payload: MemTable, fds: FdBag) -> Deferred | MemTable | Unanswered | None:
        if self._said.in_postcopy:
            return self._set_late_table(payload, fds)
        pending = self._said.device.set_mem_table(payload.regions, fds.take_all())
        return Deferred(pending, lambda result: None) if pending is not None else None

    def _set_late_table(self, payload: MemTable, fds: FdBag) -> MemTable | Unanswered:
        """In postcopy it takes three steps: the table; our answer, with where we mapped each region; and the
        front-end's acknowledgement that it is ready for faults there, a u64 0, which is to the byte a table
        of no regions. Nothing may be touched, and no page be asked for, before that."""
        if not self._said.table_is_unconfirmed:
            bases = self._said.device.map_mem_table(payload.regions, fds.take_all())
            self._said.table_is_unconfirmed = True
            return MemTable(
                tuple(replace(region, uva=base) for region, base in zip(payload.regions, bases, strict=True))
            )
        if payload.regions:
            raise RequestError("comes where the acknowledgement of the last one is due")
        self._said.table_is_unconfirmed = False
        self._said.device.confirm_mem_table()
        return Unanswered()

    def get_max_mem_slots(self, payload: Empty, fds: FdBag) -> U64:
        return U64(MAX_MEM_SLOTS)

    def add_mem_reg(self, payload: SingleRegion, fds: FdBag) -> None:
        self._said.device.add_mem_reg(payload.region, fds.take())

    def rem_mem_reg(self, payload: SingleRegion, fds: FdBag) -> None:
        """An fd that comes with it means nothing: it stays in the bag and is closed."""
        self._said.device.rem_mem_reg(payload.region)

    def set_log_base(self, payload: Log | U64, fds: FdBag) -> Payload | Deferred:
        """Answered with what came: the one form that every front-end takes, rust-vmm's no other."""
        if isinstance(payload, U64) or len(fds) != 1:
            raise RequestError("a log without fd and size cannot be mapped by another process")
        pending = self._said.device.set_log_base(payload.size, payload.offset, fds.take())
        return Deferred(pending, lambda result: payload) if pending is not None else payload

    def iotlb_msg(self, payload: Iotlb, fds: FdBag) -> None:
        """An invalidation of 2^64 - 1 bytes is QEMU's "everything"; one of 0 is 2^64, which the field cannot
        hold."""
        checks.check_iotlb(payload)
        last = min(payload.iova + payload.size, 1 << 64) - 1
        if payload.type == IotlbType.UPDATE:
            self._said.device.iotlb_update(payload.iova, last, payload.uva, payload.perm)
        elif payload.size:
            self._said.device.iotlb_invalidate(payload.iova, last)
        else:
            self._said.device.iotlb_invalidate(0, (1 << 64) - 1)

    def set_log_fd(self, payload: Empty | U64, fds: FdBag) -> None:
        """An eventfd that nobody waits for: no front-end of today sends it, and QEMU looks into the log
        itself. It stays in the bag and is closed."""
