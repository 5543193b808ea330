from __future__ import annotations

import threading

from tests.server.conftest import until
from vhostuser.server.helper import HelperThread


async def test_work_runs_in_order_on_one_other_thread_and_then_here() -> None:
    helper = HelperThread()
    seen: list[tuple[str, bool]] = []

    def note(name: str) -> None:
        seen.append((name, threading.current_thread() is threading.main_thread()))

    for number in range(3):
        helper.submit(lambda n=number: note(f"work {n}"), lambda n=number: note(f"then {n}"))  # type: ignore[misc]
    await until(lambda: len(seen) == 6)
    await helper.close()

    assert [name for name, _ in seen if name.startswith("work")] == ["work 0", "work 1", "work 2"]
    assert all(is_main == name.startswith("then") for name, is_main in seen)


async def test_then_comes_also_after_work_that_raised() -> None:
    helper = HelperThread()
    told: list[bool] = []

    def fail() -> None:
        raise ValueError

    helper.submit(fail, lambda: told.append(True))
    await until(lambda: bool(told))
    await helper.close()


async def test_close_waits_for_what_was_submitted() -> None:
    helper = HelperThread()
    done: list[int] = []
    for number in range(50):
        helper.submit(lambda n=number: done.append(n), lambda: None)  # type: ignore[misc]

    await helper.close()

    assert done == list(range(50))
