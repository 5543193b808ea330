"""A guest that runs at its new place while its memory is still on its way, under traffic; and back.

With one queue pair: of several, QEMU (7.2 to 10) prepares each for postcopy over the one connection, sends
one memory table for all, and waits for an answer to each.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.bridge import Bridge
from tests.interop.flows import Flows
from tests.interop.migration import finish_migration, incoming_guest, migrating_guest
from tests.interop.netns import Namespace
from tests.interop.process import wait_until
from tests.interop.qemu import Guest, VhostUserNic
from tests.interop.server_process import Server

HOST, ADDRESS = "10.0.0.1", "10.0.0.2"
TAPS = ("vt0", "vt1")
BANDWIDTH = 16 << 20
"""Bytes a second: the guest's memory takes some seconds, most of them after it has moved."""
OUR_FAULT = "vhost_user_postcopy_fault_handler"
"""What QEMU traces when it reads a fault of ours from the userfaultfd that we gave it."""
POSTCOPY = [{"capability": "postcopy-ram", "state": True}]


def move(guest: Guest, target: Guest, target_folder: Path) -> int:
    """Postcopy from the first page on; how many pages the target had to ask for."""
    for side in (target, guest):
        side.qmp.execute("migrate-set-capabilities", capabilities=POSTCOPY)
        side.qmp.execute(
            "migrate-set-parameters", **{"max-bandwidth": BANDWIDTH, "max-postcopy-bandwidth": BANDWIDTH}
        )
    guest.qmp.execute("migrate", uri=f"unix:{target_folder}/incoming")
    wait_until(
        "the migration to begin",
        lambda: guest.qmp.execute("query-migrate")["status"] == "active",
        30,
        guest.describe,
    )
    guest.qmp.execute("migrate-start-postcopy")
    assert finish_migration(guest, []).status == "completed", guest.describe() + target.describe()
    return int(guest.qmp.execute("query-migrate")["ram"]["postcopy-requests"])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("device", ["", "packed=on"], ids=["split", "packed"])
def test_guest_moves_to_and_fro_before_its_memory(
    device: str, folder: Path, namespace: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        f"--device=name={name},socket-path={folder}/{name},port=tap:{tap}"
        for name, tap in zip("ab", TAPS, strict=True)
    ]
    nics = [VhostUserNic(folder / name, device=device) for name in "ab"]
    with Server(folder, "--workers", "1", "--postcopy", *words, namespace=namespace) as server:
        for nic in nics:
            server.wait_listening(nic.path)
        Bridge(namespace, HOST, *TAPS)
        flows = Flows(folder, namespace, HOST, ADDRESS)
        guest = migrating_guest(folder, namespace, nics[0])
        asked, ours = list[int](), list[int]()
        try:
            guest.boot()
            guest.sh(f"ip addr add {ADDRESS}/24 dev eth0; ip link set eth0 up")
            flows.start(guest)
            for number in (1, 2):
                place = folder / f"round{number}"
                target = incoming_guest(place, namespace, nics[number % 2], "-trace", OUR_FAULT)
                try:
                    asked.append(move(guest, target, place))
                    ours.append(target.log.count(OUR_FAULT))
                finally:
                    guest.kill()
                    guest = target
                guest.take_shell()
            tallies = flows.stop(guest)
        finally:
            guest.kill()
            flows.kill()
        server.stop()
    with capsys.disabled():
        print(f"\npages asked for {asked}, by us {ours};", "; ".join(map(str, tallies)))
    assert min(asked) > 0
    assert min(ours) > 0
    for tally in tallies:
        assert (tally.corrupt, tally.duplicate) == (0, 0), tally
        assert tally.received > 100, tally
        assert tally.lost == 0 or tally.name.startswith("udp"), tally
