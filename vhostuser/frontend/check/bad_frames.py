"""Good chains with bad frames in them: they are given back, and the ring goes on."""

from __future__ import annotations

import time

from vhostuser.frontend.check.model import NO_VIRTIO, Group, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.traffic import pass_frames, settle, take_in, wait_used
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.flood import ethernet
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.net_header import GsoType, HeaderFlag, NetHeader
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("bad-frames", "frames too short, and headers that make no sense")

_OFFLOADS = V.CSUM | V.HOST_TSO4 | V.HOST_TSO6 | V.HOST_ECN | V.HOST_UFO
_ECHO_WITHIN = 0.005
_HEADER = "virtio 1.x, 5.1.6.2"
_CSUM = int(HeaderFlag.NEEDS_CSUM)
_TCP4, _TCP6, _UDP, _ECN = int(GsoType.TCPV4), int(GsoType.TCPV6), int(GsoType.UDP), int(GsoType.ECN)


def _bear(peer: Peer, driver: VirtioNetDriver, content: bytes, header: NetHeader | bytes, what: str) -> None:
    """It is given back, whatever is done with it, and good frames pass behind it.

    Should it come back to us, it needs no offload, for we can do none.
    """
    driver.send(content, header, indirect=False, timeout=peer.patience)
    wait_used(peer, driver, what)
    time.sleep(_ECHO_WITHIN)
    for received in take_in(driver):
        found = received.header
        expect((found.flags, found.gso_type) == (0, 0), f"{what} thrown away, or back with flags 0", found)
    pass_frames(peer, driver, 2)


def _bad(size: int) -> bytes:
    """Not taken for a good one when it comes back."""
    return (ethernet() + bytes(range(256)) * 4)[:size]


@GROUP.check(
    "short-chains",
    "Chains too short for a header and an Ethernet header are given back, and the ring goes on.",
    "CVE-2022-2132",
    Severity.ROBUSTNESS,
)
def _short_chains(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        for size in (1, 5, 9, 10, 11, 12, 13, 20, 25):
            _bear(peer, driver, b"", bytes(size), f"a chain of {size} bytes")


@GROUP.check(
    "many-short-chains",
    "A thousand short chains use nothing up.",
    "CVE-2022-2132",
    Severity.ROBUSTNESS,
)
def _many_short_chains(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        for _ in range(50):
            for _ in range(20):
                driver.send(b"", bytes(11), indirect=False, timeout=peer.patience)
            wait_used(peer, driver, "short chains")
        pass_frames(peer, driver, 8)


def _add(name: str, what: str, rule: str, *headers: NetHeader, virtio: V = NO_VIRTIO) -> None:
    def check(peer: Peer) -> None:
        with peer.driver(features=DEFAULT_FEATURES | _OFFLOADS) as driver:
            settle(peer, driver)
            for header in headers:
                for size in (60, 1000):
                    _bear(peer, driver, _bad(size), header, f"a frame with {header}")

    GROUP.check(
        f"header-{name}",
        f"A frame whose header has {what} is given back, and the ring goes on.",
        rule,
        Severity.ROBUSTNESS,
        virtio=virtio,
    )(check)


_add("unknown-flags", "flags that nobody has defined", _HEADER, NetHeader(flags=0xFE))
_add(
    "unknown-gso",
    "a kind of segmentation that nobody has defined",
    _HEADER,
    *(NetHeader(_CSUM, gso, 54, 500, 34, 16) for gso in (2, 6, 0x1F, 0x7F, 0xFF)),
)
_add(
    "gso-size-0",
    "segments of 0 bytes",
    "DPDK, commit 7023f3e532",
    *(NetHeader(_CSUM, gso, 54, 0, 34, 16) for gso in (_TCP4, _TCP6, _UDP, _TCP4 | _ECN)),
)
_add(
    "gso-size-1",
    "segments of 1 or of 65535 bytes",
    _HEADER,
    NetHeader(_CSUM, _TCP4, 54, 1, 34, 16),
    NetHeader(_CSUM, _TCP4, 54, 0xFFFF, 34, 16),
)
_add(
    "gso-without-csum",
    "segmentation without a checksum to complete",
    _HEADER,
    NetHeader(0, _TCP4, 54, 500, 34, 16),
    NetHeader(0, _TCP6, 74, 500, 54, 16),
)
_add(
    "csum-outside",
    "a checksum beyond the frame",
    "CVE-2024-11614",
    NetHeader(_CSUM, 0, 0, 0, 0xFFFF, 0xFFFF),
    NetHeader(_CSUM, 0, 0, 0, 59, 0),
    NetHeader(_CSUM, 0, 0, 0, 999, 0),
    NetHeader(_CSUM, 0, 0, 0, 0, 0xFFFE),
    NetHeader(_CSUM, 0, 0, 0, 0xFFFE, 16),
)
_add(
    "hdr-len-outside",
    "a header length beyond the frame",
    "DPDK, commit 706ba48665",
    NetHeader(_CSUM, _TCP4, 0xFFFF, 500, 34, 16),
    NetHeader(0, 0, 0xFFFF, 0, 0, 0),
)
_add(
    "num-buffers",
    "a number of buffers, which is not the driver's to say",
    _HEADER,
    NetHeader(num_buffers=0xFFFF),
)
_add("all-ones", "all bits set", _HEADER, NetHeader(0xFF, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF))


@GROUP.check(
    "offload-not-negotiated",
    "A frame that wants an offload which was not negotiated is given back, and the ring goes on.",
    _HEADER,
    Severity.ROBUSTNESS,
)
def _offload_not_negotiated(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        for header in (NetHeader(_CSUM, 0, 0, 0, 34, 16), NetHeader(_CSUM, _TCP4, 54, 500, 34, 16)):
            _bear(peer, driver, _bad(1000), header, f"a frame with {header}")
