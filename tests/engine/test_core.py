"""The rules of sessions and work, on a real runner, one run at a time."""

import math
from collections.abc import Callable
from itertools import pairwise
from math import inf

import numpy as np
import onnx
import pytest
import torch

from conveyor.engine.feeds import Results
from conveyor.engine.job import MAX_KEPT_BYTES
from conveyor.engine.work import EndReason, FinishReason, Sampling, Want
from conveyor.errors import (
    Aborted,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    RunFailed,
    WrongPosition,
)
from tests.engine.harness import GREEDY, LOGITS, ListSink, ManualEngine, alone
from tests.models import LanguageModel, make_model

SCORING = Want(scoring=True)
MODEL: tuple[onnx.ModelProto, LanguageModel] = make_model(vocabulary_size=20, seed=3)
TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]


def make_engine(*session_ids: str, **limits: int) -> ManualEngine:
    engine = ManualEngine(MODEL[0], **limits)
    for session_id in session_ids:
        engine.open(session_id, seed=7)
    return engine


def expected(text: list[int]) -> np.ndarray:
    """Logits `[T, V]` of the text alone in PyTorch."""
    return alone(MODEL[1], text)


def scores_of(text: list[int]) -> list[float]:
    """The log-probability of each token of the text but the first."""
    scores = torch.log_softmax(torch.from_numpy(expected(text)), 1).numpy()
    return [float(scores[index, token]) for index, token in enumerate(text[1:])]


def check_next(engine: ManualEngine, session_id: str, text: list[int]) -> None:
    """The session answers its next step as one that has consumed `text`, and nothing else, does."""
    tag = object()
    engine.chunk(session_id, [2], LOGITS, tag=tag)
    engine.run_all()
    answer = engine.answer(tag)

    assert len(text) + 1 == answer.position
    np.testing.assert_allclose(answer.outputs["logits"], expected([*text, 2])[-1:], atol=1e-4)


def error_of(engine: ManualEngine, tag: object) -> Exception:
    """The only outcome of a tag, which must be an error."""
    engine.deliver()
    (outcome,) = engine.sink.outcomes[tag]
    assert isinstance(outcome, Exception)
    return outcome


class TestRepetition:
    @pytest.mark.parametrize("between", [[], [4, 4, 4]])
    def test_the_window_goes_on_from_call_to_call(self, between: list[int]) -> None:
        """Two generations draw what one of both lengths draws, and what is stepped between counts as seen."""
        penalised = Sampling(repetition_penalty=3.0)
        engine = make_engine("once", "twice")
        engine.generate("once", [3], 12, sampling=penalised, tag="once")
        engine.generate("twice", [3], 6, sampling=penalised, tag="first")
        engine.run_all()
        if between:
            engine.chunk("twice", between)
            engine.run_all()
        engine.generate("twice", [] if not between else [1], 6, sampling=penalised, tag="second")
        engine.run_all()

        expected = [3, *engine.tokens("first"), *between, *([1] if between else []), *engine.tokens("second")]
        assert list(engine.core.table.get("twice").seen or ()) == expected
        if not between:
            assert engine.tokens("first") + engine.tokens("second") == engine.tokens("once")

    def test_a_failed_generation_has_seen_nothing(self) -> None:
        """The prompt of a generation whose run failed is not looked at by the next."""
        engine = make_engine("a")
        engine.generate("a", [3, 4], 1, tag=1)
        engine.run(RuntimeError("lost"))
        assert engine.core.table.get("a").seen is None

        engine.generate("a", [5], 1, tag=2)
        engine.run_all()
        assert list(engine.core.table.get("a").seen or ()) == [5, *engine.tokens(2)]


class TestKept:
    def test_large_answers_are_not_hoarded(self) -> None:
        """Of answers that are not acknowledged the latest is kept, and those before it while they are small."""
        engine = make_engine("a", max_chunk_steps=4096)
        rows = MAX_KEPT_BYTES // (20 * 4)  # steps whose logits fill what may be kept
        for position in range(0, 3 * rows, rows):
            engine.chunk("a", [1] * rows, LOGITS, tag=position, position=position, acknowledged=0)
        engine.run_all()
        kept = engine.core.table.get("a").kept

        assert [each.start for each in kept] == [rows, 2 * rows]


