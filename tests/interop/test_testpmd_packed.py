"""DPDK's virtio-user on packed rings, on each of its own paths, counted on both ends.

Its vectorized path wants AVX512, and it takes another one without a failure: which one it took is looked at.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.interop.netns import Namespace
from tests.interop.process import wait_until
from tests.interop.testpmd import Testpmd, virtio_user
from tests.interop.testpmd_rig import BURSTS, ENOUGH, RING, per_queue, serve, served

QUEUES = (1, 4)
EAL = ("--log-level=pmd.net.virtio.*:info", "--force-max-simd-bitwidth=512")
WIDE = ("avx512f", "avx512bw", "avx512vl")


def vectors() -> bool:
    """Whether DPDK can use its vectorized path of packed rings here."""
    flags = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return flags is not None and set(WIDE) <= set(flags[1].split())


def path_taken(front: Testpmd, direction: str) -> str:
    """As testpmd names it for "Rx" and "Tx", in its own log."""
    return front.wait_log(rf"using (.*?) *{direction} path on port")[1]


def expected_paths(mrg_rxbuf: int, in_order: int, vectorized: int) -> tuple[str, str]:
    """For "Rx" and "Tx": vectors want in-order rings, and no merged buffers for what is received."""
    plain = "packed ring mergeable buffer" if mrg_rxbuf else "packed ring standard"
    if not (vectorized and in_order and vectors()):
        return plain, "packed ring standard"
    return plain if mrg_rxbuf else "packed ring vectorized", "packed ring vectorized"


@pytest.mark.parametrize("queues", QUEUES)
@pytest.mark.parametrize(
    ("mrg_rxbuf", "in_order", "vectorized"),
    list(itertools.product((0, 1), repeat=3)),
    ids=lambda on: "on" if on else "off",
)
def test_echo_returns_every_packet(
    mrg_rxbuf: int, in_order: int, vectorized: int, queues: int, folder: Path
) -> None:
    path = folder / "vm1.sock"
    mbuf_size = 1152 if mrg_rxbuf else 2176
    scatter = ["--enable-scatter"] if mrg_rxbuf else []
    options = {"mrg_rxbuf": mrg_rxbuf, "in_order": in_order, "vectorized": vectorized}
    vdev = virtio_user(path, queues, RING, packed_vq=1, **options)
    with (
        serve(folder, path, "echo", "--queues", str(queues)) as server,
        Testpmd(folder, vdev, queues=queues, mbuf_size=mbuf_size, words=scatter, eal=EAL) as front,
    ):
        front.ready()
        features = set(server.wait_log(r"guest features: (.*)")[1].split(", "))
        assert "RING_PACKED" in features
        for name, on in (("MRG_RXBUF", mrg_rxbuf), ("IN_ORDER", in_order)):
            assert (name in features) == bool(on)
        taken = path_taken(front, "Rx"), path_taken(front, "Tx")
        assert taken == expected_paths(mrg_rxbuf, in_order, vectorized)

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
        assert served(server) == (counts.sent, counts.received)


def test_sink_and_source_use_every_queue(folder: Path) -> None:
    queues = max(QUEUES)
    for port, mode in (("sink", "txonly"), ("source:size=1500", "rxonly")):
        path = folder / f"{mode}.sock"
        vdev = virtio_user(path, queues, RING, packed_vq=1)
        with (
            serve(folder, path, port, "--queues", str(queues)) as server,
            Testpmd(folder, vdev, queues=queues, name=mode) as front,
        ):
            front.ready()
            front.start(mode, "1500")
            front.rates(0.3)
            front.stop()
            counts = front.counts()
            assert counts.errors == 0
            if mode == "txonly":
                assert min(per_queue(front, "tx", queues)) > ENOUGH
                front.quit()
                assert served(server) == (counts.sent, 0)
            else:
                assert min(per_queue(front, "rx", queues)) > ENOUGH
                assert counts.received_bytes == 1500 * counts.received
                front.quit()
                # What the rings still hold was sent, but not taken in any more.
                assert 0 <= served(server)[1] - counts.received <= queues * RING


def test_tap_passes_every_packet_to_the_kernel(folder: Path, namespace: Namespace) -> None:
    path = folder / "vm1.sock"
    vdev = virtio_user(path, 1, RING, packed_vq=1)
    with serve(folder, path, "tap:vt0", namespace=namespace), Testpmd(folder, vdev) as front:
        front.ready()
        namespace.wait_link("vt0")
        front.start("txonly", "64")
        front.rates(0.5)
        front.stop()
        sent = front.counts().sent
        assert sent > ENOUGH
        wait_until(f"{sent} frames in the kernel", lambda: namespace.received("vt0") == sent, 10)
        front.quit()
