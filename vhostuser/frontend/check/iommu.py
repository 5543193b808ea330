"""A driver behind an IOMMU: every address, its rings' included, is asked for and may be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vhostuser.frontend.check.model import Group, Severity, expect
from vhostuser.frontend.check.peer import MEMORY, Peer
from vhostuser.frontend.check.traffic import assert_serves, frame, pass_frames, rest, settle
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.iommu import Answers, Iommu
from vhostuser.frontend.iova_memory import IovaMemory
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("iommu", "translations asked for, told and taken back")

_RULE = 'vhost-user, "IOMMU support"'
_CHANNEL = P.BACKEND_REQ | P.REPLY_ACK
_FORMATS = (("", V(0)), ("-packed", V.RING_PACKED))
_LARGE = 1400


@contextmanager
def _behind(peer: Peer, extra: V, answers: Answers = Answers.LAZY) -> Iterator[VirtioNetDriver]:
    with (
        IovaMemory(MEMORY) as memory,
        peer.driver(iommu=Iommu(memory, answers), features=DEFAULT_FEATURES | extra) as driver,
    ):
        yield driver


def _table(driver: VirtioNetDriver) -> Iommu:
    assert driver.iommu is not None
    return driver.iommu


def _add(name: str, extra: V) -> None:
    needs = V.ACCESS_PLATFORM | extra

    def asked(peer: Peer) -> None:
        with _behind(peer, extra) as driver:
            settle(peer, driver)
            pass_frames(peer, driver, 32, _LARGE)
            expect(bool(_table(driver).asked), "questions for translations", "none")

    def told(peer: Peer) -> None:
        with _behind(peer, extra, Answers.EAGER) as driver:
            settle(peer, driver)
            pass_frames(peer, driver, 32, _LARGE)

    def moved(peer: Peer) -> None:
        with _behind(peer, extra) as driver:
            settle(peer, driver)
            for start in range(0, 64, 8):
                for page in list(_table(driver).memory.pages):
                    _table(driver).move(driver.frontend, page)
                pass_frames(peer, driver, 8, _LARGE, first=start)

    GROUP.check(
        f"iommu-asked{name}",
        "Frames pass when every translation has to be asked for.",
        _RULE,
        virtio=needs,
        protocol=_CHANNEL,
    )(asked)
    GROUP.check(
        f"iommu-told{name}",
        "Frames pass when translations come before they are asked for.",
        _RULE,
        virtio=needs,
        protocol=_CHANNEL,
    )(told)
    GROUP.check(
        f"iommu-moved{name}",
        "What was taken back is asked for again, and pages that lie elsewhere then are found there.",
        _RULE,
        virtio=needs,
        protocol=_CHANNEL,
    )(moved)


for _name, _extra in _FORMATS:
    _add(_name, _extra)


@GROUP.check(
    "iommu-silence",
    "A translation that does not come holds up neither messages nor other front-ends.",
    _RULE,
    Severity.ROBUSTNESS,
    virtio=V.ACCESS_PLATFORM,
    protocol=_CHANNEL,
)
def _silence(peer: Peer) -> None:
    with _behind(peer, V(0), Answers.SILENT) as driver:
        driver.send(frame(1))
        rest()
        driver.serve_iommu()
        driver.frontend.get_features()
        driver.frontend.get_vring_base(1)
    assert_serves(peer)


@GROUP.check(
    "iommu-refused",
    "An address that the IOMMU does not know costs no more than the connection.",
    _RULE,
    Severity.ROBUSTNESS,
    virtio=V.ACCESS_PLATFORM,
    protocol=_CHANNEL,
)
def _refused(peer: Peer) -> None:
    with _behind(peer, V(0), Answers.REFUSING) as driver:
        driver.send(frame(1))
        rest()
        driver.serve_iommu()
    assert_serves(peer)
