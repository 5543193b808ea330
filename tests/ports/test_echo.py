"""The echo port is a word to the C core and nothing else."""

from __future__ import annotations

import pytest

from vhostuser.datapath.port_ops import PortKind, PortOps
from vhostuser.errors import UsageError
from vhostuser.ports.base import ALL_OFFLOADS, parse_port
from vhostuser.ports.echo import EchoPort


def test_it_is_forwarded_by_the_core() -> None:
    port = EchoPort()
    assert port.open(4) == PortOps(PortKind.ECHO)
    port.start(ALL_OFFLOADS)
    port.attach(frozenset({1}))
    port.set_mtu(9000)
    port.inject(bytes(60))
    port.stop()
    port.close()


def test_it_takes_no_options() -> None:
    assert parse_port("echo:").kind == "echo"
    with pytest.raises(UsageError, match="port echo:x: echo takes no options; write --port echo"):
        parse_port("echo:x")


def test_it_can_return_whatever_a_guest_sends() -> None:
    assert EchoPort.caps.offloads == ALL_OFFLOADS
    assert EchoPort.caps.max_frame == 65553
