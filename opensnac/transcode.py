"""A recording to a `.snac` file and back: audio, model and bitstream in a row.

N samples at rate R become ceil(N · C / R) samples at the codec's rate C, whole frames of codes, and again
exactly N samples at R, or ceil(N · X / R) at another rate X. Each channel is coded by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from opensnac import SNAC, audio, bitstream
from opensnac.bitstream import WEIGHTS_HASH_DIGITS, Header, Recording
from opensnac.errors import AudioError, BitstreamError, ModelError, ModelMismatchError, OpensnacError
from opensnac.files import refuse_existing, whole_file
from opensnac.model.codec import Progress, no_progress

MAX_CHANNELS = 255  # what a header can say


@dataclass(frozen=True)
class Result:
    """What was done to one recording: its length in seconds, and what was wrong with a salvaged one."""

    seconds: float
    damage: str | None = None


class ModelShelf:
    """Models by name, each loaded once, whichever thread asks for it first. `only` stands for every name."""

    def __init__(self, only: str | Path | None = None) -> None:
        self._only = only
        self._models: dict[str, SNAC] = {}
        self._lock = threading.Lock()

    def get(self, name: str | None = None) -> SNAC:
        """The model called `name`, the default one for None, made quick to run. ModelError if none is."""
        wanted = name if self._only is None else self._only
        with self._lock:
            if str(wanted) not in self._models:
                self._models[str(wanted)] = SNAC.from_pretrained(wanted).fold_weight_norm()
            return self._models[str(wanted)]

    def for_header(self, header: Header) -> SNAC:
        """The model that a stream names. ModelError says how to give it where it is not to be found."""
        if self._only is not None:
            return self.get()
        try:
            return self.get(header.model_name)
        except OpensnacError as error:
            raise ModelError(
                f"needs the model {_identity(header)}, which was not found by that name; "
                f"give its folder or hub id with --model ({error})"
            ) from error


@contextmanager
def shared_cores(workers: int) -> Iterator[None]:
    """Let `workers` threads that run a model share the processor's cores evenly."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def encode_file(
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    model: SNAC,
    *,
    mono: bool = False,
    force: bool = False,
    report: Progress = no_progress,
) -> Result:
    """Code a recording that soundfile reads into a `.snac` file or stream; `mono` mixes its channels first.

    Samples beyond ±1 are clipped. A named target appears whole or not at all; `force` replaces another.
    Raises AudioError for the recording, FileExistsError for the target.
    """
    if isinstance(target, str | Path):
        refuse_existing(Path(target), force)  # before the work, not after it
    recording, rate = audio.read(source)
    channels, num_samples = recording.shape
    if mono:
        recording, channels = recording.mean(axis=0, keepdims=True), 1
    with _about(source):
        if channels > MAX_CHANNELS:
            raise AudioError(f"has {channels} channels; at most {MAX_CHANNELS} can be coded: mix down with --mono")
        header = header_for(model, channels, rate)
        samples = audio.resample(recording, rate, model.config.sampling_rate)
        del recording
        codes = encode_channels(samples, model, report)
    with _binary_output(target, force) as file:
        bitstream.write(file, header, codes, num_samples)
    return Result(num_samples / rate)


def decode_file(
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    models: SNAC | ModelShelf,
    *,
    sample_rate: int | None = None,
    ending: str | None = None,
    seed: int = 0,
    noise: bool = True,
    salvage: bool = False,
    force: bool = False,
    report: Progress = no_progress,
) -> Result:
    """Decode a `.snac` file or stream into a WAV, FLAC or OGG file (or stream, as `ending` says).

    At the recording's own rate unless `sample_rate` (Hz) is given. `salvage` decodes what precedes damage,
    which the result then names. Raises BitstreamError for the stream, ModelError when its model is not there,
    ModelMismatchError when the model is another, AudioError or FileExistsError for the target.
    """
    if isinstance(target, str | Path):
        audio.writable_ending(target, ending)
        refuse_existing(Path(target), force)
    if sample_rate is not None:
        audio.check_rate(sample_rate, "decoding")
    with _about(source):
        recording = _read_stream(source, salvage)
        model = models if isinstance(models, SNAC) else models.for_header(recording.header)
        check_model(recording.header, model)
        samples, rate = _decode_recording(recording, model, sample_rate, seed if noise else None, report)
    audio.write(target, samples, rate, ending, force)
    damage = None if recording.damage is None else recording.damage.problem
    return Result(recording.duration, damage)


