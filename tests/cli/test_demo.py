"""`vhostuser demo`: what is typed reaches the demo, and its status the shell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner

from vhostuser.cli.main import vhostuser
from vhostuser.errors import EnvironmentLacksError
from vhostuser.frontend import demo


def test_options_reach_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[tuple[float, str]] = []

    def run(say: Callable[[str], None], *, seconds: float, port: str) -> int:
        typed.append((seconds, port))
        say("shown")
        return 4

    monkeypatch.setattr(demo, "run", run)
    outcome = CliRunner().invoke(vhostuser, ["demo", "--seconds", "0.5", "--port", "echo"])
    assert (outcome.exit_code, outcome.output) == (4, "shown\n")
    CliRunner().invoke(vhostuser, ["demo"])
    assert typed == [(0.5, "echo"), (1.0, "auto")]


def test_what_is_lacking_is_status_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(say: Callable[[str], None], *, seconds: float, port: str) -> int:
        raise EnvironmentLacksError("no tap")

    monkeypatch.setattr(demo, "run", run)
    assert CliRunner().invoke(vhostuser, ["demo", "--port", "tap"]).exit_code == 3


@pytest.mark.parametrize("words", [["--port", "switch"], ["--seconds", "0"], ["extra"]])
def test_nonsense_is_status_2(words: list[str]) -> None:
    assert CliRunner().invoke(vhostuser, ["demo", *words]).exit_code == 2
