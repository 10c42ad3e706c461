"""Starting a server whose SQLite file is full of sessions, beside one whose folder is empty."""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench.server import Server
from conveyor.client.client import Client
from conveyor.engine.checkpoint import Head, State, encode_head, encode_state
from conveyor.engine.durability import Durability, Mode
from conveyor.graph.arena import Arena, pack_states
from conveyor.graph.model_file import read_model
from conveyor.store.opening import SQLITE_FILE
from conveyor.store.sqlite import SqliteStore
from conveyor.store.store import Save

BATCH = 1000  # sessions of one transaction
POSITION = 1000
LIFE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds until a process that was started listens, and from then on until a client that connects has a step."""

    ready: float
    step: float


async def fill(model: Path, state: Path, num_sessions: int) -> None:
    """Stores sessions with random states of the model, as a server would; their ids are the numbers from 0 on."""
    file = read_model(model)
    arenas = pack_states(file.signature)
    now = time.time()
    head = Head(
        *(model.stem, 1, file.fingerprint, 0, now, LIFE_SECONDS, now + LIFE_SECONDS), durability=Durability(Mode.ASYNC)
    )
    head_bytes = encode_head(head, ())
    random = np.random.default_rng(0)
    store = SqliteStore(state / SQLITE_FILE, timeout=60.0)
    for start in range(0, num_sessions, BATCH):
        ids = map(str, range(start, min(start + BATCH, num_sessions)))
        saves = [
            Save(session_id, 0, POSITION, _state(arenas, random), 0, LIFE_SECONDS, head_bytes) for session_id in ids
        ]
        await store.create(saves)
    await store.stop()


def _state(arenas: Sequence[Arena], random: np.random.Generator) -> bytes:
    rows: dict[str, Any] = {arena.name: random.random(arena.width, np.float32) for arena in arenas}
    return encode_state(State(POSITION, None, None, rows), arenas)


async def measure_start(model: Path, state: Path, session_id: str | None) -> Start:
    """Starts a server and steps one session: a stored one, or with None a new one.

    The files are out of the system's memory before, as they are after the machine was started.
    """
    forget(state)
    begun = perf_counter()
    server = await asyncio.to_thread(Server.conveyor, model, "--store", "sqlite", "--state-dir", str(state))
    ready = perf_counter()
    with server:
        async with Client(server.address) as client:
            session = await (client.open() if session_id is None else client.session(session_id))
            await session.step([1], top_k=1)
            answered = perf_counter()
    return Start(ready - begun, answered - ready)


def forget(folder: Path) -> None:
    """Has the system drop what it holds of the files in a folder."""
    for path in files_in(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def files_in(folder: Path) -> list[Path]:
    """The files of a folder and of those within it."""
    return [path for path in folder.rglob("*") if path.is_file()]
