"""Text to token ids and back, for language models. Pure Python: clients use it too."""

from collections.abc import Iterable, Sequence


class Vocabulary:
    """The text of each token id. Entry 0 stands for every symbol that is not in the list.

    Text is cut greedily, longest entry first; for a character vocabulary that is one token a character.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self._ids = {symbol: index for index, symbol in enumerate(self.symbols) if index}
        self._longest = max((len(symbol) for symbol in self.symbols[1:]), default=1)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Token ids of the text; a character that no entry starts becomes token 0."""
        if self._longest == 1:
            return [self._ids.get(character, 0) for character in text]
        ids, start = [], 0
        while start < len(text):
            length = self._match(text, start)
            ids.append(self._ids.get(text[start : start + length], 0))
            start += length
        return ids

    def _match(self, text: str, start: int) -> int:
        for length in range(min(self._longest, len(text) - start), 1, -1):
            if text[start : start + length] in self._ids:
                return length
        return 1

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of the token ids.

        Raises:
            IndexError: an id is not in the vocabulary.
        """
        return "".join(self.symbols[token] for token in tokens)
