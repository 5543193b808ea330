"""Programs of tests/fuzz/csrc with the packet core under clang's sanitizers."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vhostuser import abi

HERE = Path(__file__).parent
HARNESS = HERE / "csrc"
CORE = abi.csrc("vhostuser.datapath._datapath")
INCLUDES = ("-iquote", str(CORE), "-iquote", str(HARNESS))
COMPILE = ("clang", "-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", *INCLUDES)
SMALL = ("-O1", "-Dvu_always_inline=inline __attribute__((unused))")
"""Instrumented code in one piece: what is inlined a dozen times is compiled and fuzzed a dozen times."""
MEMORY = (*SMALL, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREADS = (*SMALL, "-fsanitize=thread")
FUZZED = (*MEMORY, "-fsanitize=fuzzer-no-link")
FAST = ("-O2",)


def run(command: Sequence[str], timeout: float = 110) -> str:
    """Output and errors of a program that has to succeed."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


class Builder:
    """Compiles into one folder; what was compiled with the same flags is used again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folders: dict[tuple[str, ...], Path] = {}

    def program(
        self, source: Path, core: tuple[str, ...], *, harness: tuple[str, ...] = (), link: Sequence[str] = ()
    ) -> str:
        """`source` with arena.c and the core, the latter compiled with `core`, the others with `harness`."""
        harness = harness or core
        objects = self._objects(core, sorted(CORE.glob("*.c")))
        objects += self._objects(harness, [HARNESS / "arena.c", source])
        target = self._folder / source.stem
        # arena.c fences the guest's mappings with pages that nobody may touch.
        wrapped = ("-Wl,--wrap=mmap", "-Wl,--wrap=munmap")
        run([*COMPILE, *core, "-pthread", *wrapped, *link, *objects, "-o", str(target)])
        return str(target)

    def _objects(self, flags: tuple[str, ...], sources: Sequence[Path]) -> list[str]:
        if flags not in self._folders:
            self._folders[flags] = self._folder / f"objects-{len(self._folders)}"
            self._folders[flags].mkdir()
        targets = {source: self._folders[flags] / f"{source.stem}.o" for source in sources}
        missing = [source for source in sources if not targets[source].exists()]
        with ThreadPoolExecutor(2) as pool:
            commands = [[*COMPILE, *flags, "-c", str(s), "-o", str(targets[s])] for s in missing]
            list(pool.map(run, commands))
        return [str(target) for target in targets.values()]
