"""What the documents say is there is there: files, names, command lines, requests."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import textwrap
from functools import cache
from pathlib import Path

import click
import pytest

from vhostuser.cli.main import vhostuser
from vhostuser.cli.serve import make_serve_config, serve
from vhostuser.config import load_toml
from vhostuser.frontend.demo import NEXT
from vhostuser.ports.base import built_in_kinds
from vhostuser.wire.constants import Request
from vhostuser.wire.requests import FRONTEND_REQUESTS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vhostuser"
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "vhostuser/ARCHITECTURE.md",
    "vhostuser/PROTOCOL.md",
]
TEXTS = {name: (ROOT / name).read_text() for name in DOCUMENTS}
README, MAP = TEXTS["README.md"], TEXTS["vhostuser/ARCHITECTURE.md"]

PLACES = (ROOT, ROOT / "examples", PACKAGE, PACKAGE / "datapath" / "csrc")
"""Where a file that a document names may lie."""

OTHERS_NAMES = {"lint-imports", "writev", "readv"}
"""Programs and system calls."""

OTHERS_FILES = {"vhostuser.toml", "Python.h"}

COMMAND = re.compile(r"(?<![\w/-])(?<!from )(?:\.venv/bin/)?vhostuser (?=[a-z-])((?:[^\n`]*\\\n)*[^\n`]*)")


# Files


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", TEXTS[document])

    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_a_document_names_are_there(document: str) -> None:
    names = set(
        re.findall(r"(?<![\w/.-])(?:[\w.-]+/)*[\w-]+\.(?:py|sh|c|h|md|toml)\b(?!\.)", TEXTS[document])
    )

    assert [
        name for name in names - OTHERS_FILES if not any((place / name).exists() for place in PLACES)
    ] == []


@cache
def modules_with_a_main() -> set[str]:
    files = (path for folder in ("vhostuser", "tests") for path in (ROOT / folder).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_modules_that_a_document_runs_are_there(document: str) -> None:
    found = set(re.findall(r"python -m ((?:tests|vhostuser)[\w.]+)", TEXTS[document]))

    assert found <= modules_with_a_main()


# Names


@cache
def python_names() -> set[str]:
    """Everything that the package defines: `function`, `Class`, `Class.method`, `CONSTANT`, `module`."""
    names = {path.stem for path in PACKAGE.rglob("*.py")} | {path.name for path in PACKAGE.iterdir()}

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.update((node.name, prefix + node.name))
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            names.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    for path in PACKAGE.rglob("*.py"):
        collect(ast.parse(path.read_text()).body, "")
    return names


@cache
def c_words() -> set[str]:
    files = [*PACKAGE.rglob("*.c"), *PACKAGE.rglob("*.h")]
    code = "\n".join(re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL) for path in files)
    return set(re.findall(r"\b[A-Za-z_]\w+\b", code))


def is_known(token: str) -> bool:
    """Whether a word in backticks means something that exists."""
    # `vhostuser.frontend`, `struct vu_ring_ops`
    name = token.removeprefix("vhostuser.").removeprefix("struct ").rstrip("/")
    if name in python_names() | c_words() | OTHERS_NAMES | set(built_in_kinds()):
        return True
    return any((place / name).exists() for place in PLACES) or is_option(token)


def is_option(token: str) -> bool:
    """`--workers 0`"""
    return token.split()[0] in {option for parameter in serve.params for option in parameter.opts}


def test_names_in_the_map_exist() -> None:
    tokens = set(re.findall(r"`([^`\n]+)`", MAP))

    assert len(tokens) > 60
    assert [token for token in sorted(tokens) if not is_known(token)] == []


def test_a_name_that_does_not_exist_is_noticed() -> None:
    assert not is_known("server/poller.py")
    assert not is_known("Port.shut")
    assert not is_known("vu_worker_wait")
    assert not is_known("--cpu-list")


@pytest.mark.parametrize("document", ["README.md", "vhostuser/ARCHITECTURE.md"])
def test_requests_that_a_document_names_exist(document: str) -> None:
    names = set(re.findall(r"\b(?:[GS]ET|SEND|RESET|POSTCOPY|VRING|NET)_[A-Z_]+\b", TEXTS[document]))

    assert names
    assert names <= set(Request.__members__)


# Requests


def test_readme_lists_the_requests_that_are_served() -> None:
    found = re.search(r"Requests served: ([^.]+)\.", README)
    assert found

    assert re.split(r",\s+", found[1]) == [row.name for row in FRONTEND_REQUESTS.values() if row.handler]


def test_map_counts_the_requests() -> None:
    assert f"each of the {len(Request)} front-end" in MAP


# Command lines


def commands() -> list[str]:
    found = [line for text in (*TEXTS.values(), NEXT) for line in COMMAND.findall(text)]
    return sorted({line.replace("\\\n", " ").strip() for line in found})


def parse(words: list[str]) -> click.Context:
    """Understand a command line to its last word, and run nothing."""
    group = click.Context(vhostuser, info_name="vhostuser")
    name, command, rest = vhostuser.resolve_command(group, words)
    assert command
    return command.make_context(name, rest, parent=group)


def test_documents_have_command_lines() -> None:
    assert len([line for line in commands() if line.startswith("serve -")]) >= 6


@pytest.mark.parametrize("command", commands())
def test_command_lines_are_understood(command: str, toml_of_readme: Path) -> None:
    words = [word.replace("/etc/vhostuser.toml", str(toml_of_readme)) for word in shlex.split(command)]

    with contextlib.suppress(click.exceptions.Exit):  # --help has been printed
        context = parse(words)
        if context.command is serve and len(words) > 1:
            assert make_serve_config(context.params).device


def test_a_command_line_that_is_wrong_is_noticed() -> None:
    with pytest.raises(click.UsageError, match="--prot"):
        parse(["serve", "--prot", "echo"])
    with pytest.raises(click.UsageError, match="there is no command"):
        parse(["serv"])


@pytest.fixture
def toml_of_readme(tmp_path: Path) -> Path:
    block = re.search(r"\n\n((?:    .*\n)*    \[\[device\]\]\n(?:    .*\n)+)", README)
    assert block
    path = tmp_path / "vhostuser.toml"
    path.write_text(textwrap.dedent(block[1]))
    return path


def test_toml_of_the_readme_is_understood(toml_of_readme: Path) -> None:
    assert load_toml(str(toml_of_readme))["device"][0].port == "tap:vm1"


def test_python_of_the_readme_names_what_there_is() -> None:
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block
    tree = ast.parse(block[1])

    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            module = __import__(node.module, fromlist=["*"])
            assert all(alias.name in module.__all__ for alias in node.names)
