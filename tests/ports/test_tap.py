"""The tap port against the kernel's own taps."""

from __future__ import annotations

import errno
import logging
import os
import select

import pytest

from tests.ports import taps
from vhostuser.datapath.port_ops import NET_HEADER_SIZE, PortKind
from vhostuser.errors import EnvironmentLacksError, UsageError
from vhostuser.ports import tun
from vhostuser.ports.base import parse_port
from vhostuser.ports.interface import Interface
from vhostuser.ports.tap import TapPort
from vhostuser.wire.features import VirtioFeature

NOTHING = VirtioFeature(0)
TSO4 = VirtioFeature.GUEST_CSUM | VirtioFeature.GUEST_TSO4
USO = VirtioFeature.GUEST_CSUM | VirtioFeature.GUEST_USO4 | VirtioFeature.GUEST_USO6

NONE, FIRST, SECOND, BOTH = (frozenset[int](), frozenset({0}), frozenset({1}), frozenset({0, 1}))

pytestmark = pytest.mark.usefixtures("namespace")


def refused(port: TapPort, queues: int = 1) -> str:
    """The sentence of an open that has to fail because of the machine."""
    with pytest.raises(EnvironmentLacksError) as failure:
        port.open(queues)
    assert "\n" not in str(failure.value)
    return str(failure.value)


# Making and attaching


def test_a_tap_that_is_made_is_up_multi_queue_and_goes_away() -> None:
    port = TapPort("vm1")
    ops = port.open(2)
    assert ops.kind is PortKind.FD
    assert [tun.get_interface(fd) for fd in ops.fds] == [("vm1", taps.MULTI_QUEUE)] * 2
    assert taps.is_up("vm1")
    port.close()
    assert not taps.exists("vm1")


def test_every_fd_is_non_blocking_and_close_on_exec() -> None:
    port = TapPort("vm1")
    for fd in port.open(2).fds:
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
    port.close()


def test_as_many_queues_as_the_kernel_has() -> None:
    port = TapPort("vm1")
    assert len(set(port.open(256).fds)) == 256
    sentence = refused(TapPort("vm1"))
    assert "at most 256 queues" in sentence
    port.close()


def test_persist_on_keeps_the_tap_and_off_lets_it_go() -> None:
    for spec, stays in (("tap:vm1,persist=on", True), ("tap:vm1", True), ("tap:vm1,persist=off", False)):
        port = parse_port(spec)
        port.open(1)
        port.close()
        assert taps.exists("vm1") is stays, spec


def test_a_tap_that_was_there_is_not_brought_up_unless_asked() -> None:
    fd = taps.make_tap("vm1")
    port = TapPort("vm1")
    port.open(1)
    assert not taps.is_up("vm1")
    port.close()
    port = TapPort("vm1", up=True)
    port.open(1)
    assert taps.is_up("vm1")
    port.close()
    os.close(fd)


def test_up_off_leaves_a_new_tap_down() -> None:
    port = parse_port("tap:ifname=vm1,up=off")
    port.open(1)
    assert not taps.is_up("vm1")
    port.close()


def test_one_queue_of_a_tap_without_multi_queue() -> None:
    fd = taps.make_tap("vm1", taps.PLAIN)
    tun.set_persist(fd, True)
    os.close(fd)
    port = TapPort("vm1", persist=False)
    (ours,) = port.open(1).fds
    assert tun.get_interface(ours) == ("vm1", taps.PLAIN)
    port.attach(NONE)
    port.attach(FIRST)
    port.close()
    assert not taps.exists("vm1")


def test_a_port_opens_again_after_it_was_closed() -> None:
    port = TapPort("vm1")
    for _ in range(3):
        port.open(2)
        port.close()
    port.close()
    assert not taps.exists("vm1")


# What the machine lacks


def test_a_tap_without_multi_queue_is_refused_for_more_queues() -> None:
    fd = taps.make_tap("vm1", taps.PLAIN)
    sentence = refused(TapPort("vm1"), queues=4)
    assert "made without multi-queue and has 1 queue, not 4" in sentence
    assert "ip tuntap add vm1 mode tap multi_queue" in sentence
    os.close(fd)


