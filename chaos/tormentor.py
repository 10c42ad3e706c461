"""All that can go wrong, made to go wrong: in random order, one thing at a time."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from deploy.local.layout import Layout
from deploy.local.process import Process
from deploy.local.replica import Replica

from chaos.load import Load
from chaos.trail import Entry

COUNTERS = ("conveyor_fencing_refusals_total", "conveyor_resumes_total")
KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Torment:
    """Something that was done, from when until the next, on the machine's monotonic clock."""

    name: str
    begun: float
    ended: float


class Tormentor:
    """Torments a layout and the clients' connections; what comes when depends on `random` alone.

    `done` is what was done, in order; `deeds` are its parts, each with what it was done to; `counters` sums up the
    replicas' metrics over all their lives.
    """

    def __init__(self, layout: Layout, loads: Sequence[Load], random: Random) -> None:
        self._layout = layout
        self._loads = loads
        self._random = random
        self.deeds: list[Entry] = []
        self.done: list[Torment] = []
        self.counters: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Goes on in rounds, each of every torment once, for so long; the first round is always whole."""
        torments: dict[str, Callable[[], None]] = {
            "replica killed": self._kill,
            "replica stopped": self._stop,
            "replica paused": self._pause,
            "Valkey killed": self._kill_valkey,
            "Envoy restarted": self._restart_envoy,
            "connections cut": self._cut,
            "rolling restart": self._roll,
        }
        end = time.monotonic() + seconds
        while not self.done or time.monotonic() < end:
            for name in self._random.sample(sorted(torments), len(torments)):
                if len(self.done) < len(torments) or time.monotonic() < end:
                    self._torment(name, torments[name])

    def count(self) -> None:
        """Adds the metrics of the replicas as they are now. Call it once, at the end."""
        for replica in self._layout.replicas:
            self._count(replica)

    def _torment(self, name: str, torment: Callable[[], None]) -> None:
        begun = time.monotonic()
        torment()
        self._recover()
        print(f"{name}: all is well after {time.monotonic() - begun:.1f} s", flush=True)
        self._wait(0, 1)
        self.done.append(Torment(name, begun, time.monotonic()))

    def _recover(self) -> None:
        """Waits until Envoy sends to every replica, and every client has its answer."""
        self._layout.wait_healthy()
        for load in self._loads:
            load.settle()

    def _kill(self) -> None:
        replica = self._random.choice(self._layout.replicas)
        self._count(replica)
        self._note(replica, KILLED)
        replica.kill()
        self._wait(0, 2)
        self._start(replica)

    def _stop(self) -> None:
        self._restart(self._random.choice(self._layout.replicas))

    def _pause(self) -> None:
        replica = self._random.choice(self._layout.replicas)
        self._note(replica, "paused")
        replica.pause()
        self._wait(1, 5)
        self._note(replica, "goes on")
        replica.resume()

    def _kill_valkey(self) -> None:
        self._note(self._layout.valkey, KILLED)
        self._layout.valkey.kill()
        self._wait(0, 2)
        self._start(self._layout.valkey)

    def _restart_envoy(self) -> None:
        self._note(self._layout.envoy, "stopped")
        self._layout.envoy.stop()
        self._wait(0, 1)
        self._start(self._layout.envoy)

    def _cut(self) -> None:
        self._random.choice(self._loads).cut()

    def _roll(self) -> None:
        for replica in self._layout.replicas:
            self._restart(replica)
            self._recover()

    def _restart(self, replica: Replica) -> None:
        self._count(replica)
        self._note(replica, "stopped")
        if status := replica.stop():
            raise RuntimeError(f"{replica.name} ended with status {status} when it was asked to stop")
        self._start(replica)

    def _count(self, replica: Replica) -> None:
        for name in COUNTERS:
            self.counters[name] += int(replica.counter(name))

    def _wait(self, least: float, most: float) -> None:
        time.sleep(self._random.uniform(least, most))

    def _start(self, process: Process) -> None:
        process.start()
        process.wait_ready()
        self._note(process, "ready again")

    def _note(self, process: Process, deed: str) -> None:
        self.deeds.append(Entry(time.time(), process.name, deed))
