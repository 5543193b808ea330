"""Both guests of a switch are ports of one testpmd, which sends on one what it receives on the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.server_process import Server
from tests.interop.testpmd import Testpmd, virtio_user
from tests.interop.testpmd_rig import BURSTS, ENOUGH, RING

MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"packed_vq": 1}, {"mrg_rxbuf": 0, "in_order": 0}, {"packed_vq": 1, "mrg_rxbuf": 0}],
    ids=["split", "packed", "split-plain", "packed-plain"],
)
def test_every_frame_arrives_at_the_other_port(
    options: dict[str, int | str], workers: int, folder: Path
) -> None:
    paths = [folder / f"vm{number}.sock" for number in (1, 2)]
    words = [f"name={path.stem},socket-path={path},port=switch:lan" for path in paths]
    vdevs = [
        virtio_user(path, 1, RING, number=number, mac=MACS[number], **options)
        for number, path in enumerate(paths)
    ]
    with Server(folder, "--workers", str(workers), "--device", words[0], "--device", words[1]) as server:
        for path in paths:
            server.wait_listening(path)
        with Testpmd(folder, *vdevs) as front:
            front.ready()
            for port, mac in enumerate(reversed(MACS)):
                front.command(f"set eth-peer {port} {mac}")
            front.start("io", "900", first=BURSTS)
            front.rates(0.5)
            front.stop()
            # What was under way when it stopped lies in its rings.
            front.command("set fwd rxonly")
            front.command("start")
            front.wait_for("an end of the packets", lambda: sent(front) == received(front), 10)
            front.stop()
            assert sent(front) > ENOUGH
            assert [front.counts(port).errors for port in (0, 1)] == [0, 0]
            front.quit()
        server.stop()
        assert "dropped" not in server.log


def sent(front: Testpmd) -> int:
    return sum(front.counts(port).sent for port in (0, 1))


def received(front: Testpmd) -> int:
    return sum(front.counts(port).received for port in (0, 1))
