"""Cuts the middle of every recording of a folder tree, for evaluation: seconds instead of whole pieces.

    python recipes/fetch_corpus.py music corpus
    python recipes/cut_excerpts.py corpus/test music_test --seconds 10
    opensnac evaluate music_test --codec opensnac:music --codec opus:6 --codec opus:12
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import soundfile
from fetch_evaluation_set import excerpt

from opensnac.errors import OpensnacError
from opensnac.recordings.source import READABLE


def main() -> None:
    """Write an excerpt of each recording and report the number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of recordings")
    parser.add_argument("out", type=Path, help="output folder; its tree is that of the recordings")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    recordings = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in READABLE)
    if not recordings:
        parser.error(f"{options.folder}: expected recordings, got none")
    for path in recordings:
        target = (options.out / path.relative_to(options.folder)).with_suffix(".flac")
        start = max(0.0, (soundfile.info(path).duration - options.seconds) / 2)
        excerpt(path, target, start, options.seconds)
    print(f"{len(recordings)} excerpts of at most {options.seconds:g} s in {options.out}")


if __name__ == "__main__":
    try:
        main()
    except (OpensnacError, soundfile.SoundFileError) as error:
        sys.exit(f"cut_excerpts: {error}")
