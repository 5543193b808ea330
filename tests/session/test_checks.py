from __future__ import annotations

import pytest

from vhostuser.errors import RequestError
from vhostuser.session import checks
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import VringAddr

ADDR = VringAddr(index=0, flags=0, desc=0x1000, used=0x3000, avail=0x2000, log=0)


def moved(**parts: int) -> VringAddr:
    whole = {"index": 0, "flags": 0, "desc": 0x1000, "used": 0x3000, "avail": 0x2000, "log": 0}
    return VringAddr(**(whole | parts))


@pytest.mark.parametrize(("index", "vring_count"), [(0, 1), (255, 256), (1, 2)])
def test_index_within_the_count_is_fine(index: int, vring_count: int) -> None:
    checks.check_vring_index(index, vring_count)


@pytest.mark.parametrize("index", [256, 300, 0xFFFF, 0x10000, 0xFFFFFFFF])
def test_index_is_compared_in_full_width(index: int) -> None:
    """CVE-2020-10723: an index that was cut to 16 bits before it was used."""
    with pytest.raises(RequestError, match="index out of range, this device serves 256 rings"):
        checks.check_vring_index(index, 256)


@pytest.mark.parametrize("num", [1, 2, 256, 1024, 32768])
def test_powers_of_two_are_split_ring_sizes(num: int) -> None:
    checks.check_vring_num(num, is_packed=False)


@pytest.mark.parametrize("num", [3, 6, 1000, 32767])
def test_other_sizes_are_for_packed_rings(num: int) -> None:
    checks.check_vring_num(num, is_packed=True)
    with pytest.raises(RequestError, match=f"size {num} is not a power of two"):
        checks.check_vring_num(num, is_packed=False)


@pytest.mark.parametrize("num", [0, 32769, 65536, 0xFFFFFFFF])
@pytest.mark.parametrize("is_packed", [True, False])
def test_sizes_beyond_virtio_are_refused(num: int, is_packed: bool) -> None:
    with pytest.raises(RequestError, match=f"size {num}, expected 1 to 32768"):
        checks.check_vring_num(num, is_packed)


def test_base_of_a_split_ring_has_16_bits() -> None:
    checks.check_vring_base(65535, is_packed=False)
    with pytest.raises(RequestError, match="base 0x10000, a split ring's is 16 bits"):
        checks.check_vring_base(65536, is_packed=False)


def test_base_of_a_packed_ring_has_32_bits() -> None:
    checks.check_vring_base(0x80008000, is_packed=True)


@pytest.mark.parametrize(
    ("part", "address", "alignment"),
    [("desc", 0x1008, 16), ("avail", 0x2001, 2), ("used", 0x3002, 4), ("desc", 0xFFFFFFFFFFFFFFFF, 16)],
)
def test_part_of_a_split_ring_is_aligned(part: str, address: int, alignment: int) -> None:
    with pytest.raises(RequestError, match=f"{part} at {address:#x} is not aligned to {alignment}"):
        checks.check_vring_addr(moved(**{part: address}), is_packed=False)


def test_driver_area_of_a_packed_ring_is_aligned_to_4() -> None:
    checks.check_vring_addr(moved(avail=0x2002), is_packed=False)
    with pytest.raises(RequestError, match="avail at 0x2002 is not aligned to 4"):
        checks.check_vring_addr(moved(avail=0x2002), is_packed=True)


@pytest.mark.parametrize("parts", [{"used": 0x1000}, {"avail": 0x1000}, {"avail": 0x3000}])
def test_two_parts_at_one_place_are_refused(parts: dict[str, int]) -> None:
    with pytest.raises(RequestError, match="two are one"):
        checks.check_vring_addr(moved(**parts), is_packed=False)


def test_log_is_the_only_flag() -> None:
    checks.check_vring_addr(moved(flags=1), is_packed=False)
    with pytest.raises(RequestError, match="flags 0x2, only 0x1 is defined"):
        checks.check_vring_addr(moved(flags=2), is_packed=False)


def test_log_may_change_where_a_ring_stays() -> None:
    checks.check_vring_unmoved(ADDR, moved(flags=1, log=0x5000))


@pytest.mark.parametrize("part", ["desc", "avail", "used"])
def test_ring_that_moves_is_told_with_both_places(part: str) -> None:
    with pytest.raises(RequestError, match=f"{part} moves from 0x.000 to 0x9000 while the ring is started"):
        checks.check_vring_unmoved(ADDR, moved(**{part: 0x9000}))


@pytest.mark.parametrize("num", [2, 0xFFFFFFFF])
def test_enable_is_0_or_1(num: int) -> None:
    checks.check_vring_enable(0)
    checks.check_vring_enable(1)
    with pytest.raises(RequestError, match=f"{num} is neither 0"):
        checks.check_vring_enable(num)


def test_features_beyond_the_offer_are_named() -> None:
    checks.check_features_offered(V.CSUM, V.CSUM | V.MTU)
    with pytest.raises(RequestError, match="0x8000000000400001 has what was not offered: MQ, SPEED_DUPLEX"):
        checks.check_features_offered(V.CSUM | V.MQ | V.SPEED_DUPLEX, V.CSUM)
    with pytest.raises(RequestError, match="not offered: RARP, bit 40"):
        checks.check_features_offered(P.RARP | P(1 << 40), P.MQ)


@pytest.mark.parametrize(
    "feature", [V.MRG_RXBUF, V.VERSION_1, V.HASH_REPORT, V.RING_PACKED, V.EVENT_IDX, V.INDIRECT_DESC]
)
def test_what_ring_words_mean_stays_while_one_is_started(feature: V) -> None:
    for old, new in ((V(0), feature), (feature, V(0))):
        with pytest.raises(RequestError, match=f"{feature.name} can change only while every ring is stopped"):
            checks.check_features_while_started(old, new)


def test_logging_and_offloads_may_change_while_a_ring_is_started() -> None:
    checks.check_features_while_started(V.VERSION_1, V.VERSION_1 | V.LOG_ALL | V.GUEST_TSO4)


@pytest.mark.parametrize("mtu", [0, 67, 65536, 1 << 63])
def test_mtu_is_68_to_65535(mtu: int) -> None:
    checks.check_mtu(68)
    checks.check_mtu(65535)
    with pytest.raises(RequestError, match=f"MTU {mtu}, expected 68 to 65535"):
        checks.check_mtu(mtu)


def test_mac_that_is_announced_is_unicast() -> None:
    checks.check_mac(bytes.fromhex("525400123456"))
    with pytest.raises(RequestError, match="01:00:5e:00:00:01 is a multicast address"):
        checks.check_mac(bytes.fromhex("01005e000001"))


@pytest.mark.parametrize(("offset", "size"), [(0, 257), (256, 1), (255, 2), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_config_window_ends_at_256(offset: int, size: int) -> None:
    checks.check_config_window(0, 256)
    checks.check_config_window(256, 0)
    with pytest.raises(RequestError, match=f"{size} bytes at offset {offset} reach beyond the 256"):
        checks.check_config_window(offset, size)


def test_config_write_brings_what_it_says() -> None:
    checks.check_config_write(0, 2, b"ab", 0)
    checks.check_config_write(0, 2, b"ab", 1)
    with pytest.raises(RequestError, match="3 bytes came, the size field says 2"):
        checks.check_config_write(0, 2, b"abc", 0)
    with pytest.raises(RequestError, match="flags 0x2, expected 0 or 1"):
        checks.check_config_write(0, 2, b"ab", 2)
    with pytest.raises(RequestError, match="reach beyond"):
        checks.check_config_write(255, 2, b"ab", 0)
