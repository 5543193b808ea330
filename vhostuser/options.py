"""Reads the words that a user types: on and off, numbers within bounds, `KEY=VALUE,...`, near matches.

Shared by port specs, the configuration and the command line, so that the same mistake gets the same
sentence everywhere. What a key means is known only by its owner.
"""

from __future__ import annotations

from collections.abc import Iterable

from vhostuser.errors import UsageError

_SWITCHES = {
    **dict.fromkeys(("on", "yes", "true", "1"), True),
    **dict.fromkeys(("off", "no", "false", "0"), False),
}


def near_match(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' when a known word is close to `word`, else nothing: ready to end a sentence."""
    import difflib  # 12 ms, needed only when something is wrong

    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f" (did you mean '{names[close[0]]}'?)" if close else ""


def parse_switch(key: str, text: str) -> bool:
    """on or off (yes/no, true/false, 1/0), else UsageError."""
    try:
        return _SWITCHES[text.lower()]
    except KeyError:
        raise UsageError(f"{key}={text} is neither on nor off") from None


def parse_number(key: str, text: str, low: int, high: int) -> int:
    """A decimal number from `low` to `high`, else UsageError."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise UsageError(f"{key}={text} is not a number from {low} to {high}")
    return check_range(key, int(text), low, high)


def check_range(key: str, value: int, low: int, high: int) -> int:
    """`value` when it lies from `low` to `high`, else UsageError."""
    if not low <= value <= high:
        raise UsageError(f"{key}={value} is out of range: it may be {low} to {high}")
    return value


def split_pairs(what: str, text: str, keys: Iterable[str]) -> list[tuple[str, str]]:
    """`KEY=VALUE,...` as pairs, in order; UsageError for a key that is not in `keys` or lacks its value.

    `what` names the thing that the text belongs to and begins the error sentence.
    """
    known = tuple(keys)
    pairs = []
    for word in text.split(","):
        key, equals, value = word.partition("=")
        check_key(what, key, known)
        if not equals or not value:
            raise UsageError(f"{what}: '{key}' needs a value, as in {key}=VALUE")
        pairs.append((key, value))
    return pairs


def check_key(what: str, key: str, known: Iterable[str]) -> None:
    """UsageError with the near match when `key` is not one of `known`."""
    names = tuple(known)
    if key in names:
        return
    choice = near_match(key, names) or (
        f"; it takes {', '.join(names)}" if names else "; it takes no options"
    )
    raise UsageError(f"{what}: unknown option '{key}'{choice}")