class TestPosition:
    def test_a_repeated_chunk_gets_the_kept_answer(self) -> None:
        """A chunk that comes again at its own position is answered as before, and consumes nothing."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:3], LOGITS, tag=1, position=0)
        engine.run_all()
        engine.chunk("a", TEXT[:3], LOGITS, tag=2, position=0)

        assert engine.answer(1) is engine.answer(2)
        check_next(engine, "a", TEXT[:3])

    @pytest.mark.parametrize(
        ("steps", "want"), [([3, 1], LOGITS), ([3, 1, 5], LOGITS), ([3, 1, 4], Want()), ([3, 1, 4, 1], LOGITS)]
    )
    def test_another_chunk_at_an_old_position_is_refused(self, steps: list[int], want: Want) -> None:
        """Other tokens or another wish at the kept answer's position are refused with the session's own position."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:3], LOGITS, tag=1, position=0)
        engine.run_all()

        with pytest.raises(WrongPosition) as caught:
            engine.chunk("a", steps, want, position=0)
        assert caught.value.position == 3

    def test_only_the_last_answer_is_kept(self) -> None:
        """The answer before the last can no longer be asked for."""
        engine = make_engine("a")
        for position in (0, 2):
            engine.chunk("a", TEXT[position : position + 2], position=position)
        engine.run_all()

        with pytest.raises(WrongPosition, match="is at 4, got 0"):
            engine.chunk("a", TEXT[:2], position=0)

    @pytest.mark.parametrize("position", [1, 9])
    def test_a_wrong_position_is_refused(self, position: int) -> None:
        """A position ahead of a session, or inside its past, is refused and leaves it alone."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:3])
        engine.run_all()

        with pytest.raises(WrongPosition):
            engine.chunk("a", [1], position=position)
        check_next(engine, "a", TEXT[:3])

    def test_a_retry_in_flight_is_aborted(self) -> None:
        """A chunk that comes again while the first is waiting or running is told to try later."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:3], position=0, tag=1)

        with pytest.raises(Aborted, match="in flight"):
            engine.chunk("a", TEXT[:3], position=0)
        engine.run_all()
        assert engine.answer(1).position == 3

    def test_chunks_queue_by_position(self) -> None:
        """Chunks of one session that follow each other may be in flight together, and run in order."""
        engine = make_engine("a")
        for start in (0, 3, 5):
            engine.chunk("a", TEXT[start : start + 3][: 2 if start == 3 else 3], LOGITS, tag=start, position=start)
        engine.run_all()
        got = np.concatenate([engine.answer(start).outputs["logits"] for start in (0, 3, 5)])

        np.testing.assert_allclose(got, expected(TEXT[:8]), atol=1e-4)


class TestOrder:
    def test_chunks_behind_a_failed_one_are_aborted(self) -> None:
        """When a chunk fails, those that were to follow it are aborted, and the session is where it was."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:2])
        engine.run_all()
        for tag in (1, 2, 3):
            engine.chunk("a", [tag], tag=tag)
        engine.run(RuntimeError("out of memory"))

        assert isinstance(error_of(engine, 1), RunFailed)
        assert isinstance(error_of(engine, 2), Aborted)
        assert isinstance(error_of(engine, 3), Aborted)
        check_next(engine, "a", TEXT[:2])

    def test_chunks_behind_a_cancelled_one_are_aborted(self) -> None:
        """A cancelled chunk is not heard of again; one that was to follow it is aborted, one before it is not."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:2], tag=0)
        work = engine.chunk("a", [9], tag=1)
        engine.chunk("a", [9], tag=2)
        engine.core.cancel(work)
        engine.run_all()

        assert engine.answer(0).position == 2
        assert engine.sink.outcomes[1] == []
        assert isinstance(error_of(engine, 2), Aborted)
        check_next(engine, "a", TEXT[:2])

    def test_a_generation_excludes_others(self) -> None:
        """During a generation every other request of the session is aborted, wherever it thinks the session is."""
        engine = make_engine("a")
        engine.generate("a", TEXT[:2], 5, tag=1)
        engine.run()
        engine.run()

        for position in (None, 0, 2, 3, 4):
            with pytest.raises(Aborted):
                engine.chunk("a", [1], position=position)
        with pytest.raises(Aborted):
            engine.generate("a", [1], 1)

    def test_a_generation_behind_a_chunk_is_aborted(self) -> None:
        """A generation whose position counts a chunk in flight is told to try later, not that it is wrong."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:2], SCORING)

        with pytest.raises(Aborted):
            engine.generate("a", [1], 1, position=2)
        with pytest.raises(Aborted):
            engine.generate("a", [], 1)

    def test_a_generation_that_goes_on_elsewhere_is_told_the_position(self) -> None:
        """No prompt may be given right after a generation: whether this is so, a client's own position decides."""
        engine = make_engine("a")

        with pytest.raises(WrongPosition):
            engine.generate("a", [], 1, position=2)
        with pytest.raises(InvalidArgument):
            engine.generate("a", [], 1, position=0)


