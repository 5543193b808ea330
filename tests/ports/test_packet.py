"""The packet port on the kernel's own interfaces."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator

import pytest

from tests.conftest import open_fds
from tests.ports import taps, veths
from vhostuser.datapath.port_ops import PortKind, PortOps
from vhostuser.errors import EnvironmentLacksError, UsageError
from vhostuser.ports import packet_socket, tun
from vhostuser.ports.base import ALL_OFFLOADS, parse_port
from vhostuser.ports.packet import MAX_QUEUES, PacketPort
from vhostuser.wire.features import VirtioFeature

pytestmark = pytest.mark.usefixtures("namespace")

NOTHING = VirtioFeature(0)


@pytest.fixture
def port(far: veths.Far) -> Iterator[PacketPort]:
    port = PacketPort("vm1")
    yield port
    port.close()


def got(fd: int, header: int) -> list[bytes]:
    """All frames that wait there, without their headers."""
    frames = []
    while True:
        try:
            frames.append(os.read(fd, 1 << 17)[header:])
        except BlockingIOError:
            return frames


def udp(source: int, destination: int, *, back: bool = False, version: int = 4) -> bytes:
    """A frame of a flow, or of its other direction."""
    here, there = (4, 16)[version == 6] * b"\1", (4, 16)[version == 6] * b"\2"
    ports = struct.pack("!HH", source, destination)
    if back:
        here, there, ports = there, here, ports[2:] + ports[:2]
    if version == 4:
        packet = b"\x45\0\0\x1c\0\0\0\0\x40\x11\0\0" + here + there
    else:
        packet = b"\x60\0\0\0\0\x08\x11\x40" + here + there
    kind = b"\x08\0" if version == 4 else b"\x86\xdd"
    return b"\2\0\0\0\0\1\2\0\0\0\0\2" + kind + packet + ports + b"\0\x08\0\0"


# Opening


def test_sockets_are_non_blocking_and_close_on_exec_and_given_back(far: veths.Far) -> None:
    before = open_fds()
    port = PacketPort("vm1")
    ops = port.open(4)
    assert ops.kind is PortKind.PACKET
    assert ops.header_size in (10, 12)
    assert len(set(ops.fds)) == 4
    for fd in ops.fds:
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
    port.close()
    port.close()
    assert open_fds() == before


def test_what_is_offered_does_not_depend_on_the_interface() -> None:
    port = parse_port("packet:nowhere")
    assert (port.caps.offloads, port.caps.queues) == (ALL_OFFLOADS, MAX_QUEUES)


@pytest.mark.parametrize("spec", ["packet:vm1", "packet:ifname=vm1"])
def test_both_ways_to_name_it(far: veths.Far, spec: str) -> None:
    port = parse_port(spec)
    port.open(1)
    port.close()


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("packet", "names no interface"),
        ("packet:", "names no interface"),
        ("packet:ifname=", "ifname"),
        ("packet:name=vm1", "name"),
        ("packet:a/b", "is no interface name"),
    ],
)
def test_specs_that_are_none(spec: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_port(spec)


def refused(name: str, queues: int = 1) -> str:
    before = open_fds()
    with pytest.raises(EnvironmentLacksError) as failure:
        PacketPort(name).open(queues)
    assert open_fds() == before
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_interface_that_is_not_there() -> None:
    assert refused("vm1").startswith("there is no interface vm1")


def test_interface_that_is_not_ethernet() -> None:
    fd = taps.make_tap("tun7", tun.IFF_TUN)
    assert refused("tun7").startswith("tun7 is no Ethernet interface")
    assert refused("lo").startswith("lo is no Ethernet interface")
    os.close(fd)


def test_without_privileges(far: veths.Far) -> None:
    with taps.as_nobody():
        assert "give it CAP_NET_RAW" in refused("vm1")


def test_interface_that_is_down_is_told_of_and_may_come_up_later(
    far: veths.Far, caplog: pytest.LogCaptureFixture
) -> None:
    veths.ip("link", "set", "vm1", "down")
    port = PacketPort("vm1")
    ops = port.open(1)
    port.start(NOTHING)
    assert "packet vm1 is down: run 'ip link set vm1 up'" in caplog.text
    veths.ip("link", "set", "vm1", "up")
    far.put(taps.FRAME)
    with pytest.raises(OSError, match="Network is down"):
        got(ops.fds[0], ops.header_size)
    assert got(ops.fds[0], ops.header_size) == [taps.FRAME]
    port.close()


def test_queues_of_one_that_is_down_where_the_kernel_has_none(
    far: veths.Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.13."""

    def join(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(packet_socket, "join", join)
    veths.ip("link", "set", "vm1", "down")
    assert "vm1 is down" in refused("vm1", 2)
    veths.ip("link", "set", "vm1", "up")
    assert "Invalid argument" in refused("vm1", 2)


def test_machine_of_the_other_byte_order(far: veths.Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    assert "use a tap" in refused("vm1")


# Running


def opened(port: PacketPort, queues: int = 1) -> PortOps:
    ops = port.open(queues)
    port.start(NOTHING)
    return ops


def test_nothing_is_heard_while_stopped(port: PacketPort, far: veths.Far) -> None:
    ops = port.open(1)
    far.put(taps.FRAME)
    assert veths.promiscuity("vm1") == 0
    assert got(ops.fds[0], 0) == []

    for _ in range(3):
        port.start(NOTHING)
        assert veths.promiscuity("vm1") == 1
        far.put(taps.FRAME)
        assert got(ops.fds[0], ops.header_size) == [taps.FRAME]
        far.put(taps.FRAME)  # and is not read
        port.stop()
        assert veths.promiscuity("vm1") == 0
        far.put(taps.FRAME)
        assert got(ops.fds[0], 0) == []
    port.close()
    assert veths.promiscuity("vm1") == 0


def test_what_the_host_sends_there_does_not_come_back(port: PacketPort, far: veths.Far) -> None:
    ops = opened(port)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(veths.ETH_P_ALL)) as host:
        host.bind(("vm1", veths.ETH_P_ALL))
        host.settimeout(5)
        host.send(taps.FRAME)
        port.inject(taps.FRAME)
        assert host.recv(2048) == taps.FRAME  # what the guest sends is seen by who listens
    assert far.get()[1] == far.get()[1] == taps.FRAME
    assert got(ops.fds[0], 0) == []


def test_injected_frame_goes_out_and_nowhere_when_it_is_down(
    port: PacketPort, far: veths.Far, caplog: pytest.LogCaptureFixture
) -> None:
    opened(port)
    port.inject(taps.FRAME)
    assert far.get()[1] == taps.FRAME
    veths.ip("link", "set", "vm1", "down")
    caplog.set_level(logging.DEBUG)
    port.inject(taps.FRAME)
    assert "was not sent: Network is down" in caplog.text


def test_frames_for_which_there_was_no_room_are_told_of(
    port: PacketPort, far: veths.Far, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ops = opened(port)
    sock = socket.socket(fileno=os.dup(ops.fds[0]))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
    sock.close()
    for _ in range(100):
        far.put(taps.FRAME)
    came = len(got(ops.fds[0], 0))
    assert 0 < came < 100
    port.stop()
    assert f"{100 - came} frames came while there was no room for them" in caplog.text


def test_interface_that_went_away(port: PacketPort, far: veths.Far) -> None:
    opened(port, 2)
    veths.ip("link", "del", "vm1")
    port.inject(taps.FRAME)
    port.stop()
    port.start(NOTHING)
    port.attach(frozenset({1}))
    port.attach(frozenset({0, 1}))
    with pytest.raises(EnvironmentLacksError, match="there is no interface vm1"):
        port.set_mtu(1500)


def test_mtu_is_looked_at_and_not_set(port: PacketPort, far: veths.Far) -> None:
    opened(port)
    port.set_mtu(1400)
    port.set_mtu(1500)
    with pytest.raises(EnvironmentLacksError, match="the MTU of vm1 is 1500 and the guest is told 9000"):
        port.set_mtu(9000)


# Queues


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("attached", [[0, 1, 2, 3], [2], [1, 3]])
def test_flows_are_spread_over_the_queues_that_are_attached(
    port: PacketPort, far: veths.Far, version: int, attached: list[int]
) -> None:
    ops = opened(port, 4)
    port.attach(frozenset(attached))
    flows = [(1000 + n, 5000 + n // 8) for n in range(200)]
    place: dict[bytes, int] = {}
    for back in (False, True):
        for source, destination in flows:
            far.put(udp(source, destination, version=version, back=back))
        for queue, fd in enumerate(ops.fds):
            place |= dict.fromkeys(got(fd, ops.header_size), queue)
    assert len(place) == 2 * len(flows)
    counts = [list(place.values()).count(queue) for queue in range(4)]
    fair = 2 * len(flows) / len(attached)
    for queue in range(4):
        assert (0.5 * fair < counts[queue] < 1.6 * fair) if queue in attached else counts[queue] == 0
    for source, destination in flows:
        both = (udp(source, destination, version=version, back=back) for back in (False, True))
        assert len({place[frame] for frame in both}) == 1


def test_fragments_of_a_packet_stay_together(port: PacketPort, far: veths.Far) -> None:
    ops = opened(port, 4)
    for number in range(20):
        for flags in (b"\x20\0", b"\x20\x04", b"\0\x08"):
            frame = bytearray(udp(number, 7))
            frame[20:22] = flags
            frame[29] = number
            far.put(bytes(frame))
    queues = [{frame[29] for frame in got(fd, ops.header_size)} for fd in ops.fds]
    assert sum(map(len, queues)) == 20


def test_what_is_no_ip_goes_to_the_first_queue_in_use(port: PacketPort, far: veths.Far) -> None:
    ops = opened(port, 3)
    port.attach(frozenset({1, 2}))
    cut = [udp(1, 2)[:length] for length in (14, 15, 33, 34, 37)]
    for content in (
        taps.FRAME,
        taps.FRAME[:14],
        *cut,
        *(udp(1, 2, version=6)[: 14 + n] for n in (0, 39, 43)),
    ):
        far.put(content)
    assert [len(got(fd, 0)) for fd in ops.fds] == [0, 10, 0]


def test_order_of_the_queues_outlives_a_time_down(port: PacketPort, far: veths.Far) -> None:
    """The sockets leave their group and join again, and their places are what a program answers with."""
    ops = opened(port, 4)
    places = []
    for _ in range(3):
        for number in range(50):
            far.put(udp(number, 7))
        places.append([got(fd, ops.header_size) for fd in ops.fds])
        veths.ip("link", "set", "vm1", "down")
        veths.ip("link", "set", "vm1", "up")
        for fd in ops.fds:
            with pytest.raises(OSError, match="Network is down"):
                os.read(fd, 1)
    assert places[0] == places[1] == places[2]
    assert sum(map(len, places[0])) == 50


def test_two_ports_on_one_interface_do_not_share_their_frames(port: PacketPort, far: veths.Far) -> None:
    other = PacketPort("vm1")
    opened(other, 2)
    opened(port, 2)
    far.put(taps.FRAME)
    for each in (port, other):
        assert sum(len(got(sock.fileno(), 0)) for sock in each._sockets) == 1
    other.close()
    assert veths.promiscuity("vm1") == 1


def test_queue_that_comes_back_has_nothing_of_before(port: PacketPort, far: veths.Far) -> None:
    ops = opened(port, 2)
    for number in range(50):
        far.put(udp(number, 7))
    port.attach(frozenset({0}))
    port.attach(frozenset({0, 1}))
    assert got(ops.fds[0], 0) != []
    assert got(ops.fds[1], 0) == []


def test_many_queues_come_and_go_in_the_time_of_a_few(far: veths.Far) -> None:
    """A program that is replaced, and a socket that is closed, wait for a grace period of the kernel's."""
    port = PacketPort("vm1")
    opened(port, 64)
    began = time.monotonic()
    port.attach(frozenset({0}))
    port.attach(frozenset(range(64)))
    port.stop()
    port.close()
    assert time.monotonic() - began < 1.0  # one after the other they took 2.5 s
