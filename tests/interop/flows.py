"""Numbered and checkable traffic between a guest and the host, while anything happens to what lies between.

Four flows of csrc/flow.c run side by side, UDP and TCP each way. Each end is a process of its own and counts
for itself; those in the guest live on in it, wherever it goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.interop.guest_image import flow_program
from tests.interop.netns import Namespace
from tests.interop.process import Program
from tests.interop.qemu import Guest

FIRST_PORT = 7100
MICROSECONDS = 2000
COUNTED = r"^records (\d+) corrupt (\d+) duplicate (\d+)$"


@dataclass(frozen=True, slots=True)
class Tally:
    """What both ends of one flow counted."""

    name: str
    sent: int
    received: int
    corrupt: int
    duplicate: int

    @property
    def lost(self) -> int:
        return self.sent - self.received + self.duplicate

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.sent} sent, {self.lost} lost, {self.corrupt} corrupt, {self.duplicate} twice"
        )


@dataclass(frozen=True, slots=True)
class End:
    """One end of a flow, in the guest or on the host."""

    verb: str
    protocol: str
    to_guest: bool

    @property
    def in_guest(self) -> bool:
        return (self.verb == "receive") == self.to_guest

    @property
    def name(self) -> str:
        return f"{self.protocol}-{'to' if self.to_guest else 'from'}-guest-{self.verb}"


def ends(verb: str) -> Iterator[End]:
    for protocol in ("udp", "tcp"):
        for to_guest in (True, False):
            yield End(verb, protocol, to_guest)


class Flows:
    """`start` starts all four; `stop` ends them and returns their tallies. The guest must run for both."""

    def __init__(self, folder: Path, namespace: Namespace, host: str, address: str) -> None:
        self._folder = folder
        self._namespace = namespace
        self._addresses = {True: address, False: host}
        self._programs: dict[End, Program] = {}

    def start(self, guest: Guest) -> None:
        for verb in ("receive", "send"):
            for number, end in enumerate(ends(verb)):
                self._start(guest, end, FIRST_PORT + number)

    def hold(self, guest: Guest) -> None:
        """The receivers in the guest read no more: what the device writes stays in the guest's memory."""
        self._signal(guest, "STOP")

    def release(self, guest: Guest) -> None:
        self._signal(guest, "CONT")

    def stop(self, guest: Guest) -> list[Tally]:
        sent = {(end.protocol, end.to_guest): self._finish(guest, end)[0] for end in ends("send")}
        tallies = []
        for end in ends("receive"):
            records, corrupt, duplicate = self._finish(guest, end)
            name = end.name.removesuffix("-receive")
            tallies.append(Tally(name, sent[end.protocol, end.to_guest], records, corrupt, duplicate))
        return tallies

    def kill(self) -> None:
        """Those on the host; those in the guest end with it. Nothing happens if all have ended."""
        for program in self._programs.values():
            program.kill()

    def _start(self, guest: Guest, end: End, port: int) -> None:
        words = [end.verb, end.protocol, self._addresses[end.to_guest], str(port), str(MICROSECONDS)]
        log = f"/tmp/{end.name}"
        if end.in_guest:
            guest.sh(f"flow {' '.join(words)} > {log} 2>&1 & echo $! > {log}.pid")
            if end.verb == "receive":
                guest.wait_for(end.name, lambda: "ready" in guest.sh(f"cat {log}"), 10)
        else:
            argv = self._namespace.enter(str(flow_program()), *words)
            self._programs[end] = program = Program(argv, self._folder / f"{end.name}.log")
            if end.verb == "receive":
                program.wait_log("ready")

    def _signal(self, guest: Guest, name: str) -> None:
        for end in ends("receive"):
            if end.in_guest:
                guest.sh(f"kill -{name} $(cat /tmp/{end.name}.pid)")

    def _finish(self, guest: Guest, end: End) -> tuple[int, int, int]:
        """Ends it as its protocol wants: the receiver of a stream ends with the stream."""
        by_itself = end.verb == "receive" and end.protocol == "tcp"
        if end.in_guest:
            pid = f"$(cat /tmp/{end.name}.pid)"
            ending = "" if by_itself else f"kill -TERM {pid}; "
            text = guest.sh(f"{ending}wait {pid}; cat /tmp/{end.name}", timeout=60)
        else:
            program = self._programs[end]
            status = program.wait_exit(60) if by_itself else program.terminate(60)
            text = program.log
            assert status == 0, program.describe()
        found = re.search(COUNTED, text, re.MULTILINE)
        assert found, f"{end.name} counted nothing: {text}"
        records, corrupt, duplicate = map(int, found.groups())
        return records, corrupt, duplicate
