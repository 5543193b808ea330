"""How to start a guest on a vhost-user socket, as the QEMU that is installed here wants it.

    python -m vhostuser.frontend.qemu_line SOCKET

prints it, for examples/tap_qemu.sh.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

PROGRAM = "qemu-system-x86_64"
_NEWEST = (10, 0)


def qemu_version() -> tuple[int, int]:
    """Of the QEMU in PATH; one that is not there is taken for a new one."""
    try:
        done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return _NEWEST
    found = re.search(r" version (\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else _NEWEST


def has_kvm() -> bool:
    """By opening it: a container may have the file without the right to use it."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def guest_line(socket_path: str, version: tuple[int, int], *, kvm: bool) -> str:
    """The command, indented, and below it what to type in the guest."""
    # QEMU 9.2 counts the time between two attempts to connect in milliseconds.
    reconnect = "reconnect-ms=1000" if version >= (9, 2) else "reconnect=1"
    # QEMU 7.2 crashes when this NIC uses MSI-X without KVM.
    vectors = "" if version >= (8, 0) or kvm else ",vectors=0"
    return f"""\
  {PROGRAM} -accel kvm -accel tcg -m 1G -nographic \\
    -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem \\
    -chardev socket,id=vm1,path={socket_path},{reconnect} \\
    -netdev vhost-user,id=net1,chardev=vm1 -device virtio-net-pci,netdev=net1{vectors} \\
    disk.qcow2

In the guest: ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up; ping 192.0.2.1"""


if __name__ == "__main__":
    print(guest_line(sys.argv[1], qemu_version(), kvm=has_kvm()))
