"""One client's use of sessions: opens one, uses it at random, and has the referee check each answer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from time import monotonic, time
from typing import TypeVar

from chaos.referee import TOLERANCE, Record, Referee
from chaos.tally import Gone, Pause, Tally
from conveyor.client import Client, ClientError, GeneratedToken, NotFound, Session

# Short enough that the referee, who runs every sequence alone, keeps up on one core.
MEAN_STEPS = 8
MAX_GENERATED = 40
MAX_REST_SECONDS = 3.0
PAUSE_SECONDS = 0.5
BURST = 3  # chunks in flight at once
HANDOVER_SHARE = 0.05
VOCABULARY = 85

Answer = TypeVar("Answer")
# Asks every replica for a session, and returns the name of the one that has it, or nothing.
FindHolder = Callable[[str], Awaitable[str]]


class Player:
    """Uses sessions of one durability, one after another: the next is opened where one is gone."""

    def __init__(
        self,
        clients: Sequence[Client],
        referee: Referee,
        tally: Tally,
        durability: str,
        random: Random,
        find_holder: FindHolder,
    ) -> None:
        self._clients = clients
        self._referee = referee
        self._tally = tally
        self._durability = durability
        self._random = random
        self._find_holder = find_holder
        self._current = "open"  # the move that is made
        self._is_resting = asyncio.Event()

    async def open(self) -> None:
        """Opens a session on one of the clients."""
        self._seed = self._random.getrandbits(63)
        self._client = self._random.choice(self._clients)
        self._session: Session = await self._client.open(seed=self._seed, durability=self._durability)
        self._record: Record = self._referee.begin()
        self._last_answer = time()
        self._tally.num_sessions += 1

    async def play(self, end: asyncio.Event) -> None:
        """Uses the session until `end` is set, and then looks at it once more."""
        moves = (self._step, self._rank, self._score, self._generate, self._burst)
        while not end.is_set():
            await self._move(self._random.choice(moves))
            await asyncio.sleep(self._random.uniform(0, MAX_REST_SECONDS))
        await self._move(self._look)
        await self._move(self._step)
        await self._move(self._close)

    async def settle(self) -> None:
        """Waits until what is under way now has been answered."""
        await self._is_resting.wait()

    async def _move(self, move: Callable[[], Awaitable[None]]) -> None:
        self._is_resting.clear()
        try:
            if self._random.random() < HANDOVER_SHARE:
                await self._make(self._hand_over)
            await self._make(move)
        except ClientError as error:
            await self._lose(error)
            self._leave()
            await self.open()
        finally:
            self._is_resting.set()

    async def _make(self, move: Callable[[], Awaitable[None]]) -> None:
        self._current = move.__name__.strip("_")
        await move()

    async def _lose(self, error: ClientError) -> None:
        if not isinstance(error, NotFound):
            self._tally.num_failed += 1
            self._note(f"{type(error).__name__}: {error.message}")
            return
        noticed, holder = time(), await self._find_holder(self._session.id)
        what = f"{self._current}: {error.message}"
        gone = Gone(self._session.id, self._durability, self._last_answer, noticed, holder, what)
        self._tally.gone.append(gone)

    def _note(self, what: str) -> None:
        self._tally.notes.append(f"{self._durability} session {self._session.id} at {self._record.position}: {what}")

    def _leave(self) -> None:
        self._tally.num_replayed += self._session.replayed_steps

    async def _step(self) -> None:
        tokens = self._tokens()
        result = await self._asked(self._session.step(tokens, outputs=["logits"]))
        self._judge(self._record.stepped(tokens, result["logits"].numpy()), result.position, len(tokens))

    async def _rank(self) -> None:
        tokens = self._tokens()
        result = await self._asked(self._session.step(tokens, top_k=5, last_only=True))
        self._judge(self._record.ranked(tokens, result.top_tokens), result.position, len(tokens))

    async def _score(self) -> None:
        tokens = self._tokens()
        scores = await self._asked(self._session.score(tokens))
        self._judge(self._record.scored(tokens, scores), self._session.position, len(tokens))

    async def _burst(self) -> None:
        chunks = [self._tokens() for _ in range(BURST)]
        steps = [self._asked(self._session.step(tokens, outputs=["logits"])) for tokens in chunks]
        results = await asyncio.gather(*steps, return_exceptions=True)
        for tokens, result in zip(chunks, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            self._judge(self._record.stepped(tokens, result["logits"].numpy()), result.position, len(tokens))

    async def _generate(self) -> None:
        prompt, temperature = self._tokens(), self._random.choice([0.7, 1.0])
        drawn: list[GeneratedToken] = []
        begun = monotonic()
        try:
            async for token in self._session.generate(
                prompt, max_tokens=self._random.randint(1, MAX_GENERATED), temperature=temperature
            ):
                drawn.append(token)
                self._waited(begun)
                begun, self._last_answer = monotonic(), time()
        finally:
            self._waited(begun)
            if drawn:
                difference = self._record.generated(prompt, drawn, self._seed, temperature)
                self._tally.num_generated += len(drawn)
                self._judge(difference, drawn[-1].position, len(prompt) + len(drawn))

    async def _close(self) -> None:
        self._leave()
        await self._session.close()

    async def _look(self) -> None:
        """What the server says when asked. With ASYNC it may be behind, and is led back by the next step."""
        info = await self._asked(self._session.refresh())
        self._judge(0.0, self._session.position if self._durability == "async" else info.position, 0)

    async def _hand_over(self) -> None:
        """Another client takes the session up by its id. With nothing of it to send again it can count on SYNC."""
        if self._durability != "sync":
            return
        self._leave()
        self._client = self._random.choice(self._clients)
        self._session = await self._asked(self._client.session(self._session.id))
        self._tally.num_handovers += 1
        self._judge(0.0, self._session.position, 0)

    def _tokens(self) -> list[int]:
        """Random tokens; the vocabulary's entry 0 too."""
        count = 1 + int(self._random.expovariate(1 / MEAN_STEPS))
        return [self._random.randrange(VOCABULARY) for _ in range(count)]

    async def _asked(self, answer: Awaitable[Answer]) -> Answer:
        begun = monotonic()
        try:
            result = await answer
            self._last_answer = time()
            return result
        finally:
            self._waited(begun)

    def _waited(self, begun: float) -> None:
        if (ended := monotonic()) - begun > PAUSE_SECONDS:
            self._tally.pauses.append(Pause(f"{self._durability} {self._current}", begun, ended))

    def _judge(self, difference: float, position: int, num_steps: int) -> None:
        tally, missing = self._tally, self._record.position - position
        tally.num_answers += 1
        tally.num_steps += num_steps
        tally.num_lost += max(missing, 0)
        tally.num_doubled += max(-missing, 0)
        tally.num_wrong += difference > TOLERANCE
        tally.largest_difference = max(tally.largest_difference, difference)
        if missing or difference > TOLERANCE:
            self._note(f"answered with position {position}, and off by {difference:g}")
