"""Realigns tokens that a language model dropped, repeated or got wrong, by the vocabulary ranges they are from.

The ranges of an intact stream repeat a known pattern. The received ranges are aligned to it with the fewest edits
(Levenshtein): a token may match, replace another, be superfluous, or be missing. While all tokens match, each is placed
immediately. After a mismatch several hypotheses are tracked until one needs two edits fewer than any other, which takes
two or three tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MIN_LEAD = 2  # edits by which the best hypothesis must be ahead
MAX_UNDECIDED = 4  # coarse frames, after which the best hypothesis is taken

Placed = tuple[int, int | None]  # place in the coarse frame, and the token there; None where it is missing


@dataclass(frozen=True)
class _Hypothesis:
    """An alignment of the tokens since the last certain one: its edits, and the token in each place."""

    edits: int
    placed: tuple[Placed | None, ...] = ()  # None: a superfluous token


class Alignment:
    """Places tokens of known ranges in a repeating pattern of ranges, starting at place `expected`."""

    def __init__(self, pattern: Sequence[int], expected: int = 0) -> None:
        self._pattern = tuple(pattern)
        self._next = expected  # the place after the last certain token, counted from the stream's start
        self._hypotheses: dict[int, _Hypothesis] = {}  # by the place that would be next; none as long as all is certain
        self._undecided = 0

    @property
    def expected(self) -> int:
        """The place in the coarse frame after the last certain token."""
        return self._next % len(self._pattern)

    @property
    def certain(self) -> bool:
        """Whether every token so far has been placed."""
        return not self._hypotheses

    def push(self, which: int, token: int) -> list[Placed | None]:
        """Take a token from range `which`; returns the placements now certain, in order; None: a superfluous token."""
        if not self._hypotheses and which == self._pattern[self.expected]:
            placed = (self.expected, token)
            self._next += 1
            return [placed]
        hypotheses = self._hypotheses or {self._next: _Hypothesis(0)}
        self._hypotheses = self._after(hypotheses, which, token)
        self._undecided += 1
        edits = sorted(hypothesis.edits for hypothesis in self._hypotheses.values())
        if len(edits) == 1 or edits[1] - edits[0] >= MIN_LEAD or self._undecided >= MAX_UNDECIDED * len(self._pattern):
            return self._decide()
        return []

    def finish(self) -> list[Placed | None]:
        """The remaining placements, including what is missing of the last coarse frame."""
        size = len(self._pattern)
        for place, hypothesis in self._hypotheses.items():  # count what the last coarse frame lacks
            self._hypotheses[place] = _Hypothesis(hypothesis.edits + -place % size, hypothesis.placed)
        placed = self._decide() if self._hypotheses else []
        while self.expected:
            placed.append((self.expected, None))
            self._next += 1
        return placed

    def _decide(self) -> list[Placed | None]:
        """Take the best hypothesis; of equals the one that is furthest, which has nothing left out."""
        self._next = min(self._hypotheses, key=lambda place: (self._hypotheses[place].edits, -place))
        placed = list(self._hypotheses[self._next].placed)
        self._hypotheses, self._undecided = {}, 0
        return placed

    def _after(self, hypotheses: dict[int, _Hypothesis], which: int, token: int) -> dict[int, _Hypothesis]:
        """The best hypothesis for each place that may be next after one more token."""
        best: dict[int, _Hypothesis] = {}
        for place, hypothesis in hypotheses.items():
            for after, longer in self._steps(place, hypothesis, which, token):
                if after not in best or longer.edits < best[after].edits:
                    best[after] = longer
        least = min(hypothesis.edits for hypothesis in best.values())
        return {place: hypothesis for place, hypothesis in best.items() if hypothesis.edits < least + 2 * MIN_LEAD}

    def _steps(self, place: int, hypothesis: _Hypothesis, which: int, token: int) -> Iterator[tuple[int, _Hypothesis]]:
        size = len(self._pattern)
        for missing in range(size):
            if self._pattern[(place + missing) % size] == which:
                skipped = tuple(((place + n) % size, None) for n in range(missing))
                placed = (*hypothesis.placed, *skipped, ((place + missing) % size, token))
                yield place + missing + 1, _Hypothesis(hypothesis.edits + missing, placed)
        yield (
            place + 1,
            _Hypothesis(hypothesis.edits + 1, (*hypothesis.placed, (place % size, None))),
        )  # another should stand there
        yield place, _Hypothesis(hypothesis.edits + 1, (*hypothesis.placed, None))  # one too many
