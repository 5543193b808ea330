"""The public names: those of `vhostuser`, and the driver's side in `vhostuser.frontend`."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import vhostuser
import vhostuser.frontend

PACKAGES = [vhostuser, vhostuser.frontend]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_is_there(package: ModuleType) -> None:
    assert all(getattr(package, name) for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_public_names_have_a_docstring(package: ModuleType) -> None:
    names = [name for name in package.__all__ if name != "__version__"]

    assert [name for name in names if not getattr(package, name).__doc__] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_any_other_name_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'Sever'"):
        _ = package.Sever


def test_importing_the_packages_loads_neither_loop_nor_core() -> None:
    script = (
        "import sys, vhostuser.frontend; "
        "print([m for m in sys.modules if m.startswith(('asyncio', 'vhostuser.'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['vhostuser.frontend']"
