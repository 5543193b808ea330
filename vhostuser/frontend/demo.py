"""`vhostuser demo`: packets through a real server, without a guest, and a table of what went through.

With a tap the other side is the kernel's own network stack in a namespace made for this (`world.py`): it has
to resolve an address, answer pings and take datagrams. With an echo port frames come back as they are.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vhostuser.errors import PeerError
from vhostuser.frontend import frames
from vhostuser.frontend.columns import align
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.flood import Flood, Latency, Load, Report
from vhostuser.frontend.flood import ethernet as plain_ethernet
from vhostuser.frontend.frames import Endpoint
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.net_header import HeaderFlag, NetHeader
from vhostuser.frontend.qemu_line import guest_line, has_kvm, qemu_version
from vhostuser.frontend.stage import Stage, World, set_up
from vhostuser.frontend.world import DISCARD_PORT, ECHO_PORT, GUEST, HOST_IP
from vhostuser.wire.features import VirtioFeature

_TRIES = 3
_PINGS = 200
_PING_BYTES = 56
_IDENTIFIER = 0x7668
_WINDOW = 128
_SOURCE_PORT = 40000
_SMALL, _LARGE = 64, 1500

NEXT = """\
Next, a guest of yours:

  vhostuser serve --socket-path /tmp/vm1.sock --port tap:vm1

and in a second terminal:

  ip addr replace 192.0.2.1/24 dev vm1
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was done, and what came of it."""

    what: str
    sent: int
    arrived: int
    where: str
    """Who says that it arrived."""
    rate: str
    latency: str = ""
    wrong: int = 0
    """Frames that arrived damaged, out of order or twice."""


_HEAD = ("what", "sent", "arrived", "counted by", "rate", "median / 99 %", "wrong")


def run(say: Callable[[str], None], *, seconds: float = 1.0, port: str = "auto") -> int:
    """Show the server at work for about eight times `seconds`; the exit status.

    EnvironmentLacksError and PeerError say what stands in the way.
    """
    with set_up(port) as stage:
        if stage.world is not None:
            say("vhostuser serve --port tap:demo runs in a network namespace of its own.")
        else:
            if stage.lacking:
                say(f"No tap here: {stage.lacking}.")
            say("vhostuser serve --port echo runs: every frame comes back to its sender, no kernel involved.")
        try:
            rows = []
            for row in _play(stage, seconds):
                say(f"  {row.what}: {row.arrived} of {row.sent}, {row.rate or row.latency}")
                rows.append(row)
        except PeerError as error:
            raise PeerError(f"{error}; last line of the server's log: {_last_line(stage.log)}") from error
    say("")
    say(table(rows))
    say("")
    say(NEXT + guest_line("/tmp/vm1.sock", qemu_version(), kvm=has_kvm()))
    return 0 if all(row.arrived and not row.wrong for row in rows) else PeerError.exit_status


def _play(stage: Stage, seconds: float) -> Iterator[Row]:
    if stage.world is None:
        yield from play_echo(stage.path, seconds)
        return
    with VirtioNetDriver.connect(stage.path) as nic:
        host, row = resolve(nic)
        yield row
        yield ping(nic, host)
    yield from play_stack(stage.path, stage.world, host, seconds)


def resolve(nic: VirtioNetDriver) -> tuple[Endpoint, Row]:
    """ARP: ask the kernel for its address, and again every second as stacks do; PeerError after three."""
    for asked in range(1, _TRIES + 1):
        start = time.monotonic_ns()
        nic.send(frames.arp_request(GUEST, HOST_IP))
        with contextlib.suppress(TimeoutError):
            while (host := frames.parse_arp_reply(nic.recv(1.0).frame)) is None or host.ip != HOST_IP:
                pass
            away = duration(time.monotonic_ns() - start)
            return host, Row(f"ARP, who has {HOST_IP}", asked, 1, "the driver", "", away)
    raise PeerError(f"nobody answers for {HOST_IP}")


def ping(nic: VirtioNetDriver, host: Endpoint) -> Row:
    """ICMP echo, one at a time, every answer looked at."""
    content = bytes(range(_PING_BYTES))
    away = []
    wrong = 0
    start = time.monotonic_ns()
    for sequence in range(_PINGS):
        sent_at = time.monotonic_ns()
        nic.send(frames.icmp_echo(GUEST, host, _IDENTIFIER, sequence, content))
        try:
            answer = None
            while answer is None:
                answer = frames.parse_icmp_echo_reply(nic.recv(1.0).frame)
        except TimeoutError:
            continue
        away.append(time.monotonic_ns() - sent_at)
        wrong += answer != (_IDENTIFIER, sequence, content)
    elapsed = (time.monotonic_ns() - start) / 1e9
    away.sort()
    latency = f"{duration(away[len(away) // 2])} / {duration(away[len(away) * 99 // 100])}" if away else ""
    rate = per_second(len(away) / elapsed)
    return Row("ping, one at a time", _PINGS, len(away), "the driver", rate, latency, wrong)


def play_stack(path: Path, world: World, host: Endpoint, seconds: float) -> Iterator[Row]:
    """Load on the kernel's stack: pings, datagrams there and back, datagrams one way."""
    features = DEFAULT_FEATURES | VirtioFeature.CSUM
    with Flood.connect(path, features=features) as flood:
        if VirtioFeature.CSUM in flood.features:
            yield _echo_row(f"ping flood, {_SMALL} B", flood.run(_ping_load(host, seconds)))
        for size in (_SMALL, _LARGE):
            load = _udp_load(host, ECHO_PORT, size, seconds, _WINDOW)
            yield _echo_row(f"UDP there and back, {size} B", flood.run(load))
        report, latency = flood.ping(_udp_load(host, ECHO_PORT, _SMALL, seconds, 0))
        yield _latency_row("UDP, one at a time", report, latency)
        for size in (_SMALL, _LARGE):
            before = world.counts()["tap_from_guest"]
            report = flood.flood(_udp_load(host, DISCARD_PORT, size, seconds, 0))
            arrived = world.counts()["tap_from_guest"] - before
            rate = per_second(arrived / report.seconds, size)
            yield Row(f"UDP one way, {size} B", report.sent, arrived, "the tap", rate)


