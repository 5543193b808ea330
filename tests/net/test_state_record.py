from __future__ import annotations

import dataclasses
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostuser.datapath.vring import VringCounters
from vhostuser.errors import RequestError
from vhostuser.net.control_queue import GuestSettings
from vhostuser.net.receive_modes import MAX_OF_KIND, ReceiveModes
from vhostuser.net.state_record import (
    MAX_MACS,
    MAX_RECORD,
    VERSION,
    ControlRecord,
    ModesRecord,
    NetRecord,
    RingRecord,
    control_record,
    decode,
    encode,
)
from vhostuser.wire.features import VirtioFeature as V

MOST = 2**63 - 1
MAC = bytes.fromhex("525400123456")
RING = RingRecord(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, {"no_buffers": 10})
SETTINGS = GuestSettings(
    pairs=128,
    offloads=V.GUEST_CSUM,
    receive=ReceiveModes(
        promiscuous=False,
        all_multicast=True,
        no_unicast=True,
        unicast=frozenset([MAC]),
        multicast=None,
        vlans={0, 4095},
    ),
    mac=MAC,
)
RECORD = NetRecord(
    rings={0: RING, 255: RING}, features=1 << 32, mtu=1400, macs=(MAC,), control=control_record(SETTINGS)
)
EMPTY = NetRecord(rings={}, features=0, mtu=0, macs=(), control=control_record(GuestSettings()))


def made(body: object, version: int = VERSION) -> bytes:
    """A record with any body under a right head."""
    content = msgspec.msgpack.encode(body)
    return b"VHOSTNET" + struct.pack("<HHI", version, 0, len(content)) + content


def ring(**values: object) -> dict[str, object]:
    return {**msgspec.to_builtins(RING), **values}


def record(**values: object) -> bytes:
    return made(msgspec.to_builtins(EMPTY, builtin_types=[bytes]) | values)


def control(**values: object) -> bytes:
    return record(control={**msgspec.to_builtins(EMPTY.control, builtin_types=[bytes]), **values})


def modes(**values: object) -> bytes:
    return control(receive={**msgspec.to_builtins(EMPTY.control.receive, builtin_types=[bytes]), **values})


@pytest.mark.parametrize("whole", [RECORD, EMPTY])
def test_what_was_encoded_is_decoded(whole: NetRecord) -> None:
    assert decode(encode(whole)) == whole


def test_head_is_as_it_is_written_down() -> None:
    content = encode(RECORD)

    assert content[:12] == b"VHOSTNET" + b"\x02\x00\x00\x00"
    assert int.from_bytes(content[12:16], "little") == len(content) - 16


def test_largest_record_is_within_the_limit() -> None:
    names = RingRecord.__struct_fields__[:-1]
    drops = {f"reason {number:02}": MOST for number in range(25)}
    full = RingRecord(**dict.fromkeys(names, MOST), drops=drops)
    many = frozenset(b"\2" + number.to_bytes(5, "big") for number in range(MAX_OF_KIND))
    receive = ReceiveModes(unicast=many, multicast=many, vlans=set(range(4096)))
    control = control_record(GuestSettings(receive=receive))
    whole = NetRecord(dict.fromkeys(range(256), full), MOST, 65535, (MAC,) * MAX_MACS, control)

    assert len(encode(whole)) <= MAX_RECORD
    assert decode(encode(whole)) == whole


def test_every_counter_is_in_the_record() -> None:
    """A counter that is added is a new version of the record."""
    assert RingRecord.__struct_fields__ == tuple(field.name for field in dataclasses.fields(VringCounters))


