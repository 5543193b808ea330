"""DPDK's virtio-user in front of the server: every way in which it uses split rings, counted on both ends.

The counts are testpmd's own, the kernel's for a tap, and the ring positions that testpmd is told at the end.
"""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import pytest

from tests.interop.netns import Namespace
from tests.interop.process import wait_until
from tests.interop.testpmd import Testpmd, virtio_user
from tests.interop.testpmd_rig import BURSTS, ENOUGH, RING, per_queue, serve, served, stopped_at

QUEUES = (1, 4)


@pytest.mark.parametrize("queues", QUEUES)
@pytest.mark.parametrize(
    ("mrg_rxbuf", "in_order", "indirect"),
    list(itertools.product((0, 1), repeat=3)),
    ids=lambda on: "on" if on else "off",
)
def test_echo_returns_every_packet(
    mrg_rxbuf: int, in_order: int, indirect: int, queues: int, folder: Path
) -> None:
    path = folder / "vm1.sock"
    words = ["--queues", str(queues)] + ([] if indirect else ["--disable-feature", "INDIRECT_DESC"])
    # Two pieces a frame: one would need neither a chain nor an indirect table. Buffers of 1 KB make the frame
    # come back in two of them where they may be merged.
    mbuf_size = 1152 if mrg_rxbuf else 2176
    scatter = ["--enable-scatter"] if mrg_rxbuf else []
    vdev = virtio_user(path, queues, RING, mrg_rxbuf=mrg_rxbuf, in_order=in_order)
    with (
        serve(folder, path, "echo", *words) as server,
        Testpmd(folder, vdev, queues=queues, mbuf_size=mbuf_size, words=scatter) as front,
    ):
        front.ready()
        features = set(server.wait_log(r"guest features: (.*)")[1].split(", "))
        for name, on in (("MRG_RXBUF", mrg_rxbuf), ("IN_ORDER", in_order), ("INDIRECT_DESC", indirect)):
            assert (name in features) == bool(on)

        front.start("io", "700,700", first=BURSTS)
        front.rates(0.3)
        counts = front.drain()
        assert counts.sent == counts.received > ENOUGH
        assert counts.sent_bytes == counts.received_bytes == 1400 * counts.sent
        assert counts.missed == counts.errors == 0
        sent, received = per_queue(front, "tx", queues), per_queue(front, "rx", queues)
        assert sent == received
        assert min(sent) > 32 * BURSTS
        front.quit()
        assert [stopped_at(server, 2 * queue + 1) for queue in range(queues)] == [n % 2**16 for n in sent]
        assert served(server) == (counts.sent, counts.received)


def test_commands_stay_with_virtio_user_and_filter_nothing(folder: Path) -> None:
    """It acknowledges what a control queue can say, strips CTRL_VQ and answers its driver by itself."""
    path = folder / "vm1.sock"
    vdev = virtio_user(path, 1, RING, cq=1)
    with (
        serve(folder, path, "echo", "--mac", "52:54:00:12:34:56") as server,
        Testpmd(folder, vdev) as front,
    ):
        front.ready()
        features = set(server.wait_log(r"guest features: (.*)")[1].split(", "))
        assert {"CTRL_RX", "CTRL_VLAN", "CTRL_MAC_ADDR"} <= features
        assert not {"CTRL_VQ", "CTRL_GUEST_OFFLOADS"} & features

        front.start("io", "64", first=BURSTS)
        front.rates(0.3)
        counts = front.drain()
        assert counts.sent == counts.received > ENOUGH
        front.quit()
        assert served(server) == (counts.sent, counts.received)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mrg_rxbuf": 0, "in_order": 0, "vectorized": 1}, ()),  # DPDK's own receive path of split rings
        ({"packed_vq": 1}, ("--disable-feature", "RING_PACKED")),  # falls back to split rings
    ],
    ids=["vectorized", "packed-wanted"],
)
def test_echo_with_other_paths_of_dpdk(
    options: dict[str, int | str], words: tuple[str, ...], folder: Path
) -> None:
    path = folder / "vm1.sock"
    vdev = virtio_user(path, 1, RING, **options)
    with serve(folder, path, "echo", *words), Testpmd(folder, vdev) as front:
        front.ready()
        front.start("io", "64", first=BURSTS)
        front.rates(0.3)
        counts = front.drain()
        assert counts.sent == counts.received > ENOUGH
        front.quit()


