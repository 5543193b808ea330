"""A guest's interface and the tap at its other end, with verbs for what the tests do over them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.interop.netns import Capture, Namespace
from tests.interop.process import Program
from tests.interop.qemu import Guest

CONTENT_PORT = 7000
CONTENT = random.Random(7).randbytes(8 << 20)
SMALL_PACKETS = 3


@dataclass(frozen=True, slots=True)
class Transfer:
    """What iperf3 says of one direction, counted by the receiver."""

    octets: int
    bits_per_second: float


@dataclass(frozen=True, slots=True)
class Link:
    """One network between a guest and the kernel of the host: 10.0.N.2 in the guest, 10.0.N.1 on the tap.

    `peer` is another address of the host for iperf3, should it not be that one.
    """

    guest: Guest
    namespace: Namespace
    interface: str = "eth0"
    tap: str = "vt0"
    number: int = 0
    peer: str = ""

    @property
    def host(self) -> str:
        return f"10.0.{self.number}.1"

    @property
    def address(self) -> str:
        return f"10.0.{self.number}.2"

    def up(self) -> None:
        """Give both ends their addresses and wait for the carrier on both."""
        self.namespace.up(self.tap, f"{self.host}/24")
        words = f"ip addr flush dev {self.interface}; ip addr add {self.address}/24 dev {self.interface}"
        self.guest.sh(f"{words}; ip link set {self.interface} up")
        self.wait_carrier()

    def wait_carrier(self, timeout: float = 15) -> None:
        """Wait until the guest and the kernel both say that the cable is plugged in."""
        carrier = f"cat /sys/class/net/{self.interface}/carrier"
        self.guest.wait_for(
            "carrier in the guest", lambda: self.guest.sh(carrier, check=False).strip() == "1", timeout
        )
        self.guest.wait_for("carrier of the tap", lambda: self.namespace.carrier(self.tap), timeout)

    def ping(self, size: int = 56) -> None:
        """Some pings each way; each must come back."""
        words = ["ping", "-c", str(SMALL_PACKETS), "-i", "0.1", "-W", "5", "-s", str(size)]
        everything = f"{SMALL_PACKETS} packets received, 0% packet loss"
        from_guest = self.guest.sh(" ".join([*words, self.host]))
        assert everything in from_guest, from_guest
        from_host = self.namespace.run("busybox", *words, self.address)
        assert everything in from_host, from_host

    def capture(self) -> Capture:
        return Capture(self.namespace, self.tap)

    def tcp(self, to_guest: bool, mib: int = 48, streams: int = 1) -> Transfer:
        """Send so much by TCP with iperf3 (its server is on the host) and return what the receiver counted.

        AssertionError if most of it is missing. Some may be: the receiver stops counting when the sender
        says that it is done, with what the buffers of each stream hold unread. check_content() is exact.
        """
        extent = ["-n", f"{mib}M", "-P", str(streams)]
        result = self.iperf3(to_guest, *extent)
        assert result.octets > (mib << 20) // 4, f"{result.octets} of {mib} MiB arrived"
        return result

    def iperf3(self, to_guest: bool, *words: str) -> Transfer:
        """Run iperf3's client in the guest with these words, against a server on the host."""
        peer_address = self.peer or self.host
        server = ["iperf3", "-s", "-1", "-B", peer_address, "--forceflush"]
        log = self.guest.log_path.with_name("iperf3.log")
        with Program(self.namespace.enter(*server), log) as peer:
            peer.wait_log("Server listening")
            command = ["iperf3", "-c", peer_address, "-J", *words, *(["-R"] if to_guest else [])]
            text = self.guest.sh(" ".join(command), timeout=60)
        total = json.loads(text)["end"]["sum_received"]
        return Transfer(int(total["bytes"]), float(total["bits_per_second"]))

    @contextmanager
    def flood(self) -> Iterator[None]:
        """Throw datagrams at the guest from the kernel while the block runs, whether it listens or not."""
        ending = threading.Event()
        datagrams = self.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

        def send() -> None:
            # The pause between bursts leaves the other core something to do; the count is the bound.
            for _ in range(20_000):
                if ending.wait(0.002):
                    break
                for _ in range(16):
                    with contextlib.suppress(OSError):  # no carrier, no neighbour: it comes back
                        datagrams.sendto(bytes(1400), (self.address, 9))

        with datagrams:
            thread = threading.Thread(target=send)
            thread.start()
            try:
                yield
            finally:
                ending.set()
                thread.join()

    def check_content(self, content: bytes = CONTENT) -> None:
        """Copy so much, 8 MiB, by TCP each way: the same octets must arrive, not only as many.

        A partial checksum is never looked at by the receiver, so TCP itself would not see a wrong copy.
        """
        wanted = hashlib.sha256(content).hexdigest()
        with self._serve(lambda peer: peer.sendall(content)):
            got = self.guest.sh(f"nc {self.host} {CONTENT_PORT} > /tmp/content; sha256sum /tmp/content", 30)
        assert got.split()[0] == wanted, "the guest received something else"
        pieces: list[bytes] = []

        def receive(peer: socket.socket) -> None:
            while piece := peer.recv(1 << 20):
                pieces.append(piece)

        with self._serve(receive):
            self.guest.sh(f"nc {self.host} {CONTENT_PORT} < /tmp/content; rm /tmp/content", 30)
        assert hashlib.sha256(b"".join(pieces)).hexdigest() == wanted, "the host received something else"

    @contextmanager
    def _serve(self, work: Callable[[socket.socket], None]) -> Iterator[None]:
        """Accept one connection on a thread, and let `work` have it, while the block runs."""
        with self.namespace.call(self._listen) as listener:

            def accept() -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.settimeout(30)
                    work(peer)

            thread = threading.Thread(target=accept)
            thread.start()
            try:
                yield
            finally:
                thread.join()

    def _listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, CONTENT_PORT))
        listener.listen()
        listener.settimeout(30)
        return listener
