from __future__ import annotations

import contextlib
import copy
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostuser.net.control_queue import GUEST_OFFLOADS, CommandError, GuestSettings, Terms, execute
from vhostuser.net.receive_modes import MAX_OF_KIND
from vhostuser.wire.features import VirtioFeature as V

MAC = bytes.fromhex("525400123456")
EVERYTHING = V((1 << 64) - 1)
PAIRS = 4
RX, TABLE, VLAN, ANNOUNCE, MQ, OFFLOADS = 0, 1, 2, 3, 4, 5


def run(command: bytes, settings: GuestSettings | None = None, acked: V = EVERYTHING) -> GuestSettings:
    settings = GuestSettings() if settings is None else settings
    execute(settings, command, Terms(acked, PAIRS))
    return settings


def refusal(command: bytes, acked: V = EVERYTHING) -> str:
    """Why it is refused; nothing has changed then."""
    settings = GuestSettings(pairs=3, offloads=V.GUEST_CSUM, mac=MAC, announces=True)
    settings.receive.unicast = frozenset({MAC})
    settings.receive.vlans = {1, 2}
    before = copy.deepcopy(settings)
    with pytest.raises(CommandError) as refused:
        execute(settings, command, Terms(acked, PAIRS))
    assert settings == before
    return str(refused.value)


def table(*macs: bytes) -> bytes:
    return struct.pack("<I", len(macs)) + b"".join(macs)


MODES = ("promiscuous", "all_multicast", "all_unicast", "no_multicast", "no_unicast", "no_broadcast")
"""By the number of the command."""


@pytest.mark.parametrize("name", MODES)
def test_modes_are_turned_on_and_off(name: str) -> None:
    number = MODES.index(name)
    settings = run(bytes([RX, number, 1]))
    assert getattr(settings.receive, name) is True
    run(bytes([RX, number, 0]), settings)
    assert getattr(settings.receive, name) is False
    others = GuestSettings()
    setattr(others.receive, name, False)
    assert settings == others


def test_mac_table_is_set_whole() -> None:
    ones = [bytes([2, 0, 0, 0, 0, number]) for number in range(3)]
    many = [bytes([3, 0, 0, 0, 0, number]) for number in range(2)]

    settings = run(bytes([TABLE, 0]) + table(*ones) + table(*many))
    assert (settings.receive.unicast, settings.receive.multicast) == (frozenset(ones), frozenset(many))

    run(bytes([TABLE, 0]) + table() + table(*ones), settings)
    assert (settings.receive.unicast, settings.receive.multicast) == (frozenset(), frozenset(ones))


def test_mac_table_of_more_than_are_told_apart_is_none() -> None:
    macs = [bytes([2, 0, 0, 0]) + number.to_bytes(2, "big") for number in range(MAX_OF_KIND + 1)]

    settings = run(bytes([TABLE, 0]) + table(*macs[1:]) + table(*macs))
    assert settings.receive.unicast == frozenset(macs[1:])
    assert settings.receive.multicast is None
    assert "1 bytes of data" in refusal(bytes([TABLE, 0]) + table(*macs) + table(*macs) + b"x")


def test_mac_is_set() -> None:
    assert run(bytes([TABLE, 1]) + MAC).mac == MAC


def test_vlans_are_added_and_deleted() -> None:
    settings = GuestSettings()
    for vlan in (5, 4095, 0, 5):
        run(bytes([VLAN, 0]) + struct.pack("<H", vlan), settings)
    assert settings.receive.vlans == {0, 5, 4095}
    for vlan in (5, 7):
        run(bytes([VLAN, 1]) + struct.pack("<H", vlan), settings)
    assert settings.receive.vlans == {0, 4095}


