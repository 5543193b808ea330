"""Log lines: one line each, whatever is in them."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from vhostuser.cli import logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was afterwards."""
    logger = logging.getLogger()
    before = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], level = before[0], before[1]
    logger.setLevel(level)


def lines(root: logging.Logger, form: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.set_up(level, form, stream)
    return stream


def test_a_line_of_text_has_time_level_and_device(root: logging.Logger) -> None:
    stream = lines(root, "text")
    logging.getLogger("vhostuser").warning("ring %d stopped", 3, extra={"device": "vm1"})
    logging.getLogger("vhostuser").info("listening")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} warning vm1: ring 3 stopped", first)
    assert second.endswith(" info: listening")


def test_what_is_below_the_level_is_not_logged(root: logging.Logger) -> None:
    stream = lines(root, "text", "warning")
    logging.getLogger("vhostuser.net").info("quiet")
    assert stream.getvalue() == ""


def test_nothing_from_outside_starts_a_line(root: logging.Logger) -> None:
    stream = lines(root, "text")
    logging.getLogger("vhostuser").info("path %s", "/run/a\n2026-01-01 info: all is well\x1b[2J\x9b")
    assert stream.getvalue().count("\n") == 1
    assert "/run/a\\x0a2026-01-01 info: all is well\\x1b[2J\\x9b" in stream.getvalue()


def test_a_line_of_json_has_every_field(root: logging.Logger) -> None:
    stream = lines(root, "json")
    record = {"device": "vm1", "ring": 3, "peer": {1, 2}.__class__}
    logging.getLogger("vhostuser.net").info("ring %d\nstarted", 3, extra=record)
    entry = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {
        "level": "info",
        "logger": "vhostuser.net",
        "message": "ring 3\nstarted",
        "device": "vm1",
        "ring": 3,
        "peer": "<class 'set'>",
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_bug_is_logged_with_its_traceback(root: logging.Logger, form: str) -> None:
    stream = lines(root, form)
    try:
        raise AssertionError("never")
    except AssertionError:
        logging.getLogger("vhostuser").exception("failed")
    assert "AssertionError: never" in stream.getvalue()
    assert form == "text" or "AssertionError: never" in json.loads(stream.getvalue())["exception"]
