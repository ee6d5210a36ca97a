"""Remarks on a recording that was read although something is unusual about it."""

from __future__ import annotations

from opensnac.errors import AudioError


class RecordingWarning(UserWarning):
    """A recording was read, but is unusual: part of it may be missing or changed."""


class Remarks(list[str]):
    """Remarks on one recording, in the order found; with `strict` the first one raises AudioError."""

    def __init__(self, name: str, strict: bool = False) -> None:
        super().__init__()
        self.name, self.strict = name, strict

    def add(self, text: str) -> None:
        """Add a remark, once."""
        if self.strict:
            raise AudioError(f"{self.name}: {text}; --strict refuses that")
        if text not in self:
            self.append(text)


def missing(promised: float, there: float) -> str:
    """The remark on a header that declares more seconds than are present."""
    return f"its header declares {promised:.3f} s, of which {promised - there:.3f} s are missing; the rest was read"
