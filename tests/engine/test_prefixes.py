"""Generations that begin where another session has been."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor.engine import prefixes
from conveyor.engine.work import EndReason, Sampling, Token, Want
from conveyor.errors import RunFailed
from tests.engine.harness import LOGITS, ManualEngine, alone
from tests.engine.test_interleaving import SESSIONS, WANTS, Program, model_of, session_ids
from tests.models import LanguageModel, make_context_model, make_model, make_step_model

MODEL: tuple[onnx.ModelProto, LanguageModel] = make_model(vocabulary_size=20, seed=3)
RANDOM = np.random.default_rng(5)
PROMPT: list[int] = RANDOM.integers(0, 20, 40).tolist()
LONG: list[int] = RANDOM.integers(0, 20, 400).tolist()


def make_engine(*session_ids: str, proto: onnx.ModelProto = MODEL[0], **limits: int) -> ManualEngine:
    engine = ManualEngine(proto, **limits)
    for session_id in session_ids:
        engine.open(session_id, seed=7)
    return engine


def generate(engine: ManualEngine, session_id: str, prompt: list[int], max_tokens: int = 5, **fields: Any) -> list[int]:
    """What the session generates by itself."""
    tag = object()
    engine.generate(session_id, prompt, max_tokens, tag=tag, **fields)
    engine.run_all()
    return engine.tokens(tag)


def num_steps(engine: ManualEngine) -> int:
    """Steps of the next run."""
    formed = engine.core.next_batch(engine.now)
    assert formed is not None
    engine._complete(*formed)
    return sum(formed[0].lengths)


def check_text(engine: ManualEngine, session_id: str, text: list[int]) -> None:
    """The session has consumed this text, as PyTorch has it."""
    tag = object()
    engine.chunk(session_id, [2], LOGITS, tag=tag)
    engine.run_all()

    assert engine.answer(tag).position == len(text) + 1
    np.testing.assert_allclose(engine.answer(tag).outputs["logits"], alone(MODEL[1], [*text, 2])[-1:], atol=1e-4)


class TestWhatIsFound:
    def test_a_prompt_that_comes_again(self) -> None:
        """All of it but the last token is known, and the same seed draws the same text after it."""
        engine = make_engine("a", "b", "c")
        first = generate(engine, "a", PROMPT)
        engine.generate("b", PROMPT, 5, tag="b")

        assert num_steps(engine) == 1
        engine.run_all()
        assert engine.tokens("b") == first == generate(engine, "c", PROMPT)
        assert engine.sought == [0, 39, 39]
        check_text(engine, "b", PROMPT + first)

    def test_a_generation_that_is_gone_on_from(self) -> None:
        """A prompt that holds an earlier prompt and what was drawn begins before the last token of that."""
        engine = make_engine("a", "b")
        drawn = generate(engine, "a", PROMPT, 6)
        text = PROMPT + drawn + PROMPT[:9]
        after = generate(engine, "b", text)

        assert engine.sought == [0, 45]
        check_text(engine, "b", text + after)

    def test_a_chunk_and_what_follows_it(self) -> None:
        """Chunks are followed too: each end of one, scored or not, is a place to begin at."""
        engine = make_engine("a", "b", "c")
        engine.chunk("a", PROMPT[:20])
        engine.chunk("a", PROMPT[20:], Want(scoring=True))
        engine.run_all()
        drawn = generate(engine, "a", LONG[:30])
        generate(engine, "b", PROMPT[:30])
        text = PROMPT + LONG[:35]
        after = generate(engine, "c", text)

        assert engine.sought == [20, 69]
        check_text(engine, "c", text + after)
        check_text(engine, "a", PROMPT + LONG[:30] + drawn)

    def test_the_common_beginning_of_long_prompts(self) -> None:
        """Two prompts that begin alike share a state within `SPACING` and a run of where they part."""
        engine = make_engine("a", "b")
        generate(engine, "a", LONG)
        text = LONG[:330] + PROMPT
        after = generate(engine, "b", text)

        assert engine.sought == [0, 256]
        check_text(engine, "b", text + after)

    def test_a_model_that_takes_one_step_a_run(self) -> None:
        """The stretches of a prompt do not matter, and a state of several types is kept whole."""
        engine = make_engine("a", "b", proto=make_step_model()[0])

        assert generate(engine, "a", PROMPT) == generate(engine, "b", PROMPT)
        assert engine.sought == [0, 39]

    def test_penalties_count_what_was_not_run(self) -> None:
        """Tokens that were known are as much seen as those that were run."""
        engine, plain = make_engine("a", "b"), make_engine("b", prefix_cache_bytes=0)
        penalised = Sampling(repetition_penalty=3.0)
        generate(engine, "a", PROMPT)

        assert generate(engine, "b", PROMPT, 12, sampling=penalised) == generate(
            plain, "b", PROMPT, 12, sampling=penalised
        )
        assert engine.sought == [0, 39]


class TestWhatIsNot:
    def test_another_text(self) -> None:
        """One other token at the beginning is another text."""
        engine = make_engine("a", "b")
        generate(engine, "a", PROMPT)
        text = [(PROMPT[0] + 1) % 20, *PROMPT[1:]]
        after = generate(engine, "b", text)

        assert engine.sought == [0, 0]
        check_text(engine, "b", text + after)

    def test_a_session_that_has_run(self) -> None:
        """The same prompt later in a session is run: its state is another."""
        engine = make_engine("a", "b")
        generate(engine, "a", PROMPT)
        engine.chunk("b", [4])
        engine.run_all()
        after = generate(engine, "b", PROMPT)

        assert engine.sought == [0]
        check_text(engine, "b", [4, *PROMPT, *after])

    def test_short_prompts(self) -> None:
        """They are not sought, and run in one piece; what follows a very short one is not worth keeping either."""
        engine = make_engine("a", "b")
        for name, length in (("a", prefixes.MIN_TOKENS), ("b", prefixes.MIN_TOKENS - 5)):
            engine.generate(name, PROMPT[:length], 5)
            assert num_steps(engine) == length
            engine.run_all()

        assert engine.sought == []
        assert len(engine.prefixes.cache) == 1

    def test_a_session_that_steps_is_not_followed(self) -> None:
        """From its first short chunk on nothing of a session is kept, and it costs nothing."""
        engine = make_engine("a")
        engine.chunk("a", [1])
        engine.run_all()
        assert engine.core.table.get("a").history is None
        engine.chunk("a", PROMPT)
        engine.run_all()
        generate(engine, "a", PROMPT)

        assert len(engine.prefixes.cache) == 0

    def test_a_history_that_is_too_long(self) -> None:
        """What lies beyond the longest text that is kept is run and forgotten."""
        engine = make_engine("a", max_chunk_steps=10_000)
        text = (LONG * 11)[: prefixes.MAX_TOKENS + 100]
        after = generate(engine, "a", text, 2)

        assert engine.core.table.get("a").history is None
        assert engine.prefixes.cache.num_bytes > 0
        check_text(engine, "a", text + after)

    @pytest.mark.parametrize("max_bytes", [0, 900])
    def test_a_cache_without_room(self, max_bytes: int) -> None:
        """With 0 bytes nobody is followed; with too few, nothing stays."""
        engine = make_engine("a", "b", prefix_cache_bytes=max_bytes)

        assert generate(engine, "a", PROMPT) == generate(engine, "b", PROMPT)
        assert engine.sought == ([0, 0] if max_bytes else [])
        assert engine.prefixes.cache.num_bytes == 0

    def test_models_with_more_than_tokens(self) -> None:
        """Where contexts or noise go into a state, a text says too little."""
        proto, _ = make_context_model()

        assert not ManualEngine(proto).prefixes.is_on


class TestAtomicity:
    """A generation that began from a kept state leaves its session as it was, until it commits."""

    @pytest.mark.parametrize("num_slots", [1, 4])
    @pytest.mark.parametrize("has_slot", [False, True])
    def test_a_failed_run(self, num_slots: int, has_slot: bool) -> None:
        """The session is at position 0 in its initial state, and the next attempt begins from the cache again."""
        engine = make_engine("a", "b", num_slots=num_slots, max_batch=1)
        drawn = generate(engine, "a", PROMPT)
        if has_slot:
            self.cancel_after_a_run(engine)
        engine.generate("b", PROMPT + LONG, 5, tag="lost")
        engine.run()
        engine.run(RuntimeError("lost"))

        assert isinstance(engine.sink.outcomes["lost"][-1], RunFailed)
        assert engine.core.table.get("b").position == 0
        assert generate(engine, "b", PROMPT) == drawn
        assert min(engine.sought[1:]) >= 39
        check_text(engine, "b", PROMPT + drawn)
        check_text(engine, "a", PROMPT + drawn)

    @pytest.mark.parametrize("num_slots", [1, 4])
    def test_a_cancelled_one(self, num_slots: int) -> None:
        """Another text may follow, as in a session that was just opened."""
        engine = make_engine("a", "b", num_slots=num_slots, max_batch=1)
        generate(engine, "a", PROMPT)
        self.cancel_after_a_run(engine)

        check_text(engine, "b", [])

    def test_one_that_is_cancelled_while_it_runs(self) -> None:
        """What the run consumed is neither the session's history nor kept."""
        engine = make_engine("a", "b")
        work = engine.generate("a", PROMPT, 5)
        formed = engine.core.next_batch(engine.now)
        assert formed is not None
        engine.core.cancel(work)
        engine._complete(*formed)
        after = generate(engine, "a", LONG[:20])
        again = generate(engine, "b", PROMPT + LONG[:20])

        assert engine.sought == [0, 0, 0]
        check_text(engine, "a", LONG[:20] + after)
        check_text(engine, "b", PROMPT + LONG[:20] + again)

    @staticmethod
    def cancel_after_a_run(engine: ManualEngine) -> None:
        work = engine.generate("b", PROMPT + LONG, 5)
        engine.run()
        engine.core.cancel(work)
        session = engine.core.table.get("b")
        assert (session.position, session.jobs) == (0, type(session.jobs)())
        assert engine.num_used_slots() == sum(bool(engine.core.table.get(name).slot) for name in "ab")


