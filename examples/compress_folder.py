"""Compress the recordings of a folder, decode them again to listen to, and print sizes and bitrates.

    python examples/compress_folder.py [FOLDER] [--out OUT] [--model MODEL]

OUT gets a .snac file and its decoded .flac file for each recording. `opensnac encode FOLDER -o OUT` and
`opensnac decode OUT` do the same from the shell.
"""

import argparse
from pathlib import Path

from opensnac import SNAC
from opensnac.recordings.transcode import decode_file, encode_file

EXAMPLES = Path(__file__).parent
ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus")


def main() -> None:
    """Encode and decode each recording, and print a line about it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=EXAMPLES)
    parser.add_argument("--out", type=Path, default=Path("compressed"))
    parser.add_argument("--model", help="a bundled model's name, a folder or a hub id (default: the bundled model)")
    options = parser.parse_args()
    engine = SNAC.from_pretrained(options.model).freeze()
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{'recording':30} {'seconds':>8} {'bytes':>10} {'coded':>8} {'b/s':>6}")
    for recording in sorted(path for path in options.folder.iterdir() if path.suffix.lower() in ENDINGS):
        coded = options.out / f"{recording.name}.snac"
        result = encode_file(recording, coded, engine, force=True)
        decode_file(coded, options.out / f"{recording.stem}.flac", engine, force=True)
        size, small = recording.stat().st_size, coded.stat().st_size
        print(f"{recording.name:30} {result.seconds:8.1f} {size:10,} {small:8,} {8 * small / result.seconds:6.0f}")
        for warning in result.warnings:
            print(f"  {warning}")
    print(f"listen to the .flac files in {options.out}/")


if __name__ == "__main__":
    main()
