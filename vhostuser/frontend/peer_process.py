"""What the kernel says about the process at the other end."""

from __future__ import annotations

import socket
import struct
from pathlib import Path


def listener_pid(sock: socket.socket) -> int:
    """The process that made the listening socket; 0 where the kernel does not say."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=iII"))
    (pid, _, _) = struct.unpack("=iII", credentials)
    return int(pid)


def program(pid: int) -> str:
    """Its name as the kernel has it, at most 15 bytes; "?" when it cannot be seen."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def cpu_time(pid: int) -> int | None:
    """Nanoseconds that all its threads have run; None when the kernel does not say."""
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return total
