"""Results as a Markdown report, with the pictures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vhostuser.frontend.bench.model import Document, Series, Work, spread
from vhostuser.frontend.bench.table import short, spread_text, tail

_TITLES = {
    "rate": "Rate over frame size",
    "round-trips": "Round trips of single frames",
    "cpu": "CPU time of the back-end",
}
_METHOD = """\
Measured by `vhostuser bench` {version}: its virtio driver in C is the only one on the rings and counts the
frames. Every case was measured {runs} for {seconds:g} s, in turns with the others; given are the median and,
in brackets, the least and the greatest. CPU time is that of all threads of the back-end's process, so that of
one that polls is all that its CPU has. Figures of different machines, or of one machine at different hours,
do not compare."""


def write(document: Document, folder: Path, pictures: Mapping[str, Path]) -> Path:
    """`report.md` in the folder; its path."""
    path = folder / "report.md"
    path.write_text(markdown(document, pictures), encoding="utf-8")
    return path


def markdown(document: Document, pictures: Mapping[str, Path]) -> str:
    counts = sorted({len(series.samples) for series in document.series})
    runs = "once" if counts == [1] else f"{' or '.join(map(str, counts))} times"
    lines = [
        f"# {document.backend}: frames a second and round trips",
        "",
        f"{document.machine}; {document.started}.",
        "",
        _METHOD.format(version=document.version, runs=runs, seconds=document.seconds),
    ]
    rates = [one for one in document.series if one.case.work is not Work.LATENCY]
    pings = [one for one in document.series if one.case.work is Work.LATENCY]
    if rates:
        rows = [_row(one, _bits(one)) for one in rates]
        head = ("case", "rate", "payload", "CPU for a frame", "lost")
        lines += ["", "## Rates", "", *_markdown_table(head, rows)]
    if pings:
        rows = [_row(one, tail(one)) for one in pings]
        head = ("case", "half of them within", "90 % / 99 %, µs", "CPU for a frame", "lost")
        lines += ["", "## Round trips", "", *_markdown_table(head, rows)]
    for name, picture in pictures.items():
        lines += ["", f"![{_TITLES[name]}]({picture.name})"]
    return "\n".join(lines) + "\n"


def _row(one: Series, more: str) -> tuple[str, ...]:
    return one.case.name, spread_text(one.values(), one.case.unit), more, _cpu(one), _lost(one)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _bits(one: Series) -> str:
    return f"{short(spread(one.values())[0] * one.case.size * 8 / 1e3)} Gbit/s"


def _cpu(one: Series) -> str:
    return spread_text(one.cpu(), "ns") if one.cpu() else "not known"


def _lost(one: Series) -> str:
    lost = one.lost()
    return "not counted" if lost is None else f"{lost}"
