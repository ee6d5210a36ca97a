"""Transcripts of recordings, from lists in their packages and repositories: name -> text.

asterisk    core-sounds-en.txt: `digits/1: one`; brackets mark noises
fillets     Lua of the game Fish Fillets: `dialogId("name", ...)`, then `dialogStr("text")`
ljspeech    metadata.csv: `name|text`

A name is a recording's, without its extension, with as many of its folders as in the list.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath

DIALOG = re.compile(r'dialogId\("([^"]+)".*?dialogStr\("((?:[^"\\]|\\.)*)"\)', re.DOTALL)
FOLDERS = 2  # at most, in a list's names


def read(form: str, path: Path) -> dict[str, str]:
    """Names and texts of a list."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", errors="replace")
    return {name: said.strip() for name, said in FORMS[form](text)}


def text_of(recording: PurePath, texts: Mapping[str, str]) -> str:
    """The transcript of a recording; empty if no list has it."""
    parts = recording.with_suffix("").parts
    names = ("/".join(parts[-count:]) for count in range(FOLDERS + 1, 0, -1))
    return next((texts[name] for name in names if name in texts), "")


def _asterisk(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, separator, said = line.partition(":")
        if separator and not name.startswith(";") and not re.search(r"[\[(<]", said):
            yield name.strip(), said


def _fillets(text: str) -> Iterator[tuple[str, str]]:
    for name, said in DIALOG.findall(text):
        yield name, re.sub(r"\\(.)", r"\1", said)


def _ljspeech(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, separator, said = line.partition("|")
        if separator:
            yield name, said


FORMS: dict[str, Callable[[str], Iterator[tuple[str, str]]]] = {
    "asterisk": _asterisk,
    "fillets": _fillets,
    "ljspeech": _ljspeech,
}
