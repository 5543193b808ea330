from __future__ import annotations

import re
from pathlib import Path

import pytest

from vhostuser.errors import UsageError
from vhostuser.wire.features import (
    HEADER_SIZE_FEATURES,
    RING_LAYOUT_FEATURES,
    ProtocolFeature,
    VirtioFeature,
    feature_names,
    parse_feature,
)

V, P = VirtioFeature, ProtocolFeature

_HEADERS = ("virtio_net.h", "virtio_config.h", "virtio_ring.h")
_DEFINE = re.compile(r"#define\s+VIRTIO_(?:NET_|RING_)?F_(\w+)\s+(\d+)")


def test_virtio_bits_are_those_of_the_kernel_headers() -> None:
    """linux/virtio_net.h, virtio_config.h and virtio_ring.h name most of them; those that they name agree."""
    texts = [Path("/usr/include/linux", header).read_text() for header in _HEADERS]
    defined = {name: int(bit) for text in texts for name, bit in _DEFINE.findall(text)}
    ours = {name: int(feature).bit_length() - 1 for name, feature in V.__members__.items()}
    shared = defined.keys() & ours.keys()

    assert len(shared) > 35
    assert {name: defined[name] for name in shared} == {name: ours[name] for name in shared}


def test_protocol_bits_are_dense_and_end_with_skip_drain() -> None:
    assert [int(bit) for bit in P] == [1 << position for position in range(24)]
    assert P.GET_VRING_BASE_SKIP_DRAIN == 1 << 23
    assert P.CONFIGURE_MEM_SLOTS == 1 << 15


def test_vhosts_own_bits() -> None:
    assert V.LOG_ALL == 1 << 26
    assert V.PROTOCOL_FEATURES == 1 << 30


def test_header_and_ring_bits_do_not_overlap() -> None:
    assert not HEADER_SIZE_FEATURES & RING_LAYOUT_FEATURES


def test_names_come_lowest_bit_first() -> None:
    assert feature_names(V.VERSION_1 | V.CSUM | V.MRG_RXBUF) == ["CSUM", "MRG_RXBUF", "VERSION_1"]
    assert feature_names(P.REPLY_ACK | P.MQ) == ["MQ", "REPLY_ACK"]


def test_names_of_no_feature_are_none() -> None:
    assert feature_names(V(0)) == []


def test_a_bit_without_a_name_is_told_by_number() -> None:
    assert feature_names(V(1 << 45 | 1)) == ["CSUM", "bit 45"]
    assert feature_names(P(1 << 63)) == ["bit 63"]


@pytest.mark.parametrize("name", ["mrg_rxbuf", "MRG-RXBUF", " Mrg-Rxbuf ", "VIRTIO_NET_F_MRG_RXBUF"])
def test_parse_takes_any_spelling(name: str) -> None:
    assert parse_feature(name) == V.MRG_RXBUF


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("VIRTIO_RING_F_EVENT_IDX", V.EVENT_IDX),
        ("VIRTIO_F_VERSION_1", V.VERSION_1),
        ("VHOST_F_LOG_ALL", V.LOG_ALL),
        ("VHOST_USER_F_PROTOCOL_FEATURES", V.PROTOCOL_FEATURES),
        ("protocol_features", V.PROTOCOL_FEATURES),
        ("packed", V.RING_PACKED),
        ("iommu_platform", V.ACCESS_PLATFORM),
        ("ring-indirect-desc", V.INDIRECT_DESC),
        ("reply-ack", P.REPLY_ACK),
        ("slave_req", P.BACKEND_REQ),
        ("VHOST_USER_PROTOCOL_F_RARP", P.RARP),
    ],
)
def test_parse_knows_the_names_of_headers_and_peers(
    name: str, feature: VirtioFeature | ProtocolFeature
) -> None:
    parsed = parse_feature(name)
    assert parsed == feature
    assert type(parsed) is type(feature)


@pytest.mark.parametrize("name", ["mq", "mtu", "status"])
def test_a_name_of_both_sets_is_the_virtio_bit_unless_it_says_protocol(name: str) -> None:
    assert isinstance(parse_feature(name), VirtioFeature)
    assert isinstance(parse_feature(f"protocol_f_{name}"), ProtocolFeature)


def test_parse_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown feature 'mrg-rxbuff'; did you mean mrg_rxbuf\?"):
        parse_feature("mrg-rxbuff")


def test_parse_says_where_the_names_are_when_none_is_near() -> None:
    with pytest.raises(UsageError, match="`vhostuser features` lists them"):
        parse_feature("zzz")


def test_a_prefix_of_the_other_set_is_not_ignored() -> None:
    with pytest.raises(UsageError, match="REPLY_ACK"):
        parse_feature("VIRTIO_NET_F_REPLY_ACK")