class TestCancel:
    def test_cancel_while_running(self) -> None:
        """A chunk cancelled during its run changes nothing, and the session takes new work at once."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:2])
        engine.run_all()
        work = engine.chunk("a", [9, 9], tag=1)
        finish = start_run(engine)
        engine.core.cancel(work)
        engine.chunk("a", TEXT[2:4], LOGITS, tag=2, position=2)
        finish()
        engine.run_all()

        assert engine.sink.outcomes[1] == []
        np.testing.assert_allclose(engine.answer(2).outputs["logits"], expected(TEXT[:4])[2:], atol=1e-4)

    def test_cancel_twice(self) -> None:
        """A second cancellation of a running chunk does not reach the chunk that came after the first."""
        engine = make_engine("a")
        work = engine.chunk("a", [9, 9])
        finish = start_run(engine)
        engine.core.cancel(work)
        engine.chunk("a", TEXT[:2], tag=2)
        engine.core.cancel(work)
        finish()
        engine.run_all()

        assert engine.answer(2).position == 2

    def test_a_generation_after_a_cancelled_one(self) -> None:
        """A cancelled generation stands in nobody's way, even while its last run is under way."""
        engine = make_engine("a")
        work = engine.generate("a", TEXT[:2], 50)
        finish = start_run(engine)
        engine.core.cancel(work)
        engine.generate("a", TEXT[:2], 3, tag=1, sampling=GREEDY)
        finish()
        engine.run_all()

        assert len(engine.tokens(1)) == 3
        check_next(engine, "a", TEXT[:2] + engine.tokens(1))

    def test_cancel_between_the_runs_of_a_long_chunk(self) -> None:
        """A chunk cancelled half way leaves the session where it was before it, and its slot free."""
        engine = make_engine("a", max_run_steps=2)
        engine.chunk("a", TEXT[:3])
        engine.run_all()
        work = engine.chunk("a", TEXT)
        engine.run()
        engine.core.cancel(work)

        assert engine.num_used_slots() == 1
        assert engine.core.num_waiting == 0
        check_next(engine, "a", TEXT[:3])

    def test_cancelling_finished_or_unknown_work_is_harmless(self) -> None:
        """Work that is done, or whose session is gone, may be cancelled."""
        engine = make_engine("a")
        work = engine.chunk("a", [1], tag=1)
        engine.run_all()
        engine.core.cancel(work)
        engine.core.end(engine.core.table.get("a"), EndReason.CLOSED)
        engine.core.cancel(work)

        assert engine.answer(1).position == 1

    def test_detach_forgets_a_sink(self) -> None:
        """A detached sink hears of nothing that it had in flight, nor of its sessions' end; others do."""
        engine, gone = make_engine("a", "b"), ListSink()
        for tag in (1, 2):
            engine.chunk("a", [tag], sink=gone, tag=tag)
        engine.chunk("b", [1], tag=3)
        engine.core.detach(gone)
        engine.run_all()
        engine.core.end(engine.core.table.get("a"), EndReason.CLOSED)

        assert dict(gone.outcomes) == {}
        assert engine.core.table.get("b").sink is engine.sink
        assert engine.answer(3).position == 1
        assert engine.core.num_waiting == 0

    def test_sinks_of_one_call_leave_nothing(self) -> None:
        """A sink that no session is stepped from any longer is not remembered, though it was never detached."""
        engine = make_engine("a", "b")
        for _ in range(5):
            engine.chunk("a", [1], sink=ListSink())
            engine.chunk("b", [1], sink=ListSink())
            engine.run_all()

        assert len(engine.core.attachments) == 2
        for session in list(engine.core.table):
            engine.core.end(session, EndReason.CLOSED)
        assert len(engine.core.attachments) == 0


