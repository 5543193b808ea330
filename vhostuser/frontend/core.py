"""The compiled driver: `ffi` and `lib`, or one sentence that says how to get it."""

from __future__ import annotations

from typing import Any

from vhostuser.abi import check_built
from vhostuser.errors import EnvironmentLacksError

try:
    from vhostuser.frontend._driver import ffi, lib
except ImportError as error:
    raise EnvironmentLacksError(
        f"the driver in C is not built ({error}): `.venv/bin/pip install -e .` builds it"
    ) from error

check_built("vhostuser.frontend._driver", lib)

CData = Any
"""A pointer or a struct of C's: cffi has no types for them."""

__all__ = ["CData", "ffi", "lib"]
