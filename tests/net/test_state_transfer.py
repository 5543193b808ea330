from __future__ import annotations

import pytest

from tests.net.fakes import StepChannel
from vhostuser.errors import RequestError
from vhostuser.net.state_transfer import StateTransfer
from vhostuser.session.device import Pending, Result
from vhostuser.wire.constants import TRANSFER_LOAD, TRANSFER_SAVE


class Rig:
    def __init__(self) -> None:
        self.channel = StepChannel()
        self.loaded: list[bytes] = []
        self.transfer = StateTransfer(self.channel, lambda: b"state", self._load)

    def _load(self, content: bytes) -> None:
        if content == b"bad":
            raise RequestError("bad state")
        self.loaded.append(content)

    def check(self) -> list[Result]:
        """What CHECK_DEVICE_STATE has heard so far; it grows."""
        heard: list[Result] = []
        self.transfer.check().then(heard.append)
        return heard


@pytest.fixture
def rig() -> Rig:
    return Rig()


def reason(heard: list[Result]) -> str:
    (result,) = heard
    assert isinstance(result, RequestError)
    return result.reason


def test_save_sends_the_state_and_is_over_when_all_of_it_is_sent(rig: Rig) -> None:
    rig.transfer.begin(TRANSFER_SAVE, 7)
    heard = rig.check()
    assert (rig.channel.sent, rig.channel.fds, heard) == ([b"state"], [7], [])

    rig.channel.finish()

    assert heard == [None]


def test_load_is_over_when_the_state_is_in_force(rig: Rig) -> None:
    rig.transfer.begin(TRANSFER_LOAD, 7)
    heard = rig.check()

    rig.channel.finish(b"other")

    assert (heard, rig.loaded) == ([None], [b"other"])


@pytest.mark.parametrize("direction", [TRANSFER_SAVE, TRANSFER_LOAD])
def test_transfer_that_fails_is_known_by_its_reason(rig: Rig, direction: int) -> None:
    rig.transfer.begin(direction, 7)

    rig.channel.finish(RequestError("closed early"))

    assert reason(rig.check()) == "closed early"
    assert rig.loaded == []


def test_state_that_is_refused_is_a_failure(rig: Rig) -> None:
    rig.transfer.begin(TRANSFER_LOAD, 7)

    rig.channel.finish(b"bad")

    assert reason(rig.check()) == "bad state"


def test_result_may_be_there_before_it_is_asked_for(rig: Rig) -> None:
    rig.transfer.begin(TRANSFER_SAVE, 7)
    rig.channel.finish()

    assert rig.check() == [None]


def test_result_is_told_once(rig: Rig) -> None:
    rig.transfer.begin(TRANSFER_SAVE, 7)
    rig.channel.finish()
    rig.transfer.check()

    with pytest.raises(RequestError, match="no state was transferred"):
        rig.transfer.check()


def test_check_without_a_transfer_is_refused(rig: Rig) -> None:
    with pytest.raises(RequestError, match="no state was transferred"):
        rig.transfer.check()


def test_second_transfer_takes_the_place_of_the_first(rig: Rig) -> None:
    rig.transfer.begin(TRANSFER_LOAD, 7)
    rig.transfer.begin(TRANSFER_SAVE, 8)
    assert rig.channel.given_up == 1

    heard = rig.check()
    rig.channel.finish()

    assert heard == [None]
    assert rig.loaded == []


def test_abandoned_transfer_is_forgotten(rig: Rig) -> None:
    rig.transfer.begin(TRANSFER_LOAD, 7)
    rig.transfer.abandon()
    rig.transfer.abandon()

    assert rig.channel.given_up == 1
    with pytest.raises(RequestError, match="no state was transferred"):
        rig.transfer.check()


def test_finished_transfer_is_not_given_up(rig: Rig) -> None:
    rig.transfer.begin(TRANSFER_LOAD, 7)
    rig.channel.finish(b"other")
    rig.transfer.abandon()

    assert rig.channel.given_up == 0


def test_channel_that_refuses_leaves_no_transfer_behind(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RequestError("no room")

    monkeypatch.setattr(rig.channel, "send", refuse)
    with pytest.raises(RequestError, match="no room"):
        rig.transfer.begin(TRANSFER_SAVE, 7)
    with pytest.raises(RequestError, match="no state was transferred"):
        rig.transfer.check()


def test_each_transfer_has_a_promise_of_its_own(rig: Rig) -> None:
    promises: list[Pending] = []
    for fd in (7, 8):
        rig.transfer.begin(TRANSFER_SAVE, fd)
        rig.channel.finish()
        promises.append(rig.transfer.check())

    assert promises[0] is not promises[1]
