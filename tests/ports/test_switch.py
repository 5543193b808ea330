"""The switch port: who is on which switch, by its name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.switching import Switch
from vhostuser.errors import UsageError
from vhostuser.ports import switch
from vhostuser.ports.base import ALL_OFFLOADS, parse_port
from vhostuser.ports.switch import SwitchPort
from vhostuser.wire.features import VirtioFeature


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    assert switch._switches == {}


def opened(port: SwitchPort) -> Switch:
    ops = port.open(1)
    assert (ops.kind, ops.fds) == (PortKind.SWITCH, ())
    assert ops.member is not None
    return ops.member.switch


def test_same_name_is_the_same_switch() -> None:
    ports = [SwitchPort.from_options(text) for text in ("lan", "lan", "lan,vlan=5", "lan,vlan=5", "wan")]
    first, second, third, fourth, fifth = map(opened, ports)

    assert first is second
    assert third is fourth
    assert len({first, third, fifth}) == 3
    for port in ports:
        port.close()


def test_switch_is_there_as_long_as_a_port_of_it() -> None:
    one, other = SwitchPort("lan"), SwitchPort("lan")
    lan = opened(one)
    opened(other)
    one.close()
    one.close()
    assert opened(one) is lan

    one.close()
    other.close()
    assert opened(one) is not lan
    one.close()


def test_what_a_device_says_before_it_has_joined_or_after_it_has_left() -> None:
    port = SwitchPort("lan")

    def say() -> None:
        port.start(ALL_OFFLOADS)
        port.attach(frozenset({1}))
        port.set_mtu(9000)
        port.inject(bytes(60))
        port.stop()

    say()
    opened(port)
    say()
    port.close()
    say()


def test_everything_is_carried_but_what_nobody_would_finish() -> None:
    assert ALL_OFFLOADS & ~SwitchPort.caps.offloads == VirtioFeature.GUEST_UFO | VirtioFeature.HOST_UFO
    assert SwitchPort.caps.max_frame == 65553


@pytest.mark.parametrize("name", ["lan", "0", "a.b_c-d", "x" * 64])
def test_names(name: str) -> None:
    assert parse_port(f"switch:{name}").kind == "switch"


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "x" * 65, "\u00e9"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="a switch has a name of up to 64 letters"):
        parse_port(f"switch:{name}")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("lan,vlan=0", "1 to 4094"),
        ("lan,vlan=4095", "1 to 4094"),
        ("lan,vlan=x", "vlan"),
        ("lan,vlna=5", "did you mean 'vlan'"),
        ("lan,vlan", "vlan"),
    ],
)
def test_options_that_are_none(options: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_port(f"switch:{options}")