@pytest.mark.parametrize("size", [256, 4096])
def test_echo_with_rings_of_another_size(size: int, folder: Path) -> None:
    path = folder / "vm1.sock"
    with serve(folder, path, "echo"), Testpmd(folder, virtio_user(path, 1, size)) as front:
        front.ready()
        front.start("io", "64", first=2)
        front.rates(0.3)
        counts = front.drain()
        assert counts.sent == counts.received > ENOUGH
        front.quit()


@pytest.mark.parametrize("queues", QUEUES)
@pytest.mark.parametrize("frame", ["64", "1500"])
def test_sink_takes_what_was_sent(frame: str, queues: int, folder: Path) -> None:
    path = folder / "vm1.sock"
    vdev = virtio_user(path, queues, RING)
    with (
        serve(folder, path, "sink", "--queues", str(queues)) as server,
        Testpmd(folder, vdev, queues=queues) as front,
    ):
        front.ready()
        front.start("txonly", frame)
        front.rates(0.3)
        front.stop()
        sent = per_queue(front, "tx", queues)
        assert min(sent) > ENOUGH
        assert front.counts().received == 0
        front.quit()
        assert [stopped_at(server, 2 * queue + 1) for queue in range(queues)] == [n % 2**16 for n in sent]
        assert served(server) == (sum(sent), 0)


@pytest.mark.parametrize("queues", QUEUES)
@pytest.mark.parametrize("size", [64, 1500])
def test_source_fills_every_queue(size: int, queues: int, folder: Path) -> None:
    path = folder / "vm1.sock"
    vdev = virtio_user(path, queues, RING)
    with (
        serve(folder, path, f"source:size={size}", "--queues", str(queues)) as server,
        Testpmd(folder, vdev, queues=queues) as front,
    ):
        front.ready()
        front.start("rxonly")
        front.rates(0.3)
        front.stop()
        counts = front.counts()
        assert counts.received_bytes == size * counts.received
        assert counts.errors == 0
        received = per_queue(front, "rx", queues)
        assert min(received) > ENOUGH
        front.quit()
        for queue, packets in enumerate(received):
            # What the ring still holds was sent, but not taken in any more.
            assert (stopped_at(server, 2 * queue) - packets) % 2**16 <= RING


@pytest.mark.parametrize("queues", QUEUES)
def test_tap_passes_every_packet_to_the_kernel(queues: int, folder: Path, namespace: Namespace) -> None:
    path = folder / "vm1.sock"
    vdev = virtio_user(path, queues, RING)
    words = ("--queues", str(queues))
    with (
        serve(folder, path, "tap:vt0", *words, namespace=namespace),
        Testpmd(folder, vdev, queues=queues) as front,
    ):
        front.ready()
        namespace.wait_link("vt0")
        front.start("txonly", "64")
        front.rates(0.5)
        front.stop()
        sent = front.counts().sent
        assert sent > ENOUGH
        wait_until(
            f"{sent} frames in the kernel",
            lambda: namespace.received("vt0") == sent,
            10,
            lambda: f"{namespace.received('vt0')} frames",
        )
        front.quit()


def test_tap_passes_every_packet_of_the_kernel(folder: Path, namespace: Namespace) -> None:
    path = folder / "vm1.sock"
    with (
        serve(folder, path, "tap:vt0", namespace=namespace),
        Testpmd(folder, virtio_user(path, 1, RING)) as front,
    ):
        front.ready()
        front.start("rxonly")
        namespace.up("vt0", "10.0.0.1/24")
        namespace.run("ip", "neighbour", "replace", "10.0.0.2", "lladdr", "02:00:00:00:00:02", "dev", "vt0")
        wait_until("carrier", lambda: namespace.carrier("vt0"), 5)
        with namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagrams:
            for _ in range(2 * ENOUGH):
                datagrams.sendto(bytes(100), ("10.0.0.2", 9))

        # What finds the tap's queue full is dropped by the kernel, and is not counted as sent.
        def equal() -> bool:
            return front.counts().received == namespace.transmitted("vt0") > ENOUGH / 10

        wait_until(
            "equal counts", equal, 5, lambda: f"{front.counts()} {namespace.links()['vt0']['stats64']}"
        )
        front.quit()
