"""Names of versions of a model, and the share of the new sessions that each takes. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256

# Takes the sessions that name neither a version nor an alias and fall in no other's share.
STABLE = "stable"


@dataclass(frozen=True, slots=True)
class Alias:
    """A version, and the percentage that it takes of the sessions that name neither a version nor an alias."""

    version: int
    percent: int = 0


def moved(before: Mapping[str, Alias], wanted: Mapping[str, Alias], open_versions: Collection[int]) -> dict[str, Alias]:
    """The aliases that are wanted; one whose version is not open stays where it was, if that is."""
    staying = {name: alias for name, alias in before.items() if alias.version in open_versions}
    return {
        name: alias if alias.version in open_versions else staying.get(name, alias) for name, alias in wanted.items()
    }


def shared_version(aliases: Mapping[str, Alias], model: str, session_id: str) -> int:
    """The version for a session that names none; 0 for the newest.

    It depends on the id alone, so that all servers choose the same, and an alias whose share grows keeps the ids that
    it had, as far as those before it in the order of names keep theirs.
    """
    place, end = _place(model, session_id), 0
    for name in sorted(aliases):
        end += aliases[name].percent
        if place < end:
            return aliases[name].version
    return aliases[STABLE].version if STABLE in aliases else 0


def _place(model: str, session_id: str) -> float:
    """From 0 to 100, evenly over the ids."""
    digest = sha256(f"{model}/{session_id}".encode()).digest()
    return int.from_bytes(digest[:6]) * 100 / 2**48
