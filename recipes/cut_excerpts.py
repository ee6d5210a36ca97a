"""Cuts the middle of every recording of a folder tree, for evaluation: seconds instead of whole pieces.

python recipes/fetch_corpus.py music corpus
python recipes/cut_excerpts.py corpus/test music_test/music --mono
opensnac evaluate music_test --codec opensnac:music --codec opus:6 --codec opus:12@music
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from opensnac.errors import OpensnacError
from opensnac.recordings import audio
from opensnac.recordings.source import READABLE


def main() -> None:
    """Write an excerpt of each recording and report the number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of recordings")
    parser.add_argument("out", type=Path, help="output folder; its tree is that of the recordings")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--mono", action="store_true", help="mix all channels down to one")
    options = parser.parse_args()
    recordings = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in READABLE)
    if not recordings:
        parser.error(f"{options.folder}: expected recordings, got none")
    for path in recordings:
        target = (options.out / path.relative_to(options.folder)).with_suffix(".flac")
        samples, rate = audio.read(path)
        first = max(0, samples.shape[1] - round(options.seconds * rate)) // 2
        middle = samples[:, first : first + round(options.seconds * rate)]
        audio.write(target, middle.mean(0, keepdims=True) if options.mono else middle, rate, force=True)
    print(f"{len(recordings)} excerpts of at most {options.seconds:g} s in {options.out}")


if __name__ == "__main__":
    try:
        main()
    except OpensnacError as error:
        sys.exit(f"cut_excerpts: {error}")