def header_for(model: SNAC, channels: int, rate: int) -> Header:
    """The header of a recording of `channels` at `rate` Hz, coded by `model`."""
    config = model.config
    return Header(
        model_name=model.name,
        weights_hash=model.fingerprint[:WEIGHTS_HASH_DIGITS],
        sampling_rate=config.sampling_rate,
        original_rate=rate,
        channels=channels,
        hop_length=config.hop_length,
        vq_strides=config.vq_strides,
        codebook_size=config.codebook_size,
        frame_multiple=config.frame_multiple,
    )


def check_model(header: Header, model: SNAC) -> None:
    """Raise ModelMismatchError, which names both, unless `model` is the one that coded the stream."""
    own = header_for(model, header.channels, header.original_rate)
    if own.weights_hash != header.weights_hash:
        raise ModelMismatchError(
            f"was coded by the model {_identity(header)}, but the model loaded is {_identity(own)}; "
            "give the first one with --model"
        )
    layout = ("sampling_rate", "hop_length", "vq_strides", "codebook_size", "frame_multiple")
    for field in layout:
        if getattr(own, field) != getattr(header, field):
            raise ModelMismatchError(
                f"has {field} {getattr(header, field)}, but its model {_identity(own)} has "
                f"{getattr(own, field)}; the header is forged, encode the recording again"
            )


def _identity(header: Header) -> str:
    return f"{header.model_name!r} (weights {header.weights_hash})"


def encode_channels(samples: np.ndarray, model: SNAC, report: Progress = no_progress) -> list[np.ndarray]:
    """Code (channels, samples) at the codec's rate, clipped to ±1: one int64 array (channels, T_i) a scale.

    One channel at a time, which gives the same codes as a batch in less memory.
    """
    codes = []
    for channel, signal in enumerate(samples):
        with torch.inference_mode():
            clipped = torch.from_numpy(np.clip(signal, -1, 1)).to(_device(model))
            scales = model.encode(clipped[None, None], progress=_share(channel, len(samples), report))
            codes.append([scale.cpu().numpy() for scale in scales])
    return [np.concatenate(scale) for scale in zip(*codes, strict=True)]


def decode_channel(
    codes: list[np.ndarray], model: SNAC, num_samples: int, seed: int | None, report: Progress = no_progress
) -> np.ndarray:
    """Decode one channel, int64 (1, T_i) a scale, to float32 (1, num_samples). seed None: no noise."""
    tensors = [torch.from_numpy(np.ascontiguousarray(scale)).to(_device(model)) for scale in codes]
    with torch.inference_mode():
        signal = model.decode(tensors, num_samples, seed=seed or 0, noise=seed is not None, progress=report)
    return signal[0].float().cpu().numpy()


def _decode_recording(
    recording: Recording, model: SNAC, sample_rate: int | None, seed: int | None, report: Progress
) -> tuple[np.ndarray, int]:
    """(channels, samples) and their rate."""
    header, num_samples = recording.header, recording.num_samples
    if num_samples == 0:
        raise BitstreamError("holds no samples; there is nothing to decode")
    rate = sample_rate or header.original_rate
    audio.check_rate(rate, "the header")
    coded = recording.num_frames * header.hop_length
    coded = min(coded, audio.resampled_length(num_samples, header.original_rate, header.sampling_rate))
    length = audio.resampled_length(num_samples, header.original_rate, rate)
    samples = np.empty((header.channels, length), np.float32)
    for channel in range(header.channels):
        codes = [scale[channel : channel + 1] for scale in recording.codes]
        signal = decode_channel(codes, model, coded, seed, _share(channel, header.channels, report))
        samples[channel] = audio.resample(signal, header.sampling_rate, rate, length)[0]
    return samples, rate


def _share(channel: int, channels: int, report: Progress) -> Progress:
    """What one channel's progress is of the whole recording's. What `report` raises stops the work."""
    return lambda done: report((channel + done) / channels)


def _device(model: SNAC) -> torch.device:
    return next(model.parameters()).device


def _read_stream(source: str | Path | BinaryIO, salvage: bool) -> Recording:
    if isinstance(source, str | Path):
        with open(source, "rb") as file:
            return bitstream.read(file, salvage)
    return bitstream.read(source, salvage)


@contextmanager
def _binary_output(target: str | Path | BinaryIO, force: bool) -> Iterator[BinaryIO]:
    if isinstance(target, str | Path):
        with whole_file(Path(target), force) as path, open(path, "wb") as file:
            yield file
    else:
        yield target


@contextmanager
def _about(source: str | Path | BinaryIO) -> Iterator[None]:
    """Put the name of the recording in front of what is said about it."""
    try:
        yield
    except OpensnacError as error:
        raise type(error)(f"{audio.stream_name(source)}: {error}") from error
