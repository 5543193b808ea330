from __future__ import annotations

import pytest

from tests.net.fakes import FakePort, StepHelper
from vhostuser.errors import EnvironmentLacksError
from vhostuser.net.port_link import PortLink
from vhostuser.wire.features import VirtioFeature as V

NONE = V(0)


class Rig:
    def __init__(self, queues: int = 2) -> None:
        self.port = FakePort(queues)
        self.helper = StepHelper()
        self.changes = 0
        self.link = PortLink(self.port, queues, self.helper, self.changed)

    def changed(self) -> None:
        self.changes += 1


def test_start_happens_on_the_helper_and_is_told_when_done() -> None:
    rig = Rig()

    rig.link.want_started(V.GUEST_CSUM, frozenset({0, 1}))

    assert rig.port.take_calls() == []
    assert not rig.link.is_started
    rig.helper.run()
    assert rig.port.take_calls() == [("start", V.GUEST_CSUM)]
    assert rig.link.is_started
    assert rig.link.is_ready(1)
    assert rig.changes == 1


def test_queues_that_are_not_used_are_detached_before_the_start() -> None:
    # Detaching purges the queue, and start discards what is left: no stale frame survives either.
    rig = Rig(queues=3)

    rig.link.want_started(NONE, frozenset({0}))
    rig.helper.run()

    assert rig.port.take_calls() == [("attach", {0}), ("start", NONE)]
    assert not rig.link.is_ready(1)


def test_queue_that_comes_into_use_is_ready_once_attached() -> None:
    rig = Rig()
    rig.link.want_started(NONE, frozenset({0}))
    rig.helper.run()

    rig.link.want_started(NONE, frozenset({0, 1}))

    assert rig.link.is_ready(0)
    assert not rig.link.is_ready(1)
    rig.helper.run()
    assert rig.link.is_ready(1)
    assert ("attach", {0, 1}) in rig.port.calls


def test_queue_that_goes_out_of_use_is_not_ready_at_once() -> None:
    rig = Rig()
    rig.link.want_started(NONE, frozenset({0, 1}))
    rig.helper.run()

    rig.link.want_started(NONE, frozenset({0}))

    assert not rig.link.is_ready(1)


def test_quick_stop_and_start_is_a_new_start_with_the_new_features() -> None:
    rig = Rig()
    rig.link.want_started(V.GUEST_CSUM, frozenset({0, 1}))
    rig.helper.run()
    rig.port.take_calls()

    rig.link.want_stopped()
    rig.link.want_started(V.GUEST_TSO4, frozenset({0, 1}))

    assert not rig.link.is_started
    rig.helper.run()
    assert rig.link.is_started
    assert rig.port.take_calls()[-1] == ("start", V.GUEST_TSO4)


def test_start_that_is_overtaken_by_a_stop_is_undone() -> None:
    rig = Rig()
    rig.link.want_started(NONE, frozenset({0, 1}))
    rig.link.want_stopped()

    rig.helper.run()

    assert rig.port.take_calls() == [("start", NONE), ("stop",)]
    assert not rig.link.is_started


def test_wanting_what_is_there_asks_for_nothing() -> None:
    rig = Rig()

    rig.link.want_stopped()

    assert rig.helper.jobs == []


@pytest.mark.parametrize("error", [EnvironmentLacksError("no"), OSError("no")])
def test_port_that_fails_is_logged_and_does_not_hold_the_rings_for_ever(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig()
    rig.port.failing = error

    rig.link.want_started(NONE, frozenset({0, 1}))
    rig.helper.run()

    assert rig.link.is_started
    assert "the port does not follow its device" in caplog.text


def test_queues_stay_as_they_are_until_one_is_used() -> None:
    # virtio-user starts its rings before it enables any: with all queues detached a tap takes no setting.
    rig = Rig()

    rig.link.want_started(NONE, frozenset())
    rig.helper.run()

    assert rig.port.take_calls() == [("start", NONE)]
    rig.link.want_started(NONE, frozenset({0}))
    rig.helper.run()
    assert rig.port.take_calls() == [("attach", {0})]
    rig.link.want_started(NONE, frozenset())
    rig.helper.run()
    assert rig.port.take_calls() == []


def test_offloads_that_change_while_it_runs_make_a_new_start() -> None:
    # A guest that withdraws GUEST_CSUM gets frames that need it until the tap is told.
    rig = Rig()
    rig.link.want_started(V.GUEST_CSUM | V.VERSION_1, frozenset({0, 1}))
    rig.helper.run()
    rig.port.take_calls()

    rig.link.want_started(V.VERSION_1, frozenset({0, 1}))
    rig.helper.run()

    assert rig.port.take_calls() == [("stop",), ("start", V.VERSION_1)]


def test_logging_that_is_switched_on_does_not_touch_the_port() -> None:
    rig = Rig()
    rig.link.want_started(V.GUEST_CSUM, frozenset({0, 1}))
    rig.helper.run()
    rig.port.take_calls()

    rig.link.want_started(V.GUEST_CSUM | V.LOG_ALL, frozenset({0, 1}))
    rig.helper.run()

    assert rig.port.take_calls() == []
    assert rig.link.is_started
