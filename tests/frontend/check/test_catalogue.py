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


def run_all(path: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [vhostuser_program(), "check", "--socket-path", str(path), "--json", *words],
        capture_output=True,
        text=True,
        timeout=scaled(300),
    )
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, found["passed"]) == (0, True)
    bad = [check for check in found["checks"] if check["outcome"] not in ("passed", "not applicable")]
    assert bad == []
    return found


@pytest.mark.timeout(900)
def test_the_real_server_passes_every_check_that_applies(echo_path: Path) -> None:
    found = run_all(echo_path)
    assert found["offer"]["echoes"]
    assert len(found["checks"]) == len(select([]))
    # So that a feature which is no longer offered does not take its checks with it in silence.
    lacking = {check["name"] for check in found["checks"] if check["outcome"] == "not applicable"}
    assert lacking == {check.name for check in select([]) if check.protocol & ProtocolFeature.CONFIG}


@pytest.mark.timeout(900)
def test_a_sink_with_a_config_space_passes_every_check_that_applies(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    words = ("--port", "sink", "--mac", "52:54:00:12:34:56", "--mtu", "1500")
    with Server(tmp_path, "-s", str(path), *words) as server:
        server.wait_listening(path)
        found = run_all(path)
        server.stop()
    assert not found["offer"]["echoes"]
    lacking = {check["name"] for check in found["checks"] if check["outcome"] == "not applicable"}
    assert lacking == {check.name for check in select([]) if check.echo}
