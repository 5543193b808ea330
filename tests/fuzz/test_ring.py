"""The ring walker without Python under clang's sanitizers: fuzzed, mutated while it reads, paused, raced."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fuzz.building import FAST, FUZZED, HARNESS, HERE, MEMORY, THREADS, Builder, run

CORPUS = HERE / "corpus" / "ring"
SECONDS = 10
LEAST_RUNS = 1000
"""A tenth of what a quiet machine does: fewer would mean that the fuzzer runs into nothing at once."""


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("programs"))


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, text[-2000:]
    return int(found[1])


def test_hostile_guests_at_random(builder: Builder, tmp_path: Path) -> None:
    """What a guest may do between turns, with the invariants of fuzz_ring.c after each of them.

    New inputs go to a folder of the test's; one that fails is named in the message, for the corpus.
    """
    program = builder.program(HARNESS / "fuzz_ring.c", FUZZED, harness=FAST, link=["-fsanitize=fuzzer"])

    out = run(
        [
            program,
            f"-max_total_time={SECONDS}",
            "-max_len=512",
            "-len_control=0",
            "-timeout=10",
            "-print_final_stats=1",
            f"-artifact_prefix={tmp_path}/",
            str(tmp_path),
            str(CORPUS),
        ]
    )

    assert number(r"stat::number_of_executed_units: (\d+)", out) >= LEAST_RUNS
    assert number(r"(\d+) files found in \S*corpus", out) == len(list(CORPUS.iterdir()))
    assert number(r"held (\d+) turns against their descriptors", out) >= LEAST_RUNS


def test_harness_finds_a_byte_too_many(builder: Builder, tmp_path: Path) -> None:
    """The invariants can fail: one write beside the descriptors is found by the corpus alone."""
    source = (HARNESS / "fuzz_ring.c").read_text()
    turn = "result = vu_worker_turn(arena.worker, 0);"
    write = "if (arena.pair->vring[VU_RX].counters.packets) arena.view[ARENA_FILE_BYTES - 1]++;"
    assert source.count(turn) == 1
    planted = tmp_path / "planted.c"
    planted.write_text(source.replace(turn, f"{turn} {write}"))
    program = builder.program(planted, FUZZED, harness=FAST, link=["-fsanitize=fuzzer"])

    with pytest.raises(AssertionError, match="broken invariant: before"):
        run([program, "-runs=0", f"-artifact_prefix={tmp_path}/", str(CORPUS)])


@pytest.mark.parametrize("flags", [MEMORY, FAST], ids=["sanitizers", "as-shipped"])
def test_guest_that_changes_what_is_being_read(builder: Builder, flags: tuple[str, ...]) -> None:
    """desc, avail, tables, indices and headers flip on another CPU.

    Every kind of port, and commands; both formats and instances of the loops, asleep in between and polling.
    """
    program = builder.program(HARNESS / "stress_mutation.c", flags)

    out = run([program, "120"])

    least_of = {"turns": 1000, "flips": 100_000, "packets": 100, "drops": 100, "broken": 100}
    least_of |= {"filtered": 10, "switched": 10, "commands": 100}
    for line in ("split", "packed"):
        for what, least in least_of.items():
            assert number(rf"{line}: .*{what} (\d+)", out) >= least, out


def test_pause_is_a_barrier(builder: Builder) -> None:
    """A worker on its own thread; memory, rings, fds and ports change under it."""
    program = builder.program(HARNESS / "stress_pause.c", THREADS)

    # The sanitizer of older compilers does not know as many places for mappings as kernels now choose from.
    out = run(["setarch", "-R", program, "1000"])

    assert number(r"rounds (\d+)", out) == 1000
    assert number(r"events (\d+)", out) >= 500


@pytest.mark.parametrize(("port", "rounds"), [("echo", 1000), ("switch", 400)], ids=["echo", "switch"])
def test_pairs_move_between_threads(builder: Builder, port: str, rounds: int) -> None:
    """Two devices of two pairs on three threads, which they share and change; counters are read meanwhile.

    On a switch each thread fills the rings of both.
    """
    program = builder.program(HARNESS / "stress_workers.c", THREADS)

    out = run(["setarch", "-R", program, str(rounds), port])

    assert number(r"rounds (\d+)", out) == rounds
    # Eight at the beginning, and one in each fifth round.
    assert number(r"started (\d+)", out) == 8 + rounds // 5
    assert number(r"received (\d+)", out) >= 10_000
    assert number(r"reads (\d+)", out) >= 1000
    assert "a pause of 3 workers took us: half" in out


def test_moments_in_which_a_wake_up_would_be_lost(builder: Builder) -> None:
    """The guest acts inside our write to its call fd, the control side between our wait and our turn."""
    wrapped = ["-Wl,--wrap=write", "-Wl,--wrap=epoll_wait"]
    program = builder.program(HARNESS / "race_wakeups.c", MEMORY, link=wrapped)

    assert run([program]) == "12 races, nothing lost\n"


def test_lock_of_a_receive_ring_is_had_in_turn(builder: Builder) -> None:
    """By the C library's mutex one waited for 450 ms, while another had it thousands of times."""
    for flags in (THREADS, FAST):
        output = run([builder.program(HARNESS / "stress_ticket.c", flags), "2000"])
        waited = re.search(r"had (\d+), waited for (\d+) ", output)
        assert waited, output
        assert int(waited[1]) > 3000
        assert int(waited[2]) <= 3, output


def test_end_of_postcopy_leaves_nobody_waiting(builder: Builder) -> None:
    """A page is touched just when the registration ends: without the wake-up after it, a few rounds hang."""
    program = builder.program(HARNESS / "stress_unregister.c", MEMORY)

    assert run([program, "20000"]) == "rounds 20000\n"