def test_several_begin_in_one_batch() -> None:
    """Sessions that begin from kept states of several lengths, and from none, run together, each from its own."""
    engine = make_engine(*"abcdef", num_slots=6, max_batch=6)
    generate(engine, "a", PROMPT)
    generate(engine, "b", LONG)
    texts = {"c": PROMPT, "d": LONG[:300], "e": [*PROMPT, 1, 2, 3], "f": LONG[:-1][::-1]}
    for name, text in texts.items():
        engine.generate(name, text, 4, tag=name)
    engine.run_all()

    assert engine.sought == [0, 0, 39, 256, 39, 0]
    for name, text in texts.items():
        check_text(engine, name, text + engine.tokens(name))


STORIES = [RANDOM.integers(0, 20, 14).tolist() for _ in range(2)]
prompts = st.builds(lambda story, n: story[:n], st.sampled_from(STORIES), st.integers(1, 14))
actions = st.one_of(
    st.tuples(st.just("generate"), session_ids, prompts, st.integers(1, 4)),
    st.tuples(st.just("generate"), session_ids, prompts, st.integers(1, 4)),
    st.tuples(st.just("chunk"), session_ids, prompts, st.sampled_from(WANTS)),
    st.tuples(st.just("reopen"), session_ids),
    st.tuples(st.just("run")),
    st.tuples(st.just("run")),
    st.tuples(st.just("run_all")),
    st.tuples(st.just("fail")),
    st.tuples(st.just("overlap"), st.booleans()),
    st.tuples(st.just("cancel"), session_ids),
    st.tuples(st.just("cancel_running"), session_ids),
    st.tuples(st.just("cancel_running"), session_ids),
)


