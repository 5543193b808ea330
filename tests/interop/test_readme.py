"""The README's lines for the peers, pasted: what stands there runs, but for paths and the guest's disk."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from tests.interop.netns import Namespace
from tests.interop.process import Program
from tests.interop.qemu import QEMU, Guest, qemu_version
from tests.interop.server_process import vhostuser_program
from tests.interop.testpmd import TESTPMD

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
SOCKET = "/tmp/vm1.sock"
VHOSTUSER = ".venv/bin/vhostuser"


def line(start: str, folder: Path) -> str:
    """The README's line that begins with `start`, whole, with the socket in the test's own folder."""
    found = re.search(rf"^    ({re.escape(start)}(?:[^\n]*\\\n)*[^\n]*)$", README, re.MULTILINE)
    assert found, f"the README has no line that begins with {start}"
    text = found[1].replace("\\\n", " ").replace(SOCKET, str(folder / "vm1.sock"))
    return text.replace(VHOSTUSER, vhostuser_program())


def machine(folder: Path, chardev: Sequence[str] = ()) -> list[str]:
    """QEMU's words, changed as the README says for the QEMU at hand; `chardev` in place of that chardev.

    Its disk is left out, and KVM: it may be there and of no use where the tests run.
    """
    program, *words, disk = shlex.split(line("qemu-system-x86_64", folder))
    assert (program, disk) == (QEMU, "disk.qcow2")
    at = words.index("kvm")
    del words[at - 1 : at + 1]
    if qemu_version() < (8, 0):
        words = [re.sub("^virtio-net-pci,netdev=net1$", r"\g<0>,vectors=0", word) for word in words]
    if chardev:
        at = words.index("-chardev")
        words[at : at + 2] = chardev
    elif qemu_version() >= (9, 2):
        words = [word.replace("reconnect=1", "reconnect-ms=1000") for word in words]
    return words


def assert_guest_pings(folder: Path, namespace: Namespace, serve: str, chardev: Sequence[str] = ()) -> None:
    server_words = namespace.enter(*shlex.split(line(serve, folder)))
    with Program(server_words, folder / "server.log") as server:
        namespace.wait_link("vm1")
        namespace.run(*shlex.split(line("ip addr replace", folder)))
        with Guest(folder, [], namespace, machine=machine(folder, chardev)) as guest:
            guest.boot()
            assert " 0% packet loss" in guest.sh(line("ip addr add 192.0.2.2/24 dev eth0", folder))
            guest.kill()
        assert server.terminate() == 0


def test_guest_pings_the_host(folder: Path, namespace: Namespace) -> None:
    assert_guest_pings(folder, namespace, f"{VHOSTUSER} serve --socket-path {SOCKET} --port")


def test_guest_pings_the_host_when_qemu_listens(folder: Path, namespace: Namespace) -> None:
    chardev = shlex.split(line("-chardev", folder))

    assert_guest_pings(folder, namespace, f"{VHOSTUSER} serve --socket-path {SOCKET} --client", chardev)


def test_testpmd_gets_its_frames_back(folder: Path) -> None:
    server_words = shlex.split(line(f"{VHOSTUSER} serve -s", folder))
    program, *words = shlex.split(line("dpdk-testpmd", folder))
    assert program == TESTPMD
    typed = re.search(r"at its prompt `(start tx_first)`, `(show port stats 0)`", README)
    assert typed
    with Program(server_words, folder / "server.log") as server:
        server.wait_log("listening")
        argv = ["stdbuf", "-oL", TESTPMD, *words]
        with Program(argv, folder / "testpmd.log", {"RUNTIME_DIRECTORY": str(folder)}) as testpmd:
            testpmd.wait_log("testpmd> $", 20)
            testpmd.write(f"{typed[1]}\n")

            def asked() -> bool:
                testpmd.write(f"{typed[2]}\n")
                counts = re.findall(r"RX-packets: (\d+)", testpmd.log)
                return bool(counts) and int(counts[-1]) > 100_000

            testpmd.wait_for("100,000 frames back", asked, 20)
            testpmd.write("quit\n")
            assert testpmd.wait_exit(20) == 0
        assert server.terminate() == 0
