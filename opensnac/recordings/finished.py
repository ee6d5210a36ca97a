"""Whether an existing output is what the same command would write again, for --skip-existing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from opensnac import bitstream
from opensnac.errors import OpensnacError
from opensnac.recordings.preprocessing import Preprocessing
from opensnac.recordings.resampling import resampled_length
from opensnac.recordings.source import Source
from opensnac.recordings.transcode import header_for

if TYPE_CHECKING:
    from opensnac.recordings.codec import Model


def is_encoded(
    source: Path, target: Path, model: Model, preprocessing: Preprocessing, raw: tuple[int, int] | None = None
) -> str | None:
    """None if `target` is a complete `.snac` file of `source` by `model`; else how it differs.

    Settings that a file does not record, such as the gain, are not compared.
    """
    try:
        with open(target, "rb") as file:
            there = bitstream.read(file)
        with Source(source, raw) as recording:
            channels = preprocessing.channels_of(recording.channels)
            wanted = header_for(model, channels, recording.rate)
            length = recording.num_samples if recording.exact else None
    except (OpensnacError, OSError) as error:
        return f"cannot be compared: {error}"
    if replace(there.header, model_name=wanted.model_name) != wanted:
        return (
            f"has {there.header.channels} channels at {there.header.original_rate} Hz by the model "
            f"{there.header.model_name!r} (weights {there.header.weights_hash}), not {wanted.channels} at "
            f"{wanted.original_rate} Hz by {wanted.model_name!r} (weights {wanted.weights_hash})"
        )
    if length is not None and there.num_samples != length:
        return f"has {there.num_samples} samples, not {length}"
    return None


def is_decoded(source: Path, target: Path, sample_rate: int | None) -> str | None:
    """None if `target` is a complete recording as long as what `source` decodes to; else how it differs."""
    try:
        with open(source, "rb") as file:
            coded = bitstream.read(file)
        with Source(target, strict=True) as recording:
            there = (recording.channels, recording.rate, recording.num_samples)
    except (OpensnacError, OSError) as error:
        return f"cannot be compared: {error}"
    rate = sample_rate or coded.header.original_rate
    length = resampled_length(coded.num_samples, coded.header.original_rate, rate)
    wanted = (coded.header.channels, rate, length)
    if there != wanted:
        return "has {} channels at {} Hz, {} samples, not {} at {} Hz, {}".format(*there, *wanted)
    return None
