"""The control queue (virtio 1.2, 5.1.6.5) where a front-end leaves it to us: one test for each command."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.loglines import complaints
from tests.site import RING_SIZE, InProcessSite, echo, make_site
from vhostuser.frontend.control import RxMode
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.net_header import GsoType, HeaderFlag, NetHeader
from vhostuser.frontend.orders import Order
from vhostuser.wire.constants import (
    FLAG_NEED_REPLY,
    REPLY_FLAGS,
    TRANSFER_LOAD,
    TRANSFER_SAVE,
    VERSION,
    BackendRequest,
)
from vhostuser.wire.features import ProtocolFeature
from vhostuser.wire.features import VirtioFeature as V

OWN = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400123457")
GROUP = bytes.fromhex("3333ff123456")
OTHER_GROUP = bytes.fromhex("3333ff123457")
ALL_ONES = b"\xff" * 6
NOTHING = V(0)
COMMANDS = V.CTRL_RX | V.CTRL_RX_EXTRA | V.CTRL_VLAN | V.CTRL_MAC_ADDR | V.CTRL_GUEST_OFFLOADS
FEATURES = (
    V.VERSION_1
    | V.MRG_RXBUF
    | V.EVENT_IDX
    | V.INDIRECT_DESC
    | V.PROTOCOL_FEATURES
    | V.MAC
    | V.STATUS
    | V.GUEST_ANNOUNCE
    | COMMANDS
)
OFFLOADS = V.CSUM | V.HOST_TSO4 | V.GUEST_CSUM | V.GUEST_TSO4
FORMATS = [pytest.param(NOTHING, id="split"), pytest.param(V.RING_PACKED, id="packed")]
TSO = NetHeader(HeaderFlag.NEEDS_CSUM, GsoType.TCPV4, 54, 1448, 34, 16)


def to(mac: bytes, vlan: int | None = None) -> bytes:
    tag = b"" if vlan is None else b"\x81\x00" + vlan.to_bytes(2, "big")
    return (mac + b"\2\0\0\0\0\1" + tag + b"\x88\xb5").ljust(60, b".")


@contextmanager
def control(
    extra: V = NOTHING,
    *,
    pairs: int = 1,
    order: Order = Order.CLOUD_HYPERVISOR,
    without: V = NOTHING,
    workers: int = 0,
) -> Iterator[tuple[InProcessSite, VirtioNetDriver]]:
    """A device whose config space is ours, with address `OWN`, and a driver with a control queue."""
    many = V.MQ if pairs > 1 else V(0)
    with (
        make_site(mac=OWN.hex(":"), queues=pairs, workers=workers) as site,
        VirtioNetDriver.connect(
            site.path,
            order=order,
            queue_pairs=pairs,
            queue_size=RING_SIZE,
            control_queue=True,
            features=(FEATURES | many | extra) & ~without,
        ) as driver,
    ):
        yield site, driver


def heard(driver: VirtioNetDriver, *frames: bytes) -> list[bytes]:
    """Which of them come back: echo has given or dropped a frame before it uses the chain that brought it."""
    found = []
    for content in frames:
        driver.send(content)
        driver.wait_sent()
        while (received := driver.recv_now()) is not None:
            found.append(received.frame)
    return found


EVERY = [to(mac) for mac in (OWN, OTHER, GROUP, OTHER_GROUP, ALL_ONES)]


@pytest.mark.parametrize("extra", FORMATS)
@pytest.mark.parametrize("order", list(Order))
def test_queue_behind_the_pairs_is_served_in_every_message_order(order: Order, extra: V) -> None:
    with control(extra, pairs=2, order=order) as (_, driver):
        driver.frontend.get_features()
        assert driver.control.set_pairs(2)
        for pair in range(2):
            driver.send(to(OWN), queue=pair)
            assert driver.recv().queue == pair


@pytest.mark.parametrize("extra", FORMATS)
def test_before_any_command_every_frame_is_delivered(extra: V) -> None:
    with control(extra) as (_, driver):
        assert heard(driver, *EVERY, to(OWN, 5)) == [*EVERY, to(OWN, 5)]


@pytest.mark.parametrize("extra", FORMATS)
def test_promiscuous_mode(extra: V) -> None:
    with control(extra) as (_, driver):
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        assert heard(driver, *EVERY) == [to(OWN), to(ALL_ONES)]
        assert driver.control.set_rx_mode(RxMode.NO_UNICAST, True)
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, True)
        # It takes effect even if another mode is on.
        assert heard(driver, *EVERY, to(OTHER, 5)) == [*EVERY, to(OTHER, 5)]


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (RxMode.ALL_MULTICAST, [OWN, GROUP, OTHER_GROUP, ALL_ONES]),
        (RxMode.ALL_UNICAST, [OWN, OTHER, ALL_ONES]),
        (RxMode.NO_MULTICAST, [OWN, ALL_ONES]),
        (RxMode.NO_UNICAST, [ALL_ONES]),
        (RxMode.NO_BROADCAST, [OWN]),
    ],
)
def test_receive_mode(mode: RxMode, wanted: list[bytes]) -> None:
    with control() as (_, driver):
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        assert driver.control.set_rx_mode(mode, True)
        assert heard(driver, *EVERY) == [to(mac) for mac in wanted]
        assert driver.control.set_rx_mode(mode, False)
        assert heard(driver, *EVERY) == [to(OWN), to(ALL_ONES)]


@pytest.mark.parametrize(
    ("suppressed", "opened"),
    [
        (RxMode.NO_MULTICAST, RxMode.ALL_MULTICAST),
        (RxMode.NO_UNICAST, RxMode.ALL_UNICAST),
        (RxMode.NO_BROADCAST, RxMode.ALL_MULTICAST),
    ],
)
def test_mode_that_suppresses_takes_effect_even_if_one_that_opens_is_on(
    suppressed: RxMode, opened: RxMode
) -> None:
    kinds = {
        RxMode.NO_MULTICAST: [GROUP, OTHER_GROUP],
        RxMode.NO_UNICAST: [OWN, OTHER],
        RxMode.NO_BROADCAST: [ALL_ONES],
    }
    with control() as (_, driver):
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        assert driver.control.set_rx_mode(opened, True)
        assert driver.control.set_rx_mode(suppressed, True)
        assert not set(heard(driver, *EVERY)) & {to(mac) for mac in kinds[suppressed]}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("extra", FORMATS)
def test_mac_table(extra: V, workers: int) -> None:
    with control(extra, workers=workers) as (_, driver):
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        assert driver.control.set_mac_table([OTHER], [GROUP])
        assert heard(driver, *EVERY) == [to(OWN), to(OTHER), to(GROUP), to(ALL_ONES)]
        assert driver.control.set_mac_table([], [])
        assert heard(driver, *EVERY) == [to(OWN), to(ALL_ONES)]


def test_mac_table_of_more_addresses_than_are_told_apart_loses_none_of_them() -> None:
    groups = [b"\x33\x33\0\0" + number.to_bytes(2, "big") for number in range(2000)]
    with control() as (_, driver):
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        assert driver.control.set_mac_table([], groups)
        wanted = [to(OWN), to(groups[0]), to(groups[-1]), to(ALL_ONES)]
        assert heard(driver, to(OTHER), *wanted) == wanted


def test_mac_address() -> None:
    with control() as (_, driver):
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        assert driver.control.set_mac(OTHER)
        # "reflected in mac in config space", before the command is used.
        assert driver.frontend.get_config(0, 6) == OTHER
        assert heard(driver, *EVERY) == [to(OTHER), to(ALL_ONES)]


def test_vlan_table() -> None:
    tagged = [to(OWN, vlan) for vlan in (0, 5, 6, 4095)]
    with control() as (_, driver):
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        # "starts with an empty VLAN filter table", which applies to tagged packets only.
        assert heard(driver, *tagged, to(OWN)) == [to(OWN)]
        assert driver.control.add_vlan(5)
        assert driver.control.add_vlan(4095)
        assert heard(driver, *tagged) == [to(OWN, 5), to(OWN, 4095)]
        assert driver.control.delete_vlan(5)
        assert heard(driver, *tagged) == [to(OWN, 4095)]


def test_without_ctrl_vlan_all_tagged_packets_are_accepted() -> None:
    with control(without=V.CTRL_VLAN) as (_, driver):
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        assert heard(driver, to(OWN, 5)) == [to(OWN, 5)]
        assert not driver.control.add_vlan(6)
        assert heard(driver, to(OWN, 5)) == [to(OWN, 5)]


def move(driver: VirtioNetDriver, path: Path) -> None:
    """The guest goes on with a device that knows nothing, and is given the state of the guest's own."""
    driver.stop()
    driver.frontend.set_protocol_features(driver.protocol_features | ProtocolFeature.DEVICE_STATE)
    reader, writer = os.pipe()
    driver.frontend.set_device_state_fd(TRANSFER_SAVE, writer)
    os.close(writer)
    assert driver.frontend.check_device_state() == 0
    driver.frontend.close()
    target = Frontend.connect(path)
    target.set_protocol_features(target.get_protocol_features())
    target.set_device_state_fd(TRANSFER_LOAD, reader)
    os.close(reader)
    assert target.check_device_state() == 0
    driver.resume(target)


