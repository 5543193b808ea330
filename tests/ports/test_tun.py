"""The tun ioctls: that the numbers mean what the kernel takes them for."""

from __future__ import annotations

import os

import pytest

from tests.ports import taps
from vhostuser.ports import tun
from vhostuser.ports.interface import Interface

pytestmark = pytest.mark.usefixtures("namespace")


def test_the_kernel_names_a_tap() -> None:
    fd = os.open(tun.TUN_DEVICE, os.O_RDWR)
    assert tun.set_interface(fd, "tap%d", taps.PLAIN) == "tap0"
    assert tun.get_interface(fd) == ("tap0", taps.PLAIN)
    os.close(fd)


def test_both_ways_to_the_hardware_address_agree() -> None:
    fd = taps.make_tap("vm1")
    interface = Interface("vm1")
    assert tun.get_hardware_address(fd) == interface.get_hardware_address()
    assert len(interface.get_hardware_address()) == 6
    interface.close()
    os.close(fd)


def test_a_queue_cannot_be_detached_twice() -> None:
    fds = [taps.make_tap("vm1"), taps.make_tap("vm1")]
    tun.set_queue(fds[0], False)
    assert tun.get_interface(fds[0])[1] & tun.IFF_DETACH_QUEUE
    with pytest.raises(OSError, match="Invalid argument"):
        tun.set_queue(fds[0], False)
    tun.set_queue(fds[0], True)
    for fd in fds:
        os.close(fd)


def test_a_queue_holds_as_many_frames_as_the_interface_says() -> None:
    fd = taps.make_tap("vm1")
    interface = Interface("vm1")
    length = interface.get_queue_length()
    interface.bring_up()
    os.set_blocking(fd, False)
    with taps.listen("vm1") as host:
        for _ in range(length + 10):
            host.send(taps.FRAME)
    for _ in range(length):
        os.read(fd, 2048)
    with pytest.raises(BlockingIOError):
        os.read(fd, 2048)
    interface.close()
    os.close(fd)


def test_offloads_that_the_kernel_refuses() -> None:
    fd = taps.make_tap("vm1")
    for flags in (tun.TUN_F_TSO4, tun.TUN_F_CSUM | tun.TUN_F_TSO_ECN, tun.TUN_F_CSUM | 1 << 30):
        with pytest.raises(OSError, match="Invalid argument"):
            tun.set_offload(fd, flags)
    tun.set_offload(fd, tun.TUN_F_CSUM | tun.TUN_F_TSO4 | tun.TUN_F_TSO_ECN | tun.TUN_F_UFO)
    assert taps.ethtool("vm1", taps.ETHTOOL_GTSO) == 1
    os.close(fd)
