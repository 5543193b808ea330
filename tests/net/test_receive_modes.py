from __future__ import annotations

import pytest

from vhostuser.datapath.rx_filter import Accept, RxFilter
from vhostuser.net.receive_modes import MAX_OF_KIND, ReceiveModes
from vhostuser.wire.features import VirtioFeature as V

OWN = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400123457")
GROUP = bytes.fromhex("3333ff123456")
RX = V.CTRL_VQ | V.CTRL_RX | V.CTRL_RX_EXTRA
NONE, LISTED, ALL = Accept.NONE, Accept.LISTED, Accept.ALL


def filtering(**words: object) -> RxFilter:
    modes = ReceiveModes(promiscuous=False, **words)  # type: ignore[arg-type]
    found = modes.as_filter(RX, OWN)
    assert found is not None
    return found


def test_at_first_every_frame_passes() -> None:
    assert ReceiveModes().as_filter(RX, OWN) is None
    assert ReceiveModes().as_filter(RX | V.CTRL_VLAN, OWN) is None


def test_without_ctrl_rx_nothing_is_filtered_by_address() -> None:
    modes = ReceiveModes(promiscuous=False, no_unicast=True, no_broadcast=True)

    assert modes.as_filter(V.CTRL_VQ, OWN) is None


def test_vlans_are_filtered_from_the_first_without_a_promiscuous_mode() -> None:
    # Virtio 1.2, 5.1.6.5.3: the table is empty at first.
    modes = ReceiveModes(vlans={5})

    assert modes.as_filter(V.CTRL_VQ | V.CTRL_VLAN, OWN) == RxFilter(ALL, ALL, ALL, vlans=frozenset({5}))
    assert modes.as_filter(RX | V.CTRL_VLAN, OWN) is None, "promiscuous: all packets"


def test_plain_mode_takes_the_own_address_the_tables_and_broadcast() -> None:
    found = filtering(unicast=frozenset({OTHER}), multicast=frozenset({GROUP}))

    assert found == RxFilter(LISTED, LISTED, ALL, frozenset({OWN, OTHER, GROUP}))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ({}, (LISTED, LISTED, ALL)),
        ({"all_multicast": True}, (LISTED, ALL, ALL)),
        ({"all_unicast": True}, (ALL, LISTED, ALL)),
        ({"no_multicast": True}, (LISTED, NONE, ALL)),
        ({"no_unicast": True}, (NONE, LISTED, ALL)),
        ({"no_broadcast": True}, (LISTED, LISTED, NONE)),
        ({"no_multicast": True, "all_multicast": True}, (LISTED, NONE, ALL)),
        ({"no_unicast": True, "all_unicast": True}, (NONE, LISTED, ALL)),
        ({"no_broadcast": True, "all_multicast": True}, (LISTED, ALL, NONE)),
    ],
)
def test_modes_that_suppress_count_for_more(
    words: dict[str, bool], wanted: tuple[Accept, Accept, Accept]
) -> None:
    found = filtering(**words)

    assert (found.unicast, found.multicast, found.broadcast) == wanted


def test_promiscuous_mode_counts_for_more_than_any_other() -> None:
    modes = ReceiveModes(promiscuous=True, no_unicast=True, no_multicast=True, no_broadcast=True)

    assert modes.as_filter(RX, OWN) is None


def test_guest_whose_address_is_not_known_gets_every_unicast_frame() -> None:
    modes = ReceiveModes(promiscuous=False, unicast=frozenset({OTHER}))

    found = modes.as_filter(RX, None)

    assert found is not None
    assert (found.unicast, found.multicast) == (ALL, LISTED)
    modes.no_unicast = True
    assert modes.as_filter(RX, None) == RxFilter(NONE, LISTED, ALL)


def addresses(first: int, count: int) -> frozenset[bytes]:
    return frozenset(bytes([first, 0, 0, 0]) + number.to_bytes(2, "big") for number in range(count))


def test_table_that_is_too_large_opens_its_own_kind_only() -> None:
    full = filtering(unicast=addresses(2, MAX_OF_KIND - 1), multicast=addresses(3, MAX_OF_KIND))
    assert (full.unicast, full.multicast) == (LISTED, LISTED)
    assert len(full.macs) == 2 * MAX_OF_KIND
    full.build()

    unicast = filtering(unicast=addresses(2, MAX_OF_KIND), multicast=addresses(3, MAX_OF_KIND))
    assert (unicast.unicast, unicast.multicast) == (ALL, LISTED)
    assert unicast.macs == addresses(3, MAX_OF_KIND)

    multicast = filtering(unicast=addresses(2, 5), multicast=None)
    assert (multicast.unicast, multicast.multicast) == (LISTED, ALL)
    assert multicast.macs == addresses(2, 5) | {OWN}
