"""A whole run: who is measured when, and what is left when it goes wrong."""

from __future__ import annotations

import pytest

from tests.frontend.bench.results import case, sample
from vhostuser.errors import PeerError
from vhostuser.frontend.bench import run
from vhostuser.frontend.bench.model import Case, Sample
from vhostuser.frontend.bench.run import Bench, Method


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    order: list[Case] = []

    def measure(one: Case, *how: object) -> tuple[Sample, str]:
        if len(order) == 5:
            raise PeerError("it is gone")
        order.append(one)
        return sample(len(order)), "prog"

    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(run, "measure_ours", measure)
    return order


@pytest.mark.parametrize("sockets", [(), ("s",)])
def test_runs_go_round_the_cases(measured: list[Case], sockets: tuple[str, ...]) -> None:
    one, other = case(size=64), case(size=128)
    made = Bench([one, other], Method(sockets, runs=2))
    shown = []
    made.run(lambda series: shown.append((series.case.size, len(series.samples))))
    assert measured == [one, other, one, other]
    assert shown == [(64, 1), (128, 1), (64, 2), (128, 2)]
    document = made.document()
    assert document.backend == "prog"
    assert [[made.rate for made in series.samples] for series in document.series] == [[1, 3], [2, 4]]
    assert "Linux" in document.machine


def test_what_was_found_before_an_error_is_kept(measured: list[Case]) -> None:
    made = Bench([case(size=size) for size in (64, 65, 66)], Method(runs=2))
    with pytest.raises(PeerError, match="gone"):
        made.run(lambda series: None)
    assert [len(series.samples) for series in made.document().series] == [2, 2, 1]


def test_case_without_a_measurement_is_not_in_the_document() -> None:
    assert Bench([case()], Method()).document().series == []