class Stories(Program):
    """Sessions that read the same few texts; each generation of position 0 could have begun from the cache."""

    def do_run_all(self) -> None:
        self.engine.run_all()

    def do_cancel_running(self, name: str) -> None:
        """A run during which a session's work is cancelled."""
        formed = self.engine.core.next_batch(self.engine.now)
        self.do_cancel(name)
        if formed is not None:
            self.engine._complete(*formed)

    def check_kept(self) -> None:
        """Every state that is kept is the one that PyTorch has after that text."""
        for kept in self.engine.prefixes.cache._kept.values():
            _, states = self.reference(torch.from_numpy(kept.tokens)[:, None], self.reference.initial_states(1))
            rows = self.engine.runner.graph.state_rows({name: state.numpy() for name, state in states.items()})
            for arena, row in kept.rows.items():
                np.testing.assert_allclose(row, rows[arena], atol=1e-4)


@pytest.mark.usefixtures("short_prefixes")
@pytest.mark.parametrize(("cell", "is_padded"), [("lstm", False), ("gru", False), ("lstm", True)])
@settings(max_examples=150)
@given(
    program=st.lists(actions, max_size=40),
    num_slots=st.sampled_from([1, 2, 8]),
    max_batch=st.integers(1, 3),
    num_kept=st.sampled_from([1, 3, 1000]),
)
def test_what_was_known_never_shows(
    cell: str, is_padded: bool, program: list[Any], num_slots: int, max_batch: int, num_kept: int
) -> None:
    """Whatever is kept, fails, is cancelled, spilled or evicted, each session equals PyTorch alone on its text."""
    limits = {"num_slots": num_slots, "max_batch": max_batch, "max_run_steps": 4, "prefix_cache_bytes": 1000 * num_kept}
    play = Stories(model_of(cell, 1), is_padded=is_padded, **limits)
    for name in SESSIONS:
        play.do_generate(name, STORIES[0], 1)
        play.engine.run()
    for action in program:
        play.play(action)
    play.finish()
    play.check_kept()


