"""Whatever happens around a session, it gets the outputs and the state that PyTorch gives it alone."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor.engine.noise import draw_noise
from conveyor.engine.work import Answer, Chunk, EndReason, Generation, Sampling, Token, Want
from conveyor.errors import Aborted, ConveyorError, RunFailed
from tests.engine.harness import LOGITS, ManualEngine, alone
from tests.models import make_context_model, make_model

pytestmark = pytest.mark.usefixtures("short_prefixes")

VOCABULARY = 20
SESSIONS = ("a", "b", "c", "d", "e")
WANTS = (LOGITS, Want(top_k=3), Want(scoring=True), Want(), Want(names=("logits",), top_k=2, last_only=True))
TOLERANCE = 1e-4
PROMPTS = tuple([3, 1, 4, 1, 5, 9, 2][:length] for length in (3, 5, 7))  # so that some have been there before

tokens = st.integers(0, VOCABULARY - 1)
session_ids = st.sampled_from(SESSIONS)
actions = st.one_of(
    st.tuples(st.just("chunk"), session_ids, st.lists(tokens, min_size=1, max_size=9), st.sampled_from(WANTS)),
    st.tuples(st.just("generate"), session_ids, st.lists(tokens, min_size=1, max_size=5), st.integers(1, 5)),
    st.tuples(st.just("generate"), session_ids, st.sampled_from(PROMPTS), st.integers(1, 3)),
    st.tuples(st.just("run")),
    st.tuples(st.just("run")),
    st.tuples(st.just("fail")),
    st.tuples(st.just("fail")),
    st.tuples(st.just("overlap"), st.booleans()),
    st.tuples(st.just("cancel"), session_ids),
    st.tuples(st.just("retry"), session_ids),
    st.tuples(st.just("reopen"), session_ids),
)


@cache
def model_of(cell: str, num_layers: int) -> Any:
    return make_model(cell, num_layers, vocabulary_size=VOCABULARY, seed=3)


@cache
def context_model() -> Any:
    return make_context_model(vocabulary_size=VOCABULARY, seed=3)


@dataclass
class Life:
    """What one session was told, by position; the engine's answers are checked against PyTorch at its end."""

    session_id: str
    seed: int
    works: list[tuple[Chunk | Generation, int]] = field(default_factory=list)


