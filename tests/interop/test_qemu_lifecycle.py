"""Either side goes away and comes back: the server killed and restarted in both socket roles, QEMU killed.
And one that never should have come: QEMU with memory that is not shared.

Each test has its own guest and server. A persistent tap keeps its address while there is no server.
"""

from __future__ import annotations

from pathlib import Path

from tests.interop.link import Link
from tests.interop.netns import Namespace
from tests.interop.qemu import Guest, VhostUserNic, plain_machine
from tests.interop.rig import tap_rig
from tests.interop.server_process import Server

PERSISTENT = "tap:ifname=vt0,persist=on"


def test_server_killed_and_restarted_while_qemu_reconnects(folder: Path, namespace: Namespace) -> None:
    with tap_rig(folder, namespace, port=PERSISTENT) as rig:
        words = rig.server.argv[rig.server.argv.index("serve") + 1 :]
        for restart in ("first", "second"):
            rig.server.kill()
            # The socket file of a killed server is stale: the next one has to take it over.
            assert rig.socket.exists()
            rig.server = Server(folder, *words, namespace=namespace, name=restart)
            rig.server.wait_listening(rig.socket)
            rig.link.wait_carrier()
            rig.link.ping()
            rig.link.check_content()
        # The rings go on where the last server left them, and the guest can still start anew.
        rig.guest.reset()
        rig.link.up()
        rig.link.ping()


def test_server_connects_to_a_qemu_that_listens(folder: Path, namespace: Namespace) -> None:
    path = folder / "vm1.sock"
    words = ("--socket-path", str(path), "--client", "--reconnect-ms", "200", "--port", PERSISTENT)
    nic = VhostUserNic(path, server=True)
    first = Server(folder, *words, namespace=namespace, name="first")
    with first, Guest(folder, [nic], namespace) as guest:
        guest.boot()
        link = Link(guest, namespace)
        link.up()
        link.ping()

        first.kill()
        with Server(folder, *words, namespace=namespace, name="second") as second:
            link.wait_carrier()
            link.ping()
            link.check_content()

            # QEMU is killed and started again: the server has to keep trying, and to serve the next one.
            guest.kill()
            with Guest(folder, [nic], namespace) as another:
                another.boot()
                link = Link(another, namespace)
                link.up()
                link.ping()
            second.stop()


def test_qemu_killed_and_another_one_connects(folder: Path, namespace: Namespace) -> None:
    with tap_rig(folder, namespace) as rig:
        rig.guest.kill()
        rig.server.wait_for("no carrier", lambda: not namespace.carrier("vt0"), 5)
        rig.server.assert_alive()
        rig.guest = Guest(folder, [VhostUserNic(rig.socket)], namespace)
        with rig.guest:
            rig.guest.boot()
            rig.link.up()
            rig.link.ping()
            rig.link.check_content()


def test_two_devices_of_one_server_in_one_guest(folder: Path, namespace: Namespace) -> None:
    paths = [folder / "a.sock", folder / "b.sock"]
    words = [f"--device=name=vm{n},socket-path={path},port=tap:vt{n}" for n, path in enumerate(paths)]
    words[1] = words[1].replace(",port=", ",mtu=9000,port=")
    with Server(folder, *words, namespace=namespace) as server:
        for path in paths:
            server.wait_listening(path)
        nics = [VhostUserNic(paths[0]), VhostUserNic(paths[1], device="host_mtu=9000")]
        with Guest(folder, nics, namespace) as guest:
            guest.boot()
            links = [Link(guest, namespace, f"eth{n}", f"vt{n}", n) for n in range(2)]
            for link in links:
                link.up()
                link.ping()
            # The second one has jumbo frames: the guest learns the size from QEMU, the tap from the server.
            assert guest.sh("cat /sys/class/net/eth1/mtu").strip() == "9000"
            assert namespace.links()["vt1"]["mtu"] == 9000
            links[1].ping(size=8900)
            # One stops; the other does not notice.
            guest.sh(
                "echo $(basename $(readlink /sys/class/net/eth0/device)) > "
                "/sys/bus/virtio/drivers/virtio_net/unbind"
            )
            links[1].ping()
            links[1].tcp(to_guest=True)
        server.stop()


def test_guest_whose_memory_is_not_shared_is_told_so(folder: Path, namespace: Namespace) -> None:
    machine = [word.replace("share=on", "share=off") for word in plain_machine(1)]
    path = folder / "vm1.sock"
    with Server(folder, "--socket-path", str(path), "--port", "tap:vt0", namespace=namespace) as server:
        server.wait_listening(path)
        with Guest(folder, [VhostUserNic(path)], namespace, machine=machine) as guest:
            guest.boot()
            guest.sh("ip link set eth0 up; arping -c 1 -w 1 -I eth0 192.0.2.1", check=False)
            server.wait_log("share=on at the memory backend", 30)
        server.stop()
