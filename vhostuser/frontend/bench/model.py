"""A case, what one measurement of it found, and the document that a whole run is kept in.

All JSON of `vhostuser bench` is these structs. Rates are frames a second, times nanoseconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from vhostuser.errors import UsageError

FORMAT = 1


class Work(StrEnum):
    """What the back-end does with frames, and what is measured of it."""

    SINK = "sink"
    """Takes them: how many it gives back."""
    SOURCE = "source"
    """Makes them: how many arrive."""
    ECHO = "echo"
    """Sends them back: how many arrive."""
    PAIR = "pair"
    """Sends them to a second guest: how many arrive there."""
    LATENCY = "latency"
    """Sends them back, one at a time: how long each is away."""
    NDR = "ndr"
    """Sends them back: the greatest rate at which none is lost (non-drop rate)."""


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One combination of what can be chosen."""

    work: Work
    size: int
    """Bytes of a frame, without the virtio-net header."""
    ring: int
    """Entries of each ring."""
    queues: int = 1
    """Pairs."""
    packed: bool = False
    poll: str | None = None
    """How our server waits; None for a back-end that somebody else runs."""
    features: tuple[str, ...] = ()
    """Acknowledged besides the usual ones."""
    disabled: tuple[str, ...] = ()
    """Not acknowledged."""

    @property
    def name(self) -> str:
        words = [f"{self.work} {self.size} B", f"{'packed' if self.packed else 'split'} {self.ring}"]
        words += [f"{self.queues} pairs"] if self.queues > 1 else []
        words += [self.poll] if self.poll else []
        words += [f"+{name}" for name in self.features] + [f"-{name}" for name in self.disabled]
        return ", ".join(words)

    @property
    def unit(self) -> str:
        return "µs" if self.work is Work.LATENCY else "Mpps"


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One measurement. Counts are the driver's."""

    rate: float
    sent: int
    received: int
    lost: int = 0
    wrong: int = 0
    """Frames that arrived damaged, out of order or twice, where that was looked at."""
    seconds: float
    cpu: float | None = None
    """CPU time of the back-end's process for each frame, all threads; None where the kernel does not say."""
    times: tuple[tuple[int, int], ...] = ()
    """How long frames were away: least time of a bucket 3 % wide, and how many were in it."""


class Series(msgspec.Struct, forbid_unknown_fields=True):
    """A case and its measurements, in order."""

    case: Case
    samples: list[Sample] = []

    def values(self) -> list[float]:
        """In the unit of the case: million frames a second, or microseconds of half the round trips."""
        if self.case.work is Work.LATENCY:
            return [percentile(sample.times, 50) / 1e3 for sample in self.samples]
        return [sample.rate / 1e6 for sample in self.samples]

    def cpu(self) -> list[float]:
        return [sample.cpu for sample in self.samples if sample.cpu is not None]

    def lost(self) -> int | None:
        """None where nobody looks for losses."""
        if self.case.work not in (Work.LATENCY, Work.NDR):
            return None
        return sum(sample.lost for sample in self.samples)

    def times(self) -> tuple[tuple[int, int], ...]:
        """Of all measurements together."""
        merged: dict[int, int] = {}
        for sample in self.samples:
            for least, count in sample.times:
                merged[least] = merged.get(least, 0) + count
        return tuple(sorted(merged.items()))


class Document(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A run of `vhostuser bench`."""

    format: int = FORMAT
    version: str
    """Of vhostuser, whose driver measured."""
    machine: str
    started: str
    """ISO 8601, UTC."""
    backend: str
    """Whose: the program's name as the kernel has it."""
    seconds: float
    """Of one measurement."""
    series: list[Series]


def percentile(times: Sequence[tuple[int, int]], percent: float) -> int:
    """The least time of the bucket that holds it; 0 when nothing was measured."""
    rank = sum(count for _, count in times) * percent / 100
    seen = 0
    for least, count in times:
        seen += count
        if seen >= rank:
            return least
    return 0


def spread(values: Iterable[float]) -> tuple[float, float, float]:
    """Median, least, greatest; of at least one value."""
    found = sorted(values)
    return statistics.median(found), found[0], found[-1]


def encode(document: Document) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


def load(path: Path) -> Document:
    """UsageError when it cannot be read or is not a document of this format."""
    try:
        document = msgspec.json.decode(path.read_bytes(), type=Document)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} is not a result of `vhostuser bench`: {error}") from error
    if document.format != FORMAT:
        raise UsageError(f"{path} has format {document.format}, this version reads {FORMAT}")
    for series in document.series:
        if not series.samples:
            raise UsageError(f"{path}: '{series.case.name}' has no measurement")
    return document
