"""The guest of the interop tests: Debian's cloud kernel, an initramfs of Debian's packages and csrc/flow.c.

What lives here: getting the kernel, picking the modules, writing the archive, and the guest's /init. How the
guest is started is qemu.py. The image is built once and kept in a folder that is named by all that goes in.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

KERNEL = "linux-image-cloud-amd64"
PROGRAMS = {"busybox-static": "busybox", "iperf3": "iperf3", "ethtool": "ethtool"}
MODULES = ("virtio_pci", "virtio_net")
CACHE = Path(__file__).resolve().parents[2] / ".cache"
FLOW = Path(__file__).with_name("csrc") / "flow.c"
DECOMPRESSORS = {b"\x02\x21\x4c\x18": ("lz4", "-dc"), b"\x28\xb5\x2f\xfd": ("zstd", "-dc")}
"""By the first bytes: those of Debian 12's kernels and of Debian 13's."""

# The command shell sits on a serial port of its own: kernel messages on the first one never mix with its
# output. It runs until the guest ends, and a new one takes over should a command kill it. The port is raw,
# so that neither echo nor the 4 KiB line buffer of a terminal is in the way; the pipe keeps the shell from
# prompting.
INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /sbin /usr/bin /usr/sbin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HOME=/
while read -r module; do insmod "/modules/$module" || echo "cannot load $module"; done < /modules/order
ip link set lo up
stty -F /dev/ttyS1 raw -echo
echo "guest is up"
while :; do setsid sh < /dev/ttyS1 2>&1 | cat > /dev/ttyS1; done
"""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What QEMU's -kernel and -initrd take."""

    kernel: Path
    initramfs: Path


