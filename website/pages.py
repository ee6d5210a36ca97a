"""Gathers the site's pages: docs/, and the references of the command line and the Python interface.

python website/pages.py build/docs
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from opensnac import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
INTERFACE = {
    "Codec": ["opensnac.engine.codec.SNAC", "opensnac.engine.engine.Engine", "opensnac.config.CodecConfig"],
    "Streams": [
        "opensnac.streaming.streams.StreamEncoder",
        "opensnac.streaming.streams.StreamDecoder",
        "opensnac.streaming.pool.DecoderPool",
        "opensnac.streaming.tokens.TokenLayout",
        "opensnac.streaming.tokens.RowLayout",
        "opensnac.streaming.tokens.TokenStream",
    ],
    "Files": [
        "opensnac.bitstream.header.Header",
        "opensnac.bitstream.writer.Writer",
        "opensnac.bitstream.reader.Reader",
        "opensnac.bitstream.reader.Recording",
        "opensnac.bitstream.reader.read",
        "opensnac.bitstream.writer.write",
    ],
    "Corpora": [
        "opensnac.corpus.readers.Corpus",
        "opensnac.corpus.readers.TokenDataset",
        "opensnac.corpus.packing.PackedTokens",
        "opensnac.corpus.packing.TokenLoader",
    ],
    "Errors": ["opensnac.errors"],
}
RECORDING = re.compile(r"\[[^\]]+\]\(\.\./(examples/[^)]*\.flac)\)")  # a link to a recording: a player on the site
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")  # a link to a file outside of docs/: only its text is kept


def main(folder: Path) -> None:
    """Write all pages into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder)
    for page in folder.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for recording in RECORDING.findall(text):
            (folder / recording).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / recording, folder / recording)
        text = RECORDING.sub(r'<audio controls preload="none" style="width: 12rem" src="\1"></audio>', text)
        page.write_text(OUTSIDE.sub(r"\1", text), encoding="utf-8")
    (folder / "cli.md").write_text(command_line(), encoding="utf-8")
    (folder / "api.md").write_text(interface(), encoding="utf-8")


def command_line() -> str:
    """Every command's help as Markdown."""
    command = typer.main.get_command(cli.app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="opensnac"), name="opensnac")
    return text.replace("# `opensnac`", "# Command line", 1)


def interface() -> str:
    """The public names, in the order of INTERFACE."""
    parts = ["# Python", "The stable interface. Lengths are in samples, rates in Hz, tensor shapes as annotated."]
    for title, names in INTERFACE.items():
        parts += [f"## {title}", *(f"::: {name}\n    options: {{heading_level: 3}}" for name in names)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
