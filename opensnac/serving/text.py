"""Tokens in text that arrives in pieces, cut anywhere."""

from __future__ import annotations

import re

from opensnac.streaming.tokens import TokenLayout

MOST_DIGITS = 9


class TextReader:
    """Finds a layout's tokens in a language model's text and skips the rest."""

    def __init__(self, layout: TokenLayout) -> None:
        before, _, after = layout.text.partition("{}")
        self._token = re.compile(rf"{re.escape(before)}([0-9]{{1,{MOST_DIGITS}}}){re.escape(after)}")
        self._begins, self._longest = before[0], len(before) + MOST_DIGITS + len(after)
        self._shift = layout.offset - layout.first
        self._rest = ""

    def push(self, text: str) -> list[int]:
        """The tokens that a piece of text completes, including those outside the codec's range."""
        text, end, tokens = self._rest + text, 0, []
        for found in self._token.finditer(text):
            tokens.append(int(found[1]) + self._shift)
            end = found.end()
        begun = text.rfind(self._begins, max(end, len(text) - self._longest))
        self._rest = "" if begun < 0 else text[begun:]
        return tokens
