"""The public C headers as Python sees them: which ones, in which order, and their hash.

A public header is the only declaration of what it declares: the C compiler includes it and cffi reads the
same text. To be readable by both it holds typedefs, structs, enums, prototypes, `#define NAME NUMBER` and
comments, nothing else. The build (`datapath/ffibuilder.py`) loads this file by its path, before the
package is installed, so it imports nothing but the standard library at its top.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Protocol

PACKAGE = Path(__file__).parent

HEADERS: dict[str, tuple[str, ...]] = {
    "vhostuser.datapath._datapath": (
        "error.h",
        "counters.h",
        "memory.h",
        "postcopy.h",
        "dirty_log.h",
        "inflight.h",
        "device.h",
        "filter.h",
        "control.h",
        "switch.h",
        "iotlb.h",
        "worker.h",
    ),
    "vhostuser.frontend._driver": ("driver.h",),
}
"""Extension module -> its public headers, a header after those that it includes."""

_DEFINE_NUMBER = re.compile(r"#define\s+\w+\s+\(?-?(0[xX][0-9a-fA-F]+|\d+)\)?\s*(/\*.*)?$")
_INCLUDE = re.compile(r'#include\s+(<[\w./-]+>|"[\w./-]+")\s*$')
_GUARD_OPEN = re.compile(r"#ifndef\s+(\w+_H)\s*$")


class HeaderError(Exception):
    """A public header holds something that cffi cannot read; says the file and the line."""


class _HasHash(Protocol):
    VU_HEADERS_HASH: int


def csrc(module: str) -> Path:
    """The folder of an extension module's C files."""
    return PACKAGE.parent.joinpath(*module.split(".")[:-1], "csrc")


def declarations(text: str, name: str) -> str:
    """What cffi may read of a header: include guard and `#include` lines blanked, all else untouched.

    Line numbers stay, so that a complaint of cffi's points into the header. Raises HeaderError on any
    other preprocessor line: conditional compilation and macros belong into private headers.
    """
    guard: str | None = None
    guard_closed = False
    kept: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped.startswith("#"):
            kept.append(line)
            continue
        opening = _GUARD_OPEN.match(stripped)
        if opening and guard is None:
            guard = opening[1]
        elif guard and stripped == f"#define {guard}":
            pass
        elif guard and not guard_closed and stripped.split("/*")[0].strip() == "#endif":
            guard_closed = True
        elif _DEFINE_NUMBER.match(stripped):
            kept.append(line)
            continue
        elif not _INCLUDE.match(stripped):
            raise HeaderError(f"{name}:{number}: a public header cannot hold {stripped!r}")
        kept.append("")
    return "\n".join(kept) + "\n"


def headers_hash(module: str) -> int:
    """60 bits over the public headers as they lie on disk. Raises OSError when one is missing."""
    digest = hashlib.sha256()
    for header in HEADERS[module]:
        digest.update(header.encode() + b"\0" + (csrc(module) / header).read_bytes() + b"\0")
    return int.from_bytes(digest.digest()[:8], "big") >> 4


def check_built(module: str, lib: _HasHash) -> None:
    """Each Python face calls it at import, with the `lib` that it just imported.

    In a source checkout the headers may be newer than the compiled module: then every struct that the
    two share may have another shape, and nothing else would notice. A wheel carries no headers, and its
    Python and C come out of one build. Raises EnvironmentLacksError.
    """
    if not csrc(module).is_dir():
        return
    if headers_hash(module) != lib.VU_HEADERS_HASH:
        from vhostuser.errors import EnvironmentLacksError

        raise EnvironmentLacksError(
            f"{module} was built from other C headers than those in {csrc(module)}: "
            "build it again with `.venv/bin/pip install -e .`"
        )