def test_every_setting_of_the_guest_is_in_the_record_and_comes_back() -> None:
    names = [field.name for field in dataclasses.fields(GuestSettings)]
    own = {"announces", "has_moved"}
    """Of one host."""
    assert set(ControlRecord.__struct_fields__) == set(names) - own
    assert ModesRecord.__struct_fields__ == tuple(field.name for field in dataclasses.fields(ReceiveModes))
    assert control_record(SETTINGS).settings() == dataclasses.replace(SETTINGS, has_moved=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes is shorter"),
        (encode(RECORD)[:15], "15 bytes is shorter"),
        (b"QEVMxxxx" + encode(RECORD)[8:], "5145564d"),
        (made({}, version=3), "newer version: 3"),
        (made({}, version=1), "older version: 1"),
        (made({}, version=65535), "newer version: 65535"),
        (made({}, version=0), "older version: 0"),
        (encode(RECORD)[:-1], "which says"),
        (encode(RECORD) + b"\0", "which says"),
        (made({}), "missing required field"),
        (made([]), "Expected `object`"),
        (made(None), "Expected `object`"),
        (record(more=1), "unknown field `more`"),
        (record(mtu=67), "MTU 67"),
        (record(mtu=65536), "MTU 65536"),
        (record(mtu=-1), ">= 0"),
        (record(mtu=2**64 - 1), "cannot be read"),
        (record(mtu=1400.0), "Expected `int`"),
        (record(features=-1), ">= 0"),
        (record(macs=[MAC[:5]]), "length >= 6"),
        (record(macs=[MAC + b"\0"]), "length <= 6"),
        (record(macs=[b"\x01" + MAC[1:]]), "multicast"),
        (record(macs=[MAC] * (MAX_MACS + 1)), f"length <= {MAX_MACS}"),
        (record(rings={256: ring()}), "<= 255"),
        (record(rings={-1: ring()}), ">= 0"),
        (record(rings={"0": ring()}), "Expected `int`"),
        (record(rings={0: ring(packets=-1)}), ">= 0"),
        (record(rings={0: ring(packets=2**64 - 1)}), "cannot be read"),
        (record(rings={0: ring(packets=None)}), "Expected `int`"),
        (record(rings={0: ring(drops={"": 1})}), "length >= 1"),
        (record(rings={0: ring(drops={"x" * 65: 1})}), "length <= 64"),
        (record(rings={0: ring(drops={str(number): 1 for number in range(65)})}), "length <= 64"),
        (record(rings={0: ring(more=1)}), "unknown field `more`"),
        (control(more=1), "unknown field `more`"),
        (control(pairs=0), ">= 1"),
        (control(pairs=129), "<= 128"),
        (control(offloads=1), "0x1"),
        (control(offloads=2**64 - 1), "cannot be read"),
        (control(mac=MAC[:5]), "length >= 6"),
        (control(mac=b"\x01" + MAC[1:]), "multicast"),
        (modes(promiscuous=1), "Expected `bool`"),
        (modes(unicast=[bytes([number]) * 6 for number in range(MAX_OF_KIND + 1)]), "length <= "),
        (modes(unicast=[b""]), "length >= 6"),
        (modes(vlans=[4096]), "<= 4095"),
        (modes(vlans=[-1]), ">= 0"),
    ],
)
def test_record_that_is_wrong_is_refused_with_the_reason(content: bytes, words: str) -> None:
    with pytest.raises(RequestError) as refusal:
        decode(content)

    assert words in refusal.value.reason


def test_nesting_without_end_is_refused() -> None:
    body = b"\x91" * 100_000
    content = b"VHOSTNET" + struct.pack("<HHI", VERSION, 0, len(body)) + body
    with pytest.raises(RequestError, match="cannot be read"):
        decode(content)
    inside = msgspec.msgpack.encode({"more": 0})[:-1] + body
    with pytest.raises(RequestError, match="cannot be read"):
        decode(b"VHOSTNET" + struct.pack("<HHI", VERSION, 0, len(inside)) + inside)


@given(st.binary(max_size=200), st.integers(0, 2**16))
def test_no_bytes_do_anything_but_be_refused(noise: bytes, where: int) -> None:
    content = encode(RECORD)
    at = where % len(content)
    changed = content[:at] + noise + content[at + len(noise) :]
    try:
        found = decode(changed)
    except RequestError:
        return
    assert all(0 <= index < 256 for index in found.rings)
    assert found.mtu == 0 or 68 <= found.mtu <= 65535
