from __future__ import annotations

import subprocess
import sys

import pytest

import vhostuser


def test_every_public_name_is_there() -> None:
    assert all(getattr(vhostuser, name) for name in vhostuser.__all__)


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sever'"):
        _ = vhostuser.Sever


def test_importing_the_package_loads_neither_loop_nor_core() -> None:
    script = (
        "import sys, vhostuser; print([m for m in sys.modules if m.startswith(('asyncio', 'vhostuser.'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
