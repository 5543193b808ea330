"""How a message that is wrong has to be refused, by the kind of reply that it has."""

from __future__ import annotations

from tests.conformance.messages import Answer, Row
from tests.plain_frontend import PlainFrontend, u64


def assert_refused(talk: PlainFrontend, row: Row) -> None:
    """Whatever is right for the kind of reply that it has: a number that says no, or the end."""
    if row.answer is Answer.OWN:
        talk.assert_ended()
        return
    assert talk.reply(row.number) != u64(0)
    talk.assert_no_reply()
