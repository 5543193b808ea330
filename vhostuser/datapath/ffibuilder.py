"""Builds the two C extension modules out of their csrc/ folders; runs only inside setuptools.

`pyproject.toml` names `BuildExt`, setuptools loads this file by its path and the package is not imported.
For each module: the public headers become cffi's declarations, cffi writes the glue, and the glue is
compiled together with every csrc/*.c. There is no list of sources to keep.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from cffi import FFI, CDefError
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

CFLAGS = ["-std=gnu11", "-O2", "-fvisibility=hidden"]
WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Wmissing-prototypes",
    "-Wstrict-prototypes",
    "-Wvla",
]
"""What our C is clean under, with gcc and clang; the glue that cffi writes gets the first two only."""

_ABI3 = ("Py_LIMITED_API", "0x030b0000")


def _load_abi() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "abi.py"
    spec = importlib.util.spec_from_file_location("vhostuser_abi", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


abi = _load_abi()


def sources(module: str) -> list[str]:
    """The C files of a module, relative to the project's root as setuptools wants them."""
    return sorted(str(path.relative_to(abi.PACKAGE.parent)) for path in abi.csrc(module).glob("*.c"))


def headers() -> list[str]:
    """Every header, public or private; of both modules, for the driver includes two of the packet side."""
    found = (path for name in abi.HEADERS for path in abi.csrc(name).glob("*.h"))
    return sorted(str(path.relative_to(abi.PACKAGE.parent)) for path in found)


def glue(module: str) -> FFI:
    """The cffi builder of a module: its public headers are the declarations, word for word."""
    ffi = FFI()
    for header in abi.HEADERS[module]:
        ffi.cdef(abi.declarations((abi.csrc(module) / header).read_text(), header))
    ffi.cdef("#define VU_HEADERS_HASH ...")
    includes = "".join(f'#include "{header}"\n' for header in abi.HEADERS[module])
    ffi.set_source(module, f"#define VU_HEADERS_HASH {abi.headers_hash(module):#x}LL\n{includes}")
    return ffi


class BuildExt(build_ext):  # type: ignore[misc, unused-ignore]
    """Generates, then compiles: our C under the whole warning list, the glue under what it can stand."""

    def get_source_files(self) -> list[str]:
        """What the sdist must hold."""
        return [*headers(), *(path for ext in self.extensions for path in sources(ext.name))]

    def build_extension(self, ext: Any) -> None:
        folder = abi.csrc(ext.name)
        generated = Path(self.build_temp) / f"{ext.name.rpartition('.')[2]}.c"
        generated.parent.mkdir(parents=True, exist_ok=True)
        try:
            glue(ext.name).emit_c_code(str(generated))
        except (OSError, abi.HeaderError, CDefError) as error:
            raise CompileError(f"{ext.name}: {error}") from error
        # -iquote, for memory.h and error.h are names of libc's too.  The driver shares two private headers
        # (compiler.h, barrier.h) with the packet side.
        search = [f"-iquote{folder}", f"-iquote{abi.csrc('vhostuser.datapath._datapath')}"]
        ext.extra_objects = self.compiler.compile(
            sources(ext.name),
            output_dir=self.build_temp,
            extra_postargs=[*CFLAGS, *WARNINGS, *search],
        )
        ext.sources = [str(generated)]
        ext.define_macros = [_ABI3]
        ext.extra_compile_args = [*CFLAGS, *WARNINGS[:2], *search]
        ext.depends = headers()
        super().build_extension(ext)
