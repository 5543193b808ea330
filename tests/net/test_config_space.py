from __future__ import annotations

from vhostuser.net.config_space import ANNOUNCE, LINK_UP, ConfigSpace

MAC = bytes.fromhex("525400123456")


def test_read_lays_the_fields_out_little_endian() -> None:
    # virtio 1.2, 5.1.4: mac, status, max_virtqueue_pairs, mtu.
    space = ConfigSpace(MAC, max_pairs=4, mtu=9000)

    assert space.read(0, 12) == MAC + b"\x01\x00" + b"\x04\x00" + b"\x28\x23"


def test_status_has_link_and_announcement() -> None:
    assert ConfigSpace(MAC, 1, 0).read(6, 2) == b"\x01\x00"
    assert ConfigSpace(MAC, 1, 0, status=LINK_UP | ANNOUNCE).read(6, 2) == b"\x03\x00"


def test_read_gives_zeros_behind_the_fields() -> None:
    space = ConfigSpace(MAC, max_pairs=1, mtu=1500)

    assert space.read(10, 20) == b"\xdc\x05" + bytes(18)
    assert space.read(200, 56) == bytes(56)
