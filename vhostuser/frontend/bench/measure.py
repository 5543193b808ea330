"""One case, measured once, on sockets where a back-end does the work of the case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import msgspec

from vhostuser.errors import PeerError
from vhostuser.frontend.bench import ndr
from vhostuser.frontend.bench.backend import serving
from vhostuser.frontend.bench.model import Case, Sample, Work
from vhostuser.frontend.core import lib
from vhostuser.frontend.flood import Flood, Latency, Load, Report, ethernet
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.peer_process import cpu_time, listener_pid, program
from vhostuser.wire.features import VirtioFeature, feature_names, parse_feature

T = TypeVar("T")

_ONE, _OTHER = b"\x02\x76\x68\0\0\x01", b"\x02\x76\x68\0\0\x02"
_WARM_UP = 0.05
"""Seconds: pages are touched, rings are started, threads are awake."""
_LOST_AFTER = 0.1


def asked(case: Case) -> VirtioFeature:
    """What the case is about, and the back-end has to offer."""
    features = VirtioFeature.RING_PACKED if case.packed else VirtioFeature(0)
    for name in case.features:
        features |= VirtioFeature(parse_feature(name))
    return features


def wanted(case: Case) -> VirtioFeature:
    """What the driver acknowledges where it is offered."""
    features = DEFAULT_FEATURES | asked(case)
    for name in case.disabled:
        features &= ~VirtioFeature(parse_feature(name))
    return features


@contextmanager
def connected(case: Case, path: str) -> Iterator[Flood]:
    """PeerError when the back-end does not offer what the case is about."""
    with Flood.connect(
        path, features=wanted(case), queue_size=case.ring, queue_pairs=case.queues, buffer_size=_buffer(case)
    ) as flood:
        if lacking := feature_names(asked(case) & ~flood.features):
            raise PeerError(f"the back-end at {path} does not offer {', '.join(lacking)}")
        yield flood


def _buffer(case: Case) -> int:
    """One for a frame with its header, whatever the size: merging buffers is not what is measured."""
    return max(2048, -(-(case.size + 32) // 2048) * 2048)


def measure(case: Case, sockets: Sequence[str], seconds: float, loss: float = 0.0) -> tuple[Sample, str]:
    """What was found, and the name of the back-end's program.

    PeerError when it cannot be reached, breaks a rule of the rings, lets nothing through, or is gone at the
    end.
    """
    with ExitStack() as stack:
        floods = [stack.enter_context(connected(case, path)) for path in sockets]
        pid = listener_pid(floods[0].frontend.socket)
        sample = _WORKS[case.work](_Run(case, floods, seconds, loss, pid))
        for flood in floods:
            # Rings do not say that nobody looks at them any more: half a measurement would pass for a whole.
            flood.frontend.get_features()
        if not (sample.sent if case.work is Work.SINK else sample.received):
            raise PeerError(f"nothing came through at {sockets[0]}: is it doing the work of '{case.work}'?")
        return sample, program(pid)


def measure_ours(
    case: Case, seconds: float, loss: float, workers: int, cpus: Set[int] | None
) -> tuple[Sample, str]:
    """The same on a server that is started for it."""
    with serving(case, workers, cpus) as sockets:
        sample, _ = measure(case, sockets, seconds, loss)
        return sample, "vhostuser"


class _Run:
    """A case on its way."""

    def __init__(self, case: Case, floods: Sequence[Flood], seconds: float, loss: float, pid: int) -> None:
        self.case = case
        self.sender, self.receiver = floods[0], floods[-1]
        self.seconds = seconds
        self.loss = loss
        self._pid = pid

    def load(self, seconds: float = 0.0, rate: int = 0, settle: bool = False) -> Load:
        return Load(
            seconds=seconds or self.seconds,
            frame_size=self.case.size,
            template=ethernet(_OTHER, _ONE),
            rate=rate,
            settle=settle,
            lost_after=_LOST_AFTER,
        )

    def timed(self, run: Callable[[], T]) -> tuple[T, int | None]:
        """What it gives, and the CPU time of the back-end meanwhile."""
        before = cpu_time(self._pid)
        made = run()
        after = cpu_time(self._pid)
        return made, None if before is None or after is None else after - before

    def sample(self, report: Report, count: int, cpu: int | None) -> Sample:
        return Sample(
            rate=count / report.seconds if report.seconds else 0.0,
            sent=report.sent,
            received=report.received,
            seconds=report.seconds,
            cpu=cpu / count if cpu is not None and count else None,
        )


def _sink(run: _Run) -> Sample:
    run.sender.flood(run.load(_WARM_UP))
    report, cpu = run.timed(lambda: run.sender.flood(run.load()))
    return run.sample(report, report.returned, cpu)


def _source(run: _Run) -> Sample:
    run.sender.drain(run.load(_WARM_UP))
    report, cpu = run.timed(lambda: run.sender.drain(run.load()))
    return run.sample(report, report.received, cpu)


def _echo(run: _Run) -> Sample:
    """Or through to the second guest."""
    run.sender.run(run.load(_WARM_UP), receiver=run.receiver)
    report, cpu = run.timed(lambda: run.sender.run(run.load(), receiver=run.receiver))
    return run.sample(report, report.received, cpu)


def _pair(run: _Run) -> Sample:
    """The receiver has to be heard before, or a switch would flood what is for it."""
    run.receiver.flood(Load(packets=8, template=ethernet(_ONE, _OTHER)))
    return _echo(run)


def _latency(run: _Run) -> Sample:
    run.sender.ping(run.load(_WARM_UP))
    (report, latency), cpu = run.timed(lambda: run.sender.ping(run.load()))
    sample = run.sample(report, latency.count, cpu)
    return msgspec.structs.replace(sample, lost=report.lost, times=tuple(_times(latency)))


def _times(latency: Latency) -> Iterator[tuple[int, int]]:
    for bucket, count in enumerate(latency.buckets):
        if count:
            yield int(lib.vu_histogram_floor(bucket)), count


def _ndr(run: _Run) -> Sample:
    made: dict[int, Sample] = {}

    def attempt(rate: int) -> ndr.Attempt:
        load = run.load(rate=rate, settle=True)
        report, cpu = run.timed(lambda: run.sender.run(load))
        lost = report.sent - report.received
        made[rate] = msgspec.structs.replace(run.sample(report, report.sent, cpu), lost=lost)
        return ndr.Attempt(rate, report.sent, lost, report.seconds)

    all_out = run.sender.run(run.load(settle=True))
    found = ndr.search(attempt, int(all_out.received_rate), run.loss)
    if found is None:
        return Sample(rate=0.0, sent=all_out.sent, received=all_out.received, seconds=run.seconds)
    return made[found.offered]


_WORKS: dict[Work, Callable[[_Run], Sample]] = {
    Work.SINK: _sink,
    Work.SOURCE: _source,
    Work.ECHO: _echo,
    Work.PAIR: _pair,
    Work.LATENCY: _latency,
    Work.NDR: _ndr,
}
