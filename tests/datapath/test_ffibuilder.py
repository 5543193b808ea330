"""How the C modules are built: declarations out of the headers, sources out of the folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vhostuser import abi
from vhostuser.datapath import ffibuilder

ROOT = Path(__file__).resolve().parents[2]

# Build-time messages of setuptools are not of interest in here.
modules = pytest.mark.parametrize("module", abi.HEADERS)


@modules
def test_every_c_file_is_compiled(module: str) -> None:
    assert {ROOT / path for path in ffibuilder.sources(module)} == set(abi.csrc(module).glob("*.c"))


@modules
def test_glue_declares_each_prototype_of_the_public_headers(module: str, tmp_path: Path) -> None:
    prototypes = {
        name
        for header in abi.HEADERS[module]
        for name in re.findall(
            r"^[\w ]+[ *](vu_\w+)\(", (abi.csrc(module) / header).read_text(), re.MULTILINE
        )
    }
    generated = tmp_path / "glue.c"

    ffibuilder.glue(module).emit_c_code(str(generated))

    assert prototypes
    assert prototypes == set(re.findall(r"_cffi_d_(vu_\w+)\(", generated.read_text()))


def test_sdist_gets_every_header_and_source() -> None:
    on_disk = {str(path.relative_to(ROOT)) for path in ROOT.glob("vhostuser/*/csrc/*.[ch]")}

    assert on_disk == {*ffibuilder.headers(), *(path for m in abi.HEADERS for path in ffibuilder.sources(m))}
