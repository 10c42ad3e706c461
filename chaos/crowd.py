"""The sessions of one process: clients, each over a wire of its own, and the players who share them."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc

from chaos.player import Player
from chaos.referee import Referee
from chaos.tally import Tally
from chaos.wire import Wire
from conveyor.client import Client, connect
from conveyor.v1 import sequence_service_pb2_grpc, session_pb2

NUM_CLIENTS = 2
DURABILITIES = ("none", "async", "sync")
TIMEOUT_SECONDS = 60.0
_LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a crowd needs to know. `replicas` are addresses by name, to ask them past the proxy."""

    address: str
    replicas: dict[str, str]
    model: Path
    num_sessions: int
    seed: int


class Crowd:
    """Plays until told to end; all that happens in it comes from the plan's seed, and from what the service does."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = Random(plan.seed)  # noqa: S311 - to be repeated, not to be secret
        self._tally = Tally()
        self._end = asyncio.Event()

    async def start(self) -> None:
        """Connects and opens all sessions."""
        self._wires = [Wire(self._plan.address) for _ in range(NUM_CLIENTS)]
        for wire in self._wires:
            await wire.start()
        self._clients = [self._connect(wire.address) for wire in self._wires]
        referee = Referee(self._plan.model)
        self._players = [self._player(number, referee) for number in range(self._plan.num_sessions)]
        await asyncio.gather(*(player.open() for player in self._players))
        self._playing = asyncio.gather(*(player.play(self._end) for player in self._players))

    def cut(self) -> None:
        """Breaks the connections of one client."""
        self._random.choice(self._wires).cut()
        self._tally.num_cuts += 1

    async def settle(self) -> None:
        """Waits until every player has the answer that it waits for now."""
        await asyncio.gather(*(player.settle() for player in self._players))

    async def finish(self) -> Tally:
        """Lets each player look at its session once more; returns what all have seen."""
        self._end.set()
        await self._playing
        for client, wire in zip(self._clients, self._wires, strict=True):
            self._tally.num_fenced += client.fenced_answers
            await client.close()
            await wire.stop()
        return self._tally

    def _connect(self, address: str) -> Client:
        return connect(address, timeout=TIMEOUT_SECONDS, shards=64)

    def _player(self, number: int, referee: Referee) -> Player:
        random = Random(self._random.getrandbits(64))  # noqa: S311
        durability = DURABILITIES[number % len(DURABILITIES)]
        return Player(self._clients, referee, self._tally, durability, random, self._find_holder)

    async def _find_holder(self, session_id: str) -> str:
        for name, address in self._plan.replicas.items():
            if await _has_session(address, session_id):
                return name
        return ""


async def _has_session(address: str, session_id: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)  # type: ignore[no-untyped-call]
        try:
            await stub.GetSession(session_pb2.GetSessionRequest(session_id=session_id), timeout=_LOOK_SECONDS)
        except grpc.aio.AioRpcError:
            return False
    return True
