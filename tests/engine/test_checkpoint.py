"""Sessions as bytes: what is written is read, and bytes that are no checkpoint are refused, whatever they are."""

from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor.engine.checkpoint import (
    CheckpointError,
    Head,
    State,
    decode_rows,
    decode_state,
    encode_head,
    encode_state,
    read_head,
    start_from,
)
from conveyor.engine.durability import Durability, Mode
from conveyor.engine.spilled import Rows
from conveyor.graph.arena import Arena

DTYPES = ("float32", "float16", "float64", "int64", "int32", "bool")
ARENAS = tuple(Arena(f"arena.{dtype}", dtype, width, ()) for width, dtype in enumerate(DTYPES, 1))


def rows_of(seed: int, arenas: tuple[Arena, ...] = ARENAS) -> Rows:
    """Random rows, NaNs and infinities among the floats."""
    random = np.random.default_rng(seed)
    rows: Rows = {}
    for arena in arenas:
        raw = np.frombuffer(random.bytes(arena.row_bytes), np.uint8)
        rows[arena.name] = (raw & 1 if arena.dtype == "bool" else raw).view(arena.dtype)
    return rows


def head_of(**fields: Any) -> Head:
    """A head with all that one may have."""
    durability = Durability(Mode.SYNC, 5, 0.25)
    values = ("tiny", 3, "ab" * 32, 2**64 - 1, 1.5, 600.0, 1e9, durability)
    return Head(**{**dict(zip(Head.__slots__, values, strict=False)), **fields})


def bytes_of(rows: Rows | None) -> list[bytes] | None:
    return None if rows is None else [rows[arena.name].tobytes() for arena in ARENAS]


positions = st.integers(0, 2**63 - 1)
tokens = st.integers(0, 2**63 - 1)
states = st.builds(
    State,
    positions,
    st.none() | tokens,
    st.none() | st.lists(tokens, max_size=256),
    st.none() | st.integers(0, 2**32).map(rows_of),
)
SOUND = encode_state(State(7, 3, [1, 2], rows_of(1)), ARENAS)
SOUND_HEAD = encode_head(head_of(contexts=rows_of(2)), ARENAS)


@given(states)
def test_a_state_is_read_as_it_was_written(state: State) -> None:
    """Position, pending token, remembered tokens and every bit of the rows; none of a thing is not an empty one."""
    again = decode_state(encode_state(state, ARENAS), ARENAS)

    assert (again.position, again.pending, again.seen) == (state.position, state.pending, state.seen)
    assert bytes_of(again.rows) == bytes_of(state.rows)
    if again.rows is not None:
        assert {name: row.dtype for name, row in again.rows.items()} == {a.name: np.dtype(a.dtype) for a in ARENAS}


@pytest.mark.parametrize("mode", Mode)
def test_a_head_is_read_as_it_was_written(mode: Mode) -> None:
    """Every field comes back; contexts come as bytes, which take the model's arenas to be read."""
    plain, given = head_of(durability=Durability(mode)), head_of(durability=Durability(mode), contexts=rows_of(3))
    head, nothing = read_head(encode_head(plain, ARENAS))
    other, contexts = read_head(encode_head(given, ARENAS))

    assert (head, nothing) == (plain, b"")
    assert other == plain
    assert bytes_of(decode_rows(contexts, ARENAS)) == bytes_of(given.contexts)


def test_a_session_starts_where_its_checkpoint_is() -> None:
    """What it was given when it was opened comes from the head, all else from the state."""
    head, state = head_of(contexts=rows_of(4)), State(7, 3, (1, 2), rows_of(5))
    start = start_from(head, state)

    assert (start.contexts, start.initial) == (head.contexts, state.rows)
    assert (start.position, start.pending, start.seen) == (7, 3, (1, 2))