def test_numbers_of_a_legacy_guest_have_its_byte_order() -> None:
    # Virtio 1.2, "Legacy Interface" of each command.
    settings, terms = GuestSettings(), Terms(EVERYTHING, PAIRS, "big")
    execute(settings, bytes([MQ, 0, 0, 3]), terms)
    execute(settings, bytes([VLAN, 0, 0x01, 0x02]), terms)
    execute(settings, bytes([TABLE, 0]) + struct.pack(">I", 1) + MAC + struct.pack(">I", 0), terms)
    execute(settings, bytes([OFFLOADS, 0]) + struct.pack(">Q", V.GUEST_CSUM), terms)

    assert (settings.pairs, settings.receive.vlans) == (3, {0x102})
    assert settings.receive.unicast == frozenset({MAC})
    assert settings.offloads == V.GUEST_CSUM


def test_announcement_is_acknowledged() -> None:
    settings = GuestSettings(announces=True)
    assert not run(bytes([ANNOUNCE, 0]), settings).announces
    assert not run(bytes([ANNOUNCE, 0]), settings).announces


@pytest.mark.parametrize("pairs", [1, 2, PAIRS])
def test_pairs_are_set(pairs: int) -> None:
    assert run(bytes([MQ, 0]) + struct.pack("<H", pairs)).pairs == pairs


def test_offloads_are_set_and_what_needs_one_goes_with_it() -> None:
    acked = V.VERSION_1 | V.CSUM | GUEST_OFFLOADS | V.CTRL_GUEST_OFFLOADS
    settings = GuestSettings()
    assert settings.running(acked) == acked

    run(bytes([OFFLOADS, 0]) + struct.pack("<Q", V.GUEST_CSUM | V.GUEST_TSO4), settings, acked)
    assert settings.running(acked) == acked & ~GUEST_OFFLOADS | V.GUEST_CSUM | V.GUEST_TSO4

    # Virtio 1.2, 5.1.3.1: segments need checksums.
    run(bytes([OFFLOADS, 0]) + struct.pack("<Q", V.GUEST_TSO4 | V.GUEST_USO6), settings, acked)
    assert settings.running(acked) == acked & ~GUEST_OFFLOADS

    run(bytes([OFFLOADS, 0]) + struct.pack("<Q", GUEST_OFFLOADS), settings, acked)
    assert settings.running(acked) == acked


def test_offloads_of_a_later_guest_are_all_on() -> None:
    assert GuestSettings().running(V.GUEST_CSUM | V.GUEST_TSO6) == V.GUEST_CSUM | V.GUEST_TSO6


REFUSED = {
    "too long": (b"", "16384 bytes"),
    "class": (bytes([6, 0]), "command 0 of class 6"),
    "command": (bytes([RX, 6, 1]), "command 6 of class 0"),
    "RSS": (bytes([MQ, 1, 0, 0]), "command 1 of class 4"),
    "class 255": (bytes([255, 255]), "command 255 of class 255"),
    "mode without a byte": (bytes([RX, 0]), "RX_PROMISC: 0 bytes"),
    "mode of 2 bytes": (bytes([RX, 1, 1, 0]), "RX_ALLMULTI: 2 bytes"),
    "mode 2": (bytes([RX, 5, 2]), "RX_NOBCAST: 2 is neither"),
    "no table": (bytes([TABLE, 0]), "0 bytes where"),
    "one table": (bytes([TABLE, 0]) + table(MAC), "0 bytes where"),
    "half a count": (bytes([TABLE, 0]) + table(MAC) + b"\0\0\0", "3 bytes where"),
    "table that ends early": (bytes([TABLE, 0]) + table(MAC)[:-1] + table(), "3 bytes where"),
    "count beyond the end": (bytes([TABLE, 0]) + table() + b"\2\0\0\0" + MAC, "table of 2 addresses in 6"),
    "count that overflows 32 bits": (
        bytes([TABLE, 0]) + struct.pack("<I", 0x2AAAAAAB) + bytes(8),
        "table of 715827883 addresses",
    ),
    "largest count": (bytes([TABLE, 0]) + b"\xff" * 8, "table of 4294967295 addresses"),
    "largest second count": (bytes([TABLE, 0]) + table() + b"\xff" * 4, "table of 4294967295 addresses"),
    "bytes behind the tables": (bytes([TABLE, 0]) + table() + table() + b"\0", "1 bytes of data"),
    "short MAC": (bytes([TABLE, 1]) + MAC[:5], "5 bytes"),
    "long MAC": (bytes([TABLE, 1]) + MAC + b"\0", "7 bytes"),
    "multicast MAC": (bytes([TABLE, 1, 1]) + MAC[1:], "01:54:00:12:34:56 is a multicast"),
    "VLAN 4096": (bytes([VLAN, 0]) + struct.pack("<H", 4096), "VLAN 4096"),
    "delete VLAN 65535": (bytes([VLAN, 1, 255, 255]), "VLAN 65535"),
    "VLAN of a byte": (bytes([VLAN, 0, 1]), "1 bytes"),
    "ack with data": (bytes([ANNOUNCE, 0, 0]), "1 bytes"),
    "no pairs": (bytes([MQ, 0, 0, 0]), "0 pairs, expected 1 to 4"),
    "a pair too many": (bytes([MQ, 0, 5, 0]), "5 pairs"),
    "most pairs": (bytes([MQ, 0, 255, 255]), "65535 pairs"),
    "pairs in a byte": (bytes([MQ, 0, 1]), "1 bytes"),
    "offload that is none": (bytes([OFFLOADS, 0]) + struct.pack("<Q", V.CSUM), "has 0x1"),
    "all bits": (bytes([OFFLOADS, 0]) + b"\xff" * 8, "0xffffffffffffffff"),
    "offloads in 4 bytes": (bytes([OFFLOADS, 0]) + bytes(4), "4 bytes"),
}


