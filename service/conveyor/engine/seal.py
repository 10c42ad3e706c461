"""Checkpoints that leave the server: authenticated with its key, so that what comes back is what went out."""

import hashlib
import hmac
import struct

from conveyor.errors import FailedPrecondition, InvalidArgument

MAGIC = b"CVYS"
FORMAT = 1
_FRAME = struct.Struct("<4sHHII")  # magic, format, zero, lengths of head and state
_DIGEST = 32


class Seal:
    """A key that the servers share which are to take each other's checkpoints."""

    def __init__(self, key: bytes) -> None:
        # Whatever its length: a digest of it, so that the key itself is used for nothing else.
        self._key = hashlib.sha256(b"conveyor checkpoint seal" + key).digest()

    def close(self, head: bytes, state: bytes) -> bytes:
        """One sealed piece of both."""
        frame = _FRAME.pack(MAGIC, FORMAT, 0, len(head), len(state)) + head + state
        return frame + self._digest(frame)

    def open(self, sealed: bytes) -> tuple[bytes, bytes]:
        """Head and state of a sealed piece.

        Raises:
            InvalidArgument: these bytes are no checkpoint.
            FailedPrecondition: they were changed, or sealed with another key.
        """
        if len(sealed) < _FRAME.size + _DIGEST or sealed[:4] != MAGIC:
            raise InvalidArgument("checkpoint", "these bytes are not a sealed checkpoint")
        frame, digest = sealed[:-_DIGEST], sealed[-_DIGEST:]
        _, version, _, head_length, state_length = _FRAME.unpack_from(frame)
        if version != FORMAT:
            raise InvalidArgument("checkpoint", f"it has format {version}, this server reads {FORMAT}")
        if not hmac.compare_digest(digest, self._digest(frame)):
            raise FailedPrecondition("checkpoint: it was changed, cut short, or sealed with another key")
        middle = _FRAME.size + head_length
        if middle + state_length != len(frame):
            raise InvalidArgument("checkpoint", "its lengths contradict each other")
        return frame[_FRAME.size : middle], frame[middle:]

    def _digest(self, frame: bytes) -> bytes:
        return hmac.digest(self._key, frame, "sha256")