class TestDeadline:
    def test_before_the_run(self) -> None:
        """A chunk whose deadline passes in the queue fails, and nothing is consumed."""
        engine = make_engine("a")
        engine.chunk("a", [9], tag=1, deadline=5.0)
        engine.now = 5.0
        engine.run_all()

        assert isinstance(error_of(engine, 1), DeadlineExceeded)
        check_next(engine, "a", [])

    def test_between_the_runs_of_a_long_chunk(self) -> None:
        """A chunk whose deadline passes half way fails as a whole: not a step of it is consumed."""
        engine = make_engine("a", max_run_steps=4)
        engine.chunk("a", TEXT[:2], tag=0)
        engine.run_all()
        engine.chunk("a", TEXT, tag=1, deadline=5.0)
        engine.run()
        engine.now = 6.0
        engine.run_all()

        assert isinstance(error_of(engine, 1), DeadlineExceeded)
        check_next(engine, "a", TEXT[:2])

    def test_of_one_session_leaves_others_alone(self) -> None:
        """Sessions in line behind one that is late run in the same batch as they would have."""
        engine = make_engine("a", "b")
        engine.chunk("a", [9], tag=1, deadline=5.0)
        engine.chunk("b", [1], tag=2, deadline=inf)
        engine.now = 9.0
        engine.run_all()

        assert engine.answer(2).position == 1
        assert engine.batch_sizes == [1]


