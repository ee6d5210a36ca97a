"""Rows of a corpus decoded to audio files, through the same path as `opensnac decode`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from opensnac.corpus.readers import Corpus, Tokens
from opensnac.corpus.shards import snac_bytes
from opensnac.errors import OpensnacError
from opensnac.recordings.jobs import UsageError
from opensnac.recordings.model_cache import ModelCache
from opensnac.recordings.sink import writable_ending
from opensnac.recordings.transcode import decode_file


def detokenize(
    folder: str, rows: str, out: Path, ending: str = "wav", model: str | None = None, force: bool = False
) -> Iterator[Path]:
    """Write rows such as "1,5,7-9" or "all" as NUMBER.wav (flac, ogg) into `out`; yields each path once it is complete.

    Raises UsageError for rows that do not exist, ModelMismatchError for a model other than the corpus's.
    """
    corpus = Corpus(folder)
    ending = writable_ending(f"row.{ending}")
    model_cache = ModelCache(model)
    for number in row_numbers(rows, len(corpus)):
        target = out / f"{number:08d}{ending}"
        decode_file(io.BytesIO(as_snac(corpus, corpus[number])), target, model_cache, force=force)
        yield target


def as_snac(corpus: Corpus, row: Tokens) -> bytes:
    """A row as a `.snac` file; of a row with dropped frames, the frames that remain."""
    config = corpus.config
    codes = corpus.codes(row)
    frames = len(codes[0]) * config.vq_strides[0]
    frames -= frames % config.frame_multiple
    codes = [code[: frames // stride] for code, stride in zip(codes, config.vq_strides, strict=True)]
    if not frames:
        raise OpensnacError(
            f"{row.facts['id']}: expected at least one group of {config.frame_multiple} frames, got fewer"
        )
    rate, num_samples = row.facts["sampling_rate"], row.facts["num_samples"]
    most = frames * config.hop_length * rate // config.sampling_rate
    model = (corpus.facts["model"], corpus.facts["fingerprint"])
    return snac_bytes([code.astype(np.uint16) for code in codes], min(num_samples, most), rate, model, config)


def row_numbers(text: str, count: int) -> list[int]:
    """Row numbers from a list such as "1,5,7-9" or "all"; UsageError unless they are below `count`."""
    if text == "all":
        return list(range(count))
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--rows: expected numbers and ranges such as 1,5,7-9, or all, got {text!r}")
        found += range(int(first), int(last or first) + 1)
    outside = [row for row in found if row >= count]
    if outside:
        raise UsageError(f"--rows: expected 0 to {count - 1}, got {outside[0]}")
    return found
