from __future__ import annotations

import pytest

from vhostuser.frontend.check.model import Check, CheckFailedError, Group, Outcome, Result, Severity, expect
from vhostuser.frontend.check.peer import Offer, Peer
from vhostuser.wire.features import ProtocolFeature, VirtioFeature


def _body(peer: Peer) -> None:
    raise AssertionError("not run")


def _check(severity: Severity = Severity.MUST) -> Check:
    return Check("name", "group", "It does.", "somewhere", severity, _body)


def test_expect_says_what_was_expected_and_what_was_seen() -> None:
    expect(True, "one", "two")
    with pytest.raises(CheckFailedError, match="expected one, saw 2") as caught:
        expect(False, "one", 2)
    assert (caught.value.expected, caught.value.seen) == ("one", "2")


def test_a_check_that_needs_what_is_not_offered_says_so() -> None:
    check = Check(
        "name",
        "group",
        "It does.",
        "somewhere",
        Severity.MUST,
        _body,
        VirtioFeature.EVENT_IDX,
        ProtocolFeature.MTU,
        True,
    )
    assert check.lacking(Offer()) == "the back-end does not offer EVENT_IDX, protocol feature MTU"
    offer = Offer(VirtioFeature.EVENT_IDX, ProtocolFeature.MTU)
    assert check.lacking(offer) == "the back-end does not send frames back"
    assert check.lacking(Offer(VirtioFeature.EVENT_IDX, ProtocolFeature.MTU, True)) == ""


@pytest.mark.parametrize(
    ("severity", "outcome", "counts"),
    [
        (Severity.MUST, Outcome.PASSED, False),
        (Severity.MUST, Outcome.NOT_APPLICABLE, False),
        (Severity.MUST, Outcome.FAILED, True),
        (Severity.MUST, Outcome.BROKEN_OFF, True),
        (Severity.SHOULD, Outcome.FAILED, False),
        (Severity.ROBUSTNESS, Outcome.FAILED, False),
    ],
)
def test_a_must_that_was_not_seen_to_hold_counts(severity: Severity, outcome: Outcome, counts: bool) -> None:
    assert Result(_check(severity), outcome).is_counted_against is counts


def test_a_back_end_that_ended_counts_whatever_the_check() -> None:
    assert Result(_check(Severity.ROBUSTNESS), Outcome.FAILED, ended=True).is_counted_against


def test_group_keeps_its_checks_in_order() -> None:
    group = Group("g", "about")
    group.check("a", "A.", "there")(_body)
    group.check("b", "B.", "there", Severity.SHOULD)(_body)
    assert [(c.name, c.group, c.severity) for c in group.checks] == [
        ("a", "g", Severity.MUST),
        ("b", "g", Severity.SHOULD),
    ]
