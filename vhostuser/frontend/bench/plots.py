"""Results as pictures, SVG and PNG each: rate over frame size, round trips, CPU time.

The only user of matplotlib, which the extra `report` brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vhostuser.errors import EnvironmentLacksError
from vhostuser.frontend.bench.model import Case, Series, Work, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RESOLUTION = 120


def draw(series: Sequence[Series], folder: Path) -> dict[str, Path]:
    """Write what there is to show into the folder; the SVG of each, by what it shows.

    EnvironmentLacksError without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentLacksError(
            "plots need matplotlib: `pip install 'vhostuser[report]'`, or --no-plots"
        ) from error
    # The same results give the same file: no random ids and no date in it.
    matplotlib.rcParams["svg.hashsalt"] = "vhostuser"
    rates = [one for one in series if one.case.work is not Work.LATENCY]
    pings = [one for one in series if one.case.work is Work.LATENCY]
    timed = [one for one in rates if one.cpu()]
    made: dict[str, Path] = {}
    for name, chosen, fill in (
        ("rate", rates, _rate),
        ("round-trips", pings, _round_trips),
        ("cpu", timed, _cpu),
    ):
        if chosen:
            figure = Figure(figsize=(8, 6), layout="constrained")
            axes = figure.add_subplot()
            fill(axes, chosen)
            axes.grid(visible=True, alpha=0.3)
            if axes.get_legend_handles_labels()[1]:
                figure.legend(loc="outside lower center", ncols=2, fontsize="small")
            made[name] = _save(figure, folder / name)
    return made


def _save(figure: Figure, stem: Path) -> Path:
    figure.savefig(stem.with_suffix(".png"), dpi=_RESOLUTION, metadata={"Software": None})
    picture = stem.with_suffix(".svg")
    figure.savefig(picture, metadata={"Date": None})
    return picture


def _rate(axes: Axes, series: Sequence[Series]) -> None:
    lines: dict[str, list[Series]] = {}
    for one in series:
        lines.setdefault(_without_size(one.case), []).append(one)
    for label, points in lines.items():
        points.sort(key=lambda one: one.case.size)
        medians, bars = _bars([one.values() for one in points])
        axes.errorbar(
            [one.case.size for one in points], medians, yerr=bars, marker="o", capsize=3, label=label
        )
    axes.set_xscale("log", base=2)
    sizes = sorted({one.case.size for one in series})
    axes.set_xticks(sizes, [f"{size}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("bytes of a frame")
    axes.set_ylabel("million frames a second, median, least and greatest")


def _round_trips(axes: Axes, series: Sequence[Series]) -> None:
    for one in series:
        times = one.times()
        total = sum(count for _, count in times)
        shares = [seen / total for seen in accumulate(count for _, count in times)]
        axes.step([least / 1e3 for least, _ in times], shares, where="post", label=one.case.name)
    axes.set_xscale("log")
    axes.set_xlabel("round trip of a single frame, µs")
    axes.set_ylabel("share that was back by then")
    axes.set_ylim(0, 1.01)


def _cpu(axes: Axes, series: Sequence[Series]) -> None:
    medians, bars = _bars([one.cpu() for one in series])
    axes.barh([one.case.name for one in series], medians, xerr=bars, capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel("CPU time of the back-end for a frame, ns")


def _bars(samples: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    """Medians, and how far below and above each the least and the greatest are."""
    spreads = [spread(values) for values in samples]
    below = [median - least for median, least, _ in spreads]
    above = [greatest - median for median, _, greatest in spreads]
    return [median for median, _, _ in spreads], [below, above]


def _without_size(case: Case) -> str:
    words = msgspec.structs.replace(case, size=0).name
    return words.replace(f"{case.work} 0 B", str(case.work), 1)
