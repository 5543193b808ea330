"""The list of checks, and all of it against the real server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.interop.server_process import Server, vhostuser_program
from vhostuser.errors import UsageError
from vhostuser.frontend.check.catalogue import GROUPS, select
from vhostuser.frontend.timeouts import scaled
from vhostuser.wire.features import ProtocolFeature


def test_names_are_unique_and_sentences_are_sentences() -> None:
    every = select([])
    names = [group.name for group in GROUPS] + [check.name for check in every]
    assert len(set(names)) == len(names)
    assert [check.name for check in every if not check.must.endswith(".") or not check.rule] == []


def test_words_select_groups_and_checks_in_the_catalogues_order() -> None:
    chosen = select(["queue-num", "framing"])
    assert chosen == [*GROUPS[0].checks, *(c for c in GROUPS[1].checks if c.name == "queue-num")]


@pytest.mark.parametrize(
    ("word", "hint"), [("framng", "did you mean 'framing'"), ("xyzzy", "the groups are")]
)
def test_a_word_that_is_neither_is_a_usage_error(word: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        select([word])


def start_all(path: Path, *words: str) -> subprocess.Popen[str]:
    argv = [vhostuser_program(), "check", "--socket-path", str(path), "--json", *words]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def found_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    """All of its report, once nothing is wrong in it."""
    output, _ = process.communicate(timeout=scaled(300))
    found: dict[str, Any] = json.loads(output)
    assert (process.returncode, found["passed"]) == (0, True)
    bad = [check for check in found["checks"] if check["outcome"] not in ("passed", "not applicable")]
    assert bad == []
    return found


def lacking(found: dict[str, Any]) -> set[str]:
    return {check["name"] for check in found["checks"] if check["outcome"] == "not applicable"}


@pytest.mark.timeout(900)
def test_the_real_server_passes_every_check_that_applies(echo_path: Path, tmp_path: Path) -> None:
    """With an echo, and with a sink that has a config space; both at once, for checks mostly wait.

    What needs postcopy is of the test below, for no server offers both it and memory slots.
    """
    path = tmp_path / "s.sock"
    words = ("--port", "sink", "--mac", "52:54:00:12:34:56", "--mtu", "1500")
    with Server(tmp_path, "-s", str(path), *words) as server:
        server.wait_listening(path)
        with start_all(echo_path) as of_echo, start_all(path) as of_sink:
            echo, sink = found_by(of_echo), found_by(of_sink)
        server.stop()
    assert (echo["offer"]["echoes"], sink["offer"]["echoes"]) == (True, False)
    assert len(echo["checks"]) == len(sink["checks"]) == len(select([]))
    # So that a feature which is no longer offered does not take its checks with it in silence.
    late = {check.name for check in select([]) if check.protocol & ProtocolFeature.PAGEFAULT}
    own = {check.name for check in select([]) if check.protocol & ProtocolFeature.CONFIG}
    assert lacking(echo) == own | late
    assert lacking(sink) == {check.name for check in select([]) if check.echo} | late


def test_the_real_server_passes_every_check_of_postcopy(postcopy_path: Path) -> None:
    with start_all(postcopy_path, "--only", "postcopy") as process:
        assert lacking(found_by(process)) == set()
