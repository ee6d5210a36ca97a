"""Fetches a small free evaluation set: speech, music, environment and speech over music, one folder each.

    python recipes/fetch_evaluation_set.py evaluation_set
    opensnac evaluate evaluation_set --codec opensnac --codec opus:6

Speech is examples/, the rest comes from Debian packages (evaluation_set.toml names them, with licences), which
`apt-get download` fetches without installing anything. If necessary, run `apt-get update` first.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from debian_packages import unpack

from opensnac.errors import OpensnacError
from opensnac.files import atomic_file
from opensnac.recordings import audio

RECIPE = Path(__file__).with_name("evaluation_set.toml")
EXAMPLES = Path(__file__).parent.parent / "examples"
MIXED_DB = 10.0  # level of music below that of speech


def main() -> None:
    """Fetch into the given folder and report the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="output folder for speech/, music/, environment/ and mixed/")
    out = parser.parse_args().out
    recipe = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    lines = list(fetch(recipe, out))
    lines += add_speech(out)
    lines += add_mixed(out)
    with atomic_file(out / "SOURCES.md", force=True) as path:
        path.write_text("# Where these recordings come from\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def fetch(recipe: Mapping[str, Any], out: Path) -> Iterator[str]:
    """Write excerpts of each package's files as FLAC into `out`/LABEL/; a line about each package."""
    for package in recipe["package"]:
        name = package["name"]
        print(f"{name}: {package['megabytes']} MB, {package['licence']}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as scratch:
            version = unpack(name, Path(scratch))
            for file in package["files"]:
                target = out / package["label"] / f"{name}_{Path(file).stem}.flac"
                excerpt(Path(scratch) / "root" / file, target, package.get("start", 0), recipe["seconds"])
        yield f"- {package['label']}: Debian package {name} {version}; {package['licence']}"


def excerpt(source: Path, target: Path, start: float, seconds: float) -> None:
    """Write `seconds` from `start` as FLAC, all channels; from the beginning if the recording is too short."""
    samples, rate = audio.read(source)
    first = int(start * rate) if samples.shape[1] > (start + seconds) * rate else 0
    audio.write(target, samples[:, first : first + int(seconds * rate)], rate, force=True)


def add_speech(out: Path) -> Iterator[str]:
    """Copy examples/."""
    (out / "speech").mkdir(parents=True, exist_ok=True)
    for recording in sorted(EXAMPLES.glob("*.flac")):
        shutil.copyfile(recording, out / "speech" / recording.name)
    yield "- speech: examples/ of this repository; authors and licences are in examples/README.md"


def add_mixed(out: Path) -> Iterator[str]:
    """Each speech recording over a piece of music, at the speech's rate and mono."""
    pieces = sorted((out / "music").glob("*.flac"))
    for index, recording in enumerate(sorted((out / "speech").glob("*.flac"))):
        samples, rate = audio.read(recording)
        music, music_rate = audio.read(pieces[index % len(pieces)])
        mixed = mix(samples.mean(axis=0), audio.resample(music.mean(axis=0)[None], music_rate, rate)[0])
        audio.write(out / "mixed" / recording.name, mixed[None], rate, force=True)
    yield f"- mixed: that speech over that music, at a level {MIXED_DB:g} dB lower"


def mix(speech: np.ndarray, music: np.ndarray) -> np.ndarray:
    """Speech (samples,) with music (samples,), repeated or cut to its length, MIXED_DB lower in power."""
    under = np.resize(music, len(speech))
    power = np.mean(speech**2) / max(np.mean(under**2), 1e-12)
    mixed = speech + under * np.sqrt(power) * 10 ** (-MIXED_DB / 20)
    return mixed / max(1.0, float(np.abs(mixed).max()))


if __name__ == "__main__":
    try:
        main()
    except OpensnacError as error:
        sys.exit(f"fetch_evaluation_set: {error}")
