"""Fetches a free training corpus of speech or music: a folder per source in train/, valid/ or test/.

    python recipes/fetch_corpus.py speech corpus
    opensnac train speech_24khz_small --set "data.train=$(cat corpus/train.txt)" --set 'data.valid=["corpus/valid"]'

speech_corpus.toml and music_corpus.toml list the Debian packages and repositories, with licences and sizes; `--only
SOURCE` selects some of them. Sources that cannot be fetched are reported and skipped; existing ones are not fetched
again. corpus/train.txt lists the training sources with their weights. If a source has transcripts, they are written to
metadata.csv next to its recordings, for `opensnac tokenize`.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transcripts
from debian_packages import unpack

from opensnac.errors import OpensnacError
from opensnac.files import atomic_file
from opensnac.recordings import audio
from opensnac.recordings.source import READABLE
from opensnac.training.config import toml_value

RECIPES = {kind: Path(__file__).with_name(f"{kind}_corpus.toml") for kind in ("speech", "music")}
VALID_ONE_IN = 80  # one recording in this many is for validation, by a hash of its name
G722, G722_RATE = ".g722", 16_000  # decoded, as the trainer cannot read them


def main() -> None:
    """Fetch into the given folder and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=RECIPES)
    parser.add_argument("out", type=Path, help="output folder for train/, valid/ and test/")
    parser.add_argument("--only", action="append", metavar="SOURCE", help="a source's name; repeatable")
    options = parser.parse_args()
    sources = tomllib.loads(RECIPES[options.kind].read_text(encoding="utf-8"))["source"]
    names = [source["name"] for source in sources]
    if unknown := [name for name in options.only or [] if name not in names]:
        parser.error(f"expected sources of {', '.join(names)}, got {', '.join(unknown)}")
    failed = 0
    for source in sources:
        if options.only and source["name"] not in options.only:
            continue
        size = f"{source['megabytes']} MB, " if "megabytes" in source else ""
        print(f"{source['name']}: {size}{source['licence']}", file=sys.stderr)
        try:
            print(fetch(source, options.out))
        except OpensnacError as error:
            failed += 1
            print(f"skipped: {source['name']}: {error}", file=sys.stderr)
    listed = toml_value(weighted(sources, options.out))
    (options.out / "train.txt").write_text(listed + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"{failed} sources are missing; run this again to fetch only those")


def weighted(sources: Sequence[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """The sources present, in the form of [data] train."""
    folders = {out / "train" / source["name"]: source.get("weight", 1.0) for source in sources}
    return [{"path": str(folder), "weight": weight} for folder, weight in folders.items() if folder.is_dir()]


def fetch(source: dict[str, Any], out: Path) -> str:
    """Fetch one source's recordings into `out`, atomically; returns a line about them."""
    name, notice = source["name"], out / f"{source['name']}.txt"
    one_in = source.get("valid_one_in", VALID_ONE_IN)
    if notice.exists():
        return f"{name}: exists"
    with tempfile.TemporaryDirectory(dir=_made(out)) as scratch:
        root, version = obtain(source, Path(scratch))
        found = sorted(path for pattern in source["files"] for path in root.glob(pattern) if path.is_file())
        sounds = [path for path in found if path.suffix.lower() in (*READABLE, G722)]
        recordings = [path for path in sounds if path.stat().st_size]  # skip empty files
        if not recordings:
            raise OpensnacError(
                f"expected recordings that match {', '.join(source['files'])}, got none in version {version}"
            )
        texts = said_in(source, root, Path(scratch))
        said: dict[str, list[dict[str, str]]] = {}
        for path in recordings:
            inside = path.relative_to(root)
            one = source.get("split") or ("valid" if zlib.crc32(inside.as_posix().encode()) % one_in == 0 else "train")
            brought = bring(path, Path(scratch) / one / inside.as_posix().replace("/", "_"))
            said.setdefault(one, []).append({"file_name": brought.name, "text": transcripts.text_of(inside, texts)})
        for split, rows in said.items() if texts else ():
            write_metadata(Path(scratch) / split / "metadata.csv", rows)
        for split in ("train", "valid", "test"):
            if (Path(scratch) / split).exists():
                shutil.rmtree(out / split / name, ignore_errors=True)
                (Path(scratch) / split).rename(_made(out / split) / name)
    line = f"{name}: {len(recordings)} recordings of version {version}; {source['licence']}"
    with atomic_file(notice) as path:
        path.write_text(line + "\n", encoding="utf-8")
    return line


def obtain(source: dict[str, Any], scratch: Path) -> tuple[Path, str]:
    """Download a source; returns the folder of its files and their version."""
    if "repository" not in source:
        version = unpack(source["package"], scratch)
        for archive in source.get("archives", ()):  # ZIP files with other extensions
            with zipfile.ZipFile(scratch / "root" / archive) as opened:
                opened.extractall(scratch / "root")
        return scratch / "root", version
    root = scratch / "root"
    clone = ["git", "clone", "--quiet", "--depth", "1", source["repository"], str(root)]
    try:
        subprocess.run(clone, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        words = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise OpensnacError(f"{source['repository']} could not be cloned: {words}") from error
    commit = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return root, commit.stdout.strip()


def said_in(source: dict[str, Any], root: Path, scratch: Path) -> dict[str, str]:
    """Transcripts of a source's recordings by name, from its own files or another package's."""
    stated = source.get("transcripts")
    if stated is None:
        return {}
    if "package" in stated:
        unpack(stated["package"], _made(scratch / "transcripts"))
        root = scratch / "transcripts" / "root"
    lists = sorted(root.glob(stated["files"]))
    if not lists:
        raise OpensnacError(f"expected transcripts that match {stated['files']}, got none")
    return {name: text for path in lists for name, text in transcripts.read(stated["form"], path).items()}


def write_metadata(target: Path, rows: list[dict[str, str]]) -> None:
    """Write a folder's recordings and transcripts in the hub's form."""
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "text"])
        writer.writeheader()
        writer.writerows(rows)


def bring(path: Path, target: Path) -> Path:
    """Move a recording, or decode it if the trainer cannot read it; returns its new path."""
    _made(target.parent)
    if path.suffix != G722:
        shutil.move(path, target)
        return target
    try:
        import av
    except ImportError as error:
        raise OpensnacError("PyAV, needed for G.722, is not installed; run: pip install 'opensnac[media]'") from error
    target = target.with_suffix(".flac")
    try:
        with av.open(str(path), format="g722") as file:
            samples = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
    except av.FFmpegError as error:
        raise OpensnacError(f"{path.name}: expected G.722, got {error}") from error
    audio.write(target, samples / np.float32(1 << 15), G722_RATE)
    return target


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
