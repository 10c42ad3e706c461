"""A session as bytes: what never changes of it (its head), and its state at a position (a checkpoint).

Both are one frame: magic, format version and kind, a JSON description, raw data, and a checksum over all of it.
Arrays lie as the arenas have them, little-endian, so that making a checkpoint is little more than copying a row.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from zlib import crc32

import numpy as np

from conveyor.engine.answers import decode_answers, encode_answers
from conveyor.engine.drawn import Drawn
from conveyor.engine.durability import Durability, Mode
from conveyor.engine.session import Kept, can_answer
from conveyor.engine.spilled import Rows
from conveyor.engine.work import Start
from conveyor.graph.arena import Arena
from conveyor.store import LISTED_BYTES

MAGIC = b"CVYR"
FORMAT = 1
HEAD, STATE = 1, 2
_FRAME = struct.Struct("<4sHHI")  # magic, format, kind, length of the description
_STATE = struct.Struct("<4sHHqqIB3x")  # magic, format, kind, position, pending token, remembered tokens, parts
_ROWS, _ANSWERS = 1, 2  # parts of a checkpoint
_LENGTH = struct.Struct("<I")  # of the answers, behind them
_CHECKSUM = struct.Struct("<I")
_NO_TOKEN = -1


class CheckpointError(ValueError):
    """The bytes are no checkpoint that can be used here; the message says why."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a session keeps for life. Times are Unix seconds; `contexts` rows by arena, None where there are none."""

    model: str
    version: int
    fingerprint: str
    seed: int
    opened: float
    idle_timeout: float
    lifetime_ends: float
    durability: Durability
    contexts: Rows | None = None


@dataclass(frozen=True, slots=True)
class State:
    """A session at a position. `rows` by arena, None for the initial state.

    `kept` and `drawn` are its answers that the client may not have, if these are to go on with it.
    """

    position: int
    pending: int | None
    seen: Sequence[int] | None
    rows: Rows | None
    kept: tuple[Kept, ...] = ()
    drawn: Drawn | None = None

    def answers_from(self, received: int) -> bool:
        """True if a client with the answers up to `received` can go on from here."""
        return can_answer(received, self.position, self.kept, self.drawn)


def encode_head(head: Head, arenas: Sequence[Arena]) -> bytes:
    """The head as bytes; `arenas` are those of contexts."""
    fields = {name: value for name, value in _fields(head).items() if name != "contexts"}
    fields["has_contexts"] = head.contexts is not None
    description = json.dumps(fields, separators=(",", ":")).encode()
    frame = _FRAME.pack(MAGIC, FORMAT, HEAD, len(description)) + description + _raw(head.contexts, arenas)
    return frame + _CHECKSUM.pack(crc32(frame))


def _fields(head: Head) -> dict[str, Any]:
    fields = {name: getattr(head, name) for name in Head.__slots__}
    fields["durability"] = asdict(head.durability) | {"mode": head.durability.mode.value}
    return fields


def read_head(data: bytes) -> tuple[Head, bytes]:
    """A head without its contexts, and their bytes, which take a model to be read.

    Raises:
        CheckpointError: damaged, or not a head.
    """
    body = _checked(data, HEAD)
    head, has_contexts, end = _described(body)
    if not has_contexts and len(body) > end:
        raise CheckpointError("there is more than a head")
    return head, body[end:]


def read_listed_head(data: bytes) -> Head:
    """A head as a list has it, without its contexts. Of a long one the end is missing, and so is the checksum.

    Raises:
        CheckpointError: as `read_head`.
    """
    if len(data) < LISTED_BYTES:
        return read_head(data)[0]
    _check_frame(data, HEAD)
    return _described(data)[0]


def _described(body: bytes) -> tuple[Head, bool, int]:
    """A head by its description, whether there are contexts, and where these begin."""
    end = _FRAME.size + _FRAME.unpack_from(body)[3]
    try:
        fields = json.loads(body[_FRAME.size : end])
        durability = fields.pop("durability")
        durability["mode"] = Mode(durability["mode"])
        has_contexts = fields.pop("has_contexts")
        return Head(**fields, durability=Durability(**durability)), has_contexts, end
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"the description of the session cannot be read: {error}") from None


