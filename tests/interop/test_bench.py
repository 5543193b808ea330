"""`vhostuser bench` in front of somebody else's back-end: DPDK's net_vhost."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.interop.server_process import vhostuser_program
from tests.interop.testpmd import FRONT_CORE, Testpmd, net_vhost


@pytest.mark.parametrize(("mode", "works"), [("io", "echo,latency,ndr"), ("rxonly", "sink")])
def test_net_vhost_is_measured(folder: Path, mode: str, works: str) -> None:
    path, kept = folder / "peer.sock", folder / "theirs.json"
    with Testpmd(folder, net_vhost(path), main_core=FRONT_CORE) as testpmd:
        testpmd.ready()
        testpmd.start(mode)
        words = [
            "-s",
            path,
            "--work",
            works,
            "--size",
            "64",
            "--seconds",
            "0.1",
            "--runs",
            "3",
            "--loss",
            "50",
        ]
        done = subprocess.run(
            [vhostuser_program(), "bench", *map(str, words), "--json", str(kept)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        testpmd.quit()

    assert done.returncode == 0, done.stderr
    document = json.loads(kept.read_bytes())
    assert "dpdk" in document["backend"]
    assert [series["case"]["work"] for series in document["series"]] == works.split(",")
    for series in document["series"]:
        # One search for a rate without loss may fall into a moment in which the machine does something else.
        assert max(sample["rate"] for sample in series["samples"]) > 0
        assert max(sample["cpu"] for sample in series["samples"]) > 0
