"""The document of a run: there and back, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frontend.bench.results import case, document, sample
from vhostuser.errors import UsageError
from vhostuser.frontend.bench.model import Series, Work, encode, load, percentile, spread


def test_document_comes_back_as_it_was(tmp_path: Path) -> None:
    made = document(
        Series(case(packed=True, features=("in-order",)), [sample(1e6), sample(2e6)]),
        Series(case(work=Work.LATENCY, poll=None), [sample(1e5, times=((100, 3), (200, 1)))]),
    )
    path = tmp_path / "a.json"
    path.write_bytes(encode(made))
    assert load(path) == made


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a result"),
        (b"{}", "missing required field"),
        (encode(document()).replace(b'"format": 1', b'"format": 2'), "has format 2, this version reads 1"),
        (encode(document(Series(case(), []))), "'echo 64 B, split 256, busy' has no measurement"),
        (encode(document(Series(case(), [sample(1)]))).replace(b'"echo"', b'"ecco"'), "ecco"),
    ],
)
def test_what_is_no_document_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as refused:
        load(path)
    assert "a.json" in str(refused.value)


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(tmp_path / "none.json")


def test_percentiles_are_the_bucket_that_holds_them() -> None:
    times = ((100, 50), (200, 49), (900, 1))
    assert [percentile(times, percent) for percent in (1, 50, 51, 99, 100)] == [100, 100, 200, 200, 900]
    assert percentile((), 50) == 0


def test_values_are_in_the_unit_of_the_case() -> None:
    rates = Series(case(), [sample(3e6), sample(1e6)])
    found = [sample(1, times=((1500, 2),)), sample(1, times=((9, 1), (1500, 1)))]
    pings = Series(case(work=Work.LATENCY), found)
    assert (rates.values(), rates.case.unit) == ([3.0, 1.0], "Mpps")
    assert (pings.values(), pings.case.unit) == ([1.5, 0.009], "µs")
    assert pings.times() == ((9, 1), (1500, 3))
    assert spread([3.0, 1.0, 7.0]) == (3.0, 1.0, 7.0)


def test_name_has_what_tells_cases_apart() -> None:
    plain = case(queues=2, packed=True, features=("in-order",), disabled=("event-idx",), poll=None)
    assert plain.name == "echo 64 B, packed 256, 2 pairs, +in-order, -event-idx"