class TestScoring:
    def test_two_scorings_give_all_but_the_first(self) -> None:
        """Scorings in a row give the log-probability of every token of the text but its first."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:5], SCORING, tag=1)
        engine.chunk("a", TEXT[5:], SCORING, tag=2)
        engine.run_all()
        first, *others = engine.answer(1).log_probabilities + engine.answer(2).log_probabilities

        assert math.isnan(first)
        np.testing.assert_allclose(others, scores_of(TEXT), atol=1e-4)

    def test_token_by_token(self) -> None:
        """Scoring one token at a time gives what scoring all at once gives; the first needs no run."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:1], SCORING, tag=0)

        assert engine.core.next_batch(0.0) is None
        assert engine.answer(0).position == 1
        assert math.isnan(engine.answer(0).log_probabilities[0])
        for index, token in enumerate(TEXT[1:], 1):
            engine.chunk("a", [token], SCORING, tag=index, position=index)
            engine.run_all()
        got = [engine.answer(index).log_probabilities[0] for index in range(1, len(TEXT))]
        np.testing.assert_allclose(got, scores_of(TEXT), atol=1e-4)

    def test_in_stretches(self) -> None:
        """A scoring that takes several runs gives what it gives in one."""
        engine = make_engine("a", max_run_steps=3)
        engine.chunk("a", TEXT, SCORING, tag=1)
        engine.run_all()

        np.testing.assert_allclose(engine.answer(1).log_probabilities[1:], scores_of(TEXT), atol=1e-4)

    def test_a_step_after_a_scoring(self) -> None:
        """A step after a scoring shows nothing of the token that was put off: its outputs are its own steps'."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:4], SCORING)
        engine.chunk("a", TEXT[4:7], Want(names=("logits",), top_k=2), tag=1)
        engine.run_all()
        answer = engine.answer(1)

        assert (answer.position, answer.num_steps) == (7, 3)
        assert len(answer.top_tokens) == 6
        np.testing.assert_allclose(answer.outputs["logits"], expected(TEXT[:7])[4:], atol=1e-4)

    def test_a_failed_step_keeps_the_token_that_was_put_off(self) -> None:
        """A run that fails after a scoring loses neither the scored text nor its last token."""
        engine = make_engine("a")
        engine.chunk("a", TEXT[:4], SCORING)
        engine.run_all()
        engine.chunk("a", [9], tag=1)
        engine.run(RuntimeError("lost"))

        check_next(engine, "a", TEXT[:4])


class TestGeneration:
    def test_it_goes_on_with_an_empty_prompt(self) -> None:
        """Two generations in a row, the second without a prompt, draw the text of one long one."""
        engine = make_engine("a", "b")
        engine.generate("a", TEXT[:3], 8, tag=1)
        engine.generate("b", TEXT[:3], 3, tag=2)
        engine.run_all()
        engine.generate("b", [], 5, tag=3, position=6)
        engine.run_all()

        assert engine.tokens(1) == engine.tokens(2) + engine.tokens(3)

    def test_an_empty_prompt_needs_a_token_to_start_from(self) -> None:
        """A session that was just opened, or just stepped, cannot generate from nothing."""
        engine = make_engine("a")
        with pytest.raises(InvalidArgument) as caught:
            engine.generate("a", [], 1)
        assert caught.value.field == "tokens"
        engine.chunk("a", [1])
        engine.run_all()
        with pytest.raises(InvalidArgument):
            engine.generate("a", [], 1)

    def test_it_tells_position_and_finish(self) -> None:
        """Each token tells the session's position with it; the last alone tells why the generation ended."""
        engine = make_engine("a")
        engine.generate("a", TEXT[:3], 4, tag=1, position=0)
        engine.run_all()

        assert [token.position for token in engine.sink.outcomes[1]] == [4, 5, 6, 7]
        assert [token.finish_reason for token in engine.sink.outcomes[1]] == [None, None, None, FinishReason.LENGTH]
        check_next(engine, "a", TEXT[:3] + engine.tokens(1))

    def test_a_stop_sequence_ends_it(self) -> None:
        """The generation ends with the last token of a stop sequence, whichever of several comes first."""
        engine = make_engine("a", "b")
        engine.generate("a", TEXT[:3], 12, tag=1)
        engine.run_all()
        text = engine.tokens(1)
        pairs = list(pairwise(text))
        stop = next(index for index in range(2, len(pairs)) if pairs[index] not in pairs[:index])
        engine.generate("b", TEXT[:3], 12, tag=2, stop_sequences=((0, 0, 0, 0, 0), pairs[stop]))
        engine.run_all()

        assert text[: stop + 2] == engine.tokens(2)
        assert FinishReason.STOP is engine.sink.outcomes[2][-1].finish_reason

    def test_a_prompt_is_no_part_of_a_stop_sequence(self) -> None:
        """Only generated tokens are looked at: one that completes a stop sequence begun in the prompt goes by."""
        engine = make_engine("a", "b")
        engine.generate("a", TEXT[:3], 4, tag=1)
        engine.run_all()
        first, *_ = text = engine.tokens(1)
        engine.generate("b", TEXT[:3], 4, tag=2, stop_sequences=((TEXT[2], first),))
        engine.run_all()

        assert text[:2] == engine.tokens(2)[:2]

    def test_it_can_be_cut_by_a_failure(self) -> None:
        """A run that fails during a generation ends it after the tokens that were told, and the session goes on."""
        engine = make_engine("a")
        engine.generate("a", TEXT[:3], 9, tag=1)
        engine.run()
        engine.run()
        engine.run(RuntimeError("lost"))

        assert isinstance(engine.sink.outcomes[1][-1], RunFailed)
        check_next(engine, "a", TEXT[:3] + engine.tokens(1))


class TestLimits:
    def test_the_queue_is_bounded(self) -> None:
        """Work beyond the most that may wait is refused; what finishes makes room."""
        engine = make_engine("a", "b", max_waiting_chunks=2)
        engine.chunk("a", [1])
        engine.chunk("a", [1])
        with pytest.raises(ResourceExhausted) as caught:
            engine.chunk("b", [1])
        assert caught.value.reason == "queue"
        engine.run_all()
        engine.chunk("b", [1], tag=1)
        engine.run_all()

        assert engine.answer(1).position == 1

    @pytest.mark.parametrize("max_batch", [1, 2, 5])
    def test_more_busy_sessions_than_slots(self, max_batch: int) -> None:
        """Sessions that all have work, long and short, all get through few slots, however small the batches."""
        names = "abcdefg"
        engine = make_engine(*names, num_slots=1, max_batch=max_batch, max_run_steps=4)
        for round_ in range(2):
            for index, name in enumerate(names):
                start = round_ * 8
                engine.chunk(name, TEXT[start : start + 8], tag=(name, round_))
                assert index < len(names)
        engine.run_all()

        for name in names:
            assert engine.answer((name, 1)).position == 16
            check_next(engine, name, TEXT)

    def test_long_chunks_make_progress_in_turns(self) -> None:
        """Of several long chunks that share two slots, the first finishes before the last starts: none blocks all."""
        engine = make_engine("a", "b", "c", num_slots=1, max_batch=1, max_run_steps=4)
        for name in "abc":
            engine.chunk(name, TEXT, tag=name)
        for _ in range(4):
            engine.run()

        assert engine.answer("a").position == 16
        engine.run_all()
        assert engine.answer("b").position == 16
        assert engine.answer("c").position == 16


