"""Results as text: a table that grows while it is measured, and the same when all is done."""

from __future__ import annotations

from collections.abc import Sequence

from vhostuser.frontend.bench.model import Series, Work, percentile, spread

_HEAD = ("case", "runs", "median", "least to greatest", "", "CPU/frame", "90 % / 99 %", "lost")
_RIGHT = {1, 2, 3, 5, 6, 7}


def table(series: Sequence[Series]) -> str:
    """A line for each case, also for one that has not been measured yet."""
    return align([_HEAD, *map(_row, series)], _RIGHT)


def _row(one: Series) -> tuple[str, ...]:
    if not one.samples:
        return (one.case.name, "0", "", "", one.case.unit, "", "", "")
    median, least, greatest = spread(one.values())
    cpu = f"{spread(one.cpu())[0]:.0f} ns" if one.cpu() else "?"
    return (
        one.case.name,
        f"{len(one.samples)}",
        short(median),
        f"{short(least)} to {short(greatest)}",
        one.case.unit,
        cpu,
        tail(one),
        f"{sum(sample.lost for sample in one.samples)}" if one.case.work in (Work.LATENCY, Work.NDR) else "",
    )


def tail(one: Series) -> str:
    """Round trips that took long, in microseconds; empty for other works."""
    if one.case.work is not Work.LATENCY:
        return ""
    times = one.times()
    return " / ".join(short(percentile(times, percent) / 1e3) for percent in (90, 99))


def align(rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """Columns as wide as their widest cell, a line under the first row; `right` are those with numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def short(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
