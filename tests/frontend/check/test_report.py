from __future__ import annotations

from vhostuser.frontend.check.model import Check, Outcome, Result, Severity
from vhostuser.frontend.check.peer import Offer, Peer
from vhostuser.frontend.check.report import as_json, describe, describe_offer, list_check, summarize
from vhostuser.wire.features import ProtocolFeature, VirtioFeature


def _body(peer: Peer) -> None:
    raise AssertionError("not run")


MUST = Check("one-ack", "framing", "It gets one.", "the rule", Severity.MUST, _body)
SHOULD = Check("mtu", "negotiation", "It takes it.", "a rule", Severity.SHOULD, _body)
PASSED = Result(MUST, Outcome.PASSED, seconds=0.12345)
FAILED = Result(MUST, Outcome.FAILED, "an acknowledgement", "nothing")
SKIPPED = Result(SHOULD, Outcome.NOT_APPLICABLE, seen="it is not offered")


def test_a_check_that_passed_is_one_line() -> None:
    assert describe(PASSED, 100) == ["passed          one-ack: It gets one. [the rule]"]


def test_a_failure_says_what_was_expected_and_what_was_seen() -> None:
    assert describe(FAILED, 100) == [
        "FAILED          one-ack: It gets one. [the rule]",
        "                a must; expected: an acknowledgement",
        "                seen: nothing",
    ]


def test_what_is_not_applicable_says_why() -> None:
    assert describe(SKIPPED, 100)[-1] == "                because: it is not offered"


def test_lines_are_no_longer_than_wanted() -> None:
    lines = describe(Result(MUST, Outcome.FAILED, "many words " * 40, "others " * 40), 60)
    assert max(map(len, lines)) <= 60


def test_summary_counts_what_applied() -> None:
    assert summarize([PASSED, FAILED, SKIPPED]) == (
        "must 1 of 2 passed, should 0 of 0 passed, robustness 0 of 0 passed; 1 not applicable"
    )
    ended = Result(SHOULD, Outcome.FAILED, ended=True)
    assert summarize([ended]).endswith("; 0 not applicable; the back-end ended")


def test_offer_is_shown_by_name() -> None:
    offer = Offer(VirtioFeature.MQ, ProtocolFeature.MTU, echoes=True)
    text = "\n".join(describe_offer(offer, 80))
    assert "MQ" in text
    assert "MTU" in text
    assert "frames come back" in text
    assert "no features" in describe_offer(Offer(), 80)[0]


def test_list_says_where_the_rule_stands() -> None:
    assert list_check(SHOULD, 80) == ["should          mtu  [a rule]", "                It takes it."]


def test_json_has_all_of_it() -> None:
    found = as_json("/run/a.sock", Offer(VirtioFeature.MQ), [PASSED, FAILED])
    assert found["passed"] is False
    assert found["offer"] == {"virtio": ["MQ"], "protocol": [], "echoes": False}
    assert found["checks"][1] == {
        "group": "framing",
        "name": "one-ack",
        "must": "It gets one.",
        "rule": "the rule",
        "severity": "must",
        "outcome": "failed",
        "expected": "an acknowledgement",
        "seen": "nothing",
        "backend_ended": False,
        "seconds": 0.0,
    }
    assert found["checks"][0]["seconds"] == 0.123
