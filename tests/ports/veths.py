"""Two interfaces joined by a cable, for tests of what goes out of one and comes in at the other."""

from __future__ import annotations

import json
import socket
import struct
import subprocess

from vhostuser.frontend.net_header import PLAIN, NetHeader

ETH_P_ALL = 3
SOL_PACKET, AUXDATA, IGNORE_OUTGOING, VNET_HDR = 263, 8, 23, 15


def ip(*words: str) -> str:
    """Runs `ip` in the network namespace of this thread."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


def make(name: str = "vm1", peer: str = "far", mtu: int = 1500) -> None:
    """Both up, with one queue, and quiet."""
    ip("link", "add", name, "mtu", str(mtu), "type", "veth", "peer", "name", peer, "mtu", str(mtu))
    for end in (name, peer):
        ip("link", "set", end, "up")


def promiscuity(name: str) -> int:
    """How many want frames for any address there."""
    [link] = json.loads(ip("-j", "-d", "link", "show", name))
    return int(link["promiscuity"])


class Far:
    """The other end: frames with their virtio-net headers, put in and taken out as the kernel has them."""

    def __init__(self, name: str = "far") -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        for option in (AUXDATA, IGNORE_OUTGOING, VNET_HDR):
            self._socket.setsockopt(SOL_PACKET, option, 1)
        self._socket.bind((name, ETH_P_ALL))
        self._socket.settimeout(5)

    def put(self, content: bytes, header: NetHeader = PLAIN) -> None:
        self._socket.send(header.build(10) + content)

    def get(self) -> tuple[NetHeader, bytes]:
        """The next frame; a tag is back in its place."""
        content, said, _, _ = self._socket.recvmsg(1 << 17, 100)
        header, frame = NetHeader.parse(content[:10]), content[10:]
        for level, kind, value in said:
            if (level, kind) == (SOL_PACKET, AUXDATA):
                status, tci, tpid = struct.unpack("I12xHH", value)
                if status & 1 << 4:
                    frame = frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
        return header, frame

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Far:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