def test_a_busy_tap() -> None:
    fd = taps.make_tap("vm1", taps.PLAIN)
    assert "another program has it open" in refused(TapPort("vm1"))
    os.close(fd)


def test_a_name_that_is_no_tap() -> None:
    assert refused(TapPort("lo")) == "lo is an interface of another kind and not a tap: choose another name"


def test_a_tun_is_no_tap() -> None:
    fd = taps.make_tap("tun7", tun.IFF_TUN | tun.IFF_NO_PI)
    assert "and not a tap" in refused(TapPort("tun7"))
    os.close(fd)


def test_no_tun_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tun, "TUN_DEVICE", "/dev/net/none")
    assert refused(TapPort("vm1")).startswith("there is no /dev/net/none: run 'modprobe tun'")


def test_a_tun_device_that_may_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "open", forbid)
    sentence = refused(TapPort("vm1"))
    monkeypatch.undo()
    assert sentence.startswith(
        "/dev/net/tun may not be opened by user root: give the user read and write on it"
    )


def test_no_right_to_make_a_tap(nobody: None) -> None:
    sentence = refused(TapPort("vm1"))
    assert sentence.startswith("tap vm1 is not there and this process may not make it")
    assert "user nobody" in sentence
    assert "tap:fd=N" in sentence


def test_a_tap_of_another_user() -> None:
    fd = taps.make_tap("vm1")
    taps.give_to(fd, 12345)
    with taps.as_nobody():
        sentence = refused(TapPort("vm1"))
    assert sentence.startswith("tap vm1 belongs to another user")
    os.close(fd)


def test_the_user_of_a_tap_needs_no_privilege() -> None:
    fd = taps.make_tap("vm1")
    taps.give_to(fd, 65534)
    port = TapPort("vm1")
    with taps.as_nobody():
        port.open(2)
        port.start(TSO4)
        port.close()
    os.close(fd)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("tap", "a tap port needs either a name"),
        ("tap:", "a tap port needs either a name"),
        ("tap:persist=on", "a tap port needs either a name"),
        ("tap:vm1,ifname=vm2", "port tap:vm1,ifname=vm2: ifname is given twice"),
        (
            "tap:ifname=vm1,persit=on",
            "port tap:ifname=vm1,persit=on: unknown option 'persit' (did you mean 'persist'?)",
        ),
        ("tap:vm1,persist=maybe", "persist=maybe is neither on nor off"),
        ("tap:vm1,up", "port tap:vm1,up: 'up' needs a value, as in up=VALUE"),
        ("tap:fd=x", "fd=x is not a number from 0 to 2147483647"),
        ("tap:fd=7:", "fd= is not a number from 0 to 2147483647"),
        ("tap:fd=7:7", "port tap:fd=7:7 names an fd twice"),
        ("tap:fd=7,up=on", "port tap:fd=7,up=on: fd= takes no other option"),
    ],
)
def test_specs_that_are_refused(spec: str, sentence: str) -> None:
    with pytest.raises(UsageError) as failure:
        parse_port(spec)
    assert str(failure.value).startswith(sentence)


# Inherited fds


def test_inherited_fds_need_no_privilege() -> None:
    given = [taps.make_tap("vm1") for _ in range(2)]
    port = parse_port(f"tap:fd={given[0]}:{given[1]}")
    assert port.caps.queues == 2
    with taps.as_nobody():
        assert port.open(2).fds == tuple(given)
        port.start(TSO4)
        port.attach(FIRST)
        port.attach(BOTH)
        port.stop()
    assert not os.get_blocking(given[0])
    assert not os.get_inheritable(given[1])
    port.close()
    assert not taps.exists("vm1")


def test_an_inherited_queue_may_be_detached() -> None:
    given = [taps.make_tap("vm1") for _ in range(2)]
    tun.set_queue(given[1], False)
    port = TapPort(fds=given)
    port.open(2)
    port.attach(FIRST)
    port.attach(BOTH)
    assert tun.get_interface(given[1]) == ("vm1", taps.MULTI_QUEUE)
    port.close()


def test_one_fd_for_each_queue() -> None:
    port = TapPort(fds=[taps.make_tap("vm1")])
    with pytest.raises(UsageError, match="has 1 fds for 2 queues"):
        port.open(2)
    assert not taps.exists("vm1")