def run(*argv: str, cwd: Path | None = None) -> str:
    """The output of a program; its error text is in the exception when it fails."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@cache
def build_guest_image() -> GuestImage:
    """Return the guest image; the first call on a machine builds it (a few seconds, 30 MB to download)."""
    package = kernel_package()
    folder = CACHE / f"guest-{image_key(package)}"
    image = GuestImage(folder / "vmlinux", folder / "initramfs")
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="guest-", dir=CACHE) as scratch:
            work = Path(scratch)
            root = unpack_kernel(package, work)
            made = work / "image"
            made.mkdir()
            boot_file = next((root / "boot").glob("vmlinuz-*"))
            (made / "vmlinux").write_bytes(kernel_inside(boot_file.read_bytes()))
            (made / "initramfs").write_bytes(build_initramfs(root))
            # The rename makes the image appear whole or not at all, also when two test runs build it at once.
            try:
                made.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
    return image


@cache
def flow_program() -> Path:
    """The program of csrc/flow.c, built once; static, so that host and guest run the same."""
    program = CACHE / f"flow-{hashlib.sha256(FLOW.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="flow-", dir=CACHE) as scratch:
            made = Path(scratch) / "flow"
            run(
                "gcc",
                "-std=gnu11",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-static",
                "-o",
                str(made),
                str(FLOW),
            )
            made.replace(program)
    return program


def kernel_package() -> str:
    """The package with the kernel itself: the cloud package is an empty one that names it."""
    names = re.findall(r"Depends: (linux-image-\S+)", run("apt-cache", "depends", KERNEL))
    if not names:
        raise RuntimeError(f"apt knows no kernel behind {KERNEL}; run apt-get update")
    return str(names[0])


def image_key(package: str) -> str:
    """A name for all that goes into the image: packages with their versions, flow.c, and this file."""
    kernel = run("apt-cache", "show", "--no-all-versions", package)
    programs = run("dpkg-query", "-W", *PROGRAMS)
    parts = [kernel, programs, FLOW.read_text(), Path(__file__).read_text()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def unpack_kernel(package: str, work: Path) -> Path:
    """Download the kernel and unpack it without installing it; return the folder that is its root."""
    run("apt-get", "download", package, cwd=work)
    root = work / "root"
    run("dpkg-deb", "-x", str(next(work.glob("*.deb"))), str(root))
    if not (root / "lib").exists():
        # Debian 13 ships the modules below /usr, where depmod -b looks for them through /lib.
        (root / "lib").symlink_to("usr/lib")
    release = next((root / "lib/modules").iterdir()).name
    run("depmod", "-b", str(root), "-F", str(root / "boot" / f"System.map-{release}"), release)
    return root


def kernel_inside(boot_file: bytes) -> bytes:
    """The ELF file that a bzImage unpacks at boot, which QEMU starts as a PVH kernel.

    Under emulation the unpacking is the longest part of a boot, and of a reset even more: 13 s for 4 s, since
    all that it writes to was code that has been translated. Layout: Linux, Documentation/arch/x86/boot.rst;
    the last four bytes are the length that comes out.
    """
    setup_sectors = boot_file[0x1F1] or 4
    offset, length = struct.unpack_from("<II", boot_file, 0x248)
    start = 512 * (setup_sectors + 1) + offset
    payload, size = boot_file[start : start + length - 4], boot_file[start + length - 4 : start + length]
    done = subprocess.run(
        DECOMPRESSORS[payload[:4]], input=payload, capture_output=True, check=True, timeout=60
    )
    if done.stdout[:4] != b"\x7fELF" or len(done.stdout) != int.from_bytes(size, "little"):
        raise RuntimeError(f"the kernel inside does not unpack to an ELF file of {size.hex()} bytes")
    return done.stdout


def module_order(modules: Path) -> list[Path]:
    """The files to load, each after those that it needs (modules.dep lists these in the reverse order)."""
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[Path(path).name.split(".")[0]] = [*reversed(rest.split()), path]
    built_in = {Path(line).stem for line in (modules / "modules.builtin").read_text().splitlines()}
    order: list[str] = []
    for name in MODULES:
        if name not in built_in:
            order += [path for path in needs[name] if path not in order]
    return [modules / path for path in order]


def build_initramfs(root: Path) -> bytes:
    """The archive, not compressed: under emulation unpacking would take longer than reading it."""
    archive = Archive()
    for folder in ("bin", "usr", "usr/bin", "lib", "lib64", "modules", "etc"):
        archive.folder(folder)
    for name in PROGRAMS.values():
        program = Path(shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin") or f"/usr/bin/{name}")
        archive.file("bin/busybox" if name == "busybox" else f"usr/bin/{name}", program.read_bytes(), 0o755)
        for library in libraries(program):
            archive.file(library.lstrip("/"), Path(library).read_bytes(), 0o755)
    archive.file("usr/bin/flow", flow_program().read_bytes(), 0o755)
    archive.link("bin/sh", "busybox")
    names = []
    for module in module_order(next((root / "lib/modules").iterdir())):
        names.append(module.name.removesuffix(".xz").removesuffix(".gz"))
        archive.file(f"modules/{names[-1]}", decompressed(module))
    archive.file("modules/order", "".join(f"{name}\n" for name in names).encode())
    archive.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
    archive.file("init", INIT.encode(), 0o755)
    return archive.finish()


def libraries(program: Path) -> Iterator[str]:
    """Absolute paths of the shared libraries and the loader that a program wants; none for a static one."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, timeout=10)
    for library in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", done.stdout, re.MULTILINE):
        yield library
        if library.endswith("/libc.so.6"):
            # Named nowhere: the C library loads it when a thread is cancelled, as iperf3 does since 3.16.
            yield str(Path(library).with_name("libgcc_s.so.1"))


def decompressed(module: Path) -> bytes:
    content = module.read_bytes()
    if module.suffix == ".xz":
        return lzma.decompress(content)
    return gzip.decompress(content) if module.suffix == ".gz" else content


class Archive:
    """A cpio archive in the one form that the kernel's initramfs takes ("newc")."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def folder(self, name: str) -> None:
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def link(self, name: str, target: str) -> None:
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file and the folders above it; a name that is there already (a library) stays as it is."""
        parent = os.path.dirname(name)
        if parent and parent not in self._names:
            self._parents(parent)
        if name not in self._names:
            self._add(name, stat.S_IFREG | mode, content)

    def finish(self) -> bytes:
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _parents(self, folder: str) -> None:
        parent = os.path.dirname(folder)
        if parent and parent not in self._names:
            self._parents(parent)
        self.folder(folder)

    def _add(self, name: str, mode: int, content: bytes) -> None:
        inode = len(self._names) + 1
        self._names.add(name)
        encoded = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._parts += [head, bytes(-len(head) % 4), content, bytes(-len(content) % 4)]
