"""Two results side by side."""

from __future__ import annotations

import pytest

from tests.frontend.bench.results import case, document, sample
from vhostuser.errors import UsageError
from vhostuser.frontend.bench.compare import compare, describe
from vhostuser.frontend.bench.model import Case, Document, Series, Work


def rates(one: Case, *values: float) -> Document:
    return document(Series(one, [sample(value * 1e6) for value in values]))


def times(*microseconds: int) -> Document:
    samples = [sample(1, times=((value * 1000, 1),)) for value in microseconds]
    return document(Series(case(work=Work.LATENCY), samples))


@pytest.mark.parametrize(
    ("before", "after", "ratio", "verdict"),
    [
        (rates(case(), 1, 2, 3), rates(case(), 4, 5, 6), 2.5, "faster"),
        (rates(case(), 4, 5, 6), rates(case(), 1, 2, 3), 0.4, "slower"),
        (rates(case(), 1, 2, 3), rates(case(), 3, 4, 5), 2.0, "no difference seen"),
        (rates(case(), 1, 1), rates(case(), 9, 9, 9), 9.0, "too few runs"),
        (times(1, 2, 3), times(4, 5, 6), 2.5, "slower"),
        (times(4, 5, 6), times(1, 2, 3), 0.4, "faster"),
        (rates(case(), 0, 0, 0), rates(case(), 1, 1, 1), 0.0, "faster"),
    ],
)
def test_difference_is_one_when_the_runs_do_not_overlap(
    before: Document, after: Document, ratio: float, verdict: str
) -> None:
    (found,) = compare(before, after)
    assert found.ratio == pytest.approx(ratio)
    assert found.verdict == verdict
    assert verdict in describe([found])


def test_somebody_elses_stands_beside_each_way_of_ours() -> None:
    theirs = rates(case(poll=None), 1, 1, 1)
    ours = document(*(Series(case(poll=poll), [sample(2e6)] * 3) for poll in ("loop", "busy")))
    assert [found.case.poll for found in compare(theirs, ours)] == ["loop", "busy"]
    assert [found.verdict for found in compare(ours, theirs)] == ["slower", "slower"]


def test_ways_of_ours_are_not_mixed() -> None:
    with pytest.raises(UsageError, match="no case in common"):
        compare(rates(case(poll="loop"), 1), rates(case(poll="busy"), 1))
    with pytest.raises(UsageError, match="no case in common"):
        compare(rates(case(size=64), 1), rates(case(size=65, poll=None), 1))