def start_run(engine: ManualEngine, error: Exception | None = None) -> Callable[[], None]:
    """Forms and runs a batch; the returned function tells the core of it. What comes between comes during the run."""
    formed = engine.core.next_batch(engine.now)
    assert formed is not None
    batch, assembly = formed
    results = Results(error=error)

    def finish() -> None:
        engine.runner.run(assembly.feeds, results)
        if error is None:
            engine.core.finish(batch, assembly, results, engine.now)
        else:
            engine.core.fail(batch, results, "0123")
        engine.deliver()

    return finish


def start_unread_run(engine: ManualEngine) -> Callable[[], None]:
    """As `start_run`, of a run that fails before it has done anything."""
    formed = engine.core.next_batch(engine.now)
    assert formed is not None

    def finish() -> None:
        engine.core.fail(formed[0], Results(error=RuntimeError("lost")), "0123")
        engine.deliver()

    return finish


def spilling_engine() -> ManualEngine:
    """Sessions a and b have consumed texts of their own; b holds a slot, a was spilled for it."""
    engine = make_engine("a", "b", num_slots=1, max_batch=1)
    engine.chunk("a", TEXT[:3])
    engine.run_all()
    engine.chunk("b", TEXT[3:5])
    engine.run_all()
    assert engine.core.table.get("a").slot == 0
    return engine


