"""A Linux guest on packed rings: data both ways, resets, and a server that is killed.

The position of a packed ring is nowhere in memory. QEMU keeps what the last back-end answered to
GET_VRING_BASE, so after one that died it gives a position of long ago. Rings may then stand still, until the
guest makes them anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.netns import ETHERNET_FRAME, Namespace
from tests.interop.rig import Rig, tap_rig
from tests.interop.server_process import Server

RING_PACKED = 34
PERSISTENT = "tap:ifname=vt0,persist=on"


def has_feature(rig: Rig, bit: int) -> bool:
    """By the guest driver's own word."""
    return rig.guest.sh("cat /sys/class/net/eth0/device/features").strip()[bit] == "1"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("queues", [1, 4])
def test_data_both_ways_and_resets(queues: int, folder: Path, namespace: Namespace) -> None:
    with tap_rig(folder, namespace, queues, device="packed=on") as rig:
        assert has_feature(rig, RING_PACKED)
        if queues > 1:
            rig.guest.sh(f"ethtool -L eth0 combined {queues}")
        rig.link.ping()
        rig.link.ping(size=1472)
        rig.link.check_content()
        for to_guest in (True, False):
            with rig.link.capture() as seen:
                rig.link.tcp(to_guest, streams=2 * queues)
            assert (seen.to_guest if to_guest else seen.from_guest).longest > ETHERNET_FRAME
        for _ in range(3):
            rig.guest.sh("ip link set eth0 down")
            rig.link.up()
            rig.link.ping()
        rig.guest.reset()
        rig.link.up()
        rig.link.ping()
        before = rig.guest.boot_id()
        rig.guest.sh("(sleep 0.1; reboot -f) >/dev/null 2>&1 &")
        rig.guest.wait_new_boot(before)
        rig.link.up()
        rig.link.check_content()


def test_guest_starts_anew_on_a_restarted_server(folder: Path, namespace: Namespace) -> None:
    with tap_rig(folder, namespace, port=PERSISTENT, device="packed=on") as rig:
        words = rig.server.argv[rig.server.argv.index("serve") + 1 :]
        assert has_feature(rig, RING_PACKED)
        # Both rings go around many times; that they stand where they began is then a chance of 1 in 512.
        rig.link.check_content()
        rig.server.kill()
        rig.server = Server(folder, *words, namespace=namespace, name="second")
        rig.server.wait_listening(rig.socket)
        for ring in (0, 1):
            rig.server.wait_log(f"ring {ring} is broken until it is reset: a packed ring .* cannot go on", 30)
        rig.server.assert_alive()
        rig.guest.reset()
        rig.link.up()
        rig.link.ping()
        rig.link.check_content()
