"""The header filter and the hash that tells a stale build."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from vhostuser import abi
from vhostuser.errors import EnvironmentLacksError

DRIVER = "vhostuser.frontend._driver"

HEADER = """\
/* What it is. */
#ifndef VU_THING_H
#define VU_THING_H

#include <stdint.h>
#include "other.h"

#define VU_THING_MAX 32 /* entries */
#define VU_THING_MASK 0xff

int vu_thing(void);

#endif
"""


def test_filter_blanks_guard_and_includes_and_keeps_line_numbers() -> None:
    kept = abi.declarations(HEADER, "thing.h").splitlines()

    assert len(kept) == len(HEADER.splitlines())
    assert [line for line in kept if line.startswith("#")] == [
        "#define VU_THING_MAX 32 /* entries */",
        "#define VU_THING_MASK 0xff",
    ]
    assert kept[10] == "int vu_thing(void);"


@pytest.mark.parametrize(
    "line",
    [
        "#ifdef __x86_64__",
        "#if VU_DEBUG",
        "#ifndef VU_SECOND_H",
        "#define VU_BIT (1ULL << 3)",
        "#define VU_MIN(a, b) ((a) < (b) ? (a) : (b))",
        "#define VU_NAME",
        "#pragma once",
        "#error no",
    ],
)
def test_filter_refuses_what_only_the_compiler_could_read(line: str) -> None:
    text = HEADER.replace("int vu_thing(void);", line)

    with pytest.raises(abi.HeaderError, match=r"thing\.h:11: .*cannot hold"):
        abi.declarations(text, "thing.h")


@pytest.mark.parametrize("module", abi.HEADERS)
def test_hash_fits_a_c_constant(module: str) -> None:
    assert 0 < abi.headers_hash(module) < 1 << 60


def test_module_built_from_these_headers_passes() -> None:
    abi.check_built(DRIVER, SimpleNamespace(VU_HEADERS_HASH=abi.headers_hash(DRIVER)))


def test_stale_module_says_what_to_do() -> None:
    stale = SimpleNamespace(VU_HEADERS_HASH=abi.headers_hash(DRIVER) ^ 1)

    with pytest.raises(EnvironmentLacksError, match=r"other C headers .*`\.venv/bin/pip install -e"):
        abi.check_built(DRIVER, stale)


def test_wheel_has_no_headers_to_compare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(abi, "PACKAGE", tmp_path / "vhostuser")

    abi.check_built(DRIVER, SimpleNamespace(VU_HEADERS_HASH=0))
