"""What a user gets: the sdist is complete, the wheel is lean and works away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

NOT_SOURCE = shutil.ignore_patterns(
    ".venv",
    ".coverage*",
    ".git",
    ".cache",
    "build",
    "dist",
    "*.egg-info",
    "*.so",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel made out of that sdist; no network, so no build isolation."""
    folder = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(folder / "source")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def sdist_names(built: Path) -> set[str]:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_sdist_holds_the_whole_project(built: Path, sdist_names: set[str]) -> None:
    source = built / "source"
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    generated = {name for name in files if "egg-info" in name or "__pycache__" in name}

    assert files - generated - sdist_names == set()


def test_one_wheel_serves_every_python_from_3_11(wheel: Path) -> None:
    assert "-cp311-abi3-linux_" in wheel.name


def test_wheel_holds_both_modules_and_no_c(wheel_names: set[str]) -> None:
    assert "vhostuser/datapath/_datapath.abi3.so" in wheel_names
    assert "vhostuser/frontend/_driver.abi3.so" in wheel_names
    assert [name for name in wheel_names if name.endswith((".c", ".h"))] == []


def test_wheel_holds_every_python_file_and_its_types(wheel_names: set[str]) -> None:
    wanted = {
        str(path.relative_to(ROOT))
        for suffix in ("py", "pyi")
        for path in ROOT.glob(f"vhostuser/**/*.{suffix}")
    }

    assert wanted - wheel_names == set()
    assert {"vhostuser/py.typed", "vhostuser/ARCHITECTURE.md"} <= wheel_names


def test_wheel_holds_nothing_but_the_package(wheel_names: set[str]) -> None:
    assert {name.partition("/")[0].partition("-")[0] for name in wheel_names} == {"vhostuser"}


def test_wheel_carries_licence_programs_and_ports(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(name for name in archive.namelist() if name.endswith("/entry_points.txt")).rpartition(
            "/"
        )[0]
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        licence = archive.read(f"{info}/licenses/LICENSE").decode()

    for name in ("vhostuser", "vhostuser-net", "tap", "echo", "sink", "source"):
        assert f"\n{name} = vhostuser." in entry_points
    assert "Apache License" in licence


def test_installed_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path), str(wheel)], check=True, timeout=60)
    program = (
        "import importlib, sys, vhostuser\n"
        "from vhostuser import abi\n"
        "assert vhostuser.__file__.startswith(sys.argv[1]), vhostuser.__file__\n"
        "[abi.check_built(name, importlib.import_module(name).lib) for name in abi.HEADERS]\n"
        "import runpy\n"
        "sys.argv = ['vhostuser', '--version']\n"
        "runpy.run_module('vhostuser', run_name='__main__')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    argv = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "0.1.0" in done.stdout
