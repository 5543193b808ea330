"""Two real guests under QEMU on a switch; on a second one, one of them takes no offload at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.qemu import Guest, VhostUserNic
from tests.interop.server_process import Server

NO_OFFLOADS = "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off"
SWITCHES = ("switch:lan", "switch:lan,vlan=2")
INTERFACES = ("eth0", "eth1")
PORT = 7000
MIB = 16


@dataclass(slots=True)
class Pair:
    server: Server
    guests: tuple[Guest, Guest]

    def address(self, guest: int, interface: str) -> str:
        return f"10.0.{INTERFACES.index(interface)}.{guest + 1}"

    def send_file(self, sender: int, interface: str) -> None:
        """As many octets by TCP as make thousands of segments; the other guest must have the same."""
        source, target = self.guests[sender], self.guests[1 - sender]
        address = self.address(1 - sender, interface)
        wanted = source.sh(f"dd if=/dev/urandom of=/tmp/f bs=1M count={MIB} 2>/dev/null; sha256sum /tmp/f")
        # A busybox that listens ends when its own input does.
        target.sh("rm -f /tmp/p; mkfifo /tmp/p; sleep 100 > /tmp/p & echo $! > /tmp/s")
        target.sh(f"nc -l -p {PORT} < /tmp/p > /tmp/f & echo $! > /tmp/n")
        source.sh(f"for i in 1 2 3 4 5; do nc {address} {PORT} < /tmp/f && break; sleep 1; done", 60)
        got = target.sh("wait $(cat /tmp/n); kill $(cat /tmp/s); sha256sum /tmp/f", 30)
        assert got.split()[0] == wanted.split()[0]


@pytest.fixture(scope="module")
def pair(shared_folder: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        names = [[f"vm{guest}-{interface}" for interface in INTERFACES] for guest in range(2)]
        words = []
        for guest in range(2):
            for name, port in zip(names[guest], SWITCHES, strict=True):
                words += ["--device", f"name={name},socket-path={shared_folder / name},port={port}"]
        server = stack.enter_context(Server(shared_folder, "--workers", "2", *words))
        guests = []
        for guest in range(2):
            folder = shared_folder / str(guest)
            folder.mkdir()
            nics = []
            for name in names[guest]:
                server.wait_listening(shared_folder / name)
                plain = guest == 1 and name.endswith("eth1")
                nics.append(VhostUserNic(shared_folder / name, device=NO_OFFLOADS if plain else ""))
            guests.append(stack.enter_context(Guest(folder, nics)))
        made = Pair(server, (guests[0], guests[1]))
        for number, guest_ in enumerate(guests):
            guest_.boot()
            for index, interface in enumerate(INTERFACES):
                guest_.sh(f"ip link set {interface} address 52:54:00:00:{number + 1:02x}:{index:02x}")
                guest_.sh(f"ip addr add {made.address(number, interface)}/24 dev {interface}")
                guest_.sh(f"ip link set {interface} up")
        yield made
        for guest_ in guests:
            guest_.kill()
        server.stop()
        assert "Traceback" not in server.log


@pytest.mark.parametrize("interface", INTERFACES)
def test_ping(pair: Pair, interface: str) -> None:
    for sender in range(2):
        address = pair.address(1 - sender, interface)
        for size in (56, 1472):
            text = pair.guests[sender].sh(f"ping -c 3 -i 0.1 -W 5 -s {size} {address}")
            assert "3 packets received, 0% packet loss" in text


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize("sender", [0, 1])
def test_what_arrives_is_what_was_sent(pair: Pair, sender: int, interface: str) -> None:
    pair.send_file(sender, interface)


def longest(guest: Guest, interface: str, work: str) -> int:
    """Octets a packet, over what the guest received meanwhile."""
    counters = f"cd /sys/class/net/{interface}/statistics; cat rx_bytes rx_packets"
    before = [int(text) for text in guest.sh(counters).split()]
    guest.sh(work, 60)
    octets, packets = (int(text) - old for text, old in zip(guest.sh(counters).split(), before, strict=True))
    return octets // packets


@pytest.mark.parametrize(("interface", "is_whole"), [("eth0", True), ("eth1", False)])
def test_segments_stay_whole_for_who_takes_them(pair: Pair, interface: str, is_whole: bool) -> None:
    sender, receiver = pair.guests
    sender.sh("iperf3 -s -1 -D >/dev/null; sleep 0.5")
    command = f"iperf3 -c {pair.address(0, interface)} -R -n 16M -J > /tmp/report; cat /tmp/report"
    size = longest(receiver, interface, command)

    assert json.loads(receiver.sh("cat /tmp/report"))["end"]["sum_received"]["bytes"] > 4 << 20
    assert size > 3000 if is_whole else 1000 < size <= 1514


def test_switches_are_apart(pair: Pair) -> None:
    """Linux answers for an address of any of its interfaces on each: so one of them is taken down."""
    one, two = pair.guests
    ask = f"arping -c 2 -w 3 -I eth1 {pair.address(1, 'eth0')}"
    assert "Received 0 response" not in one.sh(ask)
    two.sh("ip link set eth1 down")
    assert "Received 0 response" in one.sh(ask, check=False)
