"""The classic synthetic tasks, each with its numbers as tokens: copying, adding, arithmetic and timing."""

import torch
from torch import Generator, Tensor

from conveyor_export.compare.task import Batch, Part

_DIGITS = 10


def _score_last(tokens: Tensor, answers: Tensor) -> Batch:
    """A batch whose last steps are scored, as many as there are answers `[N, B]`."""
    targets, is_scored = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
    targets[-len(answers) :], is_scored[-len(answers) :] = answers, True
    return Batch(tokens, targets, is_scored)


class Copying:
    """Repeats what stood at the beginning, once a signal is given (after Arjovsky, Shah and Bengio, 2016).

    Token 0 is the blank, those up to `num_symbols` are symbols, the one after them is the signal.
    """

    def __init__(self, num_symbols: int = 8, length: int = 4, delay: int = 8) -> None:
        self.num_symbols, self.length = num_symbols, length
        self.vocabulary_size, self.num_steps = num_symbols + 2, 2 * length + delay

    def draw(self, num_sequences: int, rng: Generator, part: Part = "training") -> Batch:
        """See `Task`."""
        symbols = torch.randint(1, self.num_symbols + 1, (self.length, num_sequences), generator=rng)
        tokens = torch.zeros(self.num_steps, num_sequences, dtype=torch.int64)
        tokens[: self.length], tokens[-self.length] = symbols, self.num_symbols + 1
        return _score_last(tokens, symbols)


class Adding:
    """Names at the last step the sum of the two digits that were marked, one in each half.

    After Hochreiter and Schmidhuber (1997), whose numbers were real. A marked digit d is token 10 + d.
    """

    vocabulary_size = 2 * _DIGITS

    def __init__(self, num_steps: int = 16) -> None:
        self.num_steps = num_steps

    def draw(self, num_sequences: int, rng: Generator, part: Part = "training") -> Batch:
        """See `Task`."""
        digits = torch.randint(0, _DIGITS, (self.num_steps, num_sequences), generator=rng)
        half = self.num_steps // 2
        first = torch.randint(0, half, (1, num_sequences), generator=rng)
        second = torch.randint(half, self.num_steps, (1, num_sequences), generator=rng)
        places = torch.cat([first, second])
        tokens = digits.scatter_add(0, places, torch.full_like(places, _DIGITS))
        return _score_last(tokens, digits.gather(0, places).sum(0, keepdim=True))


class Arithmetic:
    """Writes the sum of two numbers, digit by digit (after Zaremba and Sutskever, 2014).

    `a+b=` is read, then the sum is written, all numbers from the lowest digit on. What was to be written at a step is
    read at the next, whatever the model wrote. Token 10 is the plus, token 11 the equals sign.
    """

    vocabulary_size = _DIGITS + 2

    def __init__(self, num_digits: int = 3) -> None:
        self.num_digits = num_digits
        self.num_steps = 3 * num_digits + 2

    def draw(self, num_sequences: int, rng: Generator, part: Part = "training") -> Batch:
        """See `Task`."""
        a, b = torch.randint(0, _DIGITS**self.num_digits, (2, num_sequences), generator=rng)
        plus, equals = (torch.full((1, num_sequences), token) for token in (_DIGITS, _DIGITS + 1))
        total = _digits(a + b, self.num_digits + 1)
        tokens = torch.cat([_digits(a, self.num_digits), plus, _digits(b, self.num_digits), equals, total[:-1]])
        return _score_last(tokens, total)


class Timing:
    """Names at each mark the number of steps since the one before (after Gers, Schraudolph and Schmidhuber, 2002).

    Token 1 is a mark, token 0 none. The first step has a mark, which is not scored.
    """

    def __init__(self, num_steps: int = 40, shortest: int = 2, longest: int = 12) -> None:
        self.num_steps, self.shortest, self.longest = num_steps, shortest, longest
        self.vocabulary_size = longest + 1

    def draw(self, num_sequences: int, rng: Generator, part: Part = "training") -> Batch:
        """See `Task`."""
        most = self.num_steps // self.shortest
        gaps = torch.randint(self.shortest, self.longest + 1, (most, num_sequences), generator=rng)
        # Marks beyond the end fall on one more step, which is cut off.
        places = gaps.cumsum(0).clamp(max=self.num_steps)
        targets = torch.zeros(self.num_steps + 1, num_sequences, dtype=torch.int64).scatter(0, places, gaps)[:-1]
        is_scored = targets > 0
        tokens = is_scored.long()
        tokens[0] = 1
        return Batch(tokens, targets, is_scored)


def _digits(numbers: Tensor, num_digits: int) -> Tensor:
    """`[num_digits, B]`, the lowest first."""
    return torch.stack([numbers // _DIGITS**place % _DIGITS for place in range(num_digits)])
