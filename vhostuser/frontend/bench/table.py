"""Results as text: a table that grows while it is measured, and the same when all is done."""

from __future__ import annotations

from collections.abc import Sequence

from vhostuser.frontend.bench.model import Series, Work, percentile, spread
from vhostuser.frontend.columns import align

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
        "" if (lost := one.lost()) is None else f"{lost}",
    )


def tail(one: Series) -> str:
    """Round trips that took long, in microseconds; empty for other works."""
    if one.case.work is not Work.LATENCY:
        return ""
    times = one.times()
    return " / ".join(short(percentile(times, percent) / 1e3) for percent in (90, 99))


def short(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread_text(values: Sequence[float], unit: str = "") -> str:
    """Median with its unit, and in brackets the least and the greatest."""
    median, least, greatest = spread(values)
    return f"{' '.join(filter(None, (short(median), unit)))} ({short(least)} to {short(greatest)})"
