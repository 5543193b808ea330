"""Pictures of results: which there are, and that they are what they say."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.frontend.bench.results import case, sample
from vhostuser.errors import EnvironmentLacksError
from vhostuser.frontend.bench.model import Series, Work
from vhostuser.frontend.bench.plots import draw

SERIES = [
    Series(case(size=size, poll=poll), [sample(size * 1e4, cpu=100.0), sample(size * 2e4, cpu=90.0)])
    for size in (64, 1500)
    for poll in ("loop", "busy")
] + [Series(case(work=Work.LATENCY), [sample(1, times=((1000, 9), (2000, 1)))])]


def texts(picture: Path) -> str:
    """matplotlib keeps the words of an SVG as comments beside their outlines."""
    root = ElementTree.parse(picture).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return picture.read_text()


def test_pictures_show_what_was_measured(tmp_path: Path) -> None:
    made = draw(SERIES, tmp_path)
    assert sorted(made) == ["cpu", "rate", "round-trips"]
    assert "<!-- echo, split 256, loop -->" in texts(made["rate"])
    assert "<!-- latency 64 B, split 256, busy -->" in texts(made["round-trips"])
    assert "<!-- echo 1500 B, split 256, busy -->" in texts(made["cpu"])
    for name in made:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_same_results_give_the_same_files(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        draw(SERIES, folder)
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 6
    assert [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_what_was_not_measured_has_no_picture(tmp_path: Path) -> None:
    assert list(draw(SERIES[-1:], tmp_path)) == ["round-trips"]
    assert list(draw([Series(case(), [sample(1e6)])], tmp_path)) == ["rate"]


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EnvironmentLacksError, match=r"vhostuser\[report\]"):
        draw(SERIES, tmp_path)
