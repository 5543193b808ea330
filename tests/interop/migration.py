"""Moving a guest from one QEMU to another, and what is marked in our dirty log meanwhile."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.interop.netns import Namespace
from tests.interop.process import wait_until
from tests.interop.qemu import Guest, VhostUserNic, plain_machine

MEMORY_MIB = 128
FAST = 64 << 20
SLOW = 1 << 20
"""Bytes a second: at the first a guest of that size is copied in a second or two, at the other it is not."""
DOWNTIME_LIMIT_MS = 300
ENDED = ("completed", "failed", "cancelled")
LOG_OF_QEMU = re.compile(r"^(\w+)-(\w+) .*/memfd:vhost-log", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """How one ended: the downtime as QEMU measured it, and the most pages seen marked at one moment."""

    status: str
    downtime: float
    most_marked: int


def migrating_guest(folder: Path, namespace: Namespace, nic: VhostUserNic, *words: str) -> Guest:
    """A guest that is small enough to be moved often; `words` are further ones for the machine."""
    return Guest(folder, [nic], namespace, machine=[*plain_machine(1, MEMORY_MIB), *words])


def incoming_guest(folder: Path, namespace: Namespace, nic: VhostUserNic, *words: str) -> Guest:
    """A QEMU without a guest of its own, waiting for one at `incoming` in its folder, which is made."""
    folder.mkdir()
    target = migrating_guest(folder, namespace, nic, "-incoming", f"unix:{folder}/incoming", *words)
    target.open_monitor()
    return target


def start_migration(source: Guest, target_folder: Path, bandwidth: int = FAST) -> None:
    parameters = {"max-bandwidth": bandwidth, "downtime-limit": DOWNTIME_LIMIT_MS}
    source.qmp.execute("migrate-set-parameters", **parameters)
    source.qmp.execute("migrate", uri=f"unix:{target_folder}/incoming")


def finish_migration(source: Guest, logs: Sequence[int]) -> Migration:
    """Waits until it has ended, well or not, and looks meanwhile into the dirty logs of these processes."""
    most = 0

    def ended() -> dict[str, object] | None:
        nonlocal most
        most = max(most, marked_pages(logs))
        state: dict[str, object] = source.qmp.execute("query-migrate")
        return state if state["status"] in ENDED else None

    state = wait_until("an end of the migration", ended, 60, source.describe)
    downtime = state.get("downtime", 0)
    assert isinstance(downtime, int)
    return Migration(str(state["status"]), downtime / 1000, most)


def wait_marked(source: Guest, logs: Sequence[int]) -> int:
    """Until the migration is on and pages are marked; how many are."""

    def marked() -> int:
        assert source.qmp.execute("query-migrate")["status"] not in ENDED
        return marked_pages(logs)

    return wait_until("pages marked in the dirty log", marked, 30, source.describe)


def marked_pages(processes: Sequence[int]) -> int:
    """Set bits in the dirty logs that these processes have mapped. QEMU clears them again and again."""
    return sum(map(_marked, processes))


def _marked(process: int) -> int:
    count = 0
    # A log may be unmapped between the two looks.
    with contextlib.suppress(OSError), Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        for start, end in LOG_OF_QEMU.findall(Path(f"/proc/{process}/maps").read_text()):
            memory.seek(int(start, 16))
            count += int.from_bytes(memory.read(int(end, 16) - int(start, 16)), "little").bit_count()
    return count