@pytest.mark.parametrize("extra", FORMATS)
def test_what_was_set_holds_on_another_host(extra: V) -> None:
    with control(extra, pairs=2) as (site, driver):
        assert driver.control.set_pairs(2)
        assert driver.control.set_mac(OTHER)
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        assert driver.control.set_mac_table([], [GROUP])
        assert driver.control.add_vlan(5)
        move(driver, site.path)

        assert driver.frontend.get_config(0, 6) == OTHER
        wanted = [to(OTHER), to(GROUP), to(ALL_ONES), to(OTHER, 5)]
        assert heard(driver, *EVERY, to(OTHER, 5), to(OTHER, 6)) == wanted
        driver.send(to(OTHER), queue=1)
        assert driver.recv().queue == 1


@pytest.mark.parametrize("extra", FORMATS)
def test_guest_that_has_moved_is_asked_to_announce_itself_and_acknowledges(extra: V) -> None:
    with control(extra) as (site, driver):
        assert driver.frontend.get_config(6, 2) == b"\1\0"
        move(driver, site.path)

        assert driver.nic.channel_fd is not None
        acked = driver.protocol_features | ProtocolFeature.BACKEND_REQ
        driver.frontend.set_protocol_features(acked)
        driver.frontend.set_backend_req_fd(driver.nic.channel_fd)
        driver.channel.settimeout(10)
        told = driver.channel.recv(12)
        assert struct.unpack("=III", told) == (BackendRequest.CONFIG_CHANGE_MSG, VERSION | FLAG_NEED_REPLY, 0)
        driver.channel.sendall(struct.pack("=IIIQ", BackendRequest.CONFIG_CHANGE_MSG, REPLY_FLAGS, 8, 0))
        assert driver.frontend.get_config(6, 2) == b"\3\0"
        assert driver.control.ack_announce()
        assert driver.frontend.get_config(6, 2) == b"\1\0"
        assert heard(driver, to(OWN)) == [to(OWN)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("extra", FORMATS)
def test_queue_pairs(extra: V, workers: int) -> None:
    # "After initialization of reset, the device MUST queue packets only on receiveq1."
    with control(extra, pairs=4, workers=workers) as (_, driver):

        def pairs_that_echo() -> list[int]:
            found = []
            for pair in range(4):
                driver.send(to(OWN), queue=pair)
                driver.wait_sent(pair)
                while (received := driver.recv_now()) is not None:
                    assert received.queue == pair
                    found.append(pair)
            return found

        assert pairs_that_echo() == [0]
        for pairs in (2, 4, 3, 1):
            assert driver.control.set_pairs(pairs)
            assert pairs_that_echo() == list(range(pairs))
        assert not driver.control.set_pairs(0)
        assert not driver.control.set_pairs(5)
        assert pairs_that_echo() == [0]


def test_guest_offloads() -> None:
    with control(OFFLOADS) as (_, driver):

        def comes_back(header: NetHeader) -> bool:
            driver.send(to(OWN).ljust(2000, b"."), header)
            driver.wait_sent()
            received = driver.recv_now()
            assert received is None or received.header.gso_type == header.gso_type
            return received is not None

        csum = NetHeader(HeaderFlag.NEEDS_CSUM, csum_start=34, csum_offset=16)
        assert comes_back(TSO)
        assert driver.control.set_offloads(V.GUEST_CSUM)
        assert (comes_back(TSO), comes_back(csum), comes_back(NetHeader())) == (False, True, True)
        assert driver.control.set_offloads(V(0))
        assert (comes_back(TSO), comes_back(csum), comes_back(NetHeader())) == (False, False, True)
        assert driver.control.set_offloads(V.GUEST_CSUM | V.GUEST_TSO4)
        assert (comes_back(TSO), comes_back(csum)) == (True, True)
        assert not driver.control.set_offloads(V.GUEST_CSUM | V.GUEST_TSO6)
        assert comes_back(TSO)


@pytest.mark.parametrize("extra", FORMATS)
def test_command_in_any_layout(extra: V) -> None:
    # Virtio 1.2, 2.7.4: the device MUST NOT make assumptions about it.
    with control(extra) as (_, driver):
        for layout in ([], [1], [2], [1, 1], [2, 3, 1, 0, 2], [1] * 8):
            for indirect in (False, True):
                assert driver.control.command(1, 1, OTHER, layout=layout, indirect=indirect)


@pytest.mark.parametrize("extra", FORMATS)
def test_queue_that_is_stopped_goes_on_where_it_was_and_the_settings_hold(extra: V) -> None:
    with control(extra) as (_, driver):
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        for _ in range(3):
            driver.stop()
            driver.start()
            assert heard(driver, *EVERY) == [to(OWN), to(ALL_ONES)]
            for _ in range(RING_SIZE):
                assert driver.control.set_mac_table([], [])


def test_reset_empties_the_tables() -> None:
    # "The device MUST have an empty MAC filtering table on reset." Promiscuous mode is on then, too.
    with control() as (_, driver):
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        assert driver.control.set_mac_table([OTHER], [GROUP])
        driver.frontend.set_protocol_features(driver.protocol_features | ProtocolFeature.RESET_DEVICE)
        driver.stop()
        driver.frontend.reset_device()
        driver.reset()
        driver.start()
        assert heard(driver, *EVERY) == EVERY
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        assert heard(driver, *EVERY) == [to(OWN), to(ALL_ONES)]


def test_status_0_is_a_reset() -> None:
    with control() as (_, driver):
        driver.frontend.set_protocol_features(driver.protocol_features | ProtocolFeature.STATUS)
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        driver.frontend.set_status(0)
        driver.running = False
        driver.reset()
        driver.start()
        assert heard(driver, *EVERY) == EVERY


def test_next_front_end_finds_no_filter() -> None:
    with control() as (site, driver):
        assert driver.control.set_rx_mode(RxMode.PROMISCUOUS, False)
        assert driver.control.set_rx_mode(RxMode.NO_BROADCAST, True)
        driver.close()
        site.assert_serves()


# Front-ends that run the queue themselves


@pytest.mark.parametrize("pairs", [1, 4])
@pytest.mark.parametrize("order", list(Order))
def test_front_end_that_keeps_the_queue_has_every_pair_used(
    order: Order, pairs: int, caplog: pytest.LogCaptureFixture
) -> None:
    # Cloud Hypervisor acknowledges CTRL_VQ and MQ, and no ring behind the pairs is ever set up.
    with (
        make_site(queues=pairs, config_space=True) as site,
        VirtioNetDriver.connect(
            site.path,
            order=order,
            queue_pairs=pairs,
            queue_size=RING_SIZE,
            features=FEATURES & ~COMMANDS | V.CTRL_VQ | V.MQ,
        ) as driver,
    ):
        assert V.CTRL_VQ in driver.features
        driver.frontend.get_features()
        for pair in range(pairs):
            driver.send(to(OTHER), queue=pair)
            assert driver.recv().queue == pair
    assert complaints(caplog) == []


def test_commands_without_ctrl_vq_filter_nothing() -> None:
    # DPDK's virtio-user: it acknowledges CTRL_RX and CTRL_VLAN, strips CTRL_VQ, and answers by itself.
    with (
        make_site(mac=OWN.hex(":")) as site,
        VirtioNetDriver.connect(
            site.path, order=Order.VIRTIO_USER, queue_size=RING_SIZE, features=FEATURES & ~V.CTRL_VQ
        ) as driver,
    ):
        assert V.CTRL_RX | V.CTRL_VLAN in driver.features
        echo(driver, to(OTHER, 5))