@pytest.mark.usefixtures("short_prefixes")
@settings(max_examples=40)
@given(
    asked=st.lists(prompts, min_size=2, max_size=6),
    temperature=st.sampled_from([0.0, 0.9]),
    penalty=st.sampled_from([1.0, 1.3]),
)
def test_the_same_seed_gives_the_same_text(asked: list[list[int]], temperature: float, penalty: float) -> None:
    """A generation that began from the cache draws what it draws without one."""
    proto, _ = model_of("lstm", 1)
    sampling, told = Sampling(temperature, repetition_penalty=penalty), {}
    for max_bytes in (0, 1 << 20):
        engine = ManualEngine(proto, prefix_cache_bytes=max_bytes)
        for index, prompt in enumerate(asked):
            engine.open(str(index), seed=index)
            engine.generate(str(index), prompt, 6, sampling=sampling, tag=index)
            engine.run_all()
        told[max_bytes] = [outcomes for _, outcomes in sorted(engine.sink.outcomes.items())]
    for without, within in zip(told[0], told[1 << 20], strict=True):
        assert all(isinstance(token, Token) for token in without)
        assert [token.token for token in without] == [token.token for token in within]


def test_what_ends_is_forgotten() -> None:
    """A closed session's history goes with it, though what it consumed stays known."""
    engine = make_engine("a", "b")
    generate(engine, "a", PROMPT)
    session = engine.core.table.get("a")
    engine.core.end(session, EndReason.CLOSED)

    assert session.history is None
    generate(engine, "b", PROMPT)
    assert engine.sought == [0, 39]