class Program:
    """Plays actions on an engine and keeps what each session was given."""

    def __init__(self, model: Any, **limits: Any) -> None:
        proto, self.reference = model
        self.engine = ManualEngine(proto, **limits)
        self.num_lives = 0
        self.lives: dict[str, Life] = {}
        for name in SESSIONS:
            self.open(name)

    def open(self, name: str) -> None:
        self.num_lives += 1
        life = Life(f"{name}-{self.num_lives}", self.num_lives)
        self.open_life(life)
        self.lives[name] = life

    def open_life(self, life: Life) -> None:
        self.engine.open(life.session_id, seed=life.seed)

    def expected(self, life: Life, text: list[int]) -> np.ndarray:
        """PyTorch's logits of this text alone."""
        return alone(self.reference, text)

    def session(self, name: str) -> Any:
        return self.engine.core.table.get(self.lives[name].session_id)

    def play(self, action: tuple[Any, ...]) -> None:
        getattr(self, f"do_{action[0]}")(*action[1:])

    def do_chunk(self, name: str, steps: list[int], want: Want) -> None:
        life, session = self.lives[name], self.session(name)
        try:
            work = self.engine.chunk(life.session_id, steps, want, tag=object(), position=session.tail)
        except Aborted:
            return
        life.works.append((work, len(steps)))

    def do_generate(self, name: str, prompt: list[int], max_tokens: int) -> None:
        life = self.lives[name]
        try:
            work = self.engine.generate(life.session_id, prompt, max_tokens, tag=object(), top_k=2)
        except Aborted:
            return
        life.works.append((work, len(prompt)))

    def do_run(self) -> None:
        self.engine.run()

    def do_fail(self) -> None:
        self.engine.run(RuntimeError("the device fell over"))

    def do_overlap(self, fails: bool) -> None:
        self.engine.run_two(RuntimeError("the device fell over") if fails else None)

    def do_cancel(self, name: str) -> None:
        if self.session(name).jobs:
            self.engine.core.cancel(self.session(name).jobs[0].work)

    def do_retry(self, name: str) -> None:
        for kept in self.session(name).kept:
            again = Chunk(
                self.session(name).session_id,
                kept.inputs,
                kept.want,
                self.engine.sink,
                tag=object(),
                position=kept.start,
            )
            self.engine.core.accept(again, self.engine.now)
            assert self.engine.answer(again.tag) is kept.answer

    def do_reopen(self, name: str) -> None:
        self.check(name)
        self.engine.core.end(self.session(name), EndReason.CLOSED)
        self.engine.deliver()
        self.open(name)

    def check(self, name: str) -> None:
        """Compares everything that the session was told with PyTorch on the text that it consumed."""
        self.engine.deliver()
        life, session = self.lives[name], self.session(name)
        text: dict[int, int] = {}
        told: list[tuple[Chunk | Generation, Answer | Token]] = []
        for work, _ in life.works:
            for index, outcome in enumerate(self.engine.sink.outcomes[work.tag]):
                if isinstance(outcome, ConveyorError):
                    assert isinstance(outcome, Aborted | RunFailed), outcome
                    continue
                told.append((work, outcome))
                place(text, work, outcome, is_first=index == 0)
        assert sorted(text) == list(range(session.position)), "a hole, or steps that nobody was told of"
        if text:
            logits = self.expected(life, [text[position] for position in range(len(text))])
            for work, outcome in told:
                check_outcome(work, outcome, logits, text)

    def finish(self) -> None:
        self.engine.run_all()
        for name in self.lives:
            self.do_chunk(name, [1, 2], LOGITS)
        self.engine.run_all()
        for name in self.lives:
            self.check(name)
            self.engine.core.end(self.session(name), EndReason.CLOSED)
        assert self.engine.num_used_slots() == 0
        assert self.engine.core.num_waiting == 0
        assert len(self.engine.core.residence.spilled) == 0


class ContextProgram(Program):
    """The same with a picture for each session, and noise."""

    @staticmethod
    def picture(life: Life) -> np.ndarray:
        return np.random.default_rng(life.seed).normal(size=3).astype(np.float32)

    def open_life(self, life: Life) -> None:
        self.engine.open(life.session_id, {"picture": self.picture(life)}, seed=life.seed)

    def expected(self, life: Life, text: list[int]) -> np.ndarray:
        spec, seeds = self.engine.model.signature.noises[0], np.array([life.seed], np.uint64)
        noise = draw_noise(spec, 0, seeds, np.zeros(1, np.uint64), len(text))
        picture = torch.from_numpy(self.picture(life))[None]
        return self.reference(torch.tensor(text)[:, None], picture, torch.from_numpy(noise))[:, 0].numpy()


def place(text: dict[int, int], work: Chunk | Generation, outcome: Answer | Token, *, is_first: bool) -> None:
    """Writes the tokens that an outcome accounts for at their positions; no position may be written twice."""
    if isinstance(work, Chunk):
        steps = work.inputs["tokens"].tolist()
    else:
        steps = [*(work.tokens if is_first else []), outcome.token]
    for position, token in enumerate(steps, outcome.position - len(steps)):
        assert position not in text
        text[position] = token


def check_outcome(work: Chunk | Generation, outcome: Answer | Token, logits: np.ndarray, text: dict[int, int]) -> None:
    scores = torch.log_softmax(torch.from_numpy(logits), 1).numpy()
    if isinstance(outcome, Token):
        row = scores[outcome.position - 2]
        assert outcome.log_probability == pytest.approx(row[outcome.token], abs=TOLERANCE)
        np.testing.assert_allclose(outcome.top_log_probabilities, np.sort(row)[::-1][:2], atol=TOLERANCE)
        return
    start = outcome.position - outcome.num_steps
    first = outcome.position - 1 if work.want.last_only else start
    if "logits" in work.want.names:
        np.testing.assert_allclose(outcome.outputs["logits"], logits[first : outcome.position], atol=TOLERANCE)
    if k := work.want.top_k:
        best = np.sort(scores[first : outcome.position], axis=1)[:, ::-1][:, :k]
        np.testing.assert_allclose(np.reshape(outcome.top_log_probabilities, best.shape), best, atol=TOLERANCE)
    if work.want.scoring:
        assert len(outcome.log_probabilities) == outcome.num_steps
        for position, got in enumerate(outcome.log_probabilities, start):
            if not np.isnan(got):
                assert got == pytest.approx(scores[position - 1, text[position]], abs=TOLERANCE)
            else:
                assert position == start, "only a chunk's first token can have no prediction"


