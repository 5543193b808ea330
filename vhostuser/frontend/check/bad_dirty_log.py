"""Dirty logs that are too small or make no sense."""

from __future__ import annotations

import contextlib

from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.check.migration import PAGE, Log, migrating
from vhostuser.frontend.check.model import CheckFailedError, Group, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import TX
from vhostuser.frontend.check.stream import u64
from vhostuser.frontend.check.traffic import assert_serves, frame, pass_frames, rest
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("bad-dirty-log", "dirty logs that are too small or make no sense")

_MIGRATION = 'vhost-user, "Migration"'
_BASE = 'vhost-user, "VHOST_USER_SET_LOG_BASE"'


def _add_small(name: str, what: str, rule: str, size: int) -> None:
    def check(peer: Peer) -> None:
        with migrating(peer) as (migration, _), Log(size) as small:
            migration.set_log(small)
            migration.switch(True)
            pass_frames(peer, migration.driver, 64)
            expect(small.is_untouched_outside(), "nothing written beyond the log", "something")

    GROUP.check(name, what, rule, Severity.ROBUSTNESS, virtio=V.LOG_ALL, protocol=P.LOG_SHMFD)(check)


_add_small("log-of-8-pages", "Pages beyond the log are not marked, and the device goes on.", _BASE, 1)


@GROUP.check(
    "log-address-outside",
    "A ring whose log address lies beyond the log is served, and nothing is written there.",
    _MIGRATION,
    Severity.ROBUSTNESS,
    virtio=V.LOG_ALL,
    protocol=P.LOG_SHMFD,
)
def _log_address_outside(peer: Peer) -> None:
    with migrating(peer) as (migration, log):
        migration.set_log(log)
        with contextlib.suppress(PeerError, TimeoutError):
            migration.driver.do(calls.set_features(migration.driver.features | V.LOG_ALL))
            for address in (1 << 40, (1 << 64) - 64):
                migration.set_addr(TX, True, address)
                migration.driver.send(frame(1), timeout=0.2)
                rest()
        expect(log.is_untouched_outside(), "nothing written beside the log", "something")
    assert_serves(peer)


_BAD_BASES: tuple[tuple[str, str, int, int], ...] = (
    ("log-of-nothing", "A log of no bytes", 0, 0),
    ("log-overflow", "A log whose size and offset overflow", 1 << 32, (1 << 64) - PAGE),
    ("log-of-all", "A log of 2^64 - 1 bytes", (1 << 64) - 1, 0),
    ("log-file-too-short", "A log beyond the end of its file", 64 * PAGE, 0),
)


def _add_bad(name: str, what: str, size: int, offset: int) -> None:
    def check(peer: Peer) -> None:
        with (
            migrating(peer) as (migration, log),
            contextlib.suppress(PeerError, TimeoutError, CheckFailedError),
        ):
            migration.stream.send(Request.SET_LOG_BASE, u64(size) + u64(offset), [log.fd])
            migration.stream.receive("SET_LOG_BASE")
            migration.switch(True)
            for number in range(8):
                migration.driver.send(frame(number), timeout=0.2)
            rest()
        assert_serves(peer)

    GROUP.check(
        name,
        f"{what} costs nobody else anything.",
        "CVE-2020-10722",
        Severity.ROBUSTNESS,
        virtio=V.LOG_ALL,
        protocol=P.LOG_SHMFD,
    )(check)


for _bad in _BAD_BASES:
    _add_bad(*_bad)
