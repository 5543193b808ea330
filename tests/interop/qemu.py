"""A Linux guest under QEMU: network devices of the kinds that the tests compare, and a shell in it.

What lives here: QEMU's command line, and talking to the guest over its second serial port. The guest's own
files come from guest_image.py.
"""

from __future__ import annotations

import re
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.interop.guest_image import build_guest_image
from tests.interop.netns import Namespace
from tests.interop.process import TIMEOUT_SCALE, NotSeen, Program
from tests.interop.qmp import Qmp

QEMU = "qemu-system-x86_64"
BOOT_SECONDS = 60.0
MEMORY_MIB = 256
FIRST_PLUGGED = 9
NUMBERS = ("vectors", "host_mtu", "rx_queue_size", "tx_queue_size")
SWITCHES = ("mq", "disable-modern")
IOMMU_BUS = "rp1"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


@cache
def qemu_version() -> tuple[int, int]:
    text = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    found = re.search(r"version (\d+)\.(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2])


@dataclass(frozen=True, slots=True)
class VhostUserNic:
    """A NIC behind a vhost-user socket. QEMU connects and keeps reconnecting, or listens (`server`).

    `device` holds further options of virtio-net-pci, such as "disable-modern=on".
    """

    path: Path
    queues: int = 1
    server: bool = False
    device: str = ""

    def arguments(self, index: int) -> list[str]:
        chardev = f"socket,id=chr{index},path={self.path}"
        if self.server:
            chardev += ",server=on,wait=off"
        else:
            chardev += ",reconnect-ms=1000" if qemu_version() >= (9, 2) else ",reconnect=1"
        netdev = f"vhost-user,id=net{index},chardev=chr{index},queues={self.queues}"
        device = nic_device(index, self.queues, self.device)
        return ["-chardev", chardev, "-netdev", netdev, "-device", device]


@dataclass(frozen=True, slots=True)
class TapNic:
    """QEMU's own virtio-net on a persistent tap, without vhost: what the figures are compared with."""

    interface: str
    queues: int = 1
    device: str = ""

    def arguments(self, index: int) -> list[str]:
        netdev = f"tap,id=net{index},ifname={self.interface},script=no,downscript=no,vhost=off"
        if self.queues > 1:
            netdev += f",queues={self.queues}"
        return ["-netdev", netdev, "-device", nic_device(index, self.queues, self.device)]


def nic_device(index: int, queues: int, options: str) -> str:
    """The -device words. The MAC address ends in the device's number; no boot ROM, it only costs time."""
    words = [f"virtio-net-pci,id=nic{index},netdev=net{index},mac=52:54:00:00:00:{index + 1:02x},romfile="]
    if queues > 1:
        words.append("mq=on")
    if qemu_version() < (8, 0):
        # QEMU 7.2 under TCG ends with SIGSEGV when a vhost-user NIC uses MSI-X (seen).
        words.append("vectors=0")
    elif queues > 1:
        words.append(f"vectors={2 * queues + 2}")
    if options:
        words.append(options)
    return ",".join(words)


def typed(name: str, text: str) -> object:
    """A -device word as QMP wants it: newer QEMUs take no text for a number or a switch."""
    if name in NUMBERS:
        return int(text)
    return text == "on" if name in SWITCHES else text


def plain_machine(cpus: int, mib: int = MEMORY_MIB) -> list[str]:
    """The words of a small machine under emulation, with nothing but what the tests give it."""
    words = ["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-smp", str(cpus)]
    words += ["-machine", "pc,memory-backend=ram,usb=off", "-m", str(mib)]
    return [*words, "-object", f"memory-backend-memfd,id=ram,size={mib}M,share=on"]


def iommu_machine(cpus: int) -> list[str]:
    """The same as a Q35 with an IOMMU. What is to be behind it goes on `IOMMU_BUS`.

    On the root bus QEMU gives no device an ATS capability, by which the guest's invalidations reach vhost.
    """
    words = plain_machine(cpus)
    words[words.index("-machine") + 1] = "q35,memory-backend=ram,usb=off,sata=off"
    words += ["-device", "intel-iommu,intremap=off,device-iotlb=on"]
    return [*words, "-device", f"pcie-root-port,id={IOMMU_BUS},chassis=1,slot=1"]


class Guest(Program):
    """QEMU with our guest. `boot()` waits for the shell; `sh()` runs a command in the guest.

    `machine` has other words than `plain_machine` for the machine, `kernel_words` more for the kernel.
    """

    def __init__(
        self,
        folder: Path,
        nics: Sequence[VhostUserNic | TapNic],
        namespace: Namespace | None = None,
        cpus: int = 1,
        core: int | None = None,
        machine: Sequence[str] = (),
        kernel_words: str = "",
    ) -> None:
        image = build_guest_image()
        self._shell_path = folder / "shell"
        self._qmp_path = folder / "qmp"
        self._console_path = folder / "console.log"
        self._shell: socket.socket | None = None
        self._qmp: Qmp | None = None
        self._plugged = 0
        argv = [QEMU, *(machine or plain_machine(cpus))]
        argv += ["-kernel", str(image.kernel), "-initrd", str(image.initramfs)]
        words = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on"
        argv += ["-append", f"{words} {kernel_words}".rstrip()]
        argv += ["-serial", f"file:{self._console_path}"]
        argv += ["-chardev", f"socket,id=shell,path={self._shell_path},server=on,wait=off"]
        argv += ["-serial", "chardev:shell"]
        argv += ["-qmp", f"unix:{self._qmp_path},server=on,wait=off"]
        for index, nic in enumerate(nics):
            argv += nic.arguments(index)
        if core is not None:
            argv = ["taskset", "-c", str(core), *argv]
        super().__init__(argv if namespace is None else namespace.enter(*argv), folder / "qemu.log")

    def boot(self, timeout: float = BOOT_SECONDS) -> None:
        """Wait until the guest's shell answers."""
        self.open_monitor(timeout)
        self.take_shell(timeout)

    def open_monitor(self, timeout: float = BOOT_SECONDS) -> None:
        """What a QEMU needs that waits for its guest: it has no shell yet."""
        self._qmp = Qmp(self._connect(self._qmp_path, timeout))

    def take_shell(self, timeout: float = BOOT_SECONDS) -> None:
        """The shell of a guest that boots, or that came here by migration."""
        self._shell = self._connect(self._shell_path, timeout)
        self.wait_shell(timeout)

    def wait_shell(self, timeout: float = BOOT_SECONDS) -> None:
        """Ask until the shell answers: what is sent before the guest opens the port is lost."""
        self.wait_for("an answer of the guest's shell", self._ask, timeout)

    def sh(self, command: str, timeout: float = 20, check: bool = True) -> str:
        """Run a command line in the guest; return what it printed, errors included.

        AssertionError if it ends with another status than 0 (unless `check` is off) or takes too long.
        """
        output, status = self._exchange(command, timeout)
        assert not (check and status), f"in the guest: {command}\n{output}(status {status})"
        return output

    @property
    def qmp(self) -> Qmp:
        assert self._qmp is not None, "boot() was not called"
        return self._qmp

    @contextmanager
    def plugged(self, nic: VhostUserNic, interface: str) -> Iterator[None]:
        """Plug a NIC into the running guest, wait for its interface, and pull it out after the block."""
        self._plugged += 1
        index = FIRST_PLUGGED + self._plugged
        address = {"type": "unix", "data": {"path": str(nic.path)}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        self.qmp.execute("chardev-add", id=f"chr{index}", backend=backend)
        words = {"id": f"net{index}", "type": "vhost-user", "chardev": f"chr{index}", "queues": nic.queues}
        self.qmp.execute("netdev_add", **words)
        driver, *pairs = nic_device(index, nic.queues, nic.device).split(",")
        texts = dict(pair.split("=", 1) for pair in pairs)
        device = {name: typed(name, text) for name, text in texts.items()}
        self.qmp.execute("device_add", driver=driver, **device)
        try:
            present = f"test -e /sys/class/net/{interface} && echo yes"
            self.wait_for(f"{interface} in the guest", lambda: "yes" in self.sh(present, check=False), 15)
            yield
        finally:
            self.qmp.execute("device_del", id=device["id"])
            self.qmp.wait_event("DEVICE_DELETED", device["id"])
            # The chardev goes with it.
            self.qmp.execute("netdev_del", id=f"net{index}")

    def reset(self) -> None:
        """Push the reset button and wait for the guest to be up again."""
        before = self.boot_id()
        self.qmp.execute("system_reset")
        self.wait_new_boot(before)

    def wait_new_boot(self, before: str) -> None:
        """Wait until the shell answers from another boot than `before`."""

        def is_new() -> bool:
            try:
                return self._exchange(BOOT_ID, 1)[0].strip() != before
            except NotSeen:
                return False

        self.wait_for("another boot of the guest", is_new, BOOT_SECONDS)

    def boot_id(self) -> str:
        return self.sh(BOOT_ID).strip()

    def queue_use(self, interface: str, direction: str) -> list[int]:
        """How much each queue was used, by the guest's own count; direction is "rx" or "tx".

        Packets, where ethtool has them. Newer kernels (6.12) have not: there the kicks of a queue that sends
        and the interrupts of one that receives, which has a vector of its own with the QEMU of their time.
        """
        text = self.sh(f"ethtool -S {interface}; cat /proc/interrupts")
        found = re.findall(rf"\b{direction}_queue_(\d+)_packets: (\d+)", text)
        if not found and direction == "tx":
            found = re.findall(r"\btx(\d+)_kicks: (\d+)", text)
        elif not found:
            lines = re.findall(r"^ *\d+:((?: +\d+)+) .*virtio\d+-input\.(\d+)$", text, re.MULTILINE)
            found = [(queue, str(sum(map(int, counts.split())))) for counts, queue in lines]
        return [count for _, count in sorted((int(queue), int(count)) for queue, count in found)]

    def describe(self) -> str:
        console = self._console_path.read_text(errors="replace") if self._console_path.exists() else ""
        return f"{super().describe()}\nthe guest's console:\n{console[-4000:]}"

    def kill(self) -> None:
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        super().kill()

    def _connect(self, path: Path, timeout: float) -> socket.socket:
        """Wait until QEMU listens there: it makes its sockets one by one, and a killed one leaves its own."""

        def connected() -> socket.socket | None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(path))
            except OSError:
                connection.close()
                return None
            return connection

        return self.wait_for(f"QEMU's socket {path.name}", connected, timeout)

    def _ask(self) -> bool:
        try:
            self._exchange(":", 0.3)
        except NotSeen:
            return False
        return True

    def _exchange(self, command: str, timeout: float) -> tuple[str, int]:
        """Output and status of one command. The marks tell its output from late output of earlier ones."""
        mark = secrets.token_hex(8)
        self._send(f"\necho s{mark}; {{ {command}\n}} </dev/null 2>&1; echo e{mark} $?\n")
        pattern = re.compile(rf"^s{mark}\r?\n(.*)^e{mark} (\d+)\r?\n", re.MULTILINE | re.DOTALL)
        output, status = self._read_until(pattern, timeout, command).groups()
        return output.replace("\r\n", "\n"), int(status)

    def _send(self, text: str) -> None:
        assert self._shell is not None, "boot() was not called"
        self._shell.settimeout(10)
        try:
            self._shell.sendall(text.encode())
        except TimeoutError:
            raise NotSeen(f"the guest does not read its serial port: {text}") from None

    def _read_until(self, pattern: re.Pattern[str], timeout: float, command: str) -> re.Match[str]:
        assert self._shell is not None
        end = time.monotonic() + timeout * TIMEOUT_SCALE
        text = ""
        while not (found := pattern.search(text)):
            self._shell.settimeout(max(end - time.monotonic(), 0.001))
            try:
                piece = self._shell.recv(65536)
            except TimeoutError:
                raise NotSeen(f"no end in {timeout:g} s: {command}\n{text}\n{self.describe()}") from None
            if not piece:
                raise NotSeen(f"QEMU ended during: {command}\n{text}\n{self.describe()}")
            text += piece.decode(errors="replace")
        return found
