"""Sealed checkpoints: what was sealed is opened, and nothing else."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor.engine.seal import Seal
from conveyor.errors import FailedPrecondition, InvalidArgument

SEAL = Seal(b"key")
SEALED = SEAL.close(b"head", b"the state")


@given(st.binary(max_size=50), st.binary(max_size=50), st.binary(max_size=40))
def test_what_was_sealed_is_opened(head: bytes, state: bytes, key: bytes) -> None:
    """By any server of the key, whatever its length, and the parts may be empty."""
    assert Seal(key).open(Seal(key).close(head, state)) == (head, state)


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, change: int) -> None:
    """Whichever it is."""
    changed = SEALED[:place] + bytes((SEALED[place] ^ change,)) + SEALED[place + 1 :]
    with pytest.raises((FailedPrecondition, InvalidArgument)) as raised:
        SEAL.open(changed)
    # The first bytes say what it is: without them it is no checkpoint at all.
    assert isinstance(raised.value, InvalidArgument if place < 6 else FailedPrecondition)


@pytest.mark.parametrize("length", range(len(SEALED)))
def test_a_cut_piece_is_refused(length: int) -> None:
    """Wherever it ends; and so is one that goes on."""
    for piece in (SEALED[:length], SEALED + SEALED[: length + 1]):
        with pytest.raises((FailedPrecondition, InvalidArgument), match=r"^checkpoint: "):
            SEAL.open(piece)


def test_another_key_is_refused() -> None:
    """With an error of the client's, that does not say which key it was."""
    with pytest.raises(FailedPrecondition, match="changed, cut short, or sealed with another key"):
        Seal(b"another").open(SEALED)


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(data: bytes) -> None:
    """They are no checkpoint."""
    with pytest.raises((FailedPrecondition, InvalidArgument)):
        SEAL.open(data)


@pytest.mark.parametrize(("head_length", "state_length"), [(2**32 - 1, 9), (4, 8), (4, 10), (14, 0), (0, 2**32 - 1)])
def test_lengths_that_lie_are_refused(head_length: int, state_length: int) -> None:
    """Even under the key; those that only move the border between the parts are another piece."""
    frame = SEALED[:8] + head_length.to_bytes(4, "little") + state_length.to_bytes(4, "little") + SEALED[16:-32]
    key = hashlib.sha256(b"conveyor checkpoint seal" + b"key").digest()
    with pytest.raises(InvalidArgument, match="its lengths contradict each other"):
        SEAL.open(frame + hmac.digest(key, frame, "sha256"))


def test_the_key_is_not_in_it() -> None:
    """What a client holds tells nothing of the key, and is as long as it must be."""
    assert b"key" not in SEALED
    assert len(SEALED) == 16 + len(b"headthe state") + 32