def play_echo(path: Path, seconds: float) -> Iterator[Row]:
    """Load on an echo port: frames there and back."""
    with Flood.connect(path) as flood:
        template = plain_ethernet()
        await_answer(flood, Load(packets=1, template=template, stamp=True, sleep=True, lost_after=1.0))
        for size in (_SMALL, _LARGE):
            load = Load(
                seconds=seconds, frame_size=size, template=template, window=_WINDOW, stamp=True, sleep=True
            )
            yield _echo_row(f"frames there and back, {size} B", flood.run(load))
        report, latency = flood.ping(Load(seconds=seconds, template=template, stamp=True, sleep=True))
        yield _latency_row("frames, one at a time", report, latency)


def await_answer(flood: Flood, load: Load) -> None:
    """Send until a first frame comes back, as ARP does for a stack; PeerError after three."""
    for _ in range(_TRIES):
        if flood.ping(load)[1].count:
            return
    raise PeerError("no frame comes back")


def _ping_load(host: Endpoint, seconds: float) -> Load:
    length = _SMALL - frames.ICMP_CHECKSUM_START - 8
    return Load(
        seconds=seconds,
        frame_size=_SMALL,
        template=frames.icmp_echo_start(GUEST, host, _IDENTIFIER, length),
        header=NetHeader(
            flags=HeaderFlag.NEEDS_CSUM,
            csum_start=frames.ICMP_CHECKSUM_START,
            csum_offset=frames.ICMP_CHECKSUM_OFFSET,
        ),
        window=_WINDOW,
        stamp=True,
        sleep=True,
    )


def _udp_load(host: Endpoint, port: int, size: int, seconds: float, window: int) -> Load:
    guest = Endpoint(GUEST.mac, GUEST.ip, _SOURCE_PORT)
    head = len(frames.udp_start(guest, host, 0))
    return Load(
        seconds=seconds,
        frame_size=size,
        template=frames.udp_start(guest, Endpoint(host.mac, host.ip, port), size - head),
        window=window,
        stamp=True,
        sleep=True,
    )


def _echo_row(what: str, report: Report) -> Row:
    rate = per_second(report.received_rate, report.received_bytes // max(report.received, 1))
    wrong = report.corrupt + report.late
    return Row(what, report.sent, report.received, "the driver", rate, "", wrong)


def _latency_row(what: str, report: Report, latency: Latency) -> Row:
    spread = f"{duration(latency.percentile(50))} / {duration(latency.percentile(99))}"
    rate = per_second(report.received_rate)
    return Row(what, report.sent, report.received, "the driver", rate, spread, report.corrupt)


def table(rows: Sequence[Row]) -> str:
    """The rows in plain text, numbers to the right."""
    cells = [_HEAD] + [
        (r.what, f"{r.sent}", f"{r.arrived}", r.where, r.rate or "-", r.latency or "-", f"{r.wrong}")
        for r in rows
    ]
    return align(cells, {1, 2, 4, 5, 6})


def per_second(rate: float, size: int = 0) -> str:
    """Frames a second, and with `size` the bits that makes."""
    if rate >= 1e6:
        frames_text = f"{rate / 1e6:.2f} M/s"
    elif rate >= 1e3:
        frames_text = f"{rate / 1e3:.1f} k/s"
    else:
        frames_text = f"{rate:.0f} /s"
    return f"{frames_text}, {rate * size * 8 / 1e9:.2f} Gbit/s" if size >= _LARGE else frames_text


def duration(nanoseconds: float) -> str:
    """In the unit that leaves few digits."""
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= scale:
            return f"{nanoseconds / scale:.3g} {unit}"
    return f"{nanoseconds:.0f} ns"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "there is none"
