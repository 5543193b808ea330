"""From what was asked for to the cases: every combination, in the order in which they are measured."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from vhostuser.errors import UsageError
from vhostuser.frontend.bench.model import Case, Work
from vhostuser.wire.features import VirtioFeature, parse_feature

OUR_WORKS = (Work.SINK, Work.ECHO, Work.LATENCY)
"""What is measured of our own server unless something is asked for."""
_SHORTEST, _LONGEST = 60, 65535
_MOST_PAIRS = 64


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for; every list is combined with every other."""

    sockets: Sequence[str] = ()
    """Of a back-end that runs already; empty for a server of our own."""
    works: Sequence[Work] = ()
    sizes: Sequence[int] = (64, 1500)
    rings: Sequence[int] = (1024,)
    queues: Sequence[int] = (1,)
    formats: Sequence[str] = ("split",)
    polls: Sequence[str] = ()
    """`loop` is the event loop, the others are threads with `--poll`."""
    features: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()


def cases(choice: Choice) -> list[Case]:
    """UsageError for what cannot be measured, before anything is."""
    works = tuple(choice.works) or ((Work.ECHO,) if choice.sockets else OUR_WORKS)
    _check_sockets(choice, works)
    for name in (*choice.features, *choice.disabled):
        if not isinstance(parse_feature(name), VirtioFeature):
            raise UsageError(f"'{name}' is a feature of the protocol, not one that a driver chooses")
    _check_range("size", choice.sizes, _SHORTEST, _LONGEST)
    _check_range("ring", choice.rings, 2, 32768)
    _check_range("queues", choice.queues, 1, _MOST_PAIRS)
    polls: Sequence[str | None] = (None,) if choice.sockets else choice.polls or ("loop", "busy")
    made = []
    for work, poll, queues, form, ring, size in itertools.product(
        works, polls, choice.queues, choice.formats, choice.rings, choice.sizes
    ):
        if form == "split" and ring & (ring - 1):
            raise UsageError(f"a split ring of {ring} entries: it has to be a power of two")
        if work is Work.LATENCY and queues > 1:
            continue  # one frame at a time is on one pair
        made.append(
            Case(
                work=work,
                size=size,
                ring=ring,
                queues=queues,
                packed=form == "packed",
                poll=poll,
                features=choice.features,
                disabled=choice.disabled,
            )
        )
    if not made:
        raise UsageError("latency is measured on one pair: add 1 to --queues")
    return made


def _check_sockets(choice: Choice, works: Sequence[Work]) -> None:
    if choice.sockets and choice.polls:
        raise UsageError("--poll is for a server of our own, not for one at --socket-path")
    needed = 2 if Work.PAIR in works else 1
    if choice.sockets and len(choice.sockets) != needed:
        raise UsageError(
            f"{len(choice.sockets)} x --socket-path: "
            + ("pair needs two, of the sender and of the receiver" if needed == 2 else "one is measured")
        )


def _check_range(what: str, values: Sequence[int], least: int, most: int) -> None:
    for value in values:
        if not least <= value <= most:
            raise UsageError(f"--{what} {value} is out of range: it may be {least} to {most}")
