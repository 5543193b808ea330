"""A real guest under QEMU over `--port tap:`: everything it does with one NIC, and with four queue pairs.

The tests of a file share one guest (a boot takes 7 s under emulation) and leave it as they found it: up, with
an address. What a test says was counted by the guest, by iperf3 or by the kernel on the tap, never by the
server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.netns import ETHERNET_FRAME, Namespace
from tests.interop.process import wait_until
from tests.interop.rig import Rig, tap_rig

PAIRS = 4


@pytest.fixture(scope="module")
def shared_rig(shared_folder: Path, shared_namespace: Namespace) -> Iterator[Rig]:
    with tap_rig(shared_folder, shared_namespace) as rig:
        yield rig


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """The shared rig; after every test the server still runs and has nothing to complain about."""
    yield shared_rig
    shared_rig.server.assert_alive()
    assert "Traceback" not in shared_rig.server.log


def test_ping_both_ways(rig: Rig) -> None:
    rig.link.ping()
    rig.link.ping(size=1472)


def test_tcp_to_the_host_in_segments_of_tso(rig: Rig) -> None:
    with rig.link.capture() as seen:
        rig.link.tcp(to_guest=False)
    assert seen.from_guest.longest > ETHERNET_FRAME
    assert seen.from_guest.over_ethernet > 100


def test_tcp_to_the_guest_in_segments_of_tso(rig: Rig) -> None:
    with rig.link.capture() as seen:
        rig.link.tcp(to_guest=True)
    assert seen.to_guest.longest > ETHERNET_FRAME
    assert seen.to_guest.over_ethernet > 100


def test_what_arrives_is_what_was_sent(rig: Rig) -> None:
    rig.link.check_content()


def test_kernel_and_guest_count_the_same_frames(rig: Rig) -> None:
    guest, namespace = rig.guest, rig.namespace

    def counted(direction: str) -> tuple[int, int]:
        """Frames by the guest's count and by the kernel's, from the guest ("tx") or to it ("rx")."""
        kernel = namespace.received if direction == "tx" else namespace.transmitted
        statistics = f"cat /sys/class/net/eth0/statistics/{direction}_packets"
        return int(guest.sh(statistics)), kernel("vt0")

    def count_both() -> dict[str, tuple[int, int]]:
        return {direction: counted(direction) for direction in ("tx", "rx")}

    def at_rest() -> dict[str, tuple[int, int]] | None:
        """The last segments of an earlier test may be under way between two readings."""
        first = count_both()
        return first if first == count_both() else None

    before = wait_until("counts at rest", at_rest, 5)
    rig.link.ping()
    rig.link.tcp(to_guest=True, mib=8)
    for direction, (guest_before, kernel_before) in before.items():

        def agree(direction: str = direction, a: int = guest_before, b: int = kernel_before) -> bool:
            by_guest, by_kernel = counted(direction)
            return by_guest - a == by_kernel - b > 0

        wait_until(f"equal {direction} counts", agree, 5, lambda: str(count_both()))


def test_interface_down_and_up_again_and_again(rig: Rig) -> None:
    for _ in range(5):
        rig.guest.sh("ip link set eth0 down")
        rig.link.up()
        rig.link.ping()


def test_driver_unbound_and_bound_again_and_again(rig: Rig) -> None:
    name = rig.guest.sh("basename $(readlink /sys/class/net/eth0/device)").strip()
    for _ in range(3):
        rig.guest.sh(f"echo {name} > /sys/bus/virtio/drivers/virtio_net/unbind")
        rig.guest.wait_for("no carrier", lambda: not rig.namespace.carrier("vt0"), 5)
        rig.guest.sh(f"echo {name} > /sys/bus/virtio/drivers/virtio_net/bind")
        rig.link.up()
        rig.link.ping()
    rig.link.tcp(to_guest=True)


def wait_flood(rig: Rig) -> None:
    """Wait until the guest's ring has taken many more frames."""
    enough = rig.namespace.transmitted("vt0") + 500
    wait_until("a flood", lambda: rig.namespace.transmitted("vt0") > enough, 10)


def test_driver_unbound_and_bound_under_traffic(rig: Rig) -> None:
    name = rig.guest.sh("basename $(readlink /sys/class/net/eth0/device)").strip()
    for _ in range(3):
        with rig.link.flood():
            wait_flood(rig)
            rig.guest.sh(f"echo {name} > /sys/bus/virtio/drivers/virtio_net/unbind")
            rig.guest.sh(f"echo {name} > /sys/bus/virtio/drivers/virtio_net/bind")
            rig.link.up()
        rig.link.ping()


def test_guest_paused_under_traffic_and_resumed(rig: Rig) -> None:
    with rig.link.flood():
        for _ in range(3):
            wait_flood(rig)
            rig.guest.qmp.execute("stop")
            rig.guest.qmp.execute("cont")
    rig.link.ping()
    rig.link.check_content()


def test_reset_button_on_the_same_connection(rig: Rig) -> None:
    rig.guest.reset()
    rig.link.up()
    rig.link.ping()
    rig.link.check_content()
    assert len(re.findall(r"EOF|disconnect", rig.guest.log, re.IGNORECASE)) == 0, rig.guest.log


def test_guest_reboots_itself(rig: Rig) -> None:
    before = rig.guest.boot_id()
    rig.guest.sh("(sleep 0.1; reboot -f) >/dev/null 2>&1 &")
    rig.guest.wait_new_boot(before)
    rig.link.up()
    rig.link.ping()
    rig.link.tcp(to_guest=True)


def test_four_queue_pairs(folder: Path, namespace: Namespace) -> None:
    with tap_rig(folder, namespace, queues=PAIRS) as rig:
        channels = re.findall(r"Combined:\s+(\d+)", rig.guest.sh("ethtool -l eth0"))
        assert channels[0] == str(PAIRS), "the device does not offer them"

        rig.guest.sh(f"ethtool -L eth0 combined {PAIRS}")
        rig.link.ping()
        rig.link.tcp(to_guest=False, streams=8)
        rig.link.tcp(to_guest=True, streams=8)
        for direction in ("tx", "rx"):
            use = rig.guest.queue_use("eth0", direction)
            assert len(use) == PAIRS
            assert sum(count > 20 for count in use) >= 2, f"{direction} by queue: {use}"

        # Fewer pairs and all of them again: the kernel must not steer to a queue that nobody empties.
        for pairs in (1, 3, PAIRS):
            rig.guest.sh(f"ethtool -L eth0 combined {pairs}")
            rig.link.ping()
            rig.link.tcp(to_guest=True, mib=16, streams=8)
            rig.link.tcp(to_guest=False, mib=16, streams=8)
        rig.server.assert_alive()