def start_from(head: Head, state: State) -> Start:
    """Where a session begins that goes on from a checkpoint."""
    return Start(head.contexts, state.rows, state.position, state.pending, state.seen)


def encode_state(state: State, arenas: Sequence[Arena]) -> bytes:
    """A checkpoint as bytes."""
    pending = _NO_TOKEN if state.pending is None else state.pending
    # One more than their number, so that none remembered differs from remembering none.
    num_seen = 0 if state.seen is None else len(state.seen) + 1
    answers = encode_answers(state.kept, state.drawn)
    length = _LENGTH.pack(len(answers)) if answers else b""
    parts = _ROWS * (state.rows is not None) | _ANSWERS * bool(answers)
    fixed = _STATE.pack(MAGIC, FORMAT, STATE, state.position, pending, num_seen, parts)
    seen = np.array(state.seen, "<i8").tobytes() if state.seen else b""
    frame = b"".join((fixed, seen, _raw(state.rows, arenas), answers, length))
    return frame + _CHECKSUM.pack(crc32(frame))


def decode_state(data: bytes, arenas: Sequence[Arena]) -> State:
    """Reads a checkpoint.

    Raises:
        CheckpointError: damaged, not a checkpoint, or of other arenas.
    """
    body = _checked(data, STATE)
    if len(body) < _STATE.size:
        raise CheckpointError("it is too short for a checkpoint")
    *_, position, pending, num_seen, parts = _STATE.unpack_from(body)
    end = _STATE.size + 8 * max(0, num_seen - 1)
    if position < 0 or len(body) < end:
        raise CheckpointError("its fields contradict each other")
    seen = np.frombuffer(body[_STATE.size : end], "<i8").tolist() if num_seen else None
    body, answers = _split(body, end) if parts & _ANSWERS else (body, ((), None))
    rows = decode_rows(body[end:], arenas) if parts & _ROWS else None
    if rows is None and len(body) > end:
        raise CheckpointError("there is more than a checkpoint")
    return State(position, None if pending == _NO_TOKEN else pending, seen, rows, *answers)


def _split(body: bytes, start: int) -> tuple[bytes, tuple[tuple[Kept, ...], Drawn | None]]:
    """What comes before the answers, and these."""
    end = len(body) - _LENGTH.size
    first = end - _LENGTH.unpack_from(body, end)[0]
    try:
        return body[:first], decode_answers(body[max(first, start) : end])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"its answers cannot be read: {error}") from None


def decode_rows(data: bytes, arenas: Sequence[Arena]) -> Rows:
    """A row of each arena.

    Raises:
        CheckpointError: the arenas are not of this size.
    """
    if len(data) != (expected := sum(arena.row_bytes for arena in arenas)):
        raise CheckpointError(f"it holds {len(data)} bytes of state, the model has {expected}")
    rows: Rows = {}
    start = 0
    for arena in arenas:
        end = start + arena.row_bytes
        rows[arena.name] = np.frombuffer(data[start:end], np.dtype(arena.dtype).newbyteorder("<"))
        start = end
    return rows


def _raw(rows: Rows | None, arenas: Sequence[Arena]) -> bytes:
    return b"" if rows is None else b"".join(rows[arena.name].tobytes() for arena in arenas)


def _checked(data: bytes, kind: int) -> bytes:
    """The frame without its checksum."""
    _check_frame(data, kind)
    body = data[: -_CHECKSUM.size]
    if _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0] != crc32(body):
        raise CheckpointError("its checksum is wrong: it is damaged or cut short")
    return body


def _check_frame(data: bytes, kind: int) -> None:
    if len(data) < _FRAME.size + _CHECKSUM.size or data[:4] != MAGIC:
        raise CheckpointError("these bytes are not a checkpoint")
    _, version, found, _ = _FRAME.unpack_from(data)
    if version != FORMAT:
        raise CheckpointError(f"it has format {version}, this server reads {FORMAT}")
    if found != kind:
        raise CheckpointError("it is another part of a checkpoint")
