"""Memory that is plugged into a running guest and pulled out again, under traffic: slots that come and go.

The guest's kernel does its part: it takes the new memory for its own buffers, or gives it back when asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop.link import Link
from tests.interop.netns import Namespace
from tests.interop.qemu import MEMORY_MIB, Guest, VhostUserNic, plain_machine
from tests.interop.server_process import Server

DIMM_MIB = 128
"""One block of the guest's memory hotplug: what it switches on or off at once."""
ABOVE_4G = 1 << 32
MOST_MIB = 1024


@dataclass(slots=True)
class Plugging:
    guest: Guest
    link: Link
    server: Server
    trace: Path

    def said(self, request: str) -> list[dict[str, Any]]:
        """Messages of one kind, as the server's trace has them."""
        words = [json.loads(line) for line in self.trace.read_text().splitlines()]
        return [word for word in words if word.get("request") == request]

    def plug(self, name: str, kind: str) -> None:
        """A DIMM more, which the guest uses as `kind` says; returns when it does."""
        before = self.guest_mib()
        self.guest.sh(f"echo {kind} > /sys/devices/system/memory/auto_online_blocks")
        words = {
            "id": f"{name}ram",
            "qom-type": "memory-backend-memfd",
            "size": DIMM_MIB << 20,
            "share": True,
        }
        self.guest.qmp.execute("object-add", **words)
        self.guest.qmp.execute("device_add", driver="pc-dimm", id=name, memdev=f"{name}ram")
        self.guest.wait_for("more memory in the guest", lambda: self.guest_mib() >= before + DIMM_MIB, 30)

    def pull(self, name: str) -> None:
        """The guest is asked for the DIMM and gives it back."""
        self.guest.qmp.execute("device_del", id=name)
        self.guest.qmp.wait_event("DEVICE_DELETED", name)
        self.guest.qmp.execute("object-del", id=f"{name}ram")

    def guest_mib(self) -> int:
        return int(self.guest.sh("awk '/MemTotal/ {print $2}' /proc/meminfo")) >> 10


@contextmanager
def plugging(folder: Path, namespace: Namespace, queues: int = 1) -> Iterator[Plugging]:
    socket, trace = folder / "vm1.sock", folder / "trace"
    words = (
        "--socket-path",
        str(socket),
        "--queues",
        str(queues),
        "--port",
        "tap:vt0",
        "--trace",
        str(trace),
    )
    size = f"size={MEMORY_MIB}M,slots=4,maxmem={MOST_MIB}M"
    machine = [size if word == str(MEMORY_MIB) else word for word in plain_machine(queues)]
    with Server(folder, *words, namespace=namespace) as server:
        server.wait_listening(socket)
        with Guest(folder, [VhostUserNic(socket, queues)], namespace, machine=machine) as guest:
            guest.boot()
            link = Link(guest, namespace)
            link.up()
            yield Plugging(guest, link, server, trace)
        server.stop()
    log = server.log_path.read_text()
    assert not [line for line in log.splitlines() if "refused" in line or "broken" in line], log


def test_memory_is_plugged_and_pulled_under_traffic(folder: Path, namespace: Namespace) -> None:
    with plugging(folder, namespace) as plugged:
        # QEMU says its memory in slots, and never as a table.
        assert plugged.said("GET_MAX_MEM_SLOTS")
        assert plugged.said("SET_MEM_TABLE") == []
        first = len(plugged.said("ADD_MEM_REG"))
        with plugged.link.flood():
            # Above 4 GiB it is what the kernel takes its packet buffers from first.
            plugged.plug("kept", "online_kernel")
            plugged.link.check_content()
            plugged.plug("pulled", "online_movable")
            plugged.link.ping()
            plugged.pull("pulled")
            plugged.link.check_content()
        plugged.link.tcp(to_guest=True)

        added = plugged.said("ADD_MEM_REG")[first:]
        assert [(int(word["payload"]["region"]["gpa"], 16), word["reply"]) for word in added] == [
            (ABOVE_4G, "ack"),
            (ABOVE_4G + (DIMM_MIB << 20), "ack"),
        ]
        removed = plugged.said("REM_MEM_REG")
        assert [word["payload"]["region"]["gpa"] for word in removed][-1:] == [
            hex(ABOVE_4G + (DIMM_MIB << 20))
        ]
        assert {word["reply"] for word in removed} == {"ack"}


def test_memory_is_plugged_into_a_guest_of_four_pairs_that_then_reboots(
    folder: Path, namespace: Namespace
) -> None:
    with plugging(folder, namespace, queues=4) as plugged:
        plugged.plug("kept", "online_kernel")
        plugged.link.tcp(to_guest=False, streams=4)
        plugged.guest.reset()
        plugged.link.up()
        plugged.link.check_content()
        assert {word["reply"] for word in plugged.said("ADD_MEM_REG")} == {"ack"}