def test_an_fd_that_is_not_open() -> None:
    assert refused(TapPort(fds=[987])).startswith("fd 987 is not open in this process")


def test_an_fd_that_is_no_tap() -> None:
    for path in (os.devnull, tun.TUN_DEVICE):
        fd = os.open(path, os.O_RDWR)
        assert refused(TapPort(fds=[fd])).startswith(f"fd {fd} is no tap")


def test_an_fd_that_was_opened_without_our_flags() -> None:
    fd = taps.make_tap("vm1", tun.IFF_TAP)
    assert f"fd {fd} (vm1) was opened without IFF_VNET_HDR: its TUNSETIFF needs" in refused(TapPort(fds=[fd]))


def test_fds_of_two_taps() -> None:
    given = [taps.make_tap("vm1"), taps.make_tap("vm2")]
    assert "are of vm1 and vm2" in refused(TapPort(fds=given), queues=2)


def test_the_mtu_of_an_inherited_tap_in_another_namespace() -> None:
    port = TapPort(fds=[taps.make_tap("vm1")])
    with taps.network_namespace():
        namesake = TapPort("vm1")
        namesake.open(1)
        port.open(1)
        with pytest.raises(EnvironmentLacksError, match="in another network namespace"):
            port.set_mtu(1400)
        namesake.close()
    port.close()


# Running


def test_frames_have_a_12_byte_header_both_ways() -> None:
    port = TapPort("vm1")
    (fd,) = port.open(1).fds
    port.start(NOTHING)
    with taps.listen("vm1") as host:
        host.send(taps.FRAME)
        assert os.read(fd, 2048)[NET_HEADER_SIZE:] == taps.FRAME
        port.inject(taps.FRAME)
        assert host.recv(2048) == taps.FRAME
    port.close()


def test_a_frame_that_cannot_be_injected_is_dropped() -> None:
    port = TapPort("vm1", up=False)
    port.open(1)
    port.inject(taps.FRAME)
    port.close()


def test_a_frame_is_injected_through_a_queue_that_is_attached() -> None:
    port = TapPort("vm1")
    port.open(2)
    port.start(NOTHING)
    port.attach(SECOND)
    with taps.listen("vm1") as host:
        port.inject(taps.FRAME)
        assert host.recv(2048) == taps.FRAME
    port.close()


def test_the_host_sees_a_link_while_the_device_runs() -> None:
    port = TapPort("vm1")
    port.open(1)
    assert not taps.has_carrier("vm1")
    port.start(NOTHING)
    assert taps.has_carrier("vm1")
    port.stop()
    assert not taps.has_carrier("vm1")
    port.close()


def test_settings_go_through_a_queue_that_is_attached() -> None:
    port = TapPort("vm1")
    port.open(2)
    port.attach(SECOND)
    port.start(NOTHING)
    assert taps.has_carrier("vm1")
    port.stop()
    assert not taps.has_carrier("vm1")
    port.close()


@pytest.mark.parametrize(
    ("features", "checksum", "tso"),
    [
        (NOTHING, 0, 0),
        (VirtioFeature.GUEST_CSUM, 1, 0),
        (TSO4, 1, 1),
        (TSO4 | VirtioFeature.GUEST_ECN | VirtioFeature.GUEST_TSO6 | VirtioFeature.GUEST_UFO, 1, 1),
        (VirtioFeature.GUEST_TSO4, 0, 0),
        (VirtioFeature.HOST_TSO4 | VirtioFeature.CSUM, 0, 0),
        (VirtioFeature.GUEST_CSUM | VirtioFeature.GUEST_ECN, 1, 0),
        (VirtioFeature.GUEST_CSUM | VirtioFeature.GUEST_USO4, 1, 0),
    ],
)
def test_offloads_follow_the_acked_features(features: VirtioFeature, checksum: int, tso: int) -> None:
    port = TapPort("vm1")
    port.open(1)
    port.start(features)
    assert taps.ethtool("vm1", taps.ETHTOOL_GTXCSUM) == checksum
    assert taps.ethtool("vm1", taps.ETHTOOL_GTSO) == tso
    port.stop()
    assert taps.ethtool("vm1", taps.ETHTOOL_GTXCSUM) == 0
    port.close()


