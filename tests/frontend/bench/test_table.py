"""The table: a line for each case from the start."""

from __future__ import annotations

from tests.frontend.bench.results import case, sample
from vhostuser.frontend.bench.model import Series, Work
from vhostuser.frontend.bench.table import short, table


def test_line_for_each_case_measured_or_not() -> None:
    head, rule, *lines = table(
        [
            Series(case(), [sample(1e6, cpu=100.0), sample(3e6, cpu=300.0)]),
            Series(case(work=Work.LATENCY), [sample(1, times=((1000, 98), (5000, 2)), lost=2)]),
            Series(case(work=Work.NDR)),
        ]
    ).splitlines()
    assert head.split()[:3] == ["case", "runs", "median"]
    assert set(rule) == {"-"}
    assert " ".join(lines[0].split()) == "echo 64 B, split 256, busy 2 2 1 to 3 Mpps 200 ns"
    assert " ".join(lines[1].split()) == "latency 64 B, split 256, busy 1 1 1 to 1 µs ? 1 / 5 2"
    assert " ".join(lines[2].split()) == "ndr 64 B, split 256, busy 0 Mpps"
    assert lines[0].index("Mpps") == lines[2].index("Mpps")


def test_numbers_have_three_digits() -> None:
    assert [short(value) for value in (1234.5, 123.4, 12.34, 1.234, 0.1234)] == [
        "1234",
        "123",
        "12.3",
        "1.23",
        "0.123",
    ]