class TestSpilling:
    def test_a_failed_run_that_read_the_spilled(self) -> None:
        """A run that fails after it spilled one session and restored another keeps both states."""
        engine = spilling_engine()
        engine.chunk("a", [9], tag=1)
        engine.run(RuntimeError("lost"))

        assert isinstance(error_of(engine, 1), RunFailed)
        check_next(engine, "a", TEXT[:3])
        check_next(engine, "b", TEXT[3:5])

    def test_a_failed_run_that_read_nothing(self) -> None:
        """A run that fails before it has spilled anything leaves the states where they were."""
        engine = spilling_engine()
        engine.chunk("a", [9], tag=1)
        start_unread_run(engine)()

        assert isinstance(error_of(engine, 1), RunFailed)
        assert engine.core.table.get("b").slot
        check_next(engine, "a", TEXT[:3])
        check_next(engine, "b", TEXT[3:5])

    @pytest.mark.parametrize("start", [start_run, start_unread_run])
    def test_a_victim_that_ends_meanwhile(self, start: Callable[[ManualEngine], Callable[[], None]]) -> None:
        """A session closed while it is being spilled leaves neither a slot nor a state behind."""
        engine = spilling_engine()
        engine.chunk("a", [9])
        finish = start(engine)
        engine.core.end(engine.core.table.get("b"), EndReason.CLOSED)
        finish()
        engine.core.end(engine.core.table.get("a"), EndReason.CLOSED)

        assert engine.num_used_slots() == 0
        assert len(engine.core.residence.spilled) == 0

    @pytest.mark.parametrize("start", [start_run, start_unread_run])
    def test_a_victim_that_gets_work_meanwhile(self, start: Callable[[ManualEngine], Callable[[], None]]) -> None:
        """A session that gets work while it is being spilled comes back and does it."""
        engine = spilling_engine()
        engine.chunk("a", [9])
        finish = start(engine)
        engine.chunk("b", TEXT[5:7], LOGITS, tag=1)
        assert engine.core.next_batch(engine.now) is None
        finish()
        engine.run_all()

        np.testing.assert_allclose(engine.answer(1).outputs["logits"], expected(TEXT[3:7])[2:], atol=1e-4)

    def test_a_victims_work_that_is_cancelled_meanwhile(self) -> None:
        """Work that comes and is cancelled while its session is being spilled is never run."""
        engine = spilling_engine()
        engine.chunk("a", [9])
        finish = start_run(engine)
        engine.core.cancel(engine.chunk("b", [9], tag=1))
        finish()

        assert engine.core.num_ready == 0
        check_next(engine, "b", TEXT[3:5])

    def test_a_session_that_ends_while_it_runs(self) -> None:
        """A session closed during its run tells its waiting work so, and frees its slots after the run."""
        engine = spilling_engine()
        engine.chunk("b", [9], tag=1)
        engine.chunk("b", [9], tag=2)
        finish = start_run(engine)
        engine.core.end(engine.core.table.get("b"), EndReason.CLOSED)

        assert isinstance(error_of(engine, 1), NotFound)
        assert isinstance(error_of(engine, 2), NotFound)
        assert engine.num_used_slots() == 2
        finish()
        assert engine.num_used_slots() == 0
        assert engine.core.num_waiting == 0

    def test_a_session_that_ends_between_runs(self) -> None:
        """A session closed half way through a long chunk frees both of its slots at once."""
        engine = make_engine("a", max_run_steps=4)
        engine.chunk("a", TEXT)
        engine.run()
        engine.core.end(engine.core.table.get("a"), EndReason.IDLE)

        assert engine.num_used_slots() == 0
        assert not engine.run()

    @pytest.mark.parametrize("error", [None, RuntimeError("lost")])
    def test_an_id_that_is_opened_again_during_the_old_ones_run(self, error: Exception | None) -> None:
        """A new session never starts from the state of a closed one of the same id, though a run still restores it."""
        engine = make_engine(*"abcd", num_slots=3, max_batch=1)
        for name in "abcd":
            engine.chunk(name, TEXT[:3])
            engine.run_all()
        for name in "cd":
            engine.core.end(engine.core.table.get(name), EndReason.CLOSED)
        assert engine.core.table.get("a").slot == 0
        engine.chunk("a", [9])
        finish = start_run(engine, error)
        engine.core.end(engine.core.table.get("a"), EndReason.CLOSED)
        engine.open("a")
        engine.core.end(engine.core.table.get("b"), EndReason.CLOSED)
        engine.chunk("a", [1, 2], LOGITS, tag=1, position=0)
        second = start_run(engine)
        finish()
        second()

        np.testing.assert_allclose(engine.answer(1).outputs["logits"], expected([1, 2]), atol=1e-4)
        check_next(engine, "a", [1, 2])

    def test_a_batch_that_fails_beside_spills(self) -> None:
        """After a failed run of several sessions beside others that left for them, every session is right."""
        engine = make_engine(*"abcdef", num_slots=2, max_batch=2)
        for index, name in enumerate("abcdef"):
            engine.chunk(name, TEXT[index : index + 4])
            engine.run_all()
        for name in "ab":
            engine.chunk(name, [9])
        engine.run(RuntimeError("lost"))
        for index, name in enumerate("abcdef"):
            check_next(engine, name, TEXT[index : index + 4])


def test_unacknowledged_answers_of_pipelined_chunks_are_kept() -> None:
    """A client that lost the answers of several chunks in flight can ask for each again."""
    engine = ManualEngine(make_model()[0])
    engine.open("a")
    first = engine.chunk("a", [1], tag=1, position=0)
    second = engine.chunk("a", [2], tag=2, position=1, acknowledged=0)
    engine.run_all()
    engine.chunk("a", [3], tag=3, position=2, acknowledged=0)
    engine.run_all()

    for tag, work in ((11, first), (12, second)):
        engine.chunk("a", work.inputs["tokens"], tag=tag, position=work.position)

        assert engine.answer(tag) is engine.answer(tag - 10)


def test_acknowledged_answers_are_forgotten() -> None:
    """Once a client has said that it has an answer, asking for it again is a wrong position."""
    engine = ManualEngine(make_model()[0])
    engine.open("a")
    engine.chunk("a", [1], position=0)
    engine.chunk("a", [2], position=1, acknowledged=0)
    engine.run_all()
    engine.chunk("a", [3], position=2, acknowledged=1)
    engine.run_all()

    with pytest.raises(WrongPosition):
        engine.chunk("a", [1], position=0)
