"""Instructions that a frame costs, counted by a simulator: what a noisy machine cannot hide."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vhostuser import abi
from vhostuser.datapath.ffibuilder import CFLAGS

HERE = Path(__file__).parent
CORE = abi.csrc("vhostuser.datapath._datapath")
ROUNDS = 100
TOLERANCE = 0.03
"""Either way: a path that has become cheaper gets a new number, or the next loss is not seen."""
ALLOWED: dict[str, dict[str, float]] = json.loads((HERE / "instructions.json").read_text())
"""By the compiler's major version, for another compiler makes other code, and by work."""
WORKS = [f"{work} {ring}" for work in ("sink", "echo", "switch") for ring in ("split", "packed")]


def run(*argv: str) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    target = str(tmp_path_factory.mktemp("cost") / "bursts")
    sources = [*map(str, sorted(CORE.glob("*.c"))), str(HERE / "csrc" / "bursts.c")]
    run("gcc", *CFLAGS, "-pthread", "-iquote", str(CORE), *sources, "-o", target)
    return target


@pytest.mark.parametrize("work", WORKS)
def test_frame_costs_what_it_did(work: str, program: str, tmp_path: Path) -> None:
    assert shutil.which("valgrind"), "valgrind is missing: it is in tests/packages.txt"
    compiler = run("gcc", "-dumpversion").strip()
    output = run(
        "valgrind",
        "--tool=callgrind",
        f"--callgrind-out-file={tmp_path / 'out'}",
        "--toggle-collect=vu_serve_tx",
        "--toggle-collect=vu_serve_rx",
        program,
        *work.split(),
        "64",
        str(ROUNDS),
    )
    counts = re.search(r"Collected : (\d+)", output), re.search(r"frames (\d+)", output)
    assert counts[0], output
    assert counts[1], output
    cost = int(counts[0][1]) / int(counts[1][1])
    assert compiler in ALLOWED, f"gcc {compiler} has no numbers in instructions.json; here it is {cost:.1f}"
    allowed = ALLOWED[compiler][work]
    assert abs(cost - allowed) <= TOLERANCE * allowed, f"{cost:.1f} instructions a frame, were {allowed}"
