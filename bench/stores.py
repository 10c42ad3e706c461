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
class Pair:
    """A case, and sessions of a server without a store right before it."""

    reference: Measurement
    stored: Measurement

    @property
    def ratio(self) -> float:
        """The case's steps a second over those without a store."""
        return self.stored.rate / self.reference.rate


STORES = ("SQLite", "Valkey in memory", "Valkey with appendonly")
REFERENCE = Case("no store", "none")
# The first stores nothing either: it shows how far two equal measurements are apart.
CASES = (Case("SQLite", "none"), *(Case(store, mode) for store in STORES for mode in ("async", "sync")))


def measure_stores(model: Path, folder: Path, num_rounds: int, seconds: float = SECONDS) -> list[dict[Case, Pair]]:
    """Starts every server and every client in its own process, and measures the pairs round after round."""
    with ExitStack() as stack:
        options = {
            "no store": (),
            "SQLite": ("--store", "sqlite", "--state-dir", str(folder / "state")),
            "Valkey in memory": _valkey(stack, folder / "memory"),
            "Valkey with appendonly": _valkey(stack, folder / "appendonly", *KEPT),
        }
        servers = {store: stack.enter_context(Server.conveyor(model, *flags)) for store, flags in options.items()}
        clients = {
            case: stack.enter_context(Worker(Coalesced, servers[case.store].address, case.durability))
            for case in (REFERENCE, *CASES)
        }
        rounds = tqdm(range(num_rounds), desc="stores", disable=None)
        return [{case: _pair(clients[REFERENCE], clients[case], seconds) for case in CASES} for _ in rounds]


def _valkey(stack: ExitStack, folder: Path, *options: str) -> tuple[str, ...]:
    folder.mkdir()
    return "--store", stack.enter_context(Valkey(folder, free_ports(1)[0], *options)).url, "--state-dir", str(folder)


def _pair(reference: Worker, stored: Worker, seconds: float) -> Pair:
    return Pair(reference.measure(NUM_SESSIONS, seconds), stored.measure(NUM_SESSIONS, seconds))