@pytest.mark.parametrize(("command", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_and_nothing_has_changed(command: bytes, words: str) -> None:
    assert words in refusal(command)


@pytest.mark.parametrize(
    ("command", "feature"),
    [
        (bytes([RX, 0, 1]), V.CTRL_RX),
        (bytes([RX, 1, 1]), V.CTRL_RX),
        (bytes([RX, 2, 1]), V.CTRL_RX_EXTRA),
        (bytes([RX, 3, 1]), V.CTRL_RX_EXTRA),
        (bytes([RX, 4, 1]), V.CTRL_RX_EXTRA),
        (bytes([RX, 5, 1]), V.CTRL_RX_EXTRA),
        (bytes([TABLE, 0]) + table() + table(), V.CTRL_RX),
        (bytes([TABLE, 1]) + MAC, V.CTRL_MAC_ADDR),
        (bytes([VLAN, 0, 1, 0]), V.CTRL_VLAN),
        (bytes([VLAN, 1, 1, 0]), V.CTRL_VLAN),
        (bytes([ANNOUNCE, 0]), V.GUEST_ANNOUNCE),
        (bytes([MQ, 0, 1, 0]), V.MQ),
        (bytes([OFFLOADS, 0]) + bytes(8), V.CTRL_GUEST_OFFLOADS),
    ],
)
def test_command_needs_its_feature(command: bytes, feature: V) -> None:
    assert f"without {feature.name}, which" in refusal(command, EVERYTHING & ~feature)
    run(command, acked=feature)


def test_offload_that_was_not_acknowledged_is_refused() -> None:
    command = bytes([OFFLOADS, 0]) + struct.pack("<Q", V.GUEST_CSUM | V.GUEST_TSO6)

    assert "0x100" in refusal(command, V.CTRL_GUEST_OFFLOADS | V.GUEST_CSUM)


@given(st.binary(min_size=2, max_size=64), st.integers(0, (1 << 64) - 1))
def test_any_bytes_are_done_or_refused(command: bytes, acked: int) -> None:
    settings = GuestSettings()
    try:
        execute(settings, command, Terms(V(acked), PAIRS))
    except CommandError:
        assert settings == GuestSettings()
    assert 1 <= settings.pairs <= PAIRS
    once = copy.deepcopy(settings)
    with contextlib.suppress(CommandError):
        execute(settings, command, Terms(V(acked), PAIRS))
    assert settings == once, "a command may be executed twice"
