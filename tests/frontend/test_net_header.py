"""The virtio-net header: layout and length."""

from __future__ import annotations

import pytest

from vhostuser.frontend.net_header import PLAIN, GsoType, HeaderFlag, NetHeader, header_size
from vhostuser.wire.features import VirtioFeature as V

FULL = NetHeader(HeaderFlag.NEEDS_CSUM, GsoType.TCPV4, 54, 1448, 34, 16, 3)


def test_fields_lie_where_the_specification_puts_them() -> None:
    """virtio 1.x, 5.1.6: two bytes, then little-endian words."""
    assert FULL.build(12).hex() == "01013600a805220010000300"


@pytest.mark.parametrize(("size", "tail"), [(10, ""), (12, "0300"), (20, "0300" + "00" * 8)])
def test_header_is_as_long_as_was_negotiated(size: int, tail: str) -> None:
    assert FULL.build(size)[10:].hex() == tail


def test_parse_gives_back_what_was_built() -> None:
    assert NetHeader.parse(FULL.build(12)) == FULL
    assert NetHeader.parse(FULL.build(20)) == FULL


def test_parse_of_the_legacy_header_has_no_num_buffers() -> None:
    assert NetHeader.parse(FULL.build(10)).num_buffers == 0


def test_plain_header_is_all_zero() -> None:
    assert PLAIN.build(12) == bytes(12)


@pytest.mark.parametrize(
    ("features", "size"),
    [
        (V(0), 10),
        (V.CSUM | V.INDIRECT_DESC, 10),
        (V.MRG_RXBUF, 12),
        (V.VERSION_1, 12),
        (V.VERSION_1 | V.MRG_RXBUF, 12),
        (V.VERSION_1 | V.HASH_REPORT, 20),
    ],
)
def test_header_size_follows_the_features(features: V, size: int) -> None:
    assert header_size(features) == size
