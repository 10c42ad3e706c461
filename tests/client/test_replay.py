"""What is sent again leads a session to the state that it had."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor.client.errors import ReplayLost
from conveyor.client.replay import MESSAGE_BYTES, STRETCH_TOKENS, Replay
from conveyor.v1 import step_pb2, tensor_pb2

TOKENS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
PLENTY = 1 << 20


@dataclass(frozen=True)
class State:
    """All that a chunk changes in a session: what was consumed, the pending token, the tokens for penalties."""

    consumed: tuple[object, ...] = ()
    pending: int | None = None
    seen: tuple[int, ...] | None = None

    def after(self, chunk: step_pb2.Chunk) -> "State":
        """What a server makes of a chunk."""
        assert chunk.position == len(self.consumed)
        if chunk.inputs:
            return State((*self.consumed, *chunk.inputs["x"].data))
        tokens = tuple(chunk.tokens)
        seen = self.seen if self.seen is not None or not chunk.scoring.remember else ()
        pending = tokens[-1] if chunk.HasField("scoring") else None
        return State((*self.consumed, *tokens), pending, None if seen is None else seen + tokens)


def scored(position: int, tokens: list[int]) -> step_pb2.Chunk:
    """A chunk whose last token stays pending."""
    return step_pb2.Chunk(position=position, tokens=tokens, scoring=step_pb2.Scoring())


def plain(position: int, tokens: list[int]) -> step_pb2.Chunk:
    """A chunk with a wish that is dropped when it is sent again."""
    return step_pb2.Chunk(position=position, tokens=tokens, outputs=step_pb2.Outputs(names=["logits"]))


def tensors(position: int, values: list[int]) -> step_pb2.Chunk:
    """A chunk of a model that takes arrays."""
    return step_pb2.Chunk(position=position, inputs={"x": tensor_pb2.Tensor(data=bytes(values))})


def generated(position: int, tokens: list[int]) -> step_pb2.Chunk:
    """What a generation is to the session."""
    return step_pb2.Chunk(position=position, tokens=tokens, scoring=step_pb2.Scoring(remember=True))


def keep(replay: Replay, state: State, kind: str, tokens: list[int]) -> State:
    """Has the session consume something, and the buffer keep it."""
    position = len(state.consumed)
    if kind == "generated":
        replay.keep_generated(position, tokens)
        return state.after(generated(position, tokens))
    chunk = (scored if kind == "scored" else plain)(position, tokens)
    replay.keep(chunk, tokens, position, len(tokens))
    return state.after(chunk)


def again(replay: Replay, state: State) -> State:
    """The state after all that is to be sent again from here."""
    for chunk, num_steps in replay.after(len(state.consumed)):
        before, state = state, state.after(chunk)
        assert len(state.consumed) - len(before.consumed) == num_steps
    return state


@given(st.lists(st.tuples(st.sampled_from(["plain", "scored", "generated"]), TOKENS), max_size=12), st.data())
def test_the_same_state_comes_of_it(given: list[tuple[str, list[int]]], data: st.DataObject) -> None:
    """From any place where a checkpoint can be, what is kept leads to the last state, whatever was stored before."""
    replay, states = Replay("s", 0, PLENTY), [State()]
    for kind, tokens in given:
        states.append(keep(replay, states[-1], kind, tokens))
    stored = data.draw(st.integers(0, len(given)))
    replay.forget(len(states[stored].consumed))

    for state in states[stored:]:
        assert again(replay, state) == states[-1]


def test_a_checkpoint_may_be_within_a_generation() -> None:
    """A generation is stored token by token, and is sent again from between two of them."""
    replay = Replay("s", 0, PLENTY)
    replay.keep_generated(0, [1, 2, 3, 4])
    replay.forget(2)

    middle = State().after(generated(0, [1, 2]))
    assert replay.start == 2
    assert again(replay, middle) == State().after(generated(0, [1, 2, 3, 4]))


def test_single_steps_are_sent_together() -> None:
    """Many small chunks become few of a bounded length, which ask for nothing."""
    replay, state = Replay("s", 0, PLENTY), State()
    for position in range(2 * STRETCH_TOKENS + 1):
        state = keep(replay, state, "plain", [position % 7])

    chunks = [chunk for chunk, _ in replay.after(0)]
    assert [len(chunk.tokens) for chunk in chunks] == [STRETCH_TOKENS, STRETCH_TOKENS, 1]
    assert not any(chunk.WhichOneof("want") for chunk in chunks)


def test_tensors_are_sent_as_they_came() -> None:
    """Chunks of arrays stay whole, and cannot be begun in the middle."""
    replay = Replay("s", 0, PLENTY)
    replay.keep(tensors(0, [1, 2]), (), 0, 2)
    replay.keep(tensors(2, [3]), (), 2, 1)

    assert [dict(chunk.inputs) for chunk, _ in replay.after(0)] == [
        dict(tensors(0, [1, 2]).inputs),
        dict(tensors(2, [3]).inputs),
    ]
    assert len(list(replay.after(2))) == 1
    with pytest.raises(ReplayLost):
        list(replay.after(1))


def test_the_oldest_go_at_the_bound() -> None:
    """Beyond the bound the oldest inputs are forgotten, and only what they would lead to is lost."""
    replay = Replay("s", 0, 3 * MESSAGE_BYTES)
    for position in range(10):
        replay.keep(tensors(position, [position]), (), position, 1)

    assert replay.start == 8
    assert len(list(replay.after(8))) == 2
    with pytest.raises(ReplayLost) as lost:
        list(replay.after(7))
    assert lost.value.position == 7
    assert "before position 8" in lost.value.message


def test_the_bound_counts_tokens_too() -> None:
    """Of a long text as much is kept as the bound has room for."""
    replay, state = Replay("s", 0, 64 << 10), State()
    for _ in range(400):
        state = keep(replay, state, "plain", [1] * 100)

    kept = replay.end - replay.start
    assert 4_000 < kept < (64 << 10) / 8
    assert sum(num_steps for _, num_steps in replay.after(replay.start)) == kept


def test_a_foreign_step_ends_what_can_be_sent() -> None:
    """Where somebody else moved the session, there is no telling what it was given before."""
    replay = Replay("s", 0, PLENTY)
    replay.keep(plain(0, [1]), [1], 0, 1)
    replay.keep(plain(5, [2]), [2], 5, 1)

    assert (replay.start, replay.end) == (5, 6)
    with pytest.raises(ReplayLost):
        list(replay.after(0))
