"""What is odd about a recording and did not keep it from being read."""

from __future__ import annotations

from opensnac.errors import AudioError


class RecordingWarning(UserWarning):
    """A recording was read, but something about it is odd: part of it may be missing or changed."""


class Remarks(list[str]):
    """Lines about one recording, in the order in which they were found; with `strict` the first is an AudioError."""

    def __init__(self, name: str, strict: bool = False) -> None:
        super().__init__()
        self.name, self.strict = name, strict

    def add(self, text: str) -> None:
        """Keep a line, once."""
        if self.strict:
            raise AudioError(f"{self.name}: {text}; --strict refuses that")
        if text not in self:
            self.append(text)


def missing(promised: float, there: float) -> str:
    """The line for a header that promises more seconds than there are."""
    return (
        f"its header promises {promised:.3f} s and {promised - there:.3f} s of them are missing; what is there was read"
    )
