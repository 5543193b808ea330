"""The `tap` port: a device's packets go to a tap interface of the host, one tap queue for each vring pair.

    tap:NAME                             makes the tap, or attaches to the one that is there
    tap:ifname=NAME,persist=on,up=off    the same with options
    tap:fd=7[:8...]                      queues that someone else opened; no privilege is needed

Every queue has a 12-byte virtio-net header for the tap's whole life, little-endian, whatever the guest
negotiates: frames need no rewriting when the guest changes. Here are the settings; frames are moved by C.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from typing import ClassVar, Self

from vhostuser.datapath.port_ops import NET_HEADER_SIZE, PortCaps, PortKind, PortOps
from vhostuser.errors import UsageError
from vhostuser.options import parse_number, parse_switch, split_pairs
from vhostuser.ports import tap_refusals, tun
from vhostuser.ports.base import ALL_OFFLOADS, MAX_FRAME
from vhostuser.ports.interface import Interface, check_name
from vhostuser.wire.features import VirtioFeature

_FLAGS = tun.IFF_TAP | tun.IFF_NO_PI | tun.IFF_VNET_HDR

_USO = tun.TUN_F_USO4 | tun.TUN_F_USO6

_SEGMENTATION = (
    (VirtioFeature.GUEST_TSO4, tun.TUN_F_TSO4),
    (VirtioFeature.GUEST_TSO6, tun.TUN_F_TSO6),
    (VirtioFeature.GUEST_UFO, tun.TUN_F_UFO),
    (VirtioFeature.GUEST_USO4 | VirtioFeature.GUEST_USO6, _USO),
)

_log = logging.getLogger(__name__)


class TapPort:
    """A tap interface, by name or by inherited fds; exactly one of `name` and `fds` is given.

    A tap that this port makes always has multi-queue, is brought up, and goes away with the last fd unless
    `persist` is True. A tap that is there already is attached to: its persistence and its up or down stay
    as they are unless `persist` or `up` says otherwise. With `fds` the port owns them from `open` on, and
    each becomes non-blocking and close-on-exec.
    """

    kind: ClassVar[str] = "tap"

    def __init__(
        self, name: str = "", *, fds: Sequence[int] = (), persist: bool | None = None, up: bool | None = None
    ) -> None:
        if bool(name) == bool(fds):
            raise UsageError("a tap port needs either a name, as in tap:vm1, or fds, as in tap:fd=7")
        if name:
            check_name(name)
        if len(set(fds)) != len(fds):
            raise UsageError(f"port tap:fd={':'.join(map(str, fds))} names an fd twice")
        self.name = name
        self.caps = PortCaps(ALL_OFFLOADS, queues=len(fds) or tun.MAX_QUEUES, max_frame=MAX_FRAME)
        self._given_fds = tuple(fds)
        self._persist = persist
        self._up = up
        self._fds: list[int] = []
        self._attached: list[bool] = []
        self._multi_queue = True
        self._interface: Interface | None = None

    @classmethod
    def from_options(cls, options: str) -> Self:
        what = f"port tap:{options}"
        first, _, rest = options.partition(",")
        words = {} if "=" in first else {"ifname": first}
        text = options if "=" in first else rest
        for key, value in split_pairs(what, text, ("ifname", "fd", "persist", "up")) if text else ():
            if key in words:
                raise UsageError(f"{what}: {key} is given twice")
            words[key] = value
        if "fd" in words:
            if len(words) > 1:
                raise UsageError(
                    f"{what}: fd= takes no other option; whoever opened the fd has set up the tap"
                )
            return cls(fds=[parse_number("fd", number, 0, 2**31 - 1) for number in words["fd"].split(":")])
        return cls(
            words.get("ifname", ""),
            persist=parse_switch("persist", words["persist"]) if "persist" in words else None,
            up=parse_switch("up", words["up"]) if "up" in words else None,
        )

    def open(self, queues: int) -> PortOps:
        assert not self._fds, "a port is opened once"
        try:
            created = self._adopt(queues) if self._given_fds else self._attach_by_name(queues)
            self._set_up(created)
        except BaseException:
            self.close()
            raise
        return PortOps(PortKind.FD, tuple(self._fds))

    def start(self, features: VirtioFeature) -> None:
        if features & VirtioFeature.HOST_USO and not self._takes_offloads(tun.TUN_F_CSUM | _USO):
            _log.warning(
                "tap %s: Linux before 6.2 drops the UDP segments that this guest may send: use uso=off",
                self.name,
            )
        self._set_offloads(_tun_offloads(features))
        self._discard_stale_frames()
        self._set_carrier(True)

    def stop(self) -> None:
        self._set_carrier(False)
        self._set_offloads(0)

    def attach(self, queues: frozenset[int]) -> None:
        if not self._multi_queue:
            return  # the one queue is always there
        # First those that come: a tap with none at all takes no setting.
        for queue in sorted(range(len(self._fds)), key=lambda queue: queue not in queues):
            if self._attached[queue] != (queue in queues):
                self._attach_one(queue, queue in queues)

    def _attach_one(self, queue: int, attached: bool) -> None:
        try:
            tun.set_queue(self._fds[queue], attached)
            self._attached[queue] = attached
        except OSError as error:
            done = "attached" if attached else "detached"
            _log.warning("tap %s: queue %d cannot be %s: %s", self.name, queue, done, error.strerror)

    def set_mtu(self, mtu: int) -> None:
        interface = self._interface
        if interface is None:
            raise tap_refusals.elsewhere(self.name, mtu)
        try:
            if interface.get_mtu() != mtu:
                interface.set_mtu(mtu)
        except OSError as error:
            raise tap_refusals.mtu_not_set(error, self.name, mtu) from None

    def inject(self, frame: bytes) -> None:
        try:
            os.write(self._attached_fd, bytes(NET_HEADER_SIZE) + frame)
        except OSError as error:
            # The interface is down, or no queue is attached: nobody is there to hear it.
            _log.debug("tap %s: a frame of %d bytes was not sent: %s", self.name, len(frame), error.strerror)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())
        self._attached.clear()
        if self._interface is not None:
            self._interface.close()
            self._interface = None

    # Opening

    def _attach_by_name(self, queues: int) -> bool:
        """Opens the queues; True if the tap was not there before."""
        self._interface = interface = Interface(self.name)
        self._fds.append(_open_device())
        created = self._attach_first(interface, queues)
        try:
            while len(self._fds) < queues:
                self._fds.append(_open_device())
                tun.set_interface(self._fds[-1], self.name, _FLAGS | tun.IFF_MULTI_QUEUE)
        except OSError as error:
            raise tap_refusals.not_attached(error, interface, queues) from None
        self._attached = [True] * queues
        return created

    def _attach_first(self, interface: Interface, queues: int) -> bool:
        # IFF_TUN_EXCL answers EBUSY for a name that exists, before any check of rights: the one way to know
        # who made the tap, in any network namespace and with no look at a file system.
        try:
            tun.set_interface(self._fds[0], self.name, _FLAGS | tun.IFF_MULTI_QUEUE | tun.IFF_TUN_EXCL)
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise tap_refusals.not_attached(error, interface, queues) from None
        try:
            tun.set_interface(self._fds[0], self.name, _FLAGS | tun.IFF_MULTI_QUEUE)
            return False
        except OSError as error:
            # EINVAL: not a tap, or one made without multi-queue, which must then be opened without, too.
            if error.errno != errno.EINVAL or queues > 1:
                raise tap_refusals.not_attached(error, interface, queues) from None
        try:
            self._multi_queue = False
            tun.set_interface(self._fds[0], self.name, _FLAGS)
            return False
        except OSError as error:
            raise tap_refusals.not_attached(error, interface, queues) from None

    def _adopt(self, queues: int) -> bool:
        """Takes the inherited fds; False, for they were made by someone else."""
        # Ours from here on, to be closed also when one of them is refused.
        self._fds = [fd for fd in self._given_fds if _is_open(fd)]
        if missing := set(self._given_fds).difference(self._fds):
            raise tap_refusals.not_open(min(missing))
        if queues != len(self._fds):
            raise UsageError(
                f"tap:fd= has {len(self._fds)} fds for {queues} queues: give one fd for each queue pair"
            )
        for fd in self._fds:
            self._adopt_one(fd, queues)
        interface = Interface(self.name)
        if _is_same(interface, self._fds[0]):
            self._interface = interface
        else:
            interface.close()
        return False

    def _adopt_one(self, fd: int, queues: int) -> None:
        try:
            name, flags = tun.get_interface(fd)
        except OSError:
            raise tap_refusals.not_a_tap_fd(fd) from None
        # IFF_NO_PI is not looked at: TUNGETIFF reports it for every tap, with it or without (Linux 6.18).
        wanted = tun.IFF_TAP | tun.IFF_VNET_HDR | (tun.IFF_MULTI_QUEUE if queues > 1 else 0)
        if wanted & ~flags:
            raise tap_refusals.flags_lacking(fd, name, wanted & ~flags)
        if self.name not in ("", name):
            raise tap_refusals.two_taps(self.name, name)
        self.name = name
        self._multi_queue = bool(flags & tun.IFF_MULTI_QUEUE)
        self._attached.append(not flags & tun.IFF_DETACH_QUEUE)
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)

    def _set_up(self, created: bool) -> None:
        first = self._fds[0]
        try:
            tun.set_header_size(first, NET_HEADER_SIZE)
            tun.set_little_endian(first)
            if self._persist is not None:
                tun.set_persist(first, self._persist)
            self.stop()
            if self._interface is not None and (created if self._up is None else self._up):
                self._interface.bring_up()
        except OSError as error:
            raise tap_refusals.not_set_up(error, self.name) from None

    # Running

    @property
    def _attached_fd(self) -> int:
        """A queue that takes settings: a detached one answers EBADFD to everything but being attached."""
        return self._fds[self._attached.index(True) if True in self._attached else 0]

    def _set_offloads(self, wanted: int) -> None:
        # The kernel refuses a bit that it does not know: UFO and USO came and went. Asking for less is always
        # right, for the kernel then finishes the frames itself before we read them.
        for less in (0, _USO, _USO | tun.TUN_F_UFO, wanted):
            if self._takes_offloads(wanted & ~less):
                if refused := wanted & less:
                    _log.warning(
                        "tap %s: the kernel does not know offloads 0x%x, so it does them itself",
                        self.name,
                        refused,
                    )
                return

    def _takes_offloads(self, flags: int) -> bool:
        try:
            tun.set_offload(self._attached_fd, flags)
            return True
        except OSError:
            return False

    def _discard_stale_frames(self) -> None:
        """Reads away what was queued under other offloads: the kernel hands out a GSO frame queued before.

        Bounded by the queue's length, so that traffic coming in meanwhile cannot keep us here.
        """
        discarded = 0
        for fd in self._fds:
            for _ in range(self._queue_length()):
                try:
                    os.read(fd, NET_HEADER_SIZE)
                except BlockingIOError:
                    break
                except OSError as error:
                    # EINVAL: a frame whose header could not be built; it has been taken off the queue.
                    if error.errno != errno.EINVAL:
                        break
                discarded += 1
        if discarded:
            _log.debug("tap %s: %d frames from before the start discarded", self.name, discarded)

    def _queue_length(self) -> int:
        try:
            return self._interface.get_queue_length() if self._interface else 1000
        except OSError:
            return 0  # the interface is gone; the worker reports that

    def _set_carrier(self, carrier: bool) -> None:
        try:
            tun.set_carrier(self._attached_fd, carrier)
        except OSError as error:
            # Linux before 5.0 has no such call (EINVAL): the host then always sees a link.
            _log.debug("tap %s: the link state stays as it is: %s", self.name, error.strerror)


def _tun_offloads(features: VirtioFeature) -> int:
    """What the guest takes, in the kernel's bits: all need CSUM, ECN needs TSO, USO4 and USO6 go together."""
    if VirtioFeature.GUEST_CSUM not in features:
        return 0
    flags = tun.TUN_F_CSUM
    for feature, flag in _SEGMENTATION:
        if feature in features:
            flags |= flag
    if VirtioFeature.GUEST_ECN in features and flags & (tun.TUN_F_TSO4 | tun.TUN_F_TSO6):
        flags |= tun.TUN_F_TSO_ECN
    return flags


def _open_device() -> int:
    try:
        return os.open(tun.TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise tap_refusals.no_device(error) from None


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False


def _is_same(interface: Interface, fd: int) -> bool:
    """Whether the interface of that name here is the one behind `fd`, which may be in another namespace."""
    try:
        return interface.get_hardware_address() == tun.get_hardware_address(fd)
    except OSError:
        return False
