"""A session whose servers are lost, paused and robbed at any moment: each answer comes once, in order and right."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from conveyor.client.errors import Aborted, ReplayLost
from tests.client.world import NUM_SERVERS, World

TOKEN = st.integers(1, 99)
SERVERS = st.integers(0, NUM_SERVERS - 1)


class Trouble(RuleBasedStateMachine):
    """Gives chunks to a session while its servers come and go."""

    max_bytes = 1 << 20
    world: World

    @initialize()
    def begin(self) -> None:
        """Opens the session."""
        self.world = World(self.max_bytes)

    @rule(chunks=st.lists(st.tuples(st.lists(TOKEN, min_size=1, max_size=4), st.booleans()), min_size=1, max_size=3))
    def give(self, chunks: list[tuple[list[int], bool]]) -> None:
        """Chunks are given, all at once."""
        for tokens, scores in chunks:
            self.world.give(tokens, scores)

    @precondition(lambda self: self.world.requests)
    @rule(count=st.integers(1, 4), saves=st.booleans())
    def serve(self, count: int, saves: bool) -> None:
        """Chunks reach the server, which may store a checkpoint after each."""
        for _ in range(min(count, len(self.world.requests))):
            self.world.serve()
            if saves:
                self.world.save(self.world.leads_to)

    @precondition(lambda self: self.world.outcomes)
    @rule(count=st.integers(1, 4))
    def hear(self, count: int) -> None:
        """Answers reach the client."""
        for _ in range(min(count, len(self.world.outcomes))):
            self.world.hear()

    @rule(server=SERVERS)
    def wake(self, server: int) -> None:
        """Some server stores a checkpoint, or finds out that it has lost the session."""
        self.world.save(server)

    @rule(server=SERVERS)
    def reconnect(self, server: int) -> None:
        """The connection breaks."""
        self.world.reconnect(server)

    @rule(server=SERVERS)
    def crash(self, server: int) -> None:
        """The stream's server is lost."""
        self.world.crash(self.world.leads_to)
        self.world.reconnect(server)

    @rule(server=SERVERS)
    def steal(self, server: int) -> None:
        """Another server takes the session behind the stream's back."""
        self.world.steal(server)

    @rule()
    def settle(self) -> None:
        """For a while nothing happens."""
        self.world.settle()

    @invariant()
    def answers_are_right(self) -> None:
        """What was answered is an unbroken beginning of what was given, each answer made of all inputs before it."""
        world = self.world
        num_answered = sum(future.done() for future in world.futures)
        for number, future in enumerate(world.futures):
            assert future.done() == (number < num_answered)
            if future.done():
                assert future.result().position == world.ends[number]
                assert future.result().epoch >= (world.futures[number - 1].result().epoch if number else 0)
                assert list(future.result().log_probabilities) == world.given[: world.ends[number]]

    def teardown(self) -> None:
        """In the end every answer is there."""
        if hasattr(self, "world"):
            self.world.reconnect(0)
            self.world.settle()
            assert all(future.done() for future in self.world.futures)
            for future in self.world.futures:
                future.exception()  # asyncio complains of one that nobody looked at
            self.answers_are_right()
            self.world.loop.close()


class BoundTrouble(Trouble):
    """The same with a small buffer: what was dropped may be missed, and that is said."""

    max_bytes = 600

    @invariant()
    def answers_are_right(self) -> None:
        """Answers are right and in order until one says that inputs are missing."""
        world = self.world
        errors: list[Any] = []
        for number, future in enumerate(world.futures):
            if not future.done() or errors:
                continue
            if future.exception() is None:
                assert list(future.result().log_probabilities) == world.given[: world.ends[number]]
            else:
                errors.append(future.exception())
        assert all(isinstance(error, ReplayLost | Aborted) for error in errors)


for machine in (Trouble, BoundTrouble):
    machine.TestCase.settings = settings(max_examples=250, stateful_step_count=40)

TestTrouble = Trouble.TestCase
TestBoundTrouble = BoundTrouble.TestCase
