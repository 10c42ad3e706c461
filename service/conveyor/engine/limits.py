"""How much an engine may hold, where it runs, and how much it holds now."""

from dataclasses import dataclass
from math import inf
from typing import Literal

Provider = Literal["auto", "cpu", "cuda"]
PROVIDERS: tuple[Provider, ...] = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one engine. Times are seconds.

    Raises:
        ValueError: every field that is out of range, one line each.
    """

    num_slots: int = 4096
    max_sessions: int = 100_000
    max_batch: int = 256
    max_run_steps: int = 64
    max_chunk_steps: int = 4096
    max_waiting_chunks: int = 16_384
    prefix_cache_bytes: int = 64 << 20
    idle_timeout: float = 600.0
    max_idle_timeout: float = 86_400.0
    max_lifetime: float = 604_800.0

    @property
    def num_rows(self) -> int:
        """Rows of an arena of states: the first is no session's, and a run writes a batch of rows that none has yet."""
        return 1 + self.num_slots + self.max_batch

    def __post_init__(self) -> None:
        counts = ("num_slots", "max_sessions", "max_batch", "max_run_steps", "max_chunk_steps", "max_waiting_chunks")
        problems = [f"{name}: must be at least 1, got {value}" for name in counts if (value := getattr(self, name)) < 1]
        if self.prefix_cache_bytes < 0:
            problems.append(f"prefix_cache_bytes: must be at least 0, got {self.prefix_cache_bytes}")
        times = ("idle_timeout", "max_idle_timeout", "max_lifetime")
        problems += [
            f"{name}: must be above 0 s and finite, got {value}"
            for name in times
            if not 0 < (value := getattr(self, name)) < inf
        ]
        if self.idle_timeout > self.max_idle_timeout:
            problems.append(f"idle_timeout: {self.idle_timeout} s is above max_idle_timeout, {self.max_idle_timeout} s")
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Device:
    """Where models run. `num_threads` 0 takes what affinity and cgroup quota allow.

    Raises:
        ValueError: every field that is out of range, one line each.
    """

    provider: Provider = "auto"
    num_threads: int = 0
    device_id: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.provider not in PROVIDERS:
            problems.append(f"provider: must be one of {', '.join(PROVIDERS)}, got {self.provider!r}")
        for name in ("num_threads", "device_id"):
            if not 0 <= (value := getattr(self, name)) <= 1024:
                problems.append(f"{name}: must be 0 to 1024, got {value}")
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine holds at this moment. `num_waiting` counts chunks and generations that have not finished.

    `num_unstored` are the steps of the `num_durable` sessions with durability that are in no checkpoint yet.
    """

    num_sessions: int
    num_resident: int
    num_spilled: int
    num_slots: int
    num_free_slots: int
    arena_bytes: int
    spilled_bytes: int
    context_bytes: int
    num_waiting: int
    prefix_bytes: int
    num_durable: int = 0
    num_unstored: int = 0
