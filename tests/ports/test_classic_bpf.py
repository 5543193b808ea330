"""Programs of classic BPF, run by hand; that the kernel means the same is test_packet.py's."""

from __future__ import annotations

import struct

import pytest

from vhostuser.ports import classic_bpf

NETWORK, PROTOCOL, PACKET_TYPE = 0xFFF00000, 0xFFFFF000, 0xFFFFF004
ALL = 0xFFFFFFFF


def run(program: bytes, packet: bytes, *, protocol: int = 0, packet_type: int = 0) -> int:
    """What it returns for a packet that begins with its network header; 0 when it wants more."""
    steps = list(struct.iter_unpack("HBBI", program))
    a = x = 0
    kept = [0, 0]
    place = 0

    def load(at: int, size: int) -> int | None:
        said = {PROTOCOL: protocol, PACKET_TYPE: packet_type}
        if at in said:
            return said[at]
        assert at >= NETWORK
        found = packet[at - NETWORK : at - NETWORK + size]
        return int.from_bytes(found, "big") if len(found) == size else None

    while True:
        code, true, false, k = steps[place]
        place += 1
        match code:
            case 0x20 | 0x28 | 0x30 | 0x48:
                found = load(k + (x if code == 0x48 else 0), {0x20: 4, 0x30: 1}.get(code, 2))
                if found is None:
                    return 0
                a = found
            case 0xB1:
                length = load(k, 1)
                if length is None:
                    return 0
                x = 4 * (length & 15)
            case 0x60:
                a = kept[k]
            case 0x61:
                x = kept[k]
            case 0x01:
                x = k
            case 0x07:
                x = a
            case 0x02:
                kept[k] = a
            case 0xAC:
                a ^= x
            case 0x80:
                a = len(packet)
            case 0x14:
                a = (a - k) & ALL
            case 0x35:
                place += true if a >= k else false
            case 0x2D:
                place += true if a > x else false
            case 0x24:
                a = a * k & ALL
            case 0x74:
                a >>= k
            case 0x94:
                a %= k
            case 0x05:
                place += k
            case 0x15:
                place += true if a == k else false
            case 0x45:
                place += true if a & k else false
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(f"step {code:#x}")


def test_no_frame_at_all() -> None:
    assert run(classic_bpf.nothing(), b"anything") == 0


@pytest.mark.parametrize(("packet_type", "wanted"), [(0, ALL), (1, ALL), (2, ALL), (3, ALL), (4, 0)])
def test_all_but_what_goes_out(packet_type: int, wanted: int) -> None:
    """To the host, to all, to a group, to somebody else, and from the host."""
    assert run(classic_bpf.incoming(), b"", packet_type=packet_type) == wanted


def tcp(source: int, destination: int, *, options: int = 0, protocol: int = 6, fragment: int = 0) -> bytes:
    start = bytes([0x45 + options // 4]) + bytes(5) + fragment.to_bytes(2, "big") + bytes([64, protocol])
    return start + bytes(2) + b"\12\0\0\1\12\0\0\2" + bytes(options) + struct.pack("!HH", source, destination)


@pytest.mark.parametrize("protocol", [6, 17, 132])
@pytest.mark.parametrize("options", [0, 4, 40])
def test_ports_count_wherever_they_are(options: int, protocol: int) -> None:
    program = classic_bpf.steering(range(8))
    found = {run(program, tcp(n, 80, options=options, protocol=protocol), protocol=0x800) for n in range(200)}
    assert found == set(range(8))


@pytest.mark.parametrize("protocol", [1, 2, 47, 50])
def test_what_has_no_ports_goes_by_its_addresses(protocol: int) -> None:
    program = classic_bpf.steering(range(8))
    assert len({run(program, tcp(n, 80, protocol=protocol), protocol=0x800) for n in range(200)}) == 1


@pytest.mark.parametrize("fragment", [0x2000, 0x2001, 0x1FFF, 1])
def test_fragments_go_by_their_addresses(fragment: int) -> None:
    program = classic_bpf.steering(range(8))
    assert len({run(program, tcp(n, 80, fragment=fragment), protocol=0x800) for n in range(200)}) == 1


def test_packet_that_is_not_to_be_fragmented_is_none() -> None:
    program = classic_bpf.steering(range(8))
    assert len({run(program, tcp(n, 80, fragment=0x4000), protocol=0x800) for n in range(200)}) == 8


@pytest.mark.parametrize("queues", [[0], [5], [3, 1], list(range(256))])
def test_only_the_queues_that_are_named(queues: list[int]) -> None:
    program = classic_bpf.steering(queues)
    found = {run(program, tcp(n, n * 7 % 65536), protocol=0x800) for n in range(4000)}
    assert found <= set(queues)
    assert len(found) > 0.9 * len(queues)
    assert run(program, b"", protocol=0x806) == queues[0]


@pytest.mark.parametrize("protocol", [0x800, 0x86DD])
def test_what_is_not_all_there_goes_to_the_first(protocol: int) -> None:
    packet = tcp(1, 2, options=40) if protocol == 0x800 else b"\x60" + bytes(5) + b"\x06" + bytes(37)
    program = classic_bpf.steering([5, 3, 2])
    shorter = {run(program, packet[:length], protocol=protocol) for length in range(len(packet))}
    assert shorter == {5}
