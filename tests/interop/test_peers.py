"""The peers among themselves, without our server: a failure here is not the server's."""

from __future__ import annotations

from pathlib import Path

from tests.interop.link import Link
from tests.interop.netns import ETHERNET_FRAME, Namespace
from tests.interop.qemu import Guest, TapNic
from tests.interop.testpmd import FRONT_CORE, Testpmd, net_vhost, virtio_user


def test_guest_on_qemus_own_tap(folder: Path, namespace: Namespace) -> None:
    namespace.add_tap("vt0")
    with Guest(folder, [TapNic("vt0")], namespace) as guest:
        guest.boot()
        link = Link(guest, namespace)
        link.up()
        link.ping()
        link.check_content()
        with link.capture() as seen:
            link.tcp(to_guest=True)
        assert seen.to_guest.longest > ETHERNET_FRAME


def test_virtio_user_in_front_of_dpdks_back_end(folder: Path) -> None:
    path = folder / "vhost.sock"
    with Testpmd(folder, net_vhost(path), main_core=FRONT_CORE, name="back") as back:
        back.ready()
        back.start("io")
        with Testpmd(folder, virtio_user(path), name="front") as front:
            front.ready()
            front.start("io", "64", first=8)
            front.rates(0.5)
            counts = front.drain()
            assert counts.sent == counts.received > 100_000
            assert back.counts().received == counts.sent
            front.quit()
        back.quit()