@pytest.mark.parametrize("length", range(len(SOUND)))
def test_a_cut_state_is_refused(length: int) -> None:
    """Wherever it ends."""
    with pytest.raises(CheckpointError):
        decode_state(SOUND[:length], ARENAS)


def test_a_cut_head_is_refused() -> None:
    """Wherever it ends."""
    for length in range(len(SOUND_HEAD)):
        with pytest.raises(CheckpointError):
            read_head(SOUND_HEAD[:length])


@given(st.integers(0, len(SOUND) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, change: int) -> None:
    """Whichever it is, and whatever it becomes."""
    with pytest.raises(CheckpointError):
        decode_state(_changed(SOUND, place, change), ARENAS)


@given(st.integers(0, len(SOUND_HEAD) - 1), st.integers(1, 255))
def test_a_changed_byte_of_a_head_is_noticed(place: int, change: int) -> None:
    """Whichever it is, and whatever it becomes."""
    with pytest.raises(CheckpointError):
        read_head(_changed(SOUND_HEAD, place, change))


def _changed(data: bytes, place: int, change: int) -> bytes:
    return data[:place] + bytes((data[place] ^ change,)) + data[place + 1 :]


@settings(max_examples=300)
@given(st.binary(max_size=80), st.sampled_from((b"", b"CVYR", SOUND[:8], SOUND_HEAD[:8], SOUND_HEAD[:12])))
def test_any_bytes_are_refused(data: bytes, beginning: bytes) -> None:
    """However much they look like a checkpoint at first, with a checksum that fits, nothing but the error comes."""
    data = beginning + data
    for candidate in (data, data + _checksum(data)):
        for read in (lambda bytes_: decode_state(bytes_, ARENAS), read_head):
            with pytest.raises(CheckpointError):
                read(candidate)


@given(st.integers(0, len(SOUND) - 5), st.integers(1, 255))
def test_what_contradicts_itself_is_refused(place: int, change: int) -> None:
    """A changed byte under a checksum that fits is at worst another state of these arenas."""
    body = _changed(SOUND[:-4], place, change)
    try:
        state = decode_state(body + _checksum(body), ARENAS)
    except CheckpointError:
        return
    assert state.position >= 0
    assert state.rows is None or state.rows.keys() == {arena.name for arena in ARENAS}


@given(st.integers(0, len(SOUND_HEAD) - 5), st.integers(1, 255))
def test_a_head_that_contradicts_itself_is_refused(place: int, change: int) -> None:
    """A changed byte under a checksum that fits gives another head or the error, nothing else."""
    body = _changed(SOUND_HEAD[:-4], place, change)
    try:
        head, contexts = read_head(body + _checksum(body))
        decode_rows(contexts, ARENAS)
    except CheckpointError:
        return
    assert isinstance(head, Head)


def _checksum(data: bytes) -> bytes:
    return crc32(data).to_bytes(4, "little")


def test_other_arenas_are_refused() -> None:
    """The error tells both sizes; the rows of a smaller model would not be noticed otherwise."""
    with pytest.raises(CheckpointError, match="it holds 90 bytes of state, the model has 4"):
        decode_state(SOUND, ARENAS[:1])


def test_a_part_is_not_taken_for_the_other() -> None:
    """A head is no state, and a state no head."""
    with pytest.raises(CheckpointError, match="another part"):
        decode_state(SOUND_HEAD, ARENAS)
    with pytest.raises(CheckpointError, match="another part"):
        read_head(SOUND)


def test_a_later_format_is_told() -> None:
    """A server that is older than the checkpoint says so, whatever else the bytes are."""
    with pytest.raises(CheckpointError, match="it has format 2, this server reads 1"):
        decode_state(_changed(SOUND, 4, 3), ARENAS)


def test_a_checkpoint_is_little_more_than_its_state() -> None:
    """A frame of 36 bytes beside the rows."""
    assert len(encode_state(State(7, None, None, rows_of(1)), ARENAS)) == 36 + sum(a.row_bytes for a in ARENAS)
