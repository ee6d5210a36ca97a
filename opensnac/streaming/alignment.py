"""Where tokens belong that a language model dropped, doubled or got wrong, from the ranges that they are from.

The ranges of an intact stream repeat a known pattern. What came is laid beside it with the fewest edits (Levenshtein):
a token may stand where it should, stand for another one, be one too many, or be missing. As long as all is well a token
is placed at once. After one that does not fit, several places are kept in mind until one explains what came by two
edits fewer than any other, which takes two or three tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LEAD = 2  # edits by which an explanation must be better
LONGEST_DOUBT = 4  # coarse frames; then the best explanation is taken

Placed = tuple[int, int | None]  # place in the coarse frame, and the token there; None where none came


@dataclass(frozen=True)
class _Guess:
    """An explanation of what came since the last token that was placed: edits, and what stands where."""

    edits: int
    placed: tuple[Placed | None, ...] = ()  # None is a token too many


class Alignment:
    """Places tokens of known ranges in a pattern of ranges that repeats. `expected` is the place whose turn it is."""

    def __init__(self, pattern: Sequence[int], expected: int = 0) -> None:
        self._pattern = tuple(pattern)
        self._next = expected  # the place after the last certain token, counted from the stream's beginning
        self._guesses: dict[int, _Guess] = {}  # by the place that would be next; none as long as all is certain
        self._doubted = 0

    @property
    def expected(self) -> int:
        """The place in the coarse frame that comes next, as far as is certain."""
        return self._next % len(self._pattern)

    @property
    def certain(self) -> bool:
        """Whether it is known where every token belongs that came."""
        return not self._guesses

    def push(self, which: int, token: int) -> list[Placed | None]:
        """Take a token from range `which`; what is certain now, in order: places with tokens, None for one too many."""
        if not self._guesses and which == self._pattern[self.expected]:
            placed = (self.expected, token)
            self._next += 1
            return [placed]
        guesses = self._guesses or {self._next: _Guess(0)}
        self._guesses = self._after(guesses, which, token)
        self._doubted += 1
        edits = sorted(guess.edits for guess in self._guesses.values())
        if len(edits) == 1 or edits[1] - edits[0] >= LEAD or self._doubted >= LONGEST_DOUBT * len(self._pattern):
            return self._decide()
        return []

    def finish(self) -> list[Placed | None]:
        """What is left, with what is missing of the last coarse frame."""
        size = len(self._pattern)
        for place, guess in self._guesses.items():  # what a coarse frame still lacks is missing too
            self._guesses[place] = _Guess(guess.edits + -place % size, guess.placed)
        placed = self._decide() if self._guesses else []
        while self.expected:
            placed.append((self.expected, None))
            self._next += 1
        return placed

    def _decide(self) -> list[Placed | None]:
        """Take the best guess; of equals the one that is furthest, which has nothing left out."""
        self._next = min(self._guesses, key=lambda place: (self._guesses[place].edits, -place))
        placed = list(self._guesses[self._next].placed)
        self._guesses, self._doubted = {}, 0
        return placed

    def _after(self, guesses: dict[int, _Guess], which: int, token: int) -> dict[int, _Guess]:
        """The best guess for each place that may be next once a token has come."""
        best: dict[int, _Guess] = {}
        for place, guess in guesses.items():
            for after, longer in self._steps(place, guess, which, token):
                if after not in best or longer.edits < best[after].edits:
                    best[after] = longer
        least = min(guess.edits for guess in best.values())
        return {place: guess for place, guess in best.items() if guess.edits < least + 2 * LEAD}

    def _steps(self, place: int, guess: _Guess, which: int, token: int) -> Iterator[tuple[int, _Guess]]:
        size = len(self._pattern)
        for missing in range(size):
            if self._pattern[(place + missing) % size] == which:
                skipped = tuple(((place + n) % size, None) for n in range(missing))
                placed = (*guess.placed, *skipped, ((place + missing) % size, token))
                yield place + missing + 1, _Guess(guess.edits + missing, placed)
        yield place + 1, _Guess(guess.edits + 1, (*guess.placed, (place % size, None)))  # another should stand there
        yield place, _Guess(guess.edits + 1, (*guess.placed, None))  # one too many
