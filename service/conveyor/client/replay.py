"""What a session consumed since its last checkpoint, kept to be sent again if its server is lost. No I/O."""

from array import array
from collections import deque
from collections.abc import Iterator, Sequence

from conveyor.client.errors import ReplayLost
from conveyor.v1 import step_pb2

# Tokens that are kept together, and sent again as one chunk. A chunk that was longer stays whole.
STRETCH_TOKENS = 512
# About what a stretch takes in memory beside its tokens, and a message beside its tensors.
STRETCH_BYTES = 256
TOKEN_BYTES = 8
MESSAGE_BYTES = 1024

_SCORING = step_pb2.Scoring()
_GENERATED = step_pb2.Scoring(remember=True)


class TokenStretch:
    """Consecutive tokens. As one chunk they leave the state that they left as many.

    `is_generated` tells that all of them are a generation's: its prompt and what it drew; else `last` is the chunk that
    the last of them came with.
    """

    __slots__ = ("is_generated", "last", "start", "tokens")

    def __init__(self, start: int, is_generated: bool) -> None:
        self.start = start
        self.tokens: list[int] | array[int] = []
        self.is_generated = is_generated
        self.last: step_pb2.Chunk | None = None

    @property
    def end(self) -> int:
        """Position after the last of them."""
        return self.start + len(self.tokens)

    @property
    def num_bytes(self) -> int:
        """About what it takes in memory."""
        return STRETCH_BYTES + TOKEN_BYTES * len(self.tokens)

    def pack(self) -> None:
        """Makes it small: there will be no more tokens. While there are, a list takes them in half the time."""
        self.tokens = array("q", self.tokens)

    def cut(self, position: int) -> None:
        """Forgets the tokens before a position."""
        del self.tokens[: position - self.start]
        self.start = position

    def chunk(self, session_id: str, position: int) -> step_pb2.Chunk:
        """The tokens from a position on, to be consumed again."""
        chunk = step_pb2.Chunk(session_id=session_id, position=position, tokens=self.tokens[position - self.start :])
        if self.is_generated:
            chunk.scoring.CopyFrom(_GENERATED)
        elif self.last is not None and self.last.HasField("scoring"):
            chunk.scoring.CopyFrom(_SCORING)  # the last token is pending
        return chunk


class InputStretch:
    """One chunk of tensors, or of steps without inputs: kept and sent whole."""

    __slots__ = ("_message", "end", "num_bytes", "start")

    def __init__(self, message: step_pb2.Chunk, start: int, end: int) -> None:
        self._message = message
        self.start = start
        self.end = end
        self.num_bytes = MESSAGE_BYTES + message.ByteSize()

    def cut(self, position: int) -> None:
        """Stays whole."""

    def chunk(self, session_id: str, position: int) -> step_pb2.Chunk:
        """The chunk, asking for nothing.

        Raises:
            ReplayLost: the position is within it, where no checkpoint is made.
        """
        if position != self.start:
            raise ReplayLost(session_id, position, self.end)
        return step_pb2.Chunk(
            session_id=session_id, position=position, inputs=self._message.inputs, num_steps=self._message.num_steps
        )


class Replay:
    """The inputs of one session from position `start` to `end`. Of more than `max_bytes` the oldest are forgotten."""

    __slots__ = ("_last", "_max_bytes", "_num_bytes", "_session_id", "_stretches", "end", "start")

    def __init__(self, session_id: str, position: int, max_bytes: int) -> None:
        self._session_id = session_id
        self._max_bytes = max_bytes
        self.reset(position)

    def reset(self, position: int) -> None:
        """Begins anew at a position, where there is no telling what was consumed before it."""
        self._stretches: deque[TokenStretch | InputStretch] = deque()
        self._last: TokenStretch | None = None  # the last stretch, if it takes tokens
        self._num_bytes = 0
        self.start = self.end = position

    def keep(self, chunk: step_pb2.Chunk, tokens: Sequence[int], position: int, num_steps: int) -> None:
        """Takes a chunk of so many steps, of these tokens if any, that was answered and had begun at this position."""
        if tokens:
            self._extend(position, tokens, False).last = chunk
            return
        if position != self.end:
            self.reset(position)
        self._last, self.end = None, position + num_steps
        self._add(InputStretch(chunk, position, self.end))
        self._shrink()

    def keep_generated(self, position: int, tokens: list[int]) -> None:
        """Takes tokens that a generation consumed from a position on: of its prompt, or drawn."""
        self._extend(position, tokens, True)

    def forget(self, position: int) -> None:
        """Drops what came before a position."""
        stretches = self._stretches
        while stretches and stretches[0].end <= position:
            self._drop()
        if stretches and stretches[0].start < position:
            self._num_bytes -= stretches[0].num_bytes
            stretches[0].cut(position)
            self._num_bytes += stretches[0].num_bytes
        self.start = stretches[0].start if stretches else self.end

    def after(self, position: int) -> Iterator[tuple[step_pb2.Chunk, int]]:
        """Yields chunks, and their numbers of steps, that lead from a position to `end`.

        Raises:
            ReplayLost: not all of it is here.
        """
        if position < self.start:
            raise ReplayLost(self._session_id, position, self.start)
        for stretch in self._stretches:
            if stretch.end > position:
                start = max(position, stretch.start)
                yield stretch.chunk(self._session_id, start), stretch.end - start

    def _extend(self, position: int, tokens: Sequence[int], is_generated: bool) -> TokenStretch:
        """Puts tokens behind the last, and returns the stretch that took them."""
        last = self._last
        if (
            last is None
            or position != self.end
            or last.is_generated is not is_generated
            or len(last.tokens) + len(tokens) > STRETCH_TOKENS
        ):
            last = self._begin(position, is_generated)
        last.tokens.extend(tokens)
        self.end = position + len(tokens)
        self._num_bytes += TOKEN_BYTES * len(tokens)
        if self._num_bytes > self._max_bytes:
            self._shrink()
        return last

    def _begin(self, position: int, is_generated: bool) -> TokenStretch:
        if position != self.end:  # somebody else moved the session
            self.reset(position)
        elif self._last is not None:
            self._last.pack()
        self._last = last = TokenStretch(position, is_generated)
        self._add(last)
        return last

    def _add(self, stretch: TokenStretch | InputStretch) -> None:
        self._stretches.append(stretch)
        self._num_bytes += stretch.num_bytes

    def _shrink(self) -> None:
        while self._num_bytes > self._max_bytes:
            self._drop()
            self.start = self._stretches[0].start if self._stretches else self.end

    def _drop(self) -> None:
        self._num_bytes -= self._stretches.popleft().num_bytes
        if not self._stretches:
            self._last = None
