"""Workers read the clock each for itself: an entry of the filtering database may be of one's next second."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vhostuser import abi
from vhostuser.datapath.ffibuilder import CFLAGS

CORE = abi.csrc("vhostuser.datapath._datapath")
SOURCE = Path(__file__).parent / "csrc" / "fdb_clocks.c"


def test_entry_of_the_next_second_is_no_old_one(tmp_path: Path) -> None:
    program = str(tmp_path / "fdb_clocks")
    build = [
        "gcc",
        *CFLAGS,
        "-pthread",
        "-iquote",
        str(CORE),
        str(SOURCE),
        str(CORE / "fdb.c"),
        "-o",
        program,
    ]
    for command in (build, [program]):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout
