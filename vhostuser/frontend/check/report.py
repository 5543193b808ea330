"""Verdicts for people, a line or some for each, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from vhostuser.frontend.check.model import Check, Outcome, Result, Severity
from vhostuser.frontend.check.peer import Offer
from vhostuser.wire.features import feature_names

_INDENT = " " * 16
_LEAST_WIDTH = 60


def describe_offer(offer: Offer, width: int) -> list[str]:
    """What was found out before the first check."""
    back = "frames come back and are compared" if offer.echoes else "frames are not expected back"
    return [
        *_wrapped("offers:         ", ", ".join(feature_names(offer.virtio)) or "no features", width),
        *_wrapped("", ", ".join(feature_names(offer.protocol)) or "no protocol features", width),
        f"{_INDENT}{back}",
    ]


def list_check(check: Check, width: int) -> list[str]:
    """Name, severity, rule and sentence, as `--list` shows them."""
    return [
        f"{check.severity.value:<16}{check.name}  [{check.rule}]",
        *_wrapped("", check.must, width),
    ]


def describe(result: Result, width: int) -> list[str]:
    """The lines of one verdict: outcome, name and sentence, where it stands, and what was seen."""
    check = result.check
    failed = result.outcome in (Outcome.FAILED, Outcome.BROKEN_OFF)
    word = result.outcome.value.upper() if failed else result.outcome.value
    lines = _wrapped(f"{word:<16}", f"{check.name}: {check.must} [{check.rule}]", width)
    if result.outcome is Outcome.FAILED:
        lines += _wrapped("", f"a {check.severity.value}; expected: {result.expected}", width)
    if result.seen:
        what = "seen" if result.outcome is Outcome.FAILED else "because"
        lines += _wrapped("", f"{what}: {result.seen}", width)
    return lines


def summarize(results: Sequence[Result]) -> str:
    """How many of each severity passed; what did not, by name."""
    parts = []
    for severity in Severity:
        mine = [result for result in results if result.check.severity is severity]
        counted = [result for result in mine if result.outcome is not Outcome.NOT_APPLICABLE]
        passed = sum(result.outcome is Outcome.PASSED for result in counted)
        parts.append(f"{severity.value} {passed} of {len(counted)} passed")
    skipped = sum(result.outcome is Outcome.NOT_APPLICABLE for result in results)
    line = ", ".join(parts) + f"; {skipped} not applicable"
    if any(result.ended for result in results):
        line += "; the back-end ended"
    return line


def as_json(path: str, offer: Offer, results: Iterable[Result]) -> dict[str, Any]:
    """Everything that the table has, for programs."""
    found = list(results)
    return {
        "socket_path": path,
        "offer": {
            "virtio": feature_names(offer.virtio),
            "protocol": feature_names(offer.protocol),
            "echoes": offer.echoes,
        },
        "passed": not any(result.is_counted_against for result in found),
        "checks": [
            {
                "group": result.check.group,
                "name": result.check.name,
                "must": result.check.must,
                "rule": result.check.rule,
                "severity": result.check.severity.value,
                "outcome": result.outcome.value,
                "expected": result.expected,
                "seen": result.seen,
                "backend_ended": result.ended,
                "seconds": round(result.seconds, 3),
            }
            for result in found
        ],
    }


def _wrapped(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, _LEAST_WIDTH),
        initial_indent=head.ljust(len(_INDENT)),
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
