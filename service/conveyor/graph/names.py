"""What the names of a state and of what replaces it have in common: `h` and `hn`, `state` and `stateN`."""

import re

# What exporters put before or after the name of the thing itself.
OLD_WORDS = {"in", "input", "prev", "previous", "past", "last", "old", "init", "initial", "cur", "current"}
NEW_WORDS = {"out", "output", "new", "next", "present", "updated", "final", "n"}
# Words of what is kept from step to step; `in` and `out` alone may as well be said of what streams through.
MEMORY_WORDS = {
    *("state", "states", "hidden", "cell", "cache", "cached", "caches", "memory", "mem", "carry", "buffer", "buf"),
    *("count", "counter"),
    *("h", "c", "hx", "cx", "rnn", "lstm", "gru", "past", "prev", "previous", "new", "next", "present", "n"),
}


def old_stems(name: str) -> tuple[str, ...]:
    """What a state's name may be about, likeliest first; an empty stem is none."""
    return _stems(name, OLD_WORDS, "0")


def new_stems(name: str) -> tuple[str, ...]:
    """The same of the output that replaces it."""
    return _stems(name, NEW_WORDS, "1")


def tells_of_memory(*names: str) -> bool:
    """True if one of the names says that it is of something kept."""
    return any(word in MEMORY_WORDS for name in names for word in _words(name))


def _stems(name: str, decorations: set[str], number: str) -> tuple[str, ...]:
    words = _words(name)
    bare = [word for word in words if word not in decorations]
    unnumbered = [word for word in bare if word != number]
    return tuple(dict.fromkeys(" ".join(each) for each in (words, bare, unnumbered) if each))


def _words(name: str) -> list[str]:
    """`lstm_hn`, `stateN` and `h0` are of several words: the small letters, what stands apart, and numbers."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", name)
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]
    return [part for word in words for part in ([word[0], "n"] if word in ("hn", "cn") else [word])]
