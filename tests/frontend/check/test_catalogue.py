"""The list of checks, and all of it against the real server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.interop.server_process import vhostuser_program
from vhostuser.errors import UsageError
from vhostuser.frontend.check import catalogue
from vhostuser.frontend.check.catalogue import GROUPS, select
from vhostuser.frontend.timeouts import scaled


def test_names_are_unique_and_sentences_are_sentences() -> None:
    every = select([])
    names = [group.name for group in GROUPS] + [check.name for check in every]
    assert len(set(names)) == len(names)
    assert [check.name for check in every if not check.must.endswith(".") or not check.rule] == []


def test_words_select_groups_and_checks_in_the_catalogues_order() -> None:
    chosen = select(["mtu", "framing"])
    assert chosen == [*GROUPS[0].checks, *(c for c in GROUPS[1].checks if c.name == "mtu")]


@pytest.mark.parametrize(
    ("word", "hint"), [("framng", "did you mean 'framing'"), ("xyzzy", "the groups are")]
)
def test_a_word_that_is_neither_is_a_usage_error(word: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        select([word])


@pytest.mark.timeout(600)
def test_the_real_server_passes_every_check_that_applies(echo_path: Path) -> None:
    done = subprocess.run(
        [vhostuser_program(), "check", "--socket-path", str(echo_path), "--json"],
        capture_output=True,
        text=True,
        timeout=scaled(300),
    )
    found = json.loads(done.stdout)
    assert found["offer"]["echoes"]
    assert len(found["checks"]) == len(select([]))
    bad = [check for check in found["checks"] if check["outcome"] not in ("passed", "not applicable")]
    assert bad == []
    assert (done.returncode, found["passed"]) == (0, True)


def test_what_does_not_apply_to_the_real_server_is_known(echo_path: Path) -> None:
    """So that a feature which is no longer offered does not take its checks with it in silence."""
    from vhostuser.frontend.check.runner import Expect, survey

    offer = survey(echo_path, Expect.ECHO)
    lacking = {check.name for check in catalogue.select([]) if check.lacking(offer)}
    assert lacking == {"config-reply"}
