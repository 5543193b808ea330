"""Interfaces by name, against the kernel's."""

from __future__ import annotations

import errno
import os

import pytest

from tests.ports import taps
from vhostuser.errors import EnvironmentLacksError, UsageError
from vhostuser.ports import tun
from vhostuser.ports.interface import Interface, check_name

pytestmark = pytest.mark.usefixtures("namespace")


def test_what_drives_an_interface() -> None:
    fds = [taps.make_tap("vm1"), taps.make_tap("tun7", tun.IFF_TUN)]
    tap, tunnel, none = Interface("vm1"), Interface("tun7"), Interface("vm2")
    assert tap.get_driver() == ("tun", "tap")
    assert tunnel.get_driver() == ("tun", "tun")
    with pytest.raises(OSError, match="No such device") as failure:
        none.get_driver()
    assert failure.value.errno == errno.ENODEV
    for interface in (tap, tunnel, none):
        interface.close()
    for fd in fds:
        os.close(fd)


def test_a_name_over_15_bytes() -> None:
    check_name("a" * 15)
    with pytest.raises(EnvironmentLacksError, match="has 16 bytes and may have at most 15"):
        check_name("ä" * 8)


@pytest.mark.parametrize("name", ["a/b", "a:b", "tap%d", "a b", ".", "..", "a\x07", "a\u00a0b"])
def test_names_that_no_interface_can_have(name: str) -> None:
    with pytest.raises(UsageError, match="is no interface name"):
        check_name(name)
