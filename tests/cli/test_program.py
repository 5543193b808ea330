"""Exit status, `--print-capabilities`, and commands that load when called."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from vhostuser.cli.main import vhostuser
from vhostuser.cli.program import Lazy, LazyGroup, Program, run_to_status
from vhostuser.cli.serve import serve
from vhostuser.errors import (
    EnvironmentLacksError,
    FramingError,
    GuestError,
    PeerError,
    RequestError,
    UsageError,
    VhostUserError,
)


def fail(error: BaseException) -> int:
    def run() -> None:
        raise error

    return run_to_status("prog", run)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("why"), 2),
        (EnvironmentLacksError("why"), 3),
        (PeerError("why"), 4),
        (FramingError("why"), 4),
        (RequestError("why"), 4),
        (GuestError("why"), 4),
        (VhostUserError("why"), 5),
    ],
)
def test_each_family_of_errors_has_its_status(
    error: VhostUserError, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(error) == status
    assert capsys.readouterr() == ("", "prog: why\n")


def test_a_usage_error_of_click(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(click.UsageError("why")) == 2
    assert fail(click.FileError("file", "why")) == 2
    assert "why" in capsys.readouterr().err


def test_our_own_bug_shows_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(AssertionError("never")) == 5
    _, shown = capsys.readouterr()
    assert "Traceback" in shown
    assert shown.endswith("prog: the lines above are a bug of ours: please report them\n")


def test_an_interrupted_command() -> None:
    assert fail(click.Abort()) == 130


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (4, 4), ("text", 0)])
def test_a_command_may_return_its_status(returned: object, status: int) -> None:
    assert run_to_status("prog", lambda: returned) == status


@pytest.mark.parametrize("program", [vhostuser, serve])
@pytest.mark.parametrize(
    "line",
    [
        "--print-capabilities",
        "serve --print-capabilities",
        "--bogus --print-capabilities --socket-path",
        "--fd 3 --socket-path /x --port --print-capabilities",
        "no-such-command --print-capabilities",
        "--version --help --print-capabilities",
        "-- --print-capabilities",
    ],
)
def test_capabilities_whatever_else_is_on_the_line(program: Program, line: str) -> None:
    result = CliRunner().invoke(program, line.split())
    assert (result.exit_code, result.output) == (0, '{"type": "net"}\n')


def test_commands_are_listed_without_being_loaded() -> None:
    group = LazyGroup("prog", lazy={"run": Lazy("no.such.module", "run", "Does it.")})
    result = CliRunner().invoke(group, ["--help"])
    assert result.exit_code == 0
    assert "run  Does it." in result.output


def test_a_command_that_does_not_exist_gets_the_near_match() -> None:
    group = LazyGroup("prog", lazy={"serve": Lazy("vhostuser.cli.serve", "serve", "Serves.")})
    assert (
        "there is no command 'sevre' (did you mean 'serve'?)" in CliRunner().invoke(group, ["sevre"]).output
    )
    result = CliRunner().invoke(group, ["xyz"])
    assert (result.exit_code, "there is no command 'xyz': it may be serve" in result.output) == (2, True)
