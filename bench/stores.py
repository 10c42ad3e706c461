"""Steps of sessions that are stored, beside those of sessions that are not."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import free_ports
from deploy.local.valkey import KEPT, Valkey
from tqdm import tqdm

from bench.coalesced import Coalesced
from bench.measurement import Measurement
from bench.server import Server
from bench.worker import Worker

NUM_SESSIONS = 256
SECONDS = 1.5  # of each measurement: short, so that a slow moment of the machine falls on both that are compared


@dataclass(frozen=True, slots=True)
class Case:
    """Sessions of a durability on a server of a store."""

    store: str
    durability: str

    @property
    def title(self) -> str:
        """As it stands in the report."""
        return f"{self.durability.upper()}, {self.store}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A case, between two measurements of a server without a store: the machine's drift falls on both sides."""

    before: Measurement
    stored: Measurement
    after: Measurement

    @property
    def reference(self) -> float:
        """Steps a second without a store."""
        return (self.before.rate + self.after.rate) / 2

    @property
    def ratio(self) -> float:
        """The case's steps a second over those without a store."""
        return self.stored.rate / self.reference


STORES = ("SQLite", "Valkey in memory", "Valkey with appendonly")
REFERENCE = Case("no store", "none")
# The first stores nothing either: it shows how far two equal measurements are apart.
CASES = (Case("SQLite", "none"), *(Case(store, mode) for store in STORES for mode in ("async", "sync")))


def measure_stores(
    model: Path, folder: Path, num_rounds: int, seconds: float = SECONDS
) -> list[dict[Case, Comparison]]:
    """Starts a server and a client for each case, all in processes of their own, and measures round after round."""
    with ExitStack() as stack:
        flags = {
            "no store": (),
            "SQLite": ("--store", "sqlite"),
            "Valkey in memory": _valkey(stack, folder / "memory"),
            "Valkey with appendonly": _valkey(stack, folder / "appendonly", *KEPT),
        }
        clients = dict[Case, Worker]()
        for number, case in enumerate((REFERENCE, *CASES)):
            options = (*flags[case.store], "--state-dir", str(folder / f"state-{number}"))
            server = stack.enter_context(Server.conveyor(model, *options))
            clients[case] = stack.enter_context(Worker(Coalesced, server.address, case.durability))
        return [_measure_round(clients, seconds) for _ in tqdm(range(num_rounds), desc="stores", disable=None)]


def _valkey(stack: ExitStack, folder: Path, *options: str) -> tuple[str, ...]:
    folder.mkdir()
    return "--store", stack.enter_context(Valkey(folder, free_ports(1)[0], *options)).url


def _measure_round(clients: dict[Case, Worker], seconds: float) -> dict[Case, Comparison]:
    measured = {}
    before = clients[REFERENCE].measure(NUM_SESSIONS, seconds)
    for case in CASES:
        stored = clients[case].measure(NUM_SESSIONS, seconds)
        after = clients[REFERENCE].measure(NUM_SESSIONS, seconds)
        measured[case] = Comparison(before, stored, after)
        before = after
    return measured
