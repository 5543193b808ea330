"""The two programs, as processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from vhostuser import __version__
from vhostuser.cli.main import main, main_net, vhostuser

PROGRAMS = Path(sys.executable).parent


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "program",
    [
        [str(PROGRAMS / "vhostuser")],
        [str(PROGRAMS / "vhostuser"), "serve"],
        [str(PROGRAMS / "vhostuser-net")],
        [sys.executable, "-m", "vhostuser"],
    ],
)
def test_capabilities_of_every_program(program: list[str]) -> None:
    result = run(*program, "--bogus", "--print-capabilities")
    assert (result.returncode, result.stdout, result.stderr) == (0, '{"type": "net"}\n', "")


@pytest.mark.parametrize("program", ["vhostuser", "vhostuser-net"])
def test_the_version(program: str) -> None:
    assert run(str(PROGRAMS / program), "--version").stdout == f"vhostuser {__version__}\n"


def test_every_command_loads(capsys: pytest.CaptureFixture[str]) -> None:
    for name in vhostuser.list_commands(click.Context(vhostuser)):
        with pytest.raises(SystemExit) as end:
            vhostuser.main([name, "--help"], "vhostuser")
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(f"Usage: vhostuser {name}")


def test_the_lines_that_the_manual_promises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for entry, usage in (
        (main, "Usage: vhostuser [OPTIONS] COMMAND"),
        (main_net, "Usage: vhostuser-net [OPTIONS]"),
    ):
        monkeypatch.setattr(sys, "argv", ["program", "-h"])
        with pytest.raises(SystemExit) as end:
            entry()
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(usage)


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from vhostuser.cli.main import vhostuser\n"
        "try: vhostuser.main(['--help'])\n"
        "finally: print(*sys.modules)"
    )
    loaded = set(run(sys.executable, "-c", program).stdout.split())
    assert "vhostuser.cli.main" in loaded
    assert not loaded & {"msgspec", "asyncio", "uvloop", "construct", "cffi", "importlib.metadata", "ssl"}


def test_a_misspelt_option_gets_the_near_match() -> None:
    result = run(str(PROGRAMS / "vhostuser"), "serve", "--sokcet-path", "/x")
    assert result.returncode == 2
    assert re.search(r"No such option:? '?--sokcet-path'?.*--socket-path", result.stderr)
