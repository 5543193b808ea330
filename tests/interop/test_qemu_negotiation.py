"""A Linux guest whose device offers less, or that is a legacy guest: a NIC plugged in for each case.

The guest is shared; each test has a server and a NIC of its own, and moves data both ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.link import Link
from tests.interop.netns import ETHERNET_FRAME, Namespace
from tests.interop.qemu import Guest, VhostUserNic
from tests.interop.server_process import Server

# Bits of the virtio specification that the guest's own list of negotiated features is checked for.
BITS = {"CSUM": 0, "GUEST_CSUM": 1, "MRG_RXBUF": 15, "INDIRECT_DESC": 28, "EVENT_IDX": 29, "VERSION_1": 32}
# GSO is what legacy drivers call all of HOST_*.
SEGMENTS = [f"{side}_{kind}" for side in ("GUEST", "HOST") for kind in ("TSO4", "TSO6", "ECN", "UFO")] + [
    "GSO"
]

LEGACY = "disable-modern=on,disable-legacy=off"
DEEP_RINGS = "rx_queue_size=1024,tx_queue_size=1024"


@pytest.fixture(scope="module")
def guest(shared_folder: Path, shared_namespace: Namespace) -> Iterator[Guest]:
    with Guest(shared_folder, [], shared_namespace) as guest:
        guest.boot()
        yield guest


def negotiated(guest: Guest) -> set[str]:
    """The names in BITS that the guest's driver has negotiated, by its own word."""
    bits = guest.sh("cat /sys/class/net/eth0/device/features").strip()
    return {name for name, bit in BITS.items() if bits[bit] == "1"}


@pytest.mark.parametrize(
    "without",
    [
        [],
        ["MRG_RXBUF"],
        ["MRG_RXBUF", *SEGMENTS],
        ["EVENT_IDX"],
        ["INDIRECT_DESC"],
        ["INDIRECT_DESC", "EVENT_IDX", "MRG_RXBUF"],
        ["CSUM", "GUEST_CSUM", *SEGMENTS],
    ],
    ids=["everything", "mrg", "mrg-tso", "event", "indirect", "all-three", "offloads"],
)
@pytest.mark.parametrize("device", ["", LEGACY], ids=["modern", "legacy"])
def test_data_both_ways_without(
    without: list[str], device: str, guest: Guest, folder: Path, shared_namespace: Namespace
) -> None:
    path = folder / "vm1.sock"
    words = ["--socket-path", str(path), "--port", "tap:vt0"]
    for feature in without:
        words += ["--disable-feature", feature]
    with Server(folder, *words, namespace=shared_namespace) as server:
        server.wait_listening(path)
        with guest.plugged(VhostUserNic(path, device=device), "eth0"):
            link = Link(guest, shared_namespace)
            link.up()
            missing = {*without, *(["VERSION_1"] if device else [])}
            assert negotiated(guest) == BITS.keys() - missing
            link.ping()
            with link.capture() as seen:
                link.check_content()
            segments = "GUEST_TSO4" not in without
            assert (seen.to_guest.longest > ETHERNET_FRAME) == segments
            assert (seen.from_guest.longest > ETHERNET_FRAME) == segments
            assert guest.sh("cat /sys/class/net/eth0/statistics/rx_errors").strip() == "0"
        server.stop()
    shared_namespace.wait_no_link("vt0")


def test_rings_of_1024_and_ipv6(guest: Guest, folder: Path, shared_namespace: Namespace) -> None:
    path = folder / "vm1.sock"
    words = ("--socket-path", str(path), "--port", "tap:vt0")
    with Server(folder, *words, namespace=shared_namespace) as server:
        server.wait_listening(path)
        with guest.plugged(VhostUserNic(path, device=DEEP_RINGS), "eth0"):
            link = Link(guest, shared_namespace)
            link.up()
            shared_namespace.run("ip", "address", "add", "fd00::1/64", "dev", "vt0", "nodad")
            # Without the duplicate check: a connection made during it would go out from a link-local address.
            guest.sh("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add fd00::2/64 dev eth0")
            for word in ("rx", "tx"):
                assert "1024" in guest.sh(f"ethtool -g eth0 | grep -i '^{word}:'")
            link.check_content()
            six = Link(guest, shared_namespace, peer="fd00::1")
            for to_guest in (False, True):
                with link.capture() as seen:
                    six.tcp(to_guest)
                direction = seen.to_guest if to_guest else seen.from_guest
                assert direction.over_ethernet > 100
        server.stop()
    shared_namespace.wait_no_link("vt0")
