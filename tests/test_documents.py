"""What the documents say is there is there."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from vhostuser.cli.serve import serve
from vhostuser.config import load_toml

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"vhostuser serve((?:[^\n]*\\\n)*[^\n`]*)", README)


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "vhostuser/ARCHITECTURE.md"]
)
def test_links_lead_to_files(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text())

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_readme_has_serve_lines() -> None:
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_serve_lines_of_the_readme_are_understood(command: str) -> None:
    words = shlex.split(command.replace("\\\n", " "))

    assert serve.make_context("serve", words).params


def test_toml_of_the_readme_is_understood(tmp_path: Path) -> None:
    block = re.search(r"\n\n((?:    .*\n)*    \[\[device\]\]\n(?:    .*\n)+)", README)
    assert block
    path = tmp_path / "vhostuser.toml"
    path.write_text(textwrap.dedent(block[1]))

    assert load_toml(str(path))["device"][0].port == "tap:vm1"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:examples|tests)/[\w/]+\.(?:py|sh)", README))))
def test_files_that_the_readme_names_are_there(path: str) -> None:
    assert (ROOT / path).exists()
