"""A network namespace with a server, a tap and something behind it: the other end of `vhostuser demo`.

Run as a program (`python -m vhostuser.frontend.world SOCKET`) it makes the namespace, starts a server in it,
gives the tap an address and answers UDP there: port 7 echoes, port 9 only counts. Everything it makes
lives in the namespace and goes with it. It talks JSON lines: "ready" or "lacks" on its standard output, an
answer with counts for each line on its standard input, and it ends when that closes.

Plain ioctls throughout, so that iproute2 is not needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from vhostuser.errors import EnvironmentLacksError, PeerError
from vhostuser.frontend.frames import Endpoint
from vhostuser.frontend.server_process import ServerProcess

TAP = "demo"
NETWORK = IPv4Network("192.0.2.0/30")
"""TEST-NET-1: an address that nothing real has (RFC 5737)."""
HOST_IP = NETWORK[1]
GUEST = Endpoint(b"\x02\x76\x68\x75\x00\x01", NETWORK[2])
ECHO_PORT = 7
DISCARD_PORT = 9

_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWNET = 0x4000_0000
_SIOCSIFFLAGS = 0x8914
_SIOCSIFADDR = 0x8916
_SIOCSIFNETMASK = 0x891C
_SIOCSARP = 0x8955
_IFF_UP = 1
_ATF_COMPLETE_PERMANENT = 0x02 | 0x04
_BURST = 64

_libc = ctypes.CDLL(None, use_errno=True)


def unshare_network() -> None:
    """Move this process into a network namespace of its own, through a user namespace if it must be.

    EnvironmentLacksError when the kernel or the container allows neither.
    """
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        why = os.strerror(ctypes.get_errno())
        raise EnvironmentLacksError(
            f"no network namespace of our own ({why}): run as root, or allow user namespaces "
            "(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)"
        )
    # Root inside, or the rights over the new namespace would be lost at the next exec.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def bring_up(name: str, address: IPv4Address | None = None) -> None:
    """Give an interface an address, if any, and set it up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

        def change(request: int, content: bytes) -> None:
            fcntl.ioctl(control, request, struct.pack("16s24s", name.encode(), content))

        if address is not None:
            change(_SIOCSIFADDR, _socket_address(address))
            change(_SIOCSIFNETMASK, _socket_address(NETWORK.netmask))
        change(_SIOCSIFFLAGS, struct.pack("H", _IFF_UP))


def add_neighbour(name: str, neighbour: Endpoint) -> None:
    """Tell the kernel for good where the guest is: no measurement waits for an ARP of the kernel's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        hardware = struct.pack("H14s", 1, neighbour.mac)
        entry = struct.pack(
            "16s16si16s16s",
            _socket_address(neighbour.ip),
            hardware,
            _ATF_COMPLETE_PERMANENT,
            b"",
            name.encode(),
        )
        fcntl.ioctl(control, _SIOCSARP, entry)


def _socket_address(address: IPv4Address) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, address.packed)


class Answerer:
    """UDP in the namespace: one socket echoes, one counts."""

    def __init__(self) -> None:
        self.echo = self._socket(ECHO_PORT)
        self.discard = self._socket(DISCARD_PORT)
        self.echoed = 0
        self.discarded = 0

    @staticmethod
    def _socket(port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        for option in (socket.SO_RCVBUF, 33):  # SO_RCVBUFFORCE, for those who may
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, option, 8 << 20)
        sock.bind((str(HOST_IP), port))
        return sock

    def close(self) -> None:
        self.echo.close()
        self.discard.close()

    def turn(self, sock: socket.socket) -> None:
        """Answer what is there, a bounded lot of it."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BURST):
                content, peer = sock.recvfrom(65536)
                if sock is self.discard:
                    self.discarded += 1
                else:
                    sock.sendto(content, peer)
                    self.echoed += 1

    def counts(self) -> dict[str, int]:
        """What arrived, by our own count and by the interface's."""
        for line in Path("/proc/self/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == TAP:
                fields = [int(number) for number in numbers.split()]
                break
        else:
            fields = [0] * 16
        return {
            "echoed": self.echoed,
            "discarded": self.discarded,
            "tap_from_guest": fields[1],
            "tap_to_guest": fields[9],
        }


def main(socket_path: str) -> None:
    """Make the world, say so, and keep it until standard input closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    path = Path(socket_path)
    server: ServerProcess | None = None
    try:
        unshare_network()
        bring_up("lo")
        server = ServerProcess(["-s", str(path), "--port", f"tap:{TAP}"], path.with_suffix(".log"))
        server.await_socket()
        # Before the address: no address of its own, so none of its chatter in the counts.
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{TAP}/disable_ipv6").write_text("1")
        bring_up(TAP, HOST_IP)
        add_neighbour(TAP, GUEST)
        answerer = Answerer()
    except (EnvironmentLacksError, PeerError, OSError) as error:
        _say({"lacks": str(error) if not isinstance(error, OSError) else _explain(error)})
        if server is not None:
            server.stop()
        return
    try:
        _say({"ready": server.process.pid})
        _serve(answerer)
    finally:
        answerer.close()
        server.stop()


def _explain(error: OSError) -> str:
    return f"the namespace could not be set up: {errno.errorcode.get(error.errno or 0, '')} {error}"


def _serve(answerer: Answerer) -> None:
    poller = select.poll()
    commands = sys.stdin.buffer
    for watched in (commands, answerer.echo, answerer.discard):
        poller.register(watched, select.POLLIN | select.POLLHUP)
    while True:
        for fd, _ in poller.poll():
            if fd == answerer.echo.fileno():
                answerer.turn(answerer.echo)
            elif fd == answerer.discard.fileno():
                answerer.turn(answerer.discard)
            elif not os.read(fd, 4096):
                return
            else:
                _say(answerer.counts())


def _say(message: dict[str, int] | dict[str, str]) -> None:
    try:
        os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        sys.exit(1)  # nobody is there any more: clean up and go


if __name__ == "__main__":
    main(sys.argv[1])
