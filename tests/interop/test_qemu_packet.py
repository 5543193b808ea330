"""A real guest on `--port packet:`, an end of a cable whose other end is the host's.

The kernel sends it segments of 64 KiB and open checksums, whatever it takes. What a test says was counted by
the guest, by iperf3 or by the kernel at the other end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.netns import ETHERNET_FRAME, Namespace
from tests.interop.rig import Rig, tap_rig

NO_OFFLOADS = (
    "csum=off,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,"
    "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off"
)


@contextmanager
def packet_rig(folder: Path, namespace: Namespace, queues: int = 1, device: str = "") -> Iterator[Rig]:
    """The port is on vm1; vt0, the other end, is what the tests look at."""
    namespace.run("ip", "link", "add", "vm1", "type", "veth", "peer", "name", "vt0")
    for end in ("vm1", "vt0"):
        namespace.run("ip", "link", "set", end, "up")
    with tap_rig(folder, namespace, queues, "packet:vm1", device=device) as rig:
        yield rig
        assert "Traceback" not in rig.server.log


@pytest.fixture(scope="module")
def rig(shared_folder: Path, shared_namespace: Namespace) -> Iterator[Rig]:
    with packet_rig(shared_folder, shared_namespace) as rig:
        yield rig


def test_ping_both_ways(rig: Rig) -> None:
    rig.link.ping()
    rig.link.ping(size=1472)


def test_tcp_both_ways_in_large_segments(rig: Rig) -> None:
    with rig.link.capture() as seen:
        rig.link.tcp(to_guest=False)
        rig.link.tcp(to_guest=True)
    assert seen.from_guest.over_ethernet > 100
    assert seen.to_guest.over_ethernet > 100


def test_what_arrives_is_what_was_sent(rig: Rig) -> None:
    rig.link.check_content()


def test_interface_down_and_up_again(rig: Rig) -> None:
    for _ in range(3):
        with rig.link.flood():
            rig.namespace.run("ip", "link", "set", "vm1", "down")
            rig.namespace.run("ip", "link", "set", "vm1", "up")
        rig.link.ping()


def test_guest_reboots_itself(rig: Rig) -> None:
    before = rig.guest.boot_id()
    rig.guest.sh("(sleep 0.1; reboot -f) >/dev/null 2>&1 &")
    rig.guest.wait_new_boot(before)
    rig.link.up()
    rig.link.ping()


def test_guest_that_takes_no_offloads_gets_what_the_kernel_left_undone(
    folder: Path, namespace: Namespace
) -> None:
    with packet_rig(folder, namespace, device=NO_OFFLOADS) as rig:
        rig.link.ping(size=1472)
        with rig.link.capture() as seen:
            rig.link.tcp(to_guest=True, mib=16)
            rig.link.tcp(to_guest=False, mib=16)
            rig.link.check_content()
        assert seen.to_guest.over_ethernet > 100
        assert seen.from_guest.longest <= ETHERNET_FRAME


def test_four_queue_pairs(folder: Path, namespace: Namespace) -> None:
    with packet_rig(folder, namespace, queues=4) as rig:
        rig.guest.sh("ethtool -L eth0 combined 4")
        rig.link.ping()
        for to_guest in (True, False):
            rig.link.tcp(to_guest=to_guest, streams=16)
        use = rig.guest.queue_use("eth0", "rx")
        assert len(use) == 4
        # 16 flows may all miss one of the queues: once in 25 times.
        assert sum(count > 20 for count in use) >= 3, f"received by queue: {use}"

        # Fewer pairs and all of them again: the group must not steer to a queue that nobody empties.
        for pairs in (1, 3, 4):
            rig.guest.sh(f"ethtool -L eth0 combined {pairs}")
            rig.link.ping()
            rig.link.tcp(to_guest=True, mib=16, streams=8)
