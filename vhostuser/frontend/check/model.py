"""A check as a value, its verdict, and how the function of a check says what it saw.

Not here: any check. A group's file makes a `Group` and adds its functions; `catalogue.py` lists the groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vhostuser.wire.features import ProtocolFeature, VirtioFeature, feature_names

if TYPE_CHECKING:
    from vhostuser.frontend.check.peer import Offer, Peer

NO_VIRTIO = VirtioFeature(0)
NO_PROTOCOL = ProtocolFeature(0)

Body = Callable[["Peer"], None]
"""Returns when the check passed; raises `CheckFailedError` or `NotApplicableError` otherwise."""


class Severity(Enum):
    """What a failure means."""

    MUST = "must"
    """The specification demands it, or a front-end in use hangs or loses data without it."""
    SHOULD = "should"
    """Some front-end or guest is better served."""
    ROBUSTNESS = "robustness"
    """Nobody who is well does this to a back-end; what breaks is the peace of its other guests."""


class Outcome(Enum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    BROKEN_OFF = "broken off"
    """Neither: out of time, or never begun because the back-end was gone."""


class CheckFailedError(Exception):
    """What was expected of the back-end, and what it did."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}, saw {seen}")
        self.expected = expected
        self.seen = seen


class NotApplicableError(Exception):
    """Why the check says nothing about this back-end."""


def expect(holds: bool, expected: str, seen: object) -> None:
    """CheckFailedError unless `holds`."""
    if not holds:
        raise CheckFailedError(expected, str(seen))


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    group: str
    must: str
    """What the back-end has to do, in one sentence."""
    rule: str
    """Where that stands."""
    severity: Severity
    body: Body
    virtio: VirtioFeature = NO_VIRTIO
    """It says nothing about a back-end that does not offer all of these."""
    protocol: ProtocolFeature = NO_PROTOCOL
    echo: bool = False
    """It needs a back-end that sends frames back."""

    def lacking(self, offer: Offer) -> str:
        """Why it is not applicable to a back-end with this offer; empty when it is."""
        missing = [
            *feature_names(self.virtio & ~offer.virtio),
            *(f"protocol feature {name}" for name in feature_names(self.protocol & ~offer.protocol)),
        ]
        if missing:
            return f"the back-end does not offer {', '.join(missing)}"
        if self.echo and not offer.echoes:
            return "the back-end does not send frames back"
        return ""


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one check. `seen` is the reason where it is neither passed nor failed."""

    check: Check
    outcome: Outcome
    expected: str = ""
    seen: str = ""
    seconds: float = 0.0
    ended: bool = False
    """The back-end was gone after it."""

    @property
    def is_counted_against(self) -> bool:
        """Whether `vhostuser check` fails by it: a must not seen to hold, or a back-end that ended."""
        if self.ended:
            return True
        open_or_failed = self.outcome in (Outcome.FAILED, Outcome.BROKEN_OFF)
        return self.check.severity is Severity.MUST and open_or_failed


class Group:
    """Checks on one subject, in the order in which they run."""

    def __init__(self, name: str, about: str) -> None:
        self.name = name
        self.about = about
        self.checks: list[Check] = []

    def check(
        self,
        name: str,
        must: str,
        rule: str,
        severity: Severity = Severity.MUST,
        *,
        virtio: VirtioFeature = NO_VIRTIO,
        protocol: ProtocolFeature = NO_PROTOCOL,
        echo: bool = False,
    ) -> Callable[[Body], Body]:
        """Add the function below as a check; names are unique over all groups."""

        def add(body: Body) -> Body:
            self.checks.append(Check(name, self.name, must, rule, severity, body, virtio, protocol, echo))
            return body

        return add
