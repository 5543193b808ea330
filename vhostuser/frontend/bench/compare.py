"""Two results side by side: what became faster, what slower, and what cannot be told apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from vhostuser.errors import UsageError
from vhostuser.frontend.bench.model import Case, Document, Series, Work, spread
from vhostuser.frontend.bench.table import spread_text
from vhostuser.frontend.columns import align

_ENOUGH = 3
"""With fewer measurements on a side no difference is called one."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One case in both."""

    case: Case
    before: Sequence[float]
    after: Sequence[float]

    @property
    def ratio(self) -> float:
        """Of the medians, the later over the earlier; 0 when the earlier is nothing."""
        median = spread(self.before)[0]
        return spread(self.after)[0] / median if median else 0.0

    @property
    def verdict(self) -> str:
        """A word only when every measurement of one side is above every one of the other.

        With three on each side chance alone does that one time in ten, with five one time in 126.
        """
        if min(len(self.before), len(self.after)) < _ENOUGH:
            return "too few runs"
        if min(self.after) > max(self.before):
            return "slower" if self.case.work is Work.LATENCY else "faster"
        if max(self.after) < min(self.before):
            return "faster" if self.case.work is Work.LATENCY else "slower"
        return "no difference seen"


def compare(before: Document, after: Document) -> list[Difference]:
    """Every case of the one beside the same case of the other, in the order of the earlier.

    Somebody else's back-end stands beside each way in which a server of ours waits. UsageError when they have
    no case in common.
    """
    both = [
        Difference(named.case, one.values(), other.values())
        for one, other in itertools.product(before.series, after.series)
        if (named := _same(one, other))
    ]
    if not both:
        raise UsageError("the two results have no case in common")
    return both


def _same(one: Series, other: Series) -> Series | None:
    """The one of the two with the fuller name; None where they are different cases."""
    if one.case == other.case:
        return one
    if one.case.poll and other.case.poll:
        return None
    plain, beside = (msgspec.structs.replace(series.case, poll=None) for series in (one, other))
    return (one if one.case.poll else other) if plain == beside else None


def describe(differences: Sequence[Difference]) -> str:
    rows: list[tuple[str, ...]] = [("case", "before", "after", "", "after/before", "")]
    for one in differences:
        rows.append(
            (
                one.case.name,
                spread_text(one.before),
                spread_text(one.after),
                one.case.unit,
                f"{one.ratio:.2f}",
                one.verdict,
            )
        )
    return align(rows, {1, 2, 4})
