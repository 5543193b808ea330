"""Why a tap cannot be had: one sentence for each way it fails, which says what to change."""

from __future__ import annotations

import errno
import os

from vhostuser.errors import EnvironmentLacksError
from vhostuser.ports import tun
from vhostuser.ports.interface import Interface

_FLAG_NAMES = {
    tun.IFF_TAP: "IFF_TAP",
    tun.IFF_VNET_HDR: "IFF_VNET_HDR",
    tun.IFF_MULTI_QUEUE: "IFF_MULTI_QUEUE",
}


def no_device(error: OSError) -> EnvironmentLacksError:
    """/dev/net/tun did not open."""
    device = tun.TUN_DEVICE
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        text = (
            f"there is no {device}: run 'modprobe tun', or give the container the device (--device {device})"
        )
    elif error.errno in (errno.EACCES, errno.EPERM):
        text = (
            f"{device} may not be opened by user {_user()}: give the user read and write on it "
            f"(or the container --device {device}), or pass an open tap with tap:fd=N"
        )
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        text = f"{device} cannot be opened once more ({error.strerror}): raise the limit (ulimit -n)"
    else:
        text = f"{device} cannot be opened ({error.strerror}): see what 'ip tuntap add' says on this machine"
    return EnvironmentLacksError(text)


def not_attached(error: OSError, interface: Interface, queues: int) -> EnvironmentLacksError:
    """TUNSETIFF failed for a tap by name."""
    name = interface.name
    add = f"'ip tuntap add {name} mode tap multi_queue vnet_hdr user {_user()}'"
    again = f"'ip tuntap del {name} mode tap multi_queue' and {add}"
    driver = _driver(interface)
    if error.errno == errno.EPERM and driver is None:
        text = (
            f"tap {name} is not there and this process may not make it: run {add} first, give the process "
            f"CAP_NET_ADMIN, or pass an open tap with tap:fd=N"
        )
    elif driver is not None and driver != "tap":
        text = f"{name} is {driver} and not a tap: choose another name"
    elif error.errno == errno.EPERM:
        text = f"tap {name} belongs to another user: run {again}, or give this process CAP_NET_ADMIN"
    elif error.errno == errno.EBUSY:
        text = (
            f"tap {name} has one queue and another program has it open: end that program, "
            f"choose another name, or make the tap again with multi_queue"
        )
    elif error.errno == errno.EINVAL and driver is not None:
        text = (
            f"tap {name} was made without multi-queue and has 1 queue, not {queues}: use queues=1, or run "
            f"'ip tuntap del {name} mode tap' and {add}"
        )
    elif error.errno == errno.E2BIG:
        text = (
            f"tap {name} has at most {tun.MAX_QUEUES} queues, which is not enough for {queues} more: "
            f"use fewer queues, or end the program that holds the others"
        )
    else:
        text = f"tap {name} cannot be opened ({error.strerror}): see what {add} says"
    return EnvironmentLacksError(text)


def not_set_up(error: OSError, name: str) -> EnvironmentLacksError:
    """A setting on an open tap failed: header size, persistence, or bringing it up."""
    return EnvironmentLacksError(
        f"tap {name} cannot be set up ({error.strerror}): give this process CAP_NET_ADMIN, or run "
        f"'ip link set {name} up' and leave out persist= and up="
    )


def mtu_not_set(error: OSError, name: str, mtu: int) -> EnvironmentLacksError:
    return EnvironmentLacksError(
        f"the MTU of tap {name} cannot be set to {mtu} ({error.strerror}): "
        f"run 'ip link set {name} mtu {mtu}', or give this process CAP_NET_ADMIN"
    )


def elsewhere(name: str, mtu: int) -> EnvironmentLacksError:
    """The MTU of an inherited tap that is not in this process's network namespace."""
    return EnvironmentLacksError(
        f"tap {name} is in another network namespace, so its MTU cannot be set from here: "
        f"run 'ip link set {name} mtu {mtu}' there"
    )


def not_open(fd: int) -> EnvironmentLacksError:
    return EnvironmentLacksError(
        f"fd {fd} is not open in this process: have the parent process pass it on (no close-on-exec)"
    )


def not_a_tap_fd(fd: int) -> EnvironmentLacksError:
    return EnvironmentLacksError(f"fd {fd} is no tap: pass one on which TUNSETIFF was done, or use tap:NAME")


def flags_lacking(fd: int, name: str, flags: int) -> EnvironmentLacksError:
    """An inherited fd was opened without some of the flags that we need."""
    words = " and ".join(word for flag, word in _FLAG_NAMES.items() if flags & flag)
    return EnvironmentLacksError(
        f"fd {fd} ({name}) was opened without {words}: "
        f"its TUNSETIFF needs IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, and IFF_MULTI_QUEUE for more than one queue"
    )


def two_taps(name: str, other: str) -> EnvironmentLacksError:
    return EnvironmentLacksError(
        f"the fds of one tap port must be queues of one tap, but these are of {name} and {other}: "
        f"give {other} a device of its own"
    )


def _driver(interface: Interface) -> str | None:
    """The word tap, or what it is instead, or None when there is no interface of that name."""
    try:
        driver, bus = interface.get_driver()
    except OSError as error:
        return None if error.errno == errno.ENODEV else "an interface of another kind"
    return bus if (driver, bus) == ("tun", "tap") else f"an interface of driver {driver}"


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
