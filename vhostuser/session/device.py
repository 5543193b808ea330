"""The seam between protocol and device: one method per request, arguments decoded, in the specification's
names.

Who implements `Device` need not import this file. The session has checked what can be checked without a
device (indices, sizes, alignment, gating, ring states) before it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from vhostuser.errors import RequestError
from vhostuser.session.states import RingState
from vhostuser.wire.features import ProtocolFeature, VirtioFeature
from vhostuser.wire.payloads import Inflight, MemoryRegion, VringAddr

Result = int | RequestError | None
"""What came of a Pending: a number where the request asks for one, or why it is refused."""


class Pending:
    """ "Not yet": what a device returns when the answer needs a quiesce or another thread.

    An object is one promise: make a new one each time, and `resolve` it where the device lives. The session
    passes it on, and no further message is handled until its owner, who learns of the result by `then`, has
    given both back to `Session.complete`.
    """

    __slots__ = ("_result", "_then")

    def __init__(self) -> None:
        self._result: tuple[Result] | None = None
        self._then: Callable[[Result], None] | None = None

    def resolve(self, result: Result = None) -> None:
        """Once; also before anybody has asked."""
        assert self._result is None, "a promise is kept once"
        self._result = (result,)
        if self._then is not None:
            self._then(result)

    def then(self, receive: Callable[[Result], None]) -> None:
        """``receive`` is called with the result, at once if it is there already."""
        self._then = receive
        if self._result is not None:
            receive(*self._result)


class Device(Protocol):
    """A virtio-net device as a front-end sees it.

    Any method may raise RequestError(reason) to refuse; the state it had stays. A method that is given fds
    owns them from the call on, *also when it raises*. Everything may come in any order and more than once:
    store each item, derive "ready" from all of them.
    """

    def offered_features(self) -> VirtioFeature:
        """What is offered, the same for as long as the process and its configuration live.

        The session adds PROTOCOL_FEATURES.
        """

    def offered_protocol_features(self) -> ProtocolFeature: ...

    def set_features(self, acked: VirtioFeature) -> None:
        """The acknowledged bits, a subset of the offer. May come while rings run, with only LOG_ALL changed
        or
        bits that touch neither header nor ring layout."""

    def set_protocol_features(self, acked: ProtocolFeature) -> None:
        """The acknowledged bits, a subset of the offer. Comes once per queue pair: nothing is reset.

        With GPA_ADDRESSES the addresses of rings, and the user addresses of regions, are guest addresses.
        """

    def set_owner(self) -> None:
        """A session begins; some front-ends say so more than once."""

    def reset_device(self) -> None:
        """Forget all that is known of the rings, their fds included; memory and connection stay.

        Comes after every ring was reported stopped and disabled with `set_vring_states`.
        """

    def reset_driver(self) -> None:
        """The guest's driver has reset the device: what it set by commands of its own is as at first.

        Comes after every ring was reported stopped with `set_vring_states`; what is known of them stays.
        """

    def queue_count(self) -> int:
        """The answer to GET_QUEUE_NUM."""

    def vring_count(self) -> int:
        """How many ring indices are served; the session refuses any index from there on."""

    def set_mem_table(self, regions: tuple[MemoryRegion, ...], fds: list[int]) -> Pending | None:
        """Replace the whole memory map; one fd per region, in order. When refused, the old map stays."""

    def postcopy_advise(self) -> int | None:
        """A userfaultfd for the front-end, which is the caller's; None when the kernel has none for us."""

    def postcopy_listen(self) -> None:
        """Comes after `postcopy_advise` gave an fd: from now on tables come by `map_mem_table`."""

    def map_mem_table(self, regions: tuple[MemoryRegion, ...], fds: list[int]) -> tuple[int, ...]:
        """In postcopy, in place of `set_mem_table`: where each region begins in our address space.

        The memory stays what it was, and nothing touches the new one, before `confirm_mem_table`.
        """

    def confirm_mem_table(self) -> None:
        """The table of `map_mem_table` replaces the memory; its pages come when they are touched."""

    def postcopy_end(self) -> None:
        """All pages are there: whoever waits for one, waits no longer."""

    def add_mem_reg(self, region: MemoryRegion, fd: int) -> None:
        """One more region, up to `MAX_MEM_SLOTS`; rings that run are not disturbed."""

    def rem_mem_reg(self, region: MemoryRegion) -> None:
        """Give back the region of this guest address, user address and size. A ring that lies in it stops,
        and goes on when it is added again."""

    def set_log_base(self, size: int, offset: int, fd: int) -> Pending | None:
        """Mark writes to guest memory in this window of the file from now on, while LOG_ALL is acknowledged.

        Nothing goes to the old log once this is answered. When refused, the old one stays.
        """

    def get_inflight_fd(self, wanted: Inflight) -> tuple[Inflight, int]:
        """A new inflight region for that many rings of that size, in use from now on; the layout in full, and
        an fd of its file, which is the caller's. No ring is started."""

    def set_inflight_fd(self, layout: Inflight, fd: int) -> None:
        """Use this one from now on; another back-end, or an earlier life of this one, may have written it. No
        ring is started. When refused, the old one stays."""

    def set_vring_num(self, index: int, num: int) -> None: ...

    def set_vring_addr(self, addr: VringAddr) -> None:
        """May come while the ring runs, with the same addresses and another log flag."""

    def set_vring_base(self, index: int, base: int) -> None: ...

    def set_vring_endian(self, index: int, is_big: bool) -> None:
        """The byte order of a legacy guest's ring and headers; little-endian unless this is said."""

    def get_vring_base(self, index: int) -> int | Pending:
        """Stop using the ring, finish what was taken from it, drop its kick and call fds; returns its
        position.

        Comes after `set_vring_states` said stopped, and also for rings that never were set up.
        """

    def set_vring_kick(self, index: int, fd: int | None) -> None:
        """None: the guest will not kick, the ring has to be polled."""

    def vring_kick(self, index: int) -> None:
        """The guest kicks in a message; no fd counts where one was given. Only with INBAND_NOTIFICATIONS."""

    def set_vring_call(self, index: int, fd: int | None) -> None:
        """None: the guest polls, it is never called."""

    def set_vring_err(self, index: int, fd: int | None) -> None: ...

    def set_vring_states(self, states: Mapping[int, RingState]) -> None:
        """The states of these rings have changed, at once; called after the method of the request that
        changed them, except for `get_vring_base`, which it precedes. Must not refuse."""

    def send_rarp(self, mac: bytes) -> None:
        """Announce the guest's MAC on the network side; rings need not run."""

    def set_mtu(self, mtu: int) -> None: ...

    def set_backend_req_fd(self, fd: int) -> None:
        """The socket for messages to the front-end; replaces and closes an older one."""

    def set_device_state_fd(self, direction: int, fd: int) -> None:
        """Begin to write the state to the fd and close it (`TRANSFER_SAVE`), or to read one from it up to its
        end (`TRANSFER_LOAD`). Every ring is stopped. A transfer that is still going on is abandoned."""

    def check_device_state(self) -> Pending:
        """Resolved when the last transfer is over, with the refusal if it failed; then it is forgotten.

        A state that was saved stays in force here, and one that failed to load has changed nothing.
        """

    def iotlb_update(self, iova: int, last: int, uva: int, access: int) -> None:
        """The I/O addresses from ``iova`` to ``last`` lie at ``uva``; what was said of any of them before is
        void. ``access`` is 1 for read, 2 for write, 3 for both."""

    def iotlb_invalidate(self, iova: int, last: int) -> None:
        """Nothing is known of these I/O addresses any more; no translation of them is in use afterwards."""

    def get_config(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes of the config space; zeros where no field is."""

    def set_config(self, offset: int, data: bytes, flags: int) -> None:
        """``flags`` is `CONFIG_WRITABLE` or `CONFIG_MIGRATION`."""
