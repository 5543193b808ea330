"""What the front-end has said about one ring. Each item is stored as it comes; "ready" is derived."""

from __future__ import annotations

from dataclasses import dataclass

from vhostuser.datapath.vring import VringCounters, VringSetup
from vhostuser.errors import RequestError
from vhostuser.memory.regions import RegionTable, UserAddr
from vhostuser.net.notify_fd import NotifyFd
from vhostuser.session.states import INITIAL, RingState
from vhostuser.wire.constants import VRING_F_LOG
from vhostuser.wire.payloads import VringAddr


@dataclass(slots=True)
class RingItems:
    """One ring's items; owns its three fds."""

    state: RingState = INITIAL
    size: int = 0
    base: int = 0
    addr: VringAddr | None = None
    kick: NotifyFd | None = None
    """None also when the guest does not kick."""
    call: NotifyFd | None = None
    err: NotifyFd | None = None
    has_kick: bool = False
    """SET_VRING_KICK has come, with an fd or without; else the kick may be a message, and the fd is ours."""
    has_call: bool = False
    has_err: bool = False
    is_big_endian: bool = False
    """A legacy guest's words are; means nothing of others."""
    runs: bool = False
    """C was told to run it; it may have broken since."""
    is_begun: bool = False
    """Size or addresses have come since it was last stopped: the front-end is about to start it."""
    is_named: bool = False
    """Something was said of this ring by name since all rings were stopped,"""
    is_set_up: bool = False
    """and among it size, addresses or kick."""
    counters_at_start: VringCounters | None = None
    refusal: str = ""
    """Why it cannot run where it is; looked at anew when the memory changes or its addresses are said."""

    @property
    def is_complete(self) -> bool:
        """All is said that starting it needs; memory apart."""
        return self.state.is_started and self.size > 0 and self.addr is not None and not self.refusal

    def missing(self) -> list[str]:
        """What keeps the ring from being complete, in words."""
        lacking = []
        if not self.state.is_started:
            lacking.append("SET_VRING_KICK")
        if not self.size:
            lacking.append("SET_VRING_NUM")
        if self.addr is None:
            lacking.append("SET_VRING_ADDR")
        return lacking

    def setup(self) -> VringSetup:
        """For `RingPair.start`; the ring must be ready."""
        assert self.addr is not None
        return VringSetup(
            desc=self.addr.desc,
            avail=self.addr.avail,
            used=self.addr.used,
            size=self.size,
            base=self.base,
            kick_fd=fd_of(self.kick),
            kick_is_drained=self.kick is not None and self.kick.is_drained,
            call_fd=fd_of(self.call),
            err_fd=fd_of(self.err),
            is_logged=bool(self.addr.flags & VRING_F_LOG),
            log_address=self.addr.log,
            is_big_endian=self.is_big_endian,
        )

    def outside(self, table: RegionTable, is_packed: bool) -> str:
        """Which part of it is not in the memory that ``table`` describes, in words; "" when all of it is."""
        if self.addr is None:
            return ""
        # As csrc/vring.c has it, event words included.
        avail, used = (4, 4) if is_packed else (6 + 2 * self.size, 6 + 8 * self.size)
        try:
            table.translate_user(UserAddr(self.addr.desc), 16 * self.size)
            table.translate_user(UserAddr(self.addr.avail), avail)
            table.translate_user(UserAddr(self.addr.used), used)
        except RequestError as error:
            return error.reason
        return ""

    def close_kick_and_call(self) -> None:
        for notify in (self.kick, self.call):
            if notify is not None:
                notify.close()
        self.kick = self.call = None
        self.has_kick = self.has_call = False

    def close(self) -> None:
        self.close_kick_and_call()
        if self.err is not None:
            self.err.close()
            self.err = None
        self.has_err = False


def fd_of(notify: NotifyFd | None) -> int:
    return -1 if notify is None else notify.fd
