"""The house rules that a program can check: who imports whom, what mirrors what, what a header may hold."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vhostuser import abi

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vhostuser"
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")

PYTHON_LINES = 380
"""Not much over 350: more means two subjects in one file."""
C_LINES = 400

NOT_MIRRORED = {"conformance", "integration", "interop", "fuzz", "bench", "cost"}
"""Folders of tests/ that are about more than one module."""

MODULES_WITHOUT_TESTS = {
    Path("__main__.py"),
}
"""One line of code that the tests of the command line run."""


def python_files() -> list[Path]:
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINT_IMPORTS, "--no-cache"], cwd=root, capture_output=True, text=True, timeout=60)


def test_import_contracts_hold() -> None:
    done = lint_imports(ROOT)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("wire/connection.py", "import socket"),
        ("wire/connection.py", "import vhostuser.session"),
        ("session/session.py", "import time"),
        ("session/session.py", "import vhostuser.datapath"),
        ("memory/regions.py", "import mmap"),
        ("net/device.py", "import vhostuser.ports"),
        ("ports/tap.py", "import asyncio"),
        ("net/device.py", "import construct"),
        ("frontend/frontend.py", "import vhostuser.datapath"),
        ("server/server.py", "import vhostuser.frontend"),
    ],
)
def test_planted_import_is_found(where: str, line: str, tmp_path: Path) -> None:
    shutil.copytree(
        PACKAGE, tmp_path / "vhostuser", ignore=shutil.ignore_patterns("*.so", "csrc", "__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "vhostuser" / where).open("a") as module:
        module.write(f"\n{line}\n")

    done = lint_imports(tmp_path)

    assert done.returncode == 1, done.stdout
    assert re.search(r"[1-9] broken\.", done.stdout), done.stdout


def test_every_module_has_its_test_file() -> None:
    missing = [
        str(path)
        for path in python_files()
        if path.name != "__init__.py"
        and path not in MODULES_WITHOUT_TESTS
        and not (ROOT / "tests" / path.parent / f"test_{path.name}").exists()
    ]

    assert missing == []


def test_every_test_file_has_its_module() -> None:
    """A second test file of one module is called test_<module>_<subject>.py."""
    orphans = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        where = path.relative_to(ROOT / "tests")
        if where.parent == Path() or where.parts[0] in NOT_MIRRORED:
            continue
        stem = where.stem.removeprefix("test_")
        modules = [module.stem for module in (PACKAGE / where.parent).glob("*.py")]
        if not any(stem == module or stem.startswith(f"{module}_") for module in modules):
            orphans.append(str(where))

    assert orphans == []


def test_every_package_says_what_lives_in_it() -> None:
    silent = [
        str(path)
        for path in python_files()
        if path.name == "__init__.py" and not (PACKAGE / path).read_text().startswith('"""')
    ]

    assert silent == []


def test_no_file_holds_two_subjects() -> None:
    limits = {".py": PYTHON_LINES, ".c": C_LINES, ".h": C_LINES}
    lengths = {
        str(path.relative_to(PACKAGE)): (len(path.read_text().splitlines()), limits[path.suffix])
        for path in PACKAGE.rglob("*")
        if path.suffix in limits
    }

    assert {name: both for name, both in lengths.items() if both[0] > both[1]} == {}


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, vhostuser; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )

    loaded = {name for name in done.stdout.split() if name.startswith("vhostuser.")}
    assert not loaded
    assert not {"asyncio", "uvloop", "construct", "_cffi_backend"} & set(done.stdout.split())


public_headers = pytest.mark.parametrize(
    "header",
    [
        pytest.param(abi.csrc(module) / name, id=name)
        for module in abi.HEADERS
        for name in abi.HEADERS[module]
    ],
)


@public_headers
def test_filter_drops_only_guards_and_includes(header: Path) -> None:
    text = header.read_text()
    kept = abi.declarations(text, header.name).splitlines()

    dropped = [line for line, left in zip(text.splitlines(), kept, strict=True) if line != left]
    guard = header.name.replace(".", "_").upper()
    assert [line for line in dropped if not line.startswith("#include ")] == [
        f"#ifndef VU_{guard}",
        f"#define VU_{guard}",
        "#endif",
    ]


@public_headers
def test_public_header_holds_only_what_cffi_reads_too(header: Path) -> None:
    code = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)

    assert not re.search(r"\binline\b|__attribute__|_Static_assert|static_assert|_Alignas|__asm__", code)
    assert not re.search(r"\b\w+\s*:\s*\d+\s*;", code), "a bit-field"


@pytest.mark.parametrize("module", abi.HEADERS)
def test_public_header_includes_only_public_ones_before_it(module: str) -> None:
    known: list[str] = []
    for name in abi.HEADERS[module]:
        wanted = re.findall(r'#include "([^"]+)"', (abi.csrc(module) / name).read_text())
        assert set(wanted) <= set(known), f"{name} includes something that Python does not see"
        known.append(name)


@pytest.mark.parametrize("module", abi.HEADERS)
def test_every_prototype_has_a_definition_and_the_prefix(module: str) -> None:
    # The import binds each function that a header declares, and fails when one has no definition.
    lib = importlib.import_module(module).lib

    names = [name for name in dir(lib) if not name.startswith("_")]
    assert names
    assert [name for name in names if not name.startswith(("vu_", "VU_"))] == []


@pytest.mark.parametrize("module", abi.HEADERS)
def test_compiled_module_is_current(module: str) -> None:
    abi.check_built(module, importlib.import_module(module).lib)


@pytest.mark.parametrize("module", abi.HEADERS)
def test_c_knows_no_python(module: str) -> None:
    files = [*abi.csrc(module).glob("*.c"), *abi.csrc(module).glob("*.h")]

    assert files
    assert [path.name for path in files if "Python.h" in path.read_text()] == []


def test_the_map_names_only_files_that_exist() -> None:
    text = (PACKAGE / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|c|h|pyi))`", text))

    assert named
    missing = [name for name in named if not any(PACKAGE.rglob(name)) and not (ROOT / name).exists()]
    assert missing == []
