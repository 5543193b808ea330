"""`vhostuser check`: what is typed reaches the checks, and what they found the shell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.frontend.backend_double import BackendDouble
from vhostuser.cli.main import vhostuser
from vhostuser.frontend.check import catalogue
from vhostuser.wire.constants import Request


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BackendDouble]:
    with BackendDouble(str(tmp_path / "b.sock")) as backend:
        yield backend


def run(*words: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(vhostuser, ["check", *words])
    return outcome.exit_code, outcome.output


def test_table_has_verdict_sentence_rule_and_sum(backend: BackendDouble) -> None:
    status, text = run("-s", backend.path, "--only", "owner-again", "--only", "queue-num")
    assert status == 0, text
    assert text.startswith(f"2 checks of the back-end at {backend.path}, process ")
    assert "frames come back and are compared" in text
    assert (
        '\npassed          owner-again: SET_OWNER may come again. [vhost-user, "VHOST_USER_SET_OWNER"]'
        in text
    )
    assert "\nnegotiation: features" in text
    assert "must 1 of 1 passed, should 1 of 1 passed" in text


def test_a_must_that_fails_is_status_4(backend: BackendDouble) -> None:
    backend.queue_num = 0
    status, text = run("-s", backend.path, "--only", "queue-num", "--expect", "echo")
    assert status == 4
    assert "FAILED          queue-num" in text
    assert "a must; expected: 1 to 256" in text
    assert "seen: 0" in text


def test_a_should_that_fails_is_status_0(backend: BackendDouble) -> None:
    backend.queue_num = 1
    status, text = run("-s", backend.path, "--only", "queue-num-of-a-pair", "--expect", "echo")
    assert status == 0
    assert "should 0 of 1 passed" in text


def test_json_is_one_object(backend: BackendDouble) -> None:
    status, text = run("-s", backend.path, "--only", "queue-num", "--json", "--timeout", "3")
    found = json.loads(text)
    assert (status, found["passed"], len(found["checks"])) == (0, True, 1)
    assert found["socket_path"] == backend.path
    assert found["checks"][0]["outcome"] == "passed"


def test_expect_none_sends_no_frame_before(backend: BackendDouble) -> None:
    status, text = run("-s", backend.path, "--only", "queue-num", "--expect", "none")
    assert status == 0
    assert "frames are not expected back" in text
    assert Request.SET_VRING_KICK not in {request for request, _, _ in backend.requests}


def test_list_needs_no_back_end() -> None:
    status, text = run("--list")
    assert status == 0
    assert all(f" {check.name}  [{check.rule}]" in text for check in catalogue.select([]))


def test_nobody_there_is_status_3(tmp_path: Path) -> None:
    status, _ = run("-s", str(tmp_path / "none.sock"), "--timeout", "0.5")
    assert status == 3


@pytest.mark.parametrize(
    "words",
    [[], ["-s", "x", "--only", "framng"], ["-s", "x", "--expect", "all"], ["-s", "x", "--timeout", "0"]],
)
def test_nonsense_is_status_2(words: list[str]) -> None:
    assert run(*words)[0] == 2