@pytest.mark.parametrize(
    ("cell", "num_layers", "is_padded"),
    [(cell, num_layers, False) for cell in ("lstm", "gru", "rnn_tanh") for num_layers in (1, 3)] + [("lstm", 1, True)],
)
@settings(max_examples=40)
@given(program=st.lists(actions, max_size=40), num_slots=st.integers(1, 2), max_batch=st.integers(2, 3))
def test_any_interleaving_equals_each_session_alone(
    cell: str, num_layers: int, is_padded: bool, program: list[Any], num_slots: int, max_batch: int
) -> None:
    """Chunks, generations, failures, cancellations and evictions of others never show in a session's answers."""
    limits = {"is_padded": is_padded, "num_slots": num_slots, "max_batch": max_batch, "max_run_steps": 4}
    play = Program(model_of(cell, num_layers), **limits)
    for action in program:
        play.play(action)
    play.finish()


@pytest.mark.parametrize("is_padded", [False, True])
@settings(max_examples=40)
@given(program=st.lists(actions, max_size=40), num_slots=st.integers(1, 2), max_batch=st.integers(2, 3))
def test_contexts_and_noise_are_each_sessions_own(
    is_padded: bool, program: list[Any], num_slots: int, max_batch: int
) -> None:
    """The same holds for sessions that start from their contexts and are given noise at each step."""
    limits = {"is_padded": is_padded, "num_slots": num_slots, "max_batch": max_batch, "max_run_steps": 4}
    play = ContextProgram(context_model(), **limits)
    for action in program:
        play.play(action)
    play.finish()
    assert play.engine.core.residence.context_slots.num_free == num_slots + 3 * max_batch


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_contexts_have_room_while_two_batches_replace_all_others(is_padded: bool, fails: bool) -> None:
    """Those who leave for two batches keep their contexts until these are over; then all is free again."""
    play = ContextProgram(context_model(), is_padded=is_padded, num_slots=8, max_batch=2)
    names = [f"s{number}" for number in range(16)]
    for name in names:
        play.open(name)
    for name in names[:12]:
        play.do_chunk(name, [1, 2], LOGITS)
        play.engine.run()
    for name in names[12:]:
        play.do_chunk(name, [3], LOGITS)
    play.do_overlap(fails)
    for name in names:
        play.do_chunk(name, [4, 5], LOGITS)
    play.finish()

    assert play.engine.core.residence.context_slots.num_free == 8 + 3 * 2


@settings(max_examples=25)
@given(
    prompts=st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=5),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.8]),
    penalty=st.sampled_from([1.0, 1.3]),
)
def test_the_same_seed_gives_the_same_text_in_any_batch(
    prompts: list[list[int]], temperature: float, top_k: int, top_p: float, penalty: float
) -> None:
    """A generation draws the same tokens alone as beside others, whatever their number and lengths."""
    proto, _ = model_of("lstm", 1)
    sampling = Sampling(temperature, top_k, top_p, penalty)
    together = ManualEngine(proto, num_slots=8, max_batch=8)
    for index, prompt in enumerate(prompts):
        together.open(str(index), seed=index)
        together.generate(str(index), prompt, 8, sampling=sampling, tag=index)
    together.run_all()
    for index, prompt in enumerate(prompts):
        single = ManualEngine(proto)
        single.open("x", seed=index)
        single.generate("x", prompt, 8, sampling=sampling, tag=index)
        single.run_all()

        assert together.tokens(index) == single.tokens(index)
