"""`vhostuser check` on a back-end that is not ours: DPDK's net_vhost, looped back by testpmd."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.interop.process import TIMEOUT_SCALE
from tests.interop.server_process import vhostuser_program
from tests.interop.testpmd import Testpmd, hugepages, net_vhost

KNOWN = {"num-buffers-unmerged"}
"""Musts that DPDK 22.11 does not keep; later ones may."""


def test_dpdk_passes_the_musts_of_orders_and_ring_formats(folder: Path) -> None:
    path = folder / "vhost.sock"
    words = ["--only", "message-orders", "--only", "ring-formats", "--timeout", "30"]
    with (
        hugepages(),
        Testpmd(folder, net_vhost(path, queues=2), huge=True, queues=2) as pmd,
    ):
        pmd.ready()
        pmd.start("io")
        done = subprocess.run(
            [vhostuser_program(), "check", "--socket-path", str(path), "--json", *words],
            capture_output=True,
            text=True,
            timeout=110 * TIMEOUT_SCALE,
        )
        pmd.quit()
    found = json.loads(done.stdout)
    assert found["offer"]["echoes"]
    musts = [check for check in found["checks"] if check["severity"] == "must"]
    bad = [check for check in musts if check["outcome"] not in ("passed", "not applicable")]
    assert [check for check in bad if check["name"] not in KNOWN] == []
    assert sum(check["outcome"] == "passed" for check in musts) > 30