def test_a_kernel_without_uso_gets_the_rest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = tun.set_offload
    asked = []

    def before_6_2(fd: int, flags: int) -> None:
        asked.append(flags)
        if flags & (tun.TUN_F_USO4 | tun.TUN_F_USO6):
            raise OSError(errno.EINVAL, "Invalid argument")
        kernel(fd, flags)

    monkeypatch.setattr(tun, "set_offload", before_6_2)
    port = TapPort("vm1")
    port.open(1)
    with caplog.at_level(logging.WARNING):
        port.start(TSO4 | USO | VirtioFeature.HOST_USO)
    assert asked[-1] == tun.TUN_F_CSUM | tun.TUN_F_TSO4
    assert "use uso=off" in caplog.text
    assert "does not know offloads 0x60" in caplog.text
    port.close()


def test_frames_from_before_the_start_are_discarded() -> None:
    port = TapPort("vm1")
    fds = port.open(2).fds
    port.start(TSO4)
    with taps.listen("vm1") as host:
        for _ in range(20):
            host.send(taps.FRAME)
    assert select.select(fds, [], [], 5)[0]
    port.stop()
    port.start(NOTHING)
    assert select.select(fds, [], [], 0)[0] == []
    port.close()


def test_traffic_without_end_does_not_keep_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    port = TapPort("vm1")
    port.open(1)
    reads = []

    def always(fd: int, size: int) -> bytes:
        reads.append(fd)
        return bytes(size)

    monkeypatch.setattr(os, "read", always)
    port.start(NOTHING)
    monkeypatch.undo()
    assert 0 < len(reads) <= 10000
    port.close()


def test_a_detached_queue_gets_no_frames() -> None:
    port = TapPort("vm1")
    fds = port.open(4).fds
    for _ in range(2):
        port.attach(frozenset({2}))
    port.start(NOTHING)
    with taps.listen("vm1") as host:
        for _ in range(20):
            host.send(taps.FRAME)
    ready, _, _ = select.select(fds, [], [], 5)
    assert fds[2] in ready
    for queue in (0, 1, 3):
        with pytest.raises(BlockingIOError):
            os.read(fds[queue], 2048)
    port.close()


def test_all_queues_may_be_detached_and_come_back() -> None:
    port = TapPort("vm1")
    fds = port.open(2).fds
    for queues in (NONE, BOTH):
        port.attach(queues)
    assert [tun.get_interface(fd)[1] for fd in fds] == [taps.MULTI_QUEUE] * 2
    port.start(NOTHING)
    with taps.listen("vm1") as host:
        host.send(taps.FRAME)
    assert select.select(fds, [], [], 5)[0]
    port.close()


def test_a_tap_that_is_deleted_under_us_harms_nothing() -> None:
    port = TapPort("vm1", persist=True)
    port.open(2)
    port.start(TSO4)
    os.spawnlp(os.P_WAIT, "ip", "ip", "link", "del", "vm1")
    assert not taps.exists("vm1")
    port.attach(FIRST)
    port.inject(taps.FRAME)
    port.stop()
    port.start(TSO4)
    port.close()


def test_the_mtu() -> None:
    port = TapPort("vm1")
    port.open(1)
    port.set_mtu(9000)
    interface = Interface("vm1")
    assert interface.get_mtu() == 9000
    with pytest.raises(EnvironmentLacksError, match="the MTU of tap vm1 cannot be set to 60"):
        port.set_mtu(60)
    interface.close()
    port.close()


def test_an_mtu_that_is_right_already_needs_no_privilege() -> None:
    port = TapPort("vm1")
    port.open(1)
    with taps.as_nobody():
        port.set_mtu(1500)
        with pytest.raises(EnvironmentLacksError, match="run 'ip link set vm1 mtu 9000'"):
            port.set_mtu(9000)
    port.close()


def test_caps_are_known_without_any_tap() -> None:
    caps = TapPort("vm1").caps
    assert caps == TapPort("other", persist=True).caps
    assert caps.queues == 256
    assert VirtioFeature.HOST_USO | TSO4 in caps.offloads
    assert caps.max_frame == 65553
