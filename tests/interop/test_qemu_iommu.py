"""A real guest behind QEMU's Intel IOMMU: every address that the server gets is one that it has to ask for.

Strict, the guest maps each buffer for its one use and takes it back at once; lazy, it flushes all from time
to time; in passthrough every page has to be asked for once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.link import CONTENT
from tests.interop.netns import Namespace
from tests.interop.qemu import IOMMU_BUS, iommu_machine
from tests.interop.rig import Rig, tap_rig

NIC = f"bus={IOMMU_BUS},iommu_platform=on,ats=on,disable-legacy=on"


@pytest.fixture(
    scope="module",
    params=["iommu.strict=1", "iommu.strict=0", "iommu=pt"],
    ids=["strict", "lazy", "passthrough"],
)
def shared_rig(
    request: pytest.FixtureRequest, shared_folder: Path, shared_namespace: Namespace
) -> Iterator[Rig]:
    words = f"intel_iommu=on {request.param}"
    machine = iommu_machine(1)
    with tap_rig(shared_folder, shared_namespace, device=NIC, machine=machine, kernel_words=words) as rig:
        yield rig


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """The shared rig; after every test no ring is broken and nothing was refused."""
    yield shared_rig
    shared_rig.server.assert_alive()
    assert not re.search(r"Traceback|is broken|refused|gone", shared_rig.server.log), shared_rig.server.log


def test_the_guest_is_behind_it(rig: Rig) -> None:
    assert "ACCESS_PLATFORM" in rig.server.log
    assert "DMAR" in rig.guest.sh("dmesg")


def test_ping_both_ways(rig: Rig) -> None:
    rig.link.ping()
    rig.link.ping(size=1472)


def test_tcp_both_ways(rig: Rig) -> None:
    rig.link.tcp(to_guest=False, mib=1)
    rig.link.tcp(to_guest=True, mib=1)


def test_what_arrives_is_what_was_sent(rig: Rig) -> None:
    rig.link.check_content(CONTENT[: 1 << 20])


def test_driver_unbound_and_bound_again(rig: Rig) -> None:
    name = rig.guest.sh("basename $(readlink /sys/class/net/eth0/device)").strip()
    for _ in range(3):
        rig.guest.sh(f"echo {name} > /sys/bus/virtio/drivers/virtio_net/unbind")
        rig.guest.sh(f"echo {name} > /sys/bus/virtio/drivers/virtio_net/bind")
        rig.link.up()
        rig.link.ping()


def test_reset_button(rig: Rig) -> None:
    rig.guest.reset()
    rig.link.up()
    rig.link.ping()
    rig.link.check_content(CONTENT[: 1 << 20])
