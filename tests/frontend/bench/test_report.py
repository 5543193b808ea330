"""The Markdown of a result."""

from __future__ import annotations

from pathlib import Path

from tests.frontend.bench.results import case, document, sample
from vhostuser.frontend.bench.model import Series, Work
from vhostuser.frontend.bench.report import markdown, write

RATES = Series(case(size=1500), [sample(1e6, cpu=100.0), sample(2e6, cpu=200.0), sample(3e6, cpu=300.0)])
PINGS = Series(case(work=Work.LATENCY), [sample(1, times=((1000, 98), (5000, 2)), lost=1)])


def test_tables_have_median_spread_and_what_follows_from_them() -> None:
    text = markdown(document(RATES, PINGS), {})
    assert (
        "| echo 1500 B, split 256, busy | 2 Mpps (1 to 3) | 24 Gbit/s | 200 ns (100 to 300) | not counted |"
        in text
    )
    assert "| latency 64 B, split 256, busy | 1 µs (1 to 1) | 1 / 5 | not known | 1 |" in text
    assert "measured 1 or 3 times for 0.5 s" in text


def test_only_what_was_measured_has_a_table() -> None:
    assert "## Round trips" not in markdown(document(RATES), {})
    text = markdown(document(PINGS), {})
    assert "## Rates" not in text
    assert "measured once for" in text


def test_pictures_are_beside_it(tmp_path: Path) -> None:
    path = write(document(RATES), tmp_path, {"rate": tmp_path / "rate.svg"})
    assert path == tmp_path / "report.md"
    assert "![Rate over frame size](rate.svg)" in path.read_text(encoding="utf-8")
