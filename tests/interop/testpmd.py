"""DPDK's testpmd, driven by its prompt: a virtio-user front-end, or a net_vhost back-end to compare with.

What lives here: its command line, its commands and its counters. Each instance uses two cores, one for the
prompt and one that polls; a front-end polls on core 1 and leaves core 0 to the back-end, and the other way
round for a back-end.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.interop.process import Program, wait_until

TESTPMD = "dpdk-testpmd"
PROMPT = "testpmd> "
_CYCLES = re.compile(r"CPU cycles/packet=([\d.]+) .* at (\d+) MHz")
HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
HUGEPAGE_MIB = 2
MEMORY_MIB = 256
MBUFS = 20000
FRONT_CORE = 1
BACK_CORE = 0


@contextmanager
def hugepages(instances: int = 1) -> Iterator[None]:
    """Have the kernel set 2 MB pages aside for so many instances; it gets them back afterwards."""
    before = HUGEPAGES.read_text()
    wanted = int(before) + instances * (MEMORY_MIB // HUGEPAGE_MIB + 8)
    HUGEPAGES.write_text(str(wanted))
    try:
        got = int(HUGEPAGES.read_text())
        assert got >= wanted, f"the kernel has memory for {got} hugepages only, {wanted} are needed"
        yield
    finally:
        HUGEPAGES.write_text(before)


@dataclass(frozen=True, slots=True)
class Counts:
    """testpmd's own counters of a port."""

    received: int
    received_bytes: int
    missed: int
    sent: int
    sent_bytes: int
    errors: int

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(
            self.received - earlier.received,
            self.received_bytes - earlier.received_bytes,
            self.missed - earlier.missed,
            self.sent - earlier.sent,
            self.sent_bytes - earlier.sent_bytes,
            self.errors - earlier.errors,
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """Packets a second between two looks at the counters."""

    received: float
    sent: float


def virtio_user(path: Path, queues: int = 1, size: int = 1024, **options: int | str) -> str:
    """The --vdev words of a virtio-user front-end; options such as mrg_rxbuf=0, in_order=1, server=1;
    number=1 for a second one."""
    number = options.pop("number", 0)
    words = "".join(f",{name}={value}" for name, value in options.items())
    return f"net_virtio_user{number},path={path},queues={queues},queue_size={size}{words}"


def net_vhost(path: Path, queues: int = 1, **options: int | str) -> str:
    """The --vdev words of DPDK's own vhost-user back-end."""
    number = options.pop("number", 0)
    words = "".join(f",{name}={value}" for name, value in options.items())
    return f"net_vhost{number},iface={path},queues={queues}{words}"


def net_tap(interface: str) -> str:
    """The --vdev words of a tap as DPDK drives it."""
    return f"net_tap0,iface={interface}"


class Testpmd(Program):
    """One testpmd at its prompt; `ready()` waits for it. Its pages are hugepages if `huge`, else a memfd."""

    __test__ = False

    def __init__(
        self,
        folder: Path,
        *vdevs: str,
        prefix: Sequence[str] = (),
        main_core: int = BACK_CORE,
        queues: int = 1,
        mbuf_size: int = 2176,
        huge: bool = False,
        words: Sequence[str] = (),
        eal: Sequence[str] = (),
        name: str = "testpmd",
    ) -> None:
        pages = ["--in-memory", "--single-file-segments"] if huge else ["--no-huge", "--no-shconf"]
        argv = [*prefix, "stdbuf", "-oL", TESTPMD, "-l", "0,1", "--main-lcore", str(main_core), "--no-pci"]
        argv += [
            "--no-telemetry",
            "--iova-mode=va",
            *pages,
            "-m",
            str(MEMORY_MIB),
            "--file-prefix",
            name,
            *eal,
        ]
        for vdev in vdevs:
            argv += ["--vdev", vdev]
        argv += ["--", "-i", "--nb-cores=1", f"--total-num-mbufs={MBUFS}", f"--mbuf-size={mbuf_size}"]
        argv += [f"--rxq={queues}", f"--txq={queues}", *words]
        # Its run-time files belong into the test's folder, not below /run.
        super().__init__(argv, folder / f"{name}.log", {"RUNTIME_DIRECTORY": str(folder)})
        self._seen = 0

    def ready(self, timeout: float = 20) -> None:
        """Wait for the first prompt: the devices are there by then, and a front-end is connected."""
        self._wait_prompt(timeout)

    def command(self, text: str, timeout: float = 10) -> str:
        """Type a command; return what was printed up to the next prompt."""
        self._seen = len(self.log)
        self.write(f"{text}\n")
        return self._wait_prompt(timeout)

    def start(self, mode: str, frame: str = "64", first: int = 0) -> None:
        """Start forwarding in a mode (io, mac, txonly, rxonly, ...).

        `frame` is the size of the frames that testpmd makes, "750,750" for two pieces. `first` bursts of 32
        are sent before an io mode goes on with what comes back.
        """
        self.command(f"set fwd {mode}")
        self.command(f"set txpkts {frame}")
        self.command(f"start tx_first {first}" if first else "start")

    def stop(self) -> None:
        self.command("stop", timeout=20)

    def record_busy(self) -> None:
        """From the next start on, keep an account of the cycles of turns in which there was a frame."""
        self.command("set record-core-cycles on")

    def stop_busy(self) -> float:
        """Stop; nanoseconds of such turns for a frame."""
        found = _CYCLES.search(self.command("stop", timeout=20))
        assert found, "testpmd says nothing of its cycles"
        return float(found[1]) / float(found[2]) * 1000

    def counts(self, port: int = 0) -> Counts:
        text = self.command(f"show port stats {port}")
        found = {name: int(value) for name, value in re.findall(r"([RT]X-\w+): +(\d+)", text)}
        return Counts(
            received=found["RX-packets"],
            received_bytes=found["RX-bytes"],
            missed=found["RX-missed"],
            sent=found["TX-packets"],
            sent_bytes=found["TX-bytes"],
            errors=found["RX-errors"] + found["TX-errors"],
        )

    def xstats(self, port: int = 0) -> dict[str, int]:
        """The driver's own counters: rx_q0_good_packets, tx_q0_size_64_packets and the like."""
        text = self.command(f"show port xstats {port}")
        return {name: int(value) for name, value in re.findall(r"^(\w+): (\d+)$", text, re.MULTILINE)}

    def drain(self, timeout: float = 10) -> Counts:
        """Stop sending and take in what is still under way until nothing more comes; return the counters.

        What comes back from an echo was sent before, so the counters are final when two looks, with
        everything received in between, agree.
        """
        self.stop()
        self.command("set fwd rxonly")
        self.command("start")
        last = self.counts()

        def at_rest() -> Counts | None:
            nonlocal last
            before, last = last, self.counts()
            return last if before == last else None

        counts = self.wait_for("an end of the packets", at_rest, timeout)
        self.stop()
        return counts

    def rates(self, seconds: float, port: int = 0) -> Rates:
        """Let it run for a while and return its rates, by its counters and the clock."""
        start, before = time.monotonic(), self.counts(port)
        wait_until("time to pass", lambda: time.monotonic() - start >= seconds, seconds + 5)
        middle, change = time.monotonic(), self.counts(port) - before
        return Rates(change.received / (middle - start), change.sent / (middle - start))

    def quit(self) -> None:
        """Leave the prompt; testpmd stops its ports and ends with status 0."""
        self.write("quit\n")
        status = self.wait_exit(20)
        assert status == 0, f"testpmd ended with status {status}\n{self.describe()}"

    def _wait_prompt(self, timeout: float) -> str:
        """What is printed up to the next prompt; behind it testpmd's other threads may have written more."""

        def prompt() -> str | None:
            text, found, _ = self.log[self._seen :].partition(PROMPT)
            return text if found else None

        return self.wait_for("testpmd's prompt", prompt, timeout)
