"""A check never hangs, and a back-end that dies is seen to."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.frontend.check.meddler import Fault, Line, Meddler, Said
from vhostuser.errors import EnvironmentLacksError, PeerError
from vhostuser.frontend.check.model import Check, CheckFailedError, NotApplicableError, Outcome, Severity
from vhostuser.frontend.check.peer import Offer, Peer
from vhostuser.frontend.check.runner import Expect, Runner, look, survey
from vhostuser.frontend.timeouts import scaled
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature, VirtioFeature


def _check(body: Callable[[Peer], None], name: str = "check") -> Check:
    return Check(name, "group", "It does.", "somewhere", Severity.SHOULD, body)


def _fails(peer: Peer) -> None:
    raise CheckFailedError("this", "that")


def _does_not_apply(peer: Peer) -> None:
    raise NotApplicableError("reasons")


def _loses_its_peer(peer: Peer) -> None:
    raise PeerError("it went away")


def _passes(peer: Peer) -> None:
    peer.stream().assert_silent(Request.SET_OWNER)


@pytest.mark.parametrize(
    ("body", "outcome", "expected", "seen"),
    [
        (_passes, Outcome.PASSED, "", ""),
        (_fails, Outcome.FAILED, "this", "that"),
        (_does_not_apply, Outcome.NOT_APPLICABLE, "", "reasons"),
        (_loses_its_peer, Outcome.FAILED, "It does.", "it went away"),
    ],
)
def test_verdict(
    echo_path: Path,
    offer: Offer,
    body: Callable[[Peer], None],
    outcome: Outcome,
    expected: str,
    seen: str,
) -> None:
    (result,) = Runner(echo_path, offer).run([_check(body)])
    assert (result.outcome, result.expected, result.seen) == (outcome, expected, seen)
    assert not result.ended


def test_a_mistake_of_a_check_is_nobody_elses(echo_path: Path, offer: Offer) -> None:
    def wrong(peer: Peer) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Runner(echo_path, offer).run([_check(wrong)]))


def test_a_check_that_waits_for_ever_is_broken_off(echo_path: Path, offer: Offer) -> None:
    def waits(peer: Peer) -> None:
        stream = peer.stream()
        stream.socket.settimeout(None)
        stream.socket.recv(1)

    results = list(Runner(echo_path, offer, timeout=0.5).run([_check(waits), _check(_passes)]))
    assert [result.outcome for result in results] == [Outcome.BROKEN_OFF, Outcome.PASSED]
    assert "not finished within" in results[0].seen


def test_what_is_not_offered_is_not_applicable(echo_path: Path, offer: Offer) -> None:
    check = replace(_check(_fails), protocol=ProtocolFeature.XEN_MMAP)
    (result,) = Runner(echo_path, offer).run([check])
    assert result.outcome is Outcome.NOT_APPLICABLE


class Dies(Fault):
    """The process ends at SET_OWNER."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_OWNER:
            said.close()
            self.meddler.die()
        else:
            line.up(said)


def test_what_comes_after_the_back_ends_end_is_never_begun(
    echo_path: Path, offer: Offer, tmp_path: Path
) -> None:
    def sends(peer: Peer) -> None:
        peer.stream().send(Request.SET_OWNER)

    with Meddler(tmp_path / "m.sock", echo_path, Dies()) as meddler:
        runner = Runner(meddler.path, replace(offer, pid=os.getpid()), timeout=1.0)
        results = list(runner.run([_check(_passes), _check(sends), _check(_passes)]))
    assert [result.outcome for result in results] == [Outcome.PASSED, Outcome.FAILED, Outcome.BROKEN_OFF]
    assert results[1].ended
    assert "the back-end ended: cannot connect" in results[1].seen
    assert "never begun" in results[2].seen


def test_a_back_end_that_was_started_anew_is_noticed(echo_path: Path, offer: Offer) -> None:
    runner = Runner(echo_path, replace(offer, pid=offer.pid + 1))
    first, second = runner.run([_check(_passes), _check(_passes)])
    assert first.ended
    assert f"process {offer.pid + 1} is now {offer.pid}" in first.seen
    assert second.outcome is Outcome.PASSED


def test_look_is_patient_with_a_listener_that_says_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "deaf.sock"))
        listener.listen(1)
        sight = look(tmp_path / "deaf.sock", 0.1)
    assert "answers no GET_FEATURES" in sight.trouble
    assert not sight.gone


def test_survey_without_a_back_end_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacksError, match="start the back-end"):
        survey(tmp_path / "none.sock", patience=0.1)


def test_survey_of_a_back_end_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "deaf.sock"))
        listener.listen(8)
        with pytest.raises(PeerError, match="answers no GET_FEATURES"):
            survey(tmp_path / "deaf.sock", patience=0.1)


def test_survey_finds_the_offer_and_the_echo(echo_path: Path) -> None:
    offer = survey(echo_path)
    assert offer.echoes
    assert VirtioFeature.VERSION_1 in offer.virtio
    assert ProtocolFeature.REPLY_ACK in offer.protocol
    assert Path(f"/proc/{offer.pid}/cmdline").read_bytes().find(os.fsencode(echo_path)) > 0


class Sink(Fault):
    """No ring is ever enabled, so nothing comes back."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_ENABLE:
            line.swallow(said)
        else:
            line.up(said)


def test_survey_finds_that_nothing_comes_back(echo_path: Path, tmp_path: Path) -> None:
    with Meddler(tmp_path / "m.sock", echo_path, Sink()) as meddler:
        assert not survey(meddler.path, patience=0.2).echoes
        assert survey(meddler.path, Expect.ECHO).echoes


def test_a_check_left_behind_does_not_hold_the_process_up(echo_path: Path) -> None:
    program = (
        "import sys, threading; from vhostuser.frontend.check.model import Check, Severity\n"
        "from vhostuser.frontend.check.runner import Runner, survey\n"
        "check = Check('c', 'g', 'M.', 'r', Severity.MUST, lambda peer: threading.Event().wait())\n"
        "runner = Runner(sys.argv[1], survey(sys.argv[1]), timeout=0.2)\n"
        "print(*(result.outcome.value for result in runner.run([check])))"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, str(echo_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "broken off\n"), done.stderr
    assert time.monotonic() - started < 60


def test_a_back_end_that_somebody_starts_again_is_waited_for(
    echo_path: Path, offer: Offer, tmp_path: Path
) -> None:
    def sends(peer: Peer) -> None:
        peer.stream().send(Request.SET_OWNER)

    path = tmp_path / "m.sock"
    with Meddler(path, echo_path, Dies()) as first:
        runner = Runner(path, replace(offer, pid=os.getpid()), timeout=0.5, restart_within=20)
        results = runner.run([_check(sends), _check(_passes)])
        thread = threading.Thread(target=_start_again, args=(first, echo_path, ended := threading.Event()))
        thread.start()
        found = list(results)
        ended.set()
        thread.join()
    assert [(result.outcome, result.ended) for result in found] == [
        (Outcome.FAILED, True),
        (Outcome.PASSED, False),
    ]


def _start_again(first: Meddler, upstream: Path, ended: threading.Event) -> None:
    while not first.is_dead:
        time.sleep(0.001)
    time.sleep(scaled(0.2))
    first.path.unlink()
    with Meddler(first.path, upstream, Fault()):
        ended.wait()
