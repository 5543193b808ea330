from __future__ import annotations

import pytest

from vhostuser.datapath.port_ops import PortCaps
from vhostuser.net.offer import closed, protocol_offer, virtio_offer
from vhostuser.ports.base import ALL_OFFLOADS, MAX_FRAME
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

NOTHING = V(0)
CHANNEL = P.BACKEND_REQ | P.REPLY_ACK
CAPS = PortCaps(ALL_OFFLOADS, queues=256, max_frame=MAX_FRAME)
COMMANDS = V.CTRL_RX | V.CTRL_RX_EXTRA | V.CTRL_VLAN | V.CTRL_MAC_ADDR | V.CTRL_GUEST_OFFLOADS
USO = V.GUEST_USO4 | V.GUEST_USO6 | V.HOST_USO


def offer(
    disabled: V = NOTHING,
    *,
    uso: bool = False,
    config_space: bool = False,
    has_mac: bool = False,
    has_mtu: bool = False,
    protocol: P = CHANNEL,
) -> V:
    return virtio_offer(
        CAPS,
        disabled=disabled,
        protocol=protocol,
        uso=uso,
        config_space=config_space,
        has_mac=has_mac,
        has_mtu=has_mtu,
    )


def test_offer_has_rings_offloads_and_what_qemu_forwards() -> None:
    wanted = (
        V.VERSION_1 | V.RING_PACKED | V.EVENT_IDX | V.INDIRECT_DESC | V.IN_ORDER | V.MRG_RXBUF | V.MQ | V.MTU
    )
    wanted |= V.CSUM | V.HOST_TSO4 | V.GUEST_TSO6 | V.GUEST_UFO | V.GUEST_ANNOUNCE

    assert wanted in offer()


def test_offer_has_nothing_that_this_version_does_not_serve() -> None:
    assert not offer() & (V.MAC | V.STATUS | V.RSS | V.HASH_REPORT)


@pytest.mark.parametrize("protocol", [P.BACKEND_REQ, P.REPLY_ACK, P(0)])
def test_offer_has_access_platform_only_with_a_way_to_ask(protocol: P) -> None:
    assert V.ACCESS_PLATFORM in offer()
    assert V.ACCESS_PLATFORM not in offer(protocol=protocol)


def test_offer_has_uso_only_where_configured() -> None:
    assert not offer() & USO
    assert USO in offer(uso=True)


def test_offer_has_mac_and_status_only_with_a_config_space_of_ours() -> None:
    assert offer(config_space=True) & (V.MAC | V.STATUS) == V.STATUS
    assert V.MAC | V.STATUS in offer(config_space=True, has_mac=True)


def test_offer_of_a_control_queue_is_for_all_and_its_commands_for_who_takes_our_config_space() -> None:
    # Cloud Hypervisor has several pairs only where CTRL_VQ is offered; virtio-user lies about the commands.
    assert V.CTRL_VQ in offer()
    assert not offer() & COMMANDS
    assert V.CTRL_VQ | COMMANDS in offer(config_space=True)


def test_offer_without_a_control_queue_has_no_commands_and_qemu_has_its_pairs_all_the_same() -> None:
    left = offer(V.CTRL_VQ, config_space=True)

    assert not left & (COMMANDS | V.CTRL_VQ)
    assert V.MQ | V.GUEST_ANNOUNCE in left


def test_offer_of_an_mtu_in_a_config_space_of_ours_needs_one() -> None:
    assert V.MTU in offer()
    assert V.MTU not in offer(config_space=True)
    assert V.MTU in offer(config_space=True, has_mtu=True)


def test_offer_without_offloads_of_the_port_has_none() -> None:
    plain = virtio_offer(
        PortCaps(V(0), queues=1, max_frame=1514),
        disabled=V(0),
        protocol=CHANNEL,
        uso=False,
        config_space=False,
        has_mac=False,
        has_mtu=False,
    )

    assert not plain & ALL_OFFLOADS


@pytest.mark.parametrize(
    ("disabled", "gone"),
    [
        (V.CSUM, V.HOST_TSO4 | V.HOST_TSO6 | V.HOST_ECN | V.HOST_UFO | V.HOST_USO | V.GSO),
        (
            V.GUEST_CSUM,
            V.GUEST_TSO4 | V.GUEST_TSO6 | V.GUEST_ECN | V.GUEST_UFO | V.GUEST_USO4 | V.GUEST_USO6,
        ),
        (V.HOST_TSO4 | V.HOST_TSO6, V.HOST_ECN),
        (V.GUEST_TSO4 | V.GUEST_TSO6, V.GUEST_ECN),
        (V.EVENT_IDX, V(0)),
    ],
)
def test_offer_loses_what_depends_on_a_disabled_bit(disabled: V, gone: V) -> None:
    # virtio 1.2, 5.1.3.1
    left = offer(disabled, uso=True)

    assert not left & (disabled | gone)
    assert left == offer(uso=True) & ~(disabled | gone)


def test_closed_leaves_a_consistent_offer_alone() -> None:
    assert closed(offer(uso=True)) == offer(uso=True)


def test_protocol_offer_has_config_only_with_a_config_space_of_ours() -> None:
    # QEMU warns at each start when it is offered CONFIG for a network device.
    assert P.CONFIG not in protocol_offer(disabled=P(0), config_space=False)
    assert P.CONFIG in protocol_offer(disabled=P(0), config_space=True)


def test_protocol_offer_has_what_this_version_serves() -> None:
    assert protocol_offer(disabled=P.RARP, config_space=False) == (
        P.MQ
        | P.LOG_SHMFD
        | P.REPLY_ACK
        | P.MTU
        | P.BACKEND_REQ
        | P.CROSS_ENDIAN
        | P.INFLIGHT_SHMFD
        | P.RESET_DEVICE
        | P.INBAND_NOTIFICATIONS
        | P.CONFIGURE_MEM_SLOTS
        | P.STATUS
        | P.GET_VRING_BASE_INFLIGHT
        | P.GPA_ADDRESSES
        | P.DEVICE_STATE
        | P.GET_VRING_BASE_SKIP_DRAIN
    )


def test_protocol_feature_goes_with_the_one_that_it_must_not_come_without() -> None:
    three = P.INFLIGHT_SHMFD | P.GET_VRING_BASE_INFLIGHT | P.GET_VRING_BASE_SKIP_DRAIN
    assert protocol_offer(disabled=P.INFLIGHT_SHMFD, config_space=False) & three == P(0)
    offer = protocol_offer(disabled=P.GET_VRING_BASE_INFLIGHT, config_space=False)
    assert offer & three == P.INFLIGHT_SHMFD
    for needed in (P.BACKEND_REQ, P.REPLY_ACK):
        assert P.INBAND_NOTIFICATIONS not in protocol_offer(disabled=needed, config_space=False)
